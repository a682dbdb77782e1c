//! Running other programs, with errors of one line.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Why another program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is not installed.
    #[error("`{program}` is not installed: run `cargo xtask setup`")]
    Missing {
        /// What was called.
        program: String,
    },
    /// The program could not be started for another reason.
    #[error("`{program}` could not be started: {reason}")]
    Start {
        /// What was called.
        program: String,
        /// What the system said.
        reason: io::Error,
    },
    /// The program took too long and was ended.
    #[error("{what} did not end within {seconds} s and was ended: see its messages above")]
    TooLong {
        /// What it was to do.
        what: String,
        /// The limit.
        seconds: u64,
    },
    /// The program ended with a failure.
    #[error("{what} failed ({status}): {hint}")]
    Failed {
        /// What it was to do.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// Last line of its error output, or where to look.
        hint: String,
    },
}

fn start_error(command: &Command, reason: io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    match reason.kind() {
        io::ErrorKind::NotFound => Error::Missing { program },
        _ => Error::Start { program, reason },
    }
}

/// Runs a program whose output the user sees. `what` names the work in the error.
pub fn run(command: &mut Command, what: &str) -> Result<(), Error> {
    let status = command.status().map_err(|reason| start_error(command, reason))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed { what: what.to_owned(), status, hint: "see its messages above".to_owned() })
}

/// Starts a program whose output the caller reads.
pub fn spawn(command: &mut Command) -> Result<std::process::Child, Error> {
    command.spawn().map_err(|reason| start_error(command, reason))
}

/// [`run`] with a limit: after it the program and all that it started are ended.
pub fn run_limited(command: &mut Command, what: &str, limit: Duration) -> Result<(), Error> {
    let mut child = command.spawn().map_err(|reason| start_error(command, reason))?;
    let start = Instant::now();
    while start.elapsed() < limit {
        let status = child.try_wait().map_err(|reason| start_error(command, reason))?;
        match status {
            Some(status) if status.success() => return Ok(()),
            Some(status) => {
                let hint = "see its messages above".to_owned();
                return Err(Error::Failed { what: what.to_owned(), status, hint });
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    for process in family(child.id()) {
        // One that has ended meanwhile is not a failure.
        let _ = output(Command::new("kill").args(["-KILL", &process.to_string()]), "kill");
    }
    let _ = child.wait();
    Err(Error::TooLong { what: what.to_owned(), seconds: limit.as_secs() })
}

/// A process and all its descendants, ancestors first.
fn family(root: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(text) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The name stands in parentheses and may hold blanks; state and parent follow it.
        let parent = text.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        parents.extend(parent.map(|parent: u32| (process, parent)));
    }
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(process, _)| *process));
        next += 1;
    }
    family
}

/// Runs a program and returns its standard output.
pub fn output(command: &mut Command, what: &str) -> Result<String, Error> {
    let output = command.stdin(Stdio::null()).output().map_err(|reason| start_error(command, reason))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let hint = errors.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
    Err(Error::Failed { what: what.to_owned(), status: output.status, hint: hint.trim().to_owned() })
}

/// The first file of that name in the directories of PATH; a name with a directory is that file.
pub fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return is_program(program).then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_one_line_that_names_setup() {
        let error = run(&mut Command::new("portcullis-no-such-program"), "nothing").unwrap_err();
        assert_eq!(error.to_string(), "`portcullis-no-such-program` is not installed: run `cargo xtask setup`");
    }

    #[test]
    fn a_program_that_does_not_end_is_ended_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("child");
        let script = format!("sleep 600 & echo $! > {}; wait", file.display());
        let error = run_limited(Command::new("sh").args(["-c", &script]), "the script", Duration::from_secs(3));
        assert!(error.unwrap_err().to_string().starts_with("the script did not end within 3 s"));
        let child = std::fs::read_to_string(&file).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        let ended = || std::fs::read_to_string(&stat).map_or(true, |text| text.contains(") Z "));
        // A killed process of somebody else's is gone some time after the kill, and nobody is told when.
        let limit = Instant::now() + Duration::from_secs(60);
        while !ended() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(ended(), "the child still runs");
    }

    #[test]
    fn a_failed_program_is_reported_with_its_last_line() {
        let script = "echo first >&2; echo last >&2; exit 3";
        let error = output(Command::new("sh").args(["-c", script]), "the script").unwrap_err();
        assert_eq!(error.to_string(), "the script failed (exit status: 3): last");
    }
}
