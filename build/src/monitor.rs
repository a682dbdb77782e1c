//! Talks to QEMU's machine monitor: QMP, and through it the human monitor's commands. A thread of its own
//! reads; events go to the owner, answers to the caller.

use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Time within which the monitor must answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(180);

/// Why the monitor did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection broke.
    #[error("QEMU's monitor is gone: {0}")]
    Broken(#[from] io::Error),
    /// The emulator ended before it answered.
    #[error("QEMU ended before its monitor answered `{0}`")]
    Ended(String),
    /// No answer in time.
    #[error("QEMU's monitor did not answer `{command}` within {limit} s", limit = ANSWER_LIMIT.as_secs())]
    Silent {
        /// What was asked.
        command: String,
    },
    /// The monitor said no.
    #[error("QEMU's monitor refused `{command}`: {reason}")]
    Refused {
        /// What was asked.
        command: String,
        /// Its words.
        reason: String,
    },
}

/// A connection to the monitor, in command mode.
pub struct Monitor {
    stream: UnixStream,
    answers: Receiver<Value>,
}

impl Monitor {
    /// Takes the connection over. `on_event` is told the reason when the machine shuts down, resets or
    /// crashes, and `None` when the emulator is gone.
    pub fn new(stream: UnixStream, on_event: impl Fn(Option<String>) + Send + 'static) -> Result<Self, Error> {
        let (sender, answers) = channel();
        let reader = BufReader::new(stream.try_clone()?);
        std::thread::spawn(move || {
            for message in reader.lines().map_while(Result::ok).filter_map(|line| parse(&line)) {
                match message {
                    Message::Answer(value) => {
                        // Nobody waits after a time-out; the answer is then worth nothing.
                        let _ = sender.send(value);
                    }
                    Message::Stopped(reason) => on_event(Some(reason)),
                    Message::Other => {}
                }
            }
            on_event(None);
        });
        let mut monitor = Self { stream, answers };
        monitor.run("qmp_capabilities")?;
        Ok(monitor)
    }

    /// Runs a QMP command without arguments: `stop`, `cont`.
    pub fn run(&mut self, command: &str) -> Result<(), Error> {
        self.execute(command, json!({})).map(drop)
    }

    /// Runs a command of the human monitor (`info registers -a`, `xp`) and returns its text.
    pub fn human(&mut self, line: &str) -> Result<String, Error> {
        let answer = self.execute("human-monitor-command", json!({ "command-line": line }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// Writes `length` bytes of physical memory from `address` to `file`.
    pub fn save_memory(&mut self, address: u64, length: u64, file: &Path) -> Result<(), Error> {
        let arguments = json!({ "val": address, "size": length, "filename": file });
        self.execute("pmemsave", arguments).map(drop)
    }

    fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, Error> {
        let message = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream, "{message}")?;
        let mut answer = self.answers.recv_timeout(ANSWER_LIMIT).map_err(|error| match error {
            RecvTimeoutError::Timeout => Error::Silent { command: command.into() },
            RecvTimeoutError::Disconnected => Error::Ended(command.into()),
        })?;
        if let Some(error) = answer.get("error") {
            let reason = error["desc"].as_str().unwrap_or("without a reason").to_owned();
            return Err(Error::Refused { command: command.into(), reason });
        }
        Ok(answer["return"].take())
    }
}

/// One line of the monitor.
#[derive(Debug, PartialEq)]
enum Message {
    Answer(Value),
    Stopped(String),
    Other,
}

fn parse(line: &str) -> Option<Message> {
    let value: Value = serde_json::from_str(line).ok()?;
    if value.get("return").is_some() || value.get("error").is_some() {
        return Some(Message::Answer(value));
    }
    Some(match value["event"].as_str() {
        Some("SHUTDOWN") => Message::Stopped(value["data"]["reason"].as_str().unwrap_or("shutdown").to_owned()),
        Some("GUEST_PANICKED") => Message::Stopped("guest-panic".into()),
        _ => Message::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_stops_and_everything_else_are_told_apart() {
        let answer = r#"{"return": {}}"#;
        assert!(matches!(parse(answer), Some(Message::Answer(_))));
        let reset = r#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-reset"}}"#;
        assert_eq!(parse(reset), Some(Message::Stopped("guest-reset".into())));
        assert_eq!(parse(r#"{"event":"RESUME"}"#), Some(Message::Other));
        assert_eq!(parse(r#"{"QMP":{}}"#), Some(Message::Other));
        assert_eq!(parse("not json"), None);
    }

    #[test]
    fn a_refusal_names_the_command_and_the_monitors_reason() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let text = "{\"return\":{}}\n{\"error\":{\"class\":\"GenericError\",\"desc\":\"no such thing\"}}\n";
        theirs.write_all(text.as_bytes()).unwrap();
        let mut monitor = Monitor::new(ours, |_| ()).unwrap();
        let error = monitor.run("dance").unwrap_err();
        assert_eq!(error.to_string(), "QEMU's monitor refused `dance`: no such thing");
    }
}
