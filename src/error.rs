//! The error type of the library.
//!
//! Every message says what went wrong, where, and what to do about it. [`Error::exit_code`] maps a variant to
//! the program's exit code.

use crate::escape::{one_line, shown};
use std::path::{Path, PathBuf};

/// Result of the fallible functions of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// All errors, grouped by the kind of remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A request that can't be carried out: a bad option, an unknown layer, weights that are all zero. The message
    /// names the cause and the remedy.
    #[error("{0}")]
    Usage(String),

    /// A file named by the user can't be used: it is missing, truncated or of an unknown format.
    #[error("{path}: {problem}. {remedy}", path = shown(.path), problem = one_line(.problem), remedy = one_line(.remedy))]
    File {
        /// Path as given by the user.
        path: PathBuf,
        /// Description of the problem, without a final full stop.
        problem: String,
        /// Remedy, as a sentence.
        remedy: String,
    },

    /// No adapter (graphics device) can run the kernels.
    #[error("{0}")]
    NoAdapter(String),

    /// The device has too little memory, or an allocation failed.
    #[error("out of device memory: {what} ({needed}). {remedy}", needed = mebibytes(*.needed))]
    OutOfMemory {
        /// Name of the allocation.
        what: String,
        /// Requested size in bytes.
        needed: u64,
        /// Remedy, as a sentence.
        remedy: String,
    },

    /// The device disappeared: the driver was reset, the device was unplugged, or the machine slept.
    #[error(
        "the graphics device was lost: {0}. Saved files are kept: `mirage resume` continues from a checkpoint, --retry does so automatically; use a smaller --size if this repeats"
    )]
    DeviceLost(String),

    /// The device did not respond in time.
    #[error(
        "the graphics device gave no answer within {seconds} s while {doing}. It may be hung or far too slow for this size; try a smaller --size, another --adapter, or more --patience"
    )]
    Timeout {
        /// The step that was waited for.
        doing: String,
        /// Time limit in seconds.
        seconds: u64,
    },

    /// The graphics API rejected a kernel or a resource: a bug in this program or the driver.
    #[error("the graphics API rejected {what}: {message}")]
    Gpu {
        /// Label of the object or step.
        what: String,
        /// The API's message.
        message: String,
    },

    /// A shader is invalid, doesn't match its dispatch, or needs a feature that the device or the target language
    /// lacks.
    #[error("shader {name}: {message}")]
    Shader {
        /// File, and entry point if the error concerns one.
        name: String,
        /// Description of the error; naga's message if naga found it.
        message: String,
    },

    /// A graph, or a program prepared from it, is inconsistent: a bug in the code that built it.
    #[error("internal error: {what}: {message}. Please report it")]
    Internal {
        /// Label of the node, tensor or step.
        what: String,
        /// Description of the inconsistency.
        message: String,
    },

    /// A function of the CPU device or its call failed: a bug in this program.
    #[error("the CPU device failed at {what}: {message}")]
    Cpu {
        /// Label of the object or step.
        what: String,
        /// Description of the failure.
        message: String,
    },

    /// The optimisation repeatedly produced NaN or infinite values, or its loss diverged.
    #[error("{}", unstable(cause, *iteration, *setbacks))]
    Unstable {
        /// Last cause.
        cause: String,
        /// Iteration of the last failure.
        iteration: u32,
        /// Number of times that the run had gone back before.
        setbacks: u32,
    },

    /// A line search has accepted no picture, and the last one had a loss of NaN or infinity.
    #[error(
        "after {iterations} iterations, the line search has found no picture better than the start picture, and the \
         last loss was NaN or infinite. Lower --learning-rate or the weights"
    )]
    NoFiniteTrial {
        /// Number of iterations.
        iterations: u32,
    },

    /// A kernel computes wrong results on this device: a bug in the driver, or in a shader from --shader-dir.
    #[error(
        "wrong result: {kernel} at {at} on {device}: {message}. No picture was made. Update the driver, or try other kernels (--kernels texture, buffer or naive) or another --adapter; `mirage kernels test` tests all of them"
    )]
    WrongResult {
        /// Op and variant.
        kernel: String,
        /// Layer and shapes.
        at: String,
        /// Adapter, backend and driver.
        device: String,
        /// Description of the difference.
        message: String,
    },

    /// The operating system failed to read or write.
    #[error("{path}: {action} failed: {source}", path = shown(.path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The attempted action, e.g. "writing".
        action: &'static str,
        /// The system's error.
        source: std::io::Error,
    },

    /// A download failed. The message contains the address for a manual download.
    #[error("{0}")]
    Download(String),
}

impl Error {
    /// Creates an [`Error::OutOfMemory`] of the host.
    pub(crate) fn out_of_host_memory(what: &str, needed: u64) -> Self {
        let remedy = "Use a smaller --size, or close other programs".to_owned();
        Self::OutOfMemory { what: what.to_owned(), needed, remedy }
    }

    /// Creates an [`Error::File`].
    pub fn file(path: &Path, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), problem: problem.into(), remedy: remedy.into() }
    }

    /// Creates an [`Error::Io`], for use with `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), action, source }
    }

    /// Turns an [`Error::File`] into an [`Error::Io`] with this remedy: where the work is done already, a file that can't
    /// be written is no longer an error of the request. Other errors stay as they are.
    #[cfg(any(feature = "cli", feature = "fetch"))]
    pub(crate) fn after_work(self, action: &'static str, remedy: &str) -> Self {
        match self {
            Self::File { path, problem, .. } => {
                Self::io(&path, action)(std::io::Error::other(format!("{problem}. {remedy}")))
            }
            other => other,
        }
    }

    /// Creates an [`Error::Gpu`].
    pub fn gpu(what: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Gpu { what: what.into(), message: message.into() }
    }

    /// Creates an [`Error::Shader`].
    pub fn shader(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Shader { name: name.into(), message: message.into() }
    }

    /// Creates an [`Error::Internal`].
    pub fn internal(what: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Internal { what: what.into(), message: message.into() }
    }

    /// Creates an [`Error::Cpu`].
    pub fn cpu(what: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Cpu { what: what.into(), message: message.into() }
    }

    /// Creates an [`Error::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// True if the device was lost or hangs, so opening it again may help.
    pub fn is_of_lost_device(&self) -> bool {
        matches!(self, Self::DeviceLost(_) | Self::Timeout { .. })
    }

    /// True if a kernel can't run but another one may: the API or the device rejects it, its shader or dispatch is
    /// invalid, or there is too little memory.
    pub fn is_of_kernel(&self) -> bool {
        matches!(
            self,
            Self::Gpu { .. }
                | Self::Shader { .. }
                | Self::Internal { .. }
                | Self::Cpu { .. }
                | Self::OutOfMemory { .. }
        )
    }

    /// The program's exit code: 2 for errors in the request or its files, which the user can fix; 1 for failures during
    /// the work.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::File { .. } | Self::NoAdapter(_) => 2,
            _ => 1,
        }
    }
}

/// Formats bytes as mebibytes for messages.
fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Returns the message of [`Error::Unstable`].
fn unstable(cause: &str, iteration: u32, setbacks: u32) -> String {
    if setbacks == 0 {
        return format!(
            "{cause} at iteration {iteration}, the first of the run or of a scale, so there is no earlier state. Start \
             from another picture (--init), lower the weights of the factors, or use another network"
        );
    }
    let times = if setbacks == 1 { "once" } else { &format!("{setbacks} times") };
    format!(
        "{cause} at iteration {iteration}, after going back {times} and halving the step each time. Lower \
         --learning-rate or the weights"
    )
}
