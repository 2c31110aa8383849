//! Downloads the networks with short names, with resumption and hash verification.

use crate::escape::shown;
use crate::files::{FileVersion, Overwrite, check_place, make_folder, publish_new, read_text, write_whole};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempPath;

use sha2::{Digest, Sha256};
use ureq::http::{Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

use super::locate::data_dir;
pub use super::published::FETCH_COMMAND;
use super::published::{
    DEFAULT_NETWORK, DEFAULT_NETWORK_SHA256, NARROW, NETWORKS, file_name, narrow_address, where_narrow_is,
};
use crate::hex::hex;
use crate::{Error, Result};

/// Environment variable with an address to use instead of where networks are published, for tests and mirrors.
pub const BASE_VARIABLE: &str = "MIRAGE_FETCH_BASE";
/// The Hugging Face hub.
const HUB: &str = "https://huggingface.co";
/// The weights file in each repository on the hub.
const REMOTE_FILE: &str = "model.safetensors";
/// Length of the default network's file in bytes.
const DEFAULT_NETWORK_SIZE: u64 = 42_923_456;
/// Maximum number of consecutive retries without a new byte.
const FRUITLESS_ATTEMPTS: u32 = 2;
/// Maximum number of attempts in total.
const ATTEMPTS: u32 = 20;
/// Bytes read at a time, and between progress reports.
const CHUNK: usize = 256 << 10;
/// Longest accepted LFS pointer, in bytes. Pointers have about 130; a much longer page is something else.
const POINTER_LIMIT: u64 = 4096;

/// The result of a download.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fetched {
    /// The verified file.
    pub path: PathBuf,
    /// True if the file was already present and nothing was downloaded.
    pub already_present: bool,
    /// SHA-256 of the file in hexadecimal digits, as published by the host, or for [`NARROW`] as stored in the program.
    pub sha256: String,
}

/// The record of a published file: its hash and its length in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pointer {
    sha256: String,
    size: u64,
}

/// Returns the short names of the networks that can be downloaded.
pub fn names() -> Vec<&'static str> {
    NETWORKS.iter().map(|(name, _)| *name).chain([NARROW]).collect()
}

/// Downloads the published network `name` into `dir` or else the user's [data folder](data_dir), and returns the file's
/// path. `vgg16` and `vgg19` come from the Hugging Face hub, `narrow` from the program's repository, or all from the
/// address in the environment variable `MIRAGE_FETCH_BASE`.
///
/// A broken download is resumed, by this call or the next one. The file gets its final name only after its
/// SHA-256 was verified: against the one published by the hub, or for `narrow` against the one in the program.
/// `progress` is called with the bytes downloaded so far and in total. [`fetch_from`] also returns whether the file was already present.
///
/// # Errors
/// [`Error::Usage`] for an unknown name, a missing data folder, or `narrow` without a known address;
/// [`Error::Download`] if the host can't be
/// reached, refuses the request, or sends other content than it published; [`Error::Io`] if the file can't be
/// written.
pub fn fetch(name: &str, dir: Option<&Path>, progress: &mut dyn FnMut(u64, u64)) -> Result<PathBuf> {
    fetch_from(base().as_deref(), name, dir, false, progress).map(|fetched| fetched.path)
}

/// Returns the address in the environment variable `MIRAGE_FETCH_BASE`, unless it is empty.
pub fn base() -> Option<String> {
    let base = std::env::var_os(BASE_VARIABLE)?.to_string_lossy().trim().to_owned();
    (!base.is_empty()).then_some(base)
}

