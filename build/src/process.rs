//! Running other programs, with errors of one line.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

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
    let status = command
        .status()
        .map_err(|reason| start_error(command, reason))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed {
        what: what.to_owned(),
        status,
        hint: "see its messages above".to_owned(),
    })
}

/// Runs a program and returns its standard output.
pub fn output(command: &mut Command, what: &str) -> Result<String, Error> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|reason| start_error(command, reason))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let hint = errors
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no message");
    Err(Error::Failed {
        what: what.to_owned(),
        status: output.status,
        hint: hint.trim().to_owned(),
    })
}

/// The first file of that name in the directories of PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_one_line_that_names_setup() {
        let error = run(&mut Command::new("portcullis-no-such-program"), "nothing").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`portcullis-no-such-program` is not installed: run `cargo xtask setup`"
        );
    }

    #[test]
    fn a_failed_program_is_reported_with_its_last_line() {
        let script = "echo first >&2; echo last >&2; exit 3";
        let error = output(Command::new("sh").args(["-c", script]), "the script").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the script failed (exit status: 3): last"
        );
    }
}
