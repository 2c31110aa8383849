//! Headless Chromium (Debian's package) for tests that need a browser.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running browser. Dropping it kills the whole process group.
pub struct Chromium(pub Child);

impl Chromium {
    /// Starts a browser at `address` with the common options and `more`. Profile and log are written to `folder`.
    pub fn start(address: &str, folder: &Path, more: &[&str]) -> Self {
        let mut command = Command::new("chromium");
        command
            .args(["--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-sync"])
            .args(["--disable-background-networking", "--disable-component-update"])
            // Containers have little shared memory.
            .arg("--disable-dev-shm-usage")
            .args(more)
            .arg(format!("--user-data-dir={}", folder.join("profile").display()))
            .arg(address)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log")).unwrap());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Self(command.spawn().unwrap_or_else(|error| {
            panic!("{error}: chromium. Install the package `chromium` (Debian's name), then start again")
        }))
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Ok(group) = libc::pid_t::try_from(self.0.id()) {
            // SAFETY: `kill` touches no memory. The process group was created for this child, which has not been
            // waited for, so its number can't have been reused.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
