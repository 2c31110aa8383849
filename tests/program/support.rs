//! A temporary folder for each test, with small pictures and a small network.

use crate::common::process::Running;
use crate::common::synthetic::{FileBuilder, Net};
use assert_cmd::Command;
use image::{ImageFormat, RgbImage};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A new empty folder, deleted on drop.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Creates a folder for a test that needs a graphics adapter; panics if there is none.
    pub fn with_adapter() -> Self {
        let place = Self::new();
        let listed = place.mirage().arg("devices").output().unwrap();
        // `tools/test --without-adapter` searches for this message.
        assert!(listed.stdout.starts_with(b"0: "), "the tests need an adapter: install mesa-vulkan-drivers");
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Returns the sorted names in the folder.
    pub fn entries(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Returns a command for the program in this folder.
    pub fn mirage(&self) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("mirage"));
        command.current_dir(self.0.path()).env_remove("MIRAGE_WEIGHTS");
        command
    }

    /// Returns a command for the program in an environment without graphics devices.
    pub fn deviceless(&self) -> Command {
        let mut command = self.mirage();
        command.env("VK_ICD_FILENAMES", "/nonexistent").env("VK_DRIVER_FILES", "/nonexistent");
        command
    }

    /// Returns a short run on the small network: `render PHOTO -o out.png`.
    pub fn render(&self, photo: &Path) -> Command {
        self.render_for(photo, "3")
    }

    /// [`Place::render`] with this many iterations.
    pub fn render_for(&self, photo: &Path, iterations: &str) -> Command {
        self.render_to(photo, "out.png", iterations)
    }

    /// [`Place::render_for`] with a different output.
    pub fn render_to(&self, photo: &Path, output: &str, iterations: &str) -> Command {
        let mut command = self.mirage();
        command.args(render_words(photo, &self.network(), output)).args(["--iterations", iterations]);
        command
    }

    /// [`Place::render`] without graphics devices.
    pub fn deviceless_render(&self, photo: &Path) -> Command {
        let mut command = self.deviceless();
        command.args(render_words(photo, &self.network(), "out.png"));
        command
    }

    /// Returns a command that bash executes after `before`, such as a `ulimit`.
    pub fn in_shell(&self, before: &str, command: &Command) -> Command {
        let mut shell = Command::new("bash");
        shell.current_dir(self.0.path()).env_remove("MIRAGE_WEIGHTS");
        shell.args(["-c", &format!("{before}; exec \"$@\""), "bash"]);
        shell.arg(command.get_program()).args(command.get_args());
        shell
    }

    /// Starts a command with piped output.
    pub fn spawn(&self, command: &Command) -> Running {
        let mut child = std::process::Command::new(command.get_program());
        child.args(command.get_args()).current_dir(self.0.path());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => child.env(key, value),
                None => child.env_remove(key),
            };
        }
        child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running::new(child.spawn().unwrap())
    }

    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Writes a photo in the format of its extension.
    pub fn photo(&self, name: &str, width: u32, height: u32) -> PathBuf {
        let path = self.path(name);
        scene(width, height).save(&path).unwrap();
        path
    }

    /// Returns the small network with fully connected layers. Written only once, because a run in progress may read it.
    pub fn network(&self) -> PathBuf {
        let network = network(&[8, 7, 9]);
        let path = self.path("net.safetensors");
        if std::fs::read(&path).is_ok_and(|found| found == network.bytes()) {
            path
        } else {
            network.write(self.0.path())
        }
    }
}

fn render_words<'a>(photo: &'a Path, weights: &'a Path, output: &'a str) -> Vec<&'a OsStr> {
    let mut words: Vec<&OsStr> =
        vec!["render".as_ref(), photo.as_os_str(), "--weights".as_ref(), weights.as_os_str()];
    words.extend(["--size", "48", "-o", output].map(AsRef::<OsStr>::as_ref));
    words
}

/// Builds five blocks with the layers of the default options. `fc` are the widths of the head, empty for none.
pub fn network(fc: &[usize]) -> FileBuilder {
    let mut net = Net::new(&[&[4], &[4], &[5], &[6, 6], &[6]], 2, fc, false);
    // Scaled so that values neither grow nor vanish from layer to layer.
    for conv in net.blocks.iter_mut().flatten() {
        conv.filter.iter_mut().for_each(|value| *value *= 0.1);
        conv.bias.iter_mut().for_each(|value| *value *= 0.1);
    }
    for linear in &mut net.linears {
        linear.matrix.iter_mut().for_each(|value| *value *= 0.25);
    }
    net.caffe()
}

/// Creates a picture of a bright disc over a gradient.
pub fn scene(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
        let disc = (u - 0.4).hypot(v - 0.5) < 0.25;
        let red = if disc { 230.0 } else { 60.0 + 60.0 * u };
        image::Rgb([red as u8, (200.0 * v) as u8, (220.0 - 150.0 * u * v) as u8])
    })
}

/// Encodes the scene as a JPEG.
pub fn jpeg(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    scene(width, height).write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

/// Reads the lines of a log.
pub fn log(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'), "{text}");
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// Returns the lines of one event.
pub fn events<'a>(log: &'a [Value], name: &str) -> Vec<&'a Value> {
    log.iter().filter(|line| line["event"] == name).collect()
}

/// Reads the pixels of a picture, without its record.
pub fn pixels(path: &Path) -> Vec<u8> {
    image::open(path).unwrap().into_rgb8().into_raw()
}
