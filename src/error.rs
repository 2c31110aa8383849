//! The one error type of the library.
//!
//! Every variant answers three questions for the person who reads it: what was wrong, where, and
//! what to do about it. The program maps a variant to its exit code with [`Error::exit_code`].

use crate::escape::{one_line, shown};
use std::path::{Path, PathBuf};

/// Result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// All that can go wrong, by the kind of remedy it needs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A request that can't be carried out as stated: a bad option, an unknown layer, weights that
    /// are all zero. The message names the cause and the remedy.
    #[error("{0}")]
    Usage(String),

    /// A file that the user named can't be used: missing, truncated, of an unknown format.
    #[error("{path}: {problem}. {remedy}", path = shown(.path), problem = one_line(.problem), remedy = one_line(.remedy))]
    File {
        /// The file as the user named it.
        path: PathBuf,
        /// What is wrong with it, without a closing full stop.
        problem: String,
        /// What to do about it, as a sentence.
        remedy: String,
    },

    /// No adapter (graphics device) can run the kernels.
    #[error("{0}")]
    NoAdapter(String),

    /// The device has not enough memory, or refused an allocation.
    #[error("out of device memory: {what} ({needed}). {remedy}", needed = mebibytes(*.needed))]
    OutOfMemory {
        /// What was being allocated.
        what: String,
        /// Bytes asked for.
        needed: u64,
        /// What to do about it, as a sentence.
        remedy: String,
    },

    /// The device disappeared: driver reset, unplugged, or the machine slept.
    #[error(
        "the graphics device was lost: {0}. What was saved is on disk: `mirage resume` goes on from a checkpoint, --retry does so by itself; use a smaller --size if this repeats"
    )]
    DeviceLost(String),

    /// The device gave no answer in time.
    #[error(
        "the graphics device gave no answer within {seconds} s while {doing}. It may be hung or far too slow for this size; try a smaller --size, another --adapter, or more --patience"
    )]
    Timeout {
        /// What was being waited for.
        doing: String,
        /// The limit that ran out, in seconds.
        seconds: u64,
    },

    /// A kernel or a resource was refused by the graphics API: a fault of this program or the driver.
    #[error("the graphics API refused {what}: {message}")]
    Gpu {
        /// The labelled object or step.
        what: String,
        /// The API's own words.
        message: String,
    },

    /// A shader is invalid, doesn't fit its dispatch, or needs what the device or the target language lacks.
    #[error("shader {name}: {message}")]
    Shader {
        /// File, and entry point where one is meant.
        name: String,
        /// What is wrong, in naga's words where it finds it.
        message: String,
    },

    /// A graph, or what was prepared from it, is inconsistent: a bug in the code that built it.
    #[error("internal error: {what}: {message}. Please report it")]
    Internal {
        /// The label of the node, tensor or step.
        what: String,
        /// What does not fit.
        message: String,
    },

    /// A function of the CPU device, or its call, is at fault: this program's.
    #[error("the CPU device failed at {what}: {message}")]
    Cpu {
        /// The labelled object or step.
        what: String,
        /// What went wrong.
        message: String,
    },

    /// The optimisation produced NaN or infinite values, or its loss diverged, again and again.
    #[error("{}", unstable(cause, *iteration, *setbacks))]
    Unstable {
        /// What went wrong the last time.
        cause: String,
        /// The iteration that went wrong.
        iteration: u32,
        /// How often the run had gone back before.
        setbacks: u32,
    },

    /// A kernel computes something else than it should on this device: a fault of the driver, or of a shader
    /// from --shader-dir.
    #[error(
        "wrong result: {kernel} at {at} on {device}: {message}. Nothing was painted. Update the driver, or try other kernels (--kernels texture, buffer or naive) or another --adapter; `mirage kernels test` tests all of them"
    )]
    WrongResult {
        /// Op and variant.
        kernel: String,
        /// Where: layer, shapes.
        at: String,
        /// Adapter, backend and driver.
        device: String,
        /// What is wrong.
        message: String,
    },

    /// Reading or writing failed in the operating system.
    #[error("{path}: {action} failed: {source}", path = shown(.path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, e.g. "writing".
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },

    /// A download failed. The message holds the address, so that a person can fetch it by hand.
    #[error("{0}")]
    Download(String),
}

impl Error {
    /// An [`Error::OutOfMemory`] of the host.
    pub(crate) fn out_of_host_memory(what: &str, needed: u64) -> Self {
        let remedy = "Use a smaller --size, or close other programs".to_owned();
        Self::OutOfMemory { what: what.to_owned(), needed, remedy }
    }

    /// A [`Error::File`] with its three parts.
    pub fn file(path: &Path, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), problem: problem.into(), remedy: remedy.into() }
    }

    /// A [`Error::Io`] for use with `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), action, source }
    }

    /// A [`Error::Gpu`].
    pub fn gpu(what: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Gpu { what: what.into(), message: message.into() }
    }

    /// A [`Error::Shader`].
    pub fn shader(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Shader { name: name.into(), message: message.into() }
    }

    /// A [`Error::Internal`].
    pub fn internal(what: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Internal { what: what.into(), message: message.into() }
    }

    /// A [`Error::Cpu`].
    pub fn cpu(what: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Cpu { what: what.into(), message: message.into() }
    }

    /// A [`Error::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// True if the device was lost or hangs, so that it may help to open it again.
    pub fn is_of_lost_device(&self) -> bool {
        matches!(self, Self::DeviceLost(_) | Self::Timeout { .. })
    }

    /// True if a kernel can't run as it is, so that another one may: the API or the device refuses it, its shader or
    /// dispatch is invalid, or there is too little memory.
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

    /// The program's exit code: 2 for a problem that the user can fix in the request or its files, 1 for a
    /// failure while working.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::File { .. } | Self::NoAdapter(_) => 2,
            _ => 1,
        }
    }
}

/// Bytes as mebibytes, for messages.
fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The message of [`Error::Unstable`].
fn unstable(cause: &str, iteration: u32, setbacks: u32) -> String {
    if setbacks == 0 {
        return format!(
            "{cause} at iteration {iteration}, with which the run or a scale begins, so there is nothing to go back to. Start \
             from another picture (--init), lower the weights of the factors, or take another network"
        );
    }
    let times = if setbacks == 1 { "once" } else { &format!("{setbacks} times") };
    format!(
        "{cause} at iteration {iteration}, after the run had gone back {times} with half the step each time. Lower \
         --learning-rate or the weights"
    )
}