/// Downloads like [`fetch`] from a given base address, or with `None` from where the network is published. Below the
/// base, `vgg16` and `vgg19` are at the same paths as on the hub, and `narrow` is a file under its own name. A different
/// file with the network's file name is replaced only with `overwrite`.
///
/// # Errors
/// The errors of [`fetch`].
pub fn fetch_from(
    base: Option<&str>,
    name: &str,
    dir: Option<&Path>,
    overwrite: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Fetched> {
    let (file_url, record) = published(base.map(|base| base.trim().trim_end_matches('/')), name)?;
    let folder = match dir {
        Some(dir) => dir.to_owned(),
        None => data_dir().ok_or_else(|| {
            Error::usage(
                "the environment has no home folder to download to. Choose a folder (--dir), or set XDG_DATA_HOME to an \
                 absolute path",
            )
        })?,
    };
    let download = Download {
        agent: agent(&file_url),
        file_url,
        record,
        target: folder.join(file_name(name)),
        overwrite,
    };
    make_folder(&folder)?;
    download.run(progress)
}

/// Returns the address of a network's file, and where its record is.
fn published(base: Option<&str>, name: &str) -> Result<(String, Record)> {
    if let Some(base) = base {
        let address = base.parse::<Uri>().ok();
        let scheme = address.as_ref().filter(|address| address.host().is_some()).and_then(Uri::scheme_str);
        if !matches!(scheme, Some("http" | "https")) {
            return Err(Error::usage(format!(
                "{} is not an address to download from. Set {BASE_VARIABLE} to one that begins with http:// or \
                 https://, or leave it unset",
                shown(&base)
            )));
        }
    }
    if name == NARROW {
        let address = base.map(|base| format!("{base}/{DEFAULT_NETWORK}")).or_else(narrow_address);
        let address = address.ok_or_else(|| {
            Error::usage(format!(
                "this program has no download address for {NARROW}. {}. To download it from a folder on a server, set \
                 {BASE_VARIABLE} to the folder's address",
                where_narrow_is()
            ))
        })?;
        let pointer = Pointer { sha256: DEFAULT_NETWORK_SHA256.to_owned(), size: DEFAULT_NETWORK_SIZE };
        return Ok((address, Record::Known(pointer)));
    }
    let Some((_, repository)) = NETWORKS.iter().find(|(known, _)| *known == name) else {
        return Err(Error::usage(format!(
            "there is no network '{name}' to download. Choose one of: {}",
            names().join(", ")
        )));
    };
    let repository = format!("{}/{repository}", base.unwrap_or(HUB));
    let record = Record::At(format!("{repository}/raw/main/{REMOTE_FILE}"));
    Ok((format!("{repository}/resolve/main/{REMOTE_FILE}"), record))
}

/// Creates the HTTP client, with timeouts, and without a proxy for local addresses.
fn agent(address: &str) -> Agent {
    const CONNECT: Duration = Duration::from_secs(30);
    const SILENCE: Duration = Duration::from_secs(60);
    let local =
        ["http://127.0.0.1", "http://localhost", "http://[::1]"].iter().any(|host| address.starts_with(host));
    let mut config = Agent::config_builder()
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .http_status_as_error(false)
        // Lengths and ranges of a compressed response would differ from the file's.
        .accept_encoding("identity")
        .user_agent(concat!("neural-mirage/", env!("CARGO_PKG_VERSION")));
    if local {
        config = config.proxy(None);
    }
    config.build().new_agent()
}

/// Where the record of a published file is.
enum Record {
    Known(Pointer),
    /// At this address, as a Git LFS pointer.
    At(String),
}

impl Record {
    /// True if a file with this hash may be the published one.
    fn allows(&self, sha256: &str) -> bool {
        match self {
            Self::Known(pointer) => pointer.sha256 == sha256,
            Self::At(_) => true,
        }
    }
}

/// One file to download.
struct Download {
    agent: Agent,
    file_url: String,
    record: Record,
    target: PathBuf,
    overwrite: bool,
}

/// A part file with all its bytes.
struct Complete {
    sha256: String,
    /// True if some of it was there before.
    continued: bool,
}

/// The outcome of one request for the rest of the file.
enum Outcome {
    Complete,
    /// The connection broke, for this reason.
    Broken(String),
}

impl Download {
    fn run(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Fetched> {
        let done = |already_present, sha256| Fetched { path: self.target.clone(), already_present, sha256 };
        if let Some(sha256) = self.recorded_hash()
            && self.record.allows(&sha256)
            && self.target.is_file()
            && sha256_of(&self.target)? == sha256
        {
            return Ok(done(true, sha256));
        }
        let pointer = self.pointer()?;
        if self.target.is_file() && sha256_of(&self.target)? == pointer.sha256 {
            self.record_hash(&pointer);
            return Ok(done(true, pointer.sha256));
        }

        check_place(&self.target, self.overwrite)?;
        let part = self.part(&pointer);
        let mut file = open_part(&part)?;
        if let Err(std::fs::TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::Download(format!(
                "{} is being downloaded by another run of this program. Wait for it, or stop it",
                shown(&self.target)
            )));
        }
        let mut found = self.complete(&mut file, &part, &pointer, progress)?;
        if found.continued && found.sha256 != pointer.sha256 {
            // The beginning came with an earlier request, perhaps from elsewhere.
            file.set_len(0).map_err(Error::io(&part, "emptying"))?;
            found = self.complete(&mut file, &part, &pointer, progress)?;
        }
        let verified = FileVersion::from(&file.metadata().map_err(Error::io(&part, "reading"))?);
        // Windows can't rename an open file.
        drop(file);
        if FileVersion::of(&part) != Some(verified) {
            return Err(Error::Download(format!(
                "{} was replaced or removed during the download. Start it again",
                shown(&part)
            )));
        }
        if found.sha256 != pointer.sha256 {
            std::fs::remove_file(&part).map_err(Error::io(&part, "removing"))?;
            return Err(Error::Download(format!(
                "the file from {} is damaged: its SHA-256 is {}, but {} is expected. It was deleted; try again, or {}",
                self.file_url,
                found.sha256,
                pointer.sha256,
                self.by_hand()
            )));
        }
        let remedy = "Move the file with this name away and start again: the download is kept";
        let target = check_place(&self.target, self.overwrite)
            .map_err(|error| error.after_work("naming the download", remedy))?;
        let renaming = |error| Error::io(&self.target, "renaming the download to")(error);
        let part = TempPath::try_from_path(part).map_err(renaming)?;
        let named = if self.overwrite { part.persist(&target) } else { publish_new(part, &target) };
        // The target may have been created in the meantime. The download stays.
        named
            .map_err(|error| error.path.keep().map_or_else(|kept| kept.error, |_| error.error))
            .map_err(renaming)?;
        self.record_hash(&pointer);
        Ok(done(false, pointer.sha256))
    }

    /// Completes the part file and computes its hash. Removes it if nothing could be downloaded.
    fn complete(
        &self,
        file: &mut File,
        part: &Path,
        pointer: &Pointer,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Complete> {
        let length = |file: &File| file.metadata().map_or(0, |found| found.len());
        let continued = length(file) > 0;
        if let Err(error) = self.fill(file, part, pointer, progress) {
            if length(file) == 0 {
                let _ = std::fs::remove_file(part);
            }
            return Err(error);
        }
        file.sync_all().map_err(Error::io(part, "writing"))?;
        // On Windows a locked file can't be read through another handle, even in the same process.
        file.seek(SeekFrom::Start(0)).map_err(Error::io(part, "reading"))?;
        Ok(Complete { sha256: sha256_from_here(file, part)?, continued })
    }

    /// Downloads until the part file is complete.
    fn fill(
        &self,
        file: &mut File,
        part: &Path,
        pointer: &Pointer,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<()> {
        let mut have = file.metadata().map_err(Error::io(part, "reading"))?.len();
        if have > pointer.size {
            file.set_len(0).map_err(Error::io(part, "emptying"))?;
            have = 0;
        }
        let mut fruitless = 0;
        for _ in 0..ATTEMPTS {
            progress(have, pointer.size);
            if have == pointer.size {
                return Ok(());
            }
            let before = have;
            let broken = match self.continue_at(file, part, &mut have, pointer.size, progress)? {
                Outcome::Complete => continue,
                Outcome::Broken(reason) => reason,
            };
            fruitless = if have > before { 0 } else { fruitless + 1 };
            if fruitless > FRUITLESS_ATTEMPTS {
                return Err(self.stopped(have, pointer, &broken));
            }
        }
        if have == pointer.size {
            return Ok(());
        }
        Err(self.stopped(have, pointer, "the connection kept breaking"))
    }

    /// Requests the file from byte `have` on and appends the response.
    fn continue_at(
        &self,
        file: &mut File,
        part: &Path,
        have: &mut u64,
        size: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Outcome> {
        let mut request = self.agent.get(&self.file_url);
        if *have > 0 {
            request = request.header(header::RANGE, format!("bytes={have}-"));
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(error) => return Ok(Outcome::Broken(error.to_string())),
        };
        match response.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(&response, *have) => {}
            // The server ignores the range: start again.
            StatusCode::OK => *have = 0,
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                *have = 0;
                file.set_len(0).map_err(Error::io(part, "emptying"))?;
                return Ok(Outcome::Broken("the server refused to continue the download".to_owned()));
            }
            status if status.is_server_error() => {
                return Ok(Outcome::Broken(format!("the server answered {status}")));
            }
            status => {
                return Err(Error::Download(format!(
                    "{} answered {status}. If the file has moved, {}",
                    self.file_url,
                    self.by_hand()
                )));
            }
        }
        if let Some(length) = whole_length(&response)
            && length != size
        {
            return Err(Error::Download(format!(
                "{} has {length} bytes instead of the {size} bytes that are published. Try again later, or {}",
                self.file_url,
                self.by_hand()
            )));
        }
        file.set_len(*have).map_err(Error::io(part, "writing"))?;
        file.seek(SeekFrom::Start(*have)).map_err(Error::io(part, "writing"))?;
        let mut body = response.into_body().into_reader();
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = match body.read(&mut chunk) {
                Ok(0) if *have < size => {
                    return Ok(Outcome::Broken("the connection was closed early".to_owned()));
                }
                Ok(0) => return Ok(Outcome::Complete),
                Ok(count) => count,
                Err(error) => return Ok(Outcome::Broken(error.to_string())),
            };
            if *have + count as u64 > size {
                file.set_len(0).map_err(Error::io(part, "emptying"))?;
                return Err(Error::Download(format!(
                    "{} sends more than the {size} bytes that are published. Try again later, or {}",
                    self.file_url,
                    self.by_hand()
                )));
            }
            file.write_all(&chunk[..count]).map_err(Error::io(part, "writing"))?;
            *have += count as u64;
            progress(*have, size);
        }
    }

    /// Returns the file's published length and hash.
    fn pointer(&self) -> Result<Pointer> {
        let pointer_url = match &self.record {
            Record::Known(pointer) => return Ok(pointer.clone()),
            Record::At(address) => address,
        };
        let failed = |reason: String| {
            Error::Download(format!(
                "{} can't be downloaded: {reason}. Check the connection, or {}",
                self.file_url,
                self.by_hand()
            ))
        };
        let mut response = self.agent.get(pointer_url).call().map_err(|error| failed(error.to_string()))?;
        if !response.status().is_success() {
            return Err(failed(format!("{pointer_url} answered {}", response.status())));
        }
        let text = response.body_mut().with_config().limit(POINTER_LIMIT).read_to_string();
        let text = text.map_err(|error| failed(format!("{pointer_url}: {error}")))?;
        parse_pointer(&text).ok_or_else(|| failed(format!("{pointer_url} has no SHA-256 and size")))
    }

    fn stopped(&self, have: u64, pointer: &Pointer, reason: &str) -> Error {
        Error::Download(format!(
            "the download of {} stopped at {have} of {} bytes: {reason}. Start it again to continue, or {}",
            self.file_url,
            pointer.size,
            self.by_hand()
        ))
    }

    /// Returns instructions for downloading the file manually, as the end of a sentence.
    fn by_hand(&self) -> String {
        format!("download {} manually and save it as {}", self.file_url, shown(&self.target))
    }

    /// Returns the target's path with an extension appended.
    fn beside(&self, extension: &str) -> PathBuf {
        let mut name = self.target.clone().into_os_string();
        name.push(".");
        name.push(extension);
        name.into()
    }

    /// Returns the path of the incomplete download. The name says what it is a part of, so that no other file is taken
    /// for it.
    fn part(&self, pointer: &Pointer) -> PathBuf {
        let name = self.target.file_name().unwrap_or_default().to_string_lossy();
        self.target.with_file_name(format!(".{name}.{}.mirage-part", &pointer.sha256[..16]))
    }

    /// Returns the hash stored by an earlier download, so the file can be verified without a connection.
    fn recorded_hash(&self) -> Option<String> {
        let text = read_text(&self.beside("sha256"), POINTER_LIMIT).ok()?;
        let hash = text.get(..64).filter(|hash| is_sha256(hash))?;
        (text == self.hash_line(hash)).then(|| hash.to_owned())
    }

    /// Returns a hash in the format of `sha256sum -c`.
    fn hash_line(&self, sha256: &str) -> String {
        format!("{sha256}  {}\n", self.target.file_name().unwrap_or_default().to_string_lossy())
    }

    /// Stores the hash of the file, if possible. Without it, the host is asked again.
    fn record_hash(&self, pointer: &Pointer) {
        let path = self.beside("sha256");
        // Don't replace a file that this program didn't write.
        let overwrite = match FileVersion::of(&path) {
            Some(version) if self.recorded_hash().is_some() => Overwrite::Only(version),
            _ => Overwrite::Never,
        };
        let _ = write_whole(&path, self.hash_line(&pointer.sha256).as_bytes(), "writing", overwrite);
    }
}

/// Opens or creates the part file. Doesn't follow symbolic links, and rejects anything but a regular file.
fn open_part(part: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    // Not truncated: it may hold the bytes of an earlier run.
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(part).map_err(Error::io(part, "opening"))?;
    let found = file.metadata().map_err(Error::io(part, "opening"))?;
    // Under its other name, the file may be anyone's.
    #[cfg(unix)]
    let has_other_name = std::os::unix::fs::MetadataExt::nlink(&found) > 1;
    #[cfg(not(unix))]
    let has_other_name = false;
    if !found.is_file() || has_other_name {
        let problem = "it is not a regular file, or it has a second name (a hard link)";
        return Err(Error::file(part, problem, "Remove it, or choose another folder"));
    }
    Ok(file)
}

/// Returns true if a partial response starts at byte `start`.
fn starts_at(response: &Response<Body>, start: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok());
    first == Some(start)
}

/// Returns the length of the whole file that a response is a part of, if it says.
fn whole_length(response: &Response<Body>) -> Option<u64> {
    let value = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    match response.status() {
        StatusCode::PARTIAL_CONTENT => value(header::CONTENT_RANGE)?.rsplit_once('/')?.1.trim().parse().ok(),
        _ => value(header::CONTENT_LENGTH)?.trim().parse().ok(),
    }
}

/// Parses a Git LFS pointer file.
fn parse_pointer(text: &str) -> Option<Pointer> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let sha256 = value("oid sha256:").filter(|hash| is_sha256(hash))?.to_ascii_lowercase();
    let size = value("size ")?.parse().ok()?;
    Some(Pointer { sha256, size })
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Computes the SHA-256 of a file, in lower-case hexadecimal digits.
fn sha256_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path, "opening"))?;
    sha256_from_here(&mut file, path)
}

/// Computes the SHA-256 of the rest of an open file.
fn sha256_from_here(file: &mut File, path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = file.read(&mut chunk).map_err(Error::io(path, "reading"))?;
        if count == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&chunk[..count]);
    }
}

#[cfg(test)]
mod tests;
