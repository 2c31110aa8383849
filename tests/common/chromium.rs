//! Debian's Chromium without a window, for tests that need a browser.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A browser; ended with all of its processes when dropped.
pub struct Chromium(pub Child);

impl Chromium {
    /// Starts a browser on `address`, with what these tests have in common and `more`; profile and log go to `folder`.
    pub fn start(address: &str, folder: &Path, more: &[&str]) -> Self {
        let mut command = Command::new("chromium");
        command
            .args(["--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-sync"])
            .args(["--disable-background-networking", "--disable-component-update"])
            // Containers have little of it.
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
            // SAFETY: `kill` touches no memory; the group is the one made for this child, which is not yet
            // waited for, so its number can't be another's.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
