//! Talks to Bochs's internal debugger on its standard input and output. A thread of its own reads; an answer ends
//! with the next prompt.

use crate::emulator::starved;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{self, Read, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Time within which the debugger must answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(180);
/// Time after which a signal is taken for forgotten.
const SIGNAL_LIMIT: Duration = Duration::from_secs(5);
/// What Bochs must have run since it was told to go on before a signal is sent: it is out of its command line then, and
/// the machine runs.
const UNDER_WAY: Duration = Duration::from_millis(30);
/// How often it is asked how long it ran.
const LOOK: Duration = Duration::from_millis(1);
/// Time that a guest may take to its next exit.
const GUEST_LIMIT: Duration = Duration::from_secs(30);

/// Why the debugger did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection broke.
    #[error("Bochs's debugger is gone: {0}")]
    Broken(#[from] io::Error),
    /// Bochs ended before it answered.
    #[error("Bochs ended before its debugger answered `{0}`")]
    Ended(String),
    /// No answer in time.
    #[error("Bochs's debugger did not answer `{command}` within {seconds} s; it showed {shown:?}")]
    Silent {
        /// What was asked.
        command: String,
        /// The limit.
        seconds: u64,
        /// What it showed instead.
        shown: String,
    },
    /// A guest that takes no interrupt.
    #[error("the machine was caught inside a guest that did not exit within {} s", GUEST_LIMIT.as_secs())]
    Inside,
}

/// The debugger, at its prompt unless the machine runs.
pub struct Debugger {
    process: Option<Pid>,
    typed: ChildStdin,
    shown: Receiver<Vec<u8>>,
    runs: bool,
    /// How long it had run when it was told to go on.
    ran: Duration,
}

impl Debugger {
    /// Takes Bochs's ends over. `gone` is called when Bochs is.
    pub fn new(
        process: u32,
        typed: ChildStdin,
        mut shown: ChildStdout,
        gone: impl FnOnce() + Send + 'static,
    ) -> Result<Self, Error> {
        let (sender, pieces) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Nobody takes an answer after a time-out; it still must be read.
            while let Ok(count @ 1..) = shown.read(&mut buffer) {
                let _ = sender.send(buffer[..count].to_vec());
            }
            gone();
        });
        Ok(Self {
            process: Pid::from_raw(process.cast_signed()),
            typed,
            shown: pieces,
            runs: true,
            ran: Duration::ZERO,
        })
    }

    /// Waits for the first prompt.
    pub fn ready(mut self, limit: Duration) -> Result<Self, Error> {
        self.answer("the start", limit)?;
        Ok(self)
    }

    /// Asks a stopped machine; its answer.
    pub fn ask(&mut self, command: &str) -> Result<String, Error> {
        writeln!(self.typed, "{command}")?;
        self.answer(command, ANSWER_LIMIT)
    }

    /// Lets the machine run.
    pub fn go(&mut self) -> Result<(), Error> {
        if !self.runs {
            self.ran = self.time().unwrap_or_default();
            writeln!(self.typed, "c")?;
            self.runs = true;
        }
        Ok(())
    }

    /// Stops it wherever it is.
    pub fn stop(&mut self) -> Result<(), Error> {
        let latest = Instant::now() + ANSWER_LIMIT;
        // One that comes while the command line is at work is forgotten, and has been followed by silence for good:
        // Bochs's handler writes to the log, so it may wait for a lock that it interrupted.
        while self.runs && self.time().is_some_and(|time| time < self.ran + UNDER_WAY) && Instant::now() < latest {
            std::thread::sleep(LOOK);
        }
        while self.runs {
            // A signal that comes just before the machine goes on is forgotten: then another one stops it.
            self.interrupt()?;
            match self.answer("stop", SIGNAL_LIMIT) {
                Err(Error::Silent { .. }) if Instant::now() < latest => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Lets a machine that was stopped inside a guest run to the guest's next exit.
    pub fn leave_guest(&mut self) -> Result<(), Error> {
        if !self.is_inside()? {
            return Ok(());
        }
        self.ask("vmexitbp")?;
        self.go()?;
        match self.answer("c", GUEST_LIMIT) {
            Ok(_) => {}
            Err(Error::Silent { .. }) => self.stop()?,
            Err(error) => return Err(error),
        }
        self.ask("vmexitbp")?;
        if self.is_inside()? { Err(Error::Inside) } else { Ok(()) }
    }

    fn is_inside(&mut self) -> Result<bool, Error> {
        let mut inside = false;
        for name in ["SVM.in_svm_guest", "VMX.in_vmx_guest"] {
            inside |= self.ask(&format!("show \"cpu0.{name}\""))?.contains(" = true");
        }
        Ok(inside)
    }

    /// How long Bochs ran.
    fn time(&self) -> Option<Duration> {
        starved::ran(self.process?.as_raw_nonzero().get().cast_unsigned())
    }

    fn interrupt(&self) -> Result<(), Error> {
        let process = self.process.ok_or(io::ErrorKind::NotFound).map_err(io::Error::from)?;
        Ok(kill_process(process, Signal::INT).map_err(io::Error::from)?)
    }

    /// What is shown up to the next prompt.
    fn answer(&mut self, command: &str, limit: Duration) -> Result<String, Error> {
        let latest = Instant::now() + limit;
        let mut text = Vec::new();
        while !ends_with_prompt(&text) {
            match self.shown.recv_timeout(latest.saturating_duration_since(Instant::now())) {
                Ok(piece) => text.extend(piece),
                Err(RecvTimeoutError::Timeout) => {
                    let shown = String::from_utf8_lossy(&text).into_owned();
                    return Err(Error::Silent { command: command.into(), seconds: limit.as_secs(), shown });
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Ended(command.into())),
            }
        }
        self.runs = false;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// A prompt is `<bochs:N> ` at the start of the last line.
fn ends_with_prompt(text: &[u8]) -> bool {
    let last = text.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let number = last.strip_prefix(b"<bochs:").and_then(|rest| rest.strip_suffix(b"> "));
    number.is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_the_next_prompt_only() {
        assert!(ends_with_prompt(b"<bochs:1> "));
        assert!(ends_with_prompt(b"creg\nCR0=1\n<bochs:12> "));
        for text in ["", "<bochs:1>", "<bochs:1> creg\n", "x <bochs:1> ", "<bochs:> "] {
            assert!(!ends_with_prompt(text.as_bytes()), "{text:?}");
        }
    }
}
