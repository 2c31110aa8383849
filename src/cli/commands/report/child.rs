//! Runs one process of a report with a time limit; an interrupt by the user ends it.

use super::record::{PartOutcome, Status};
use crate::cli::interrupt::Interrupt;
use crate::error::{Error, Result};
use serde_json::Value;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time limit of a process. It is long because a software device needs minutes for the kernels of VGG-19.
pub(super) const LIMIT: Duration = Duration::from_secs(40 * 60);
/// Interval between checks of a process.
const POLL: Duration = Duration::from_millis(20);
/// Time for a process to end after Ctrl-C, which a terminal sends to it too.
const GRACE: Duration = Duration::from_secs(5);
/// Maximum length of a reason from a process's messages, in characters.
const MOST_REASON: usize = 600;

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it: the program or the driver crashed.
    Crashed(String),
    /// It took longer than the limit.
    TimedOut,
    /// The user interrupted the report.
    Interrupted,
}

/// A process that ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub ending: Ending,
    pub stdout: String,
    pub stderr: String,
    pub seconds: f64,
}

impl Finished {
    /// Returns why the part failed; `None` after success.
    pub(super) fn failure(&self) -> Option<String> {
        let message = last_words(&self.stderr);
        match &self.ending {
            Ending::Code(0) => None,
            Ending::Code(_) if !message.is_empty() => Some(message),
            Ending::Code(code) => Some(format!("exit code {code}")),
            Ending::Crashed(how) => {
                Some(format!("the process crashed ({how}). {message}").trim_end().to_owned())
            }
            Ending::TimedOut => Some(format!("no result within {:.0} s", self.seconds)),
            Ending::Interrupted => Some("interrupted".to_owned()),
        }
    }
}

/// Runs a command until it ends.
///
/// # Errors
/// [`Error::Io`] if it can't be started.
pub(super) fn run(mut command: Command, limit: Duration, interrupt: &Interrupt) -> Result<Finished> {
    let program = command.get_program().to_owned();
    let failed = |action| Error::io(Path::new(&program), action);
    let temporary = || tempfile::tempfile().map_err(failed("making a temporary file for the output of"));
    // Files, not pipes, so that nothing has to read while the process runs.
    let (mut stdout, mut stderr) = (temporary()?, temporary()?);
    command.stdin(Stdio::null());
    command.stdout(stdout.try_clone().map_err(failed("starting"))?);
    command.stderr(stderr.try_clone().map_err(failed("starting"))?);
    let begin = Instant::now();
    let mut child = command.spawn().map_err(failed("starting"))?;
    let ending = wait(&mut child, begin + limit, interrupt).map_err(failed("waiting for"))?;
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Finished { ending, stdout: text(&mut stdout), stderr: text(&mut stderr), seconds })
}

fn wait(child: &mut Child, limit: Instant, interrupt: &Interrupt) -> std::io::Result<Ending> {
    let mut interrupted = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(match (interrupt.requested(), status.code()) {
                (true, _) => Ending::Interrupted,
                (false, Some(code)) => Ending::Code(code),
                (false, None) => Ending::Crashed(status.to_string()),
            });
        }
        let now = Instant::now();
        if interrupt.requested() && now > *interrupted.get_or_insert(now) + GRACE {
            end(child)?;
            return Ok(Ending::Interrupted);
        }
        if now > limit {
            end(child)?;
            return Ok(Ending::TimedOut);
        }
        std::thread::sleep(POLL);
    }
}

fn end(child: &mut Child) -> std::io::Result<()> {
    child.kill()?;
    child.wait().map(drop)
}

/// Returns the output of a process. A read error counts as no output, since the exit status is known.
fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let _ = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the last lines that a process printed, without the program's name.
fn last_words(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let from =
        lines.iter().rposition(|line| line.starts_with("mirage: ")).unwrap_or(lines.len().saturating_sub(3));
    let text = lines[from..].join(" ");
    text.trim_start_matches("mirage: ").chars().take(MOST_REASON).collect()
}

/// Returns the outcome of a process as a part of the report. No output counts as a failure.
pub(super) fn outcome(finished: &Finished, result: Value) -> PartOutcome {
    let reason = match finished.failure() {
        None if result.is_null() => Some("the process printed no result".to_owned()),
        reason => reason,
    };
    let status = match (&finished.ending, &reason) {
        (Ending::Interrupted, _) => Status::Interrupted,
        (_, None) => Status::Done,
        (_, Some(_)) => Status::Failed,
    };
    PartOutcome { status, reason, seconds: Some(finished.seconds), result }
}

/// Runs a command that prints JSON as a part of the report.
///
/// # Errors
/// See [`run`].
pub(super) fn json(interrupt: &Interrupt, command: Command) -> Result<PartOutcome> {
    let finished = run(command, LIMIT, interrupt)?;
    let result = serde_json::from_str(finished.stdout.lines().last().unwrap_or_default());
    Ok(outcome(&finished, result.unwrap_or(Value::Null)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn process_without_result_is_failed() {
        let finished = |code| Finished {
            ending: Ending::Code(code),
            stdout: String::new(),
            stderr: String::new(),
            seconds: 1.0,
        };
        assert_eq!(outcome(&finished(0), Value::Null).status, Status::Failed);
        assert_eq!(outcome(&finished(0), json!({})).status, Status::Done);
        assert_eq!(outcome(&finished(1), json!({})).status, Status::Failed);
    }

    #[test]
    fn failure_reason_is_the_programs_message() {
        let said = "note: something\nmirage: no adapter was found.\nInstall one\n";
        assert_eq!(last_words(said), "no adapter was found. Install one");
        assert_eq!(last_words("a\nb\nc\nd\n"), "b c d");
        assert_eq!(last_words(""), "");
        assert_eq!(last_words(&"x".repeat(5000)).len(), MOST_REASON);
    }

    #[cfg(unix)]
    #[test]
    fn crashes_hangs_and_failures_are_distinguished() {
        let shell = |script: &str, limit| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            run(command, limit, &Interrupt::default()).unwrap()
        };
        let long = Duration::from_secs(60);
        let good = shell("echo result; echo chatter >&2", long);
        assert_eq!((good.stdout.as_str(), good.failure()), ("result\n", None));
        let bad = shell("echo 'mirage: it broke' >&2; exit 1", long);
        assert_eq!(bad.failure().unwrap(), "it broke");
        assert_eq!(shell("exit 3", long).failure().unwrap(), "exit code 3");
        let crashed = shell("kill -SEGV $$", long).failure().unwrap();
        assert!(crashed.contains("crashed"), "{crashed}");
        let hung = shell("exec sleep 60", Duration::from_millis(100));
        assert!(hung.ending == Ending::TimedOut && hung.seconds < 30.0, "{hung:?}");
    }
}
