//! An error as the one line that a user sees.

/// The error and its causes, outermost first; a cause that the text before it already holds is not said again.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{emulator, monitor};
    use anyhow::Context;
    use std::io;

    fn reason() -> io::Error {
        io::Error::from_raw_os_error(2)
    }

    #[test]
    fn a_systems_reason_is_said_once_whether_the_error_says_it_or_only_its_cause() {
        let host = emulator::Error::Host { what: "start QEMU".into(), source: reason() };
        let cause: anyhow::Result<()> = Err(reason().into());
        for (error, expected) in [
            (anyhow::Error::from(host), "cannot start QEMU: No such file or directory (os error 2)"),
            (monitor::Error::from(reason()).into(), "QEMU's monitor is gone: No such file or directory (os error 2)"),
            (cause.context("cannot read x").unwrap_err(), "cannot read x: No such file or directory (os error 2)"),
        ] {
            assert_eq!(one_line(&error.context("outside")), format!("outside: {expected}"));
        }
    }
}
