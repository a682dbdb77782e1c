//! Starts QEMU with an image, carries its lines, and ends it in its own time limit.
//!
//! The emulator connects to sockets that this process listens on, so no byte is lost before somebody
//! reads. A system ends by itself with one byte to port 0xF4: the byte arrives here as an event and the
//! machine stays, so that its memory can be looked at ([`Emulator::snapshot`]). What the lines
//! mean is not known here. The command line is made in [`command`].

pub mod command;
mod line;

use crate::monitor::{self, Monitor};
use crate::process;
use command::Machine;
use line::Line;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Time within which QEMU must have connected to all its sockets.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Time without a word after which an end is taken to be the last.
const LINGER: Duration = Duration::from_millis(100);

/// The same for a system that talks on.
const LONGEST_LINGER: Duration = Duration::from_secs(1);

/// Why an emulator does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The emulator is not on PATH.
    #[error("`{0}` is not installed: run `cargo xtask setup`, or `apt-get install {1}`")]
    Missing(&'static str, &'static str),
    /// A file that the machine needs is not there.
    #[error("{what} {path} is not there: {fix}")]
    File {
        /// What it is for.
        what: &'static str,
        /// Where it should be.
        path: String,
        /// What to do.
        fix: &'static str,
    },
    /// QEMU ended before it ran.
    #[error("QEMU ended at once ({status}): {message}")]
    Died {
        /// How it ended.
        status: String,
        /// Its last words.
        message: String,
    },
    /// QEMU did not open its lines.
    #[error("QEMU did not open its lines within {} s: is the machine overloaded?", START_LIMIT.as_secs())]
    Silent,
    /// The monitor refused.
    #[error(transparent)]
    Monitor(#[from] monitor::Error),
    /// The host refused.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

fn host(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Host { what, source }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes on COM1.
    Com1(Vec<u8>),
    /// Bytes on COM2.
    Com2(Vec<u8>),
    /// The system wrote this value to the exit port.
    Exit(u8),
    /// The machine stopped: shut down, reset or crashed; QEMU's word for it.
    Stopped(String),
    /// QEMU itself is gone.
    Gone,
    /// The time limit of the run is over.
    Deadline,
    /// Nothing happened within the time that the caller gave.
    Quiet,
}

/// The machine's state, captured while it stood still.
pub struct Snapshot {
    /// `info registers` of every CPU.
    pub registers: String,
    /// RAM from physical address 0 on, as far as it lies in one piece.
    pub memory: Vec<u8>,
}

/// A running emulator. Dropping it ends the process.
pub struct Emulator {
    child: Child,
    monitor: Monitor,
    com1: Line,
    com2: Line,
    events: Receiver<Event>,
    deadline: Instant,
    /// An end that was seen and waits for what was said before it, and how long at most.
    ended: Option<(Event, Instant)>,
    low_mib: u32,
    directory: tempfile::TempDir,
}

impl Emulator {
    /// Starts `machine`; it is stopped at the latest `limit` from now.
    pub fn start(machine: &Machine, limit: Duration) -> Result<Self, Error> {
        if process::find(command::QEMU).is_none() {
            return Err(Error::Missing(command::QEMU, "qemu-system-x86"));
        }
        let directory = tempfile::Builder::new()
            .prefix("portcullis-")
            .tempdir()
            .map_err(host("make a directory for the emulator's sockets"))?;
        let sockets = command::Sockets::in_directory(directory.path());
        let listen = |path: &PathBuf| line::listen(path).map_err(host("listen for the emulator"));
        let listeners =
            [listen(&sockets.com1)?, listen(&sockets.com2)?, listen(&sockets.exit)?, listen(&sockets.monitor)?];
        let mut child = command::qemu(machine, &sockets, directory.path())?
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(host("start QEMU"))?;
        let (sender, events) = channel();
        let opened = open(&mut child, &listeners, &sender);
        let (com1, com2, monitor) = match opened {
            Ok(lines) => lines,
            Err(error) => {
                return Err(quoted(&mut child, error));
            }
        };
        let deadline = Instant::now() + limit;
        let mut emulator =
            Self { child, monitor, com1, com2, events, deadline, ended: None, low_mib: machine.low_mib(), directory };
        // The machine was started frozen, so that it cannot end before all lines are open.
        emulator.monitor.run("cont")?;
        Ok(emulator)
    }

    /// The next event, or [`Event::Quiet`] after `patience`. An end comes after what was said before it,
    /// though each line has a reader of its own.
    pub fn next(&mut self, patience: Duration) -> Event {
        let now = Instant::now();
        let (until, otherwise) = match &self.ended {
            Some((end, latest)) => ((now + LINGER).min(*latest), end.clone()),
            None if self.deadline <= now + patience => (self.deadline, Event::Deadline),
            None => (now + patience, Event::Quiet),
        };
        // Something that never stops talking has its limit, too.
        let left = until.saturating_duration_since(now);
        let event = match left.is_zero() {
            true => Err(RecvTimeoutError::Timeout),
            false => self.events.recv_timeout(left),
        };
        match event {
            Ok(end @ (Event::Exit(_) | Event::Stopped(_) | Event::Gone)) => {
                self.ended.get_or_insert((end, Instant::now() + LONGEST_LINGER));
                self.next(patience)
            }
            Ok(event) => event,
            Err(RecvTimeoutError::Disconnected) if self.ended.is_none() => Event::Gone,
            Err(_) => {
                self.ended = None;
                otherwise
            }
        }
    }

    /// Sends bytes to COM1.
    pub fn send_com1(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.com1.send(bytes).map_err(host("write to COM1"))
    }

    /// Sends bytes to COM2.
    pub fn send_com2(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.com2.send(bytes).map_err(host("write to COM2"))
    }

    /// The monitor.
    pub fn monitor(&mut self) -> &mut Monitor {
        &mut self.monitor
    }

    /// Stops the machine and captures its registers and memory.
    pub fn snapshot(&mut self) -> Result<Snapshot, Error> {
        self.monitor.run("stop")?;
        let registers = self.monitor.human("info registers -a")?;
        let memory = self.memory(u64::MAX)?;
        Ok(Snapshot { registers, memory })
    }

    /// Stops the machine and captures the first `bytes` of its memory, or all there is.
    pub fn memory(&mut self, bytes: u64) -> Result<Vec<u8>, Error> {
        self.monitor.run("stop")?;
        let file = self.directory.path().join("memory");
        self.monitor.save_memory(0, bytes.min(u64::from(self.low_mib) << 20), &file)?;
        let memory = std::fs::read(&file).map_err(host("read the memory dump"))?;
        std::fs::remove_file(&file).map_err(host("remove the memory dump"))?;
        Ok(memory)
    }

    /// Lets a stopped machine run for about `time` and stops it again.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Error> {
        self.monitor.run("cont")?;
        std::thread::sleep(time);
        self.monitor.run("stop")?;
        Ok(())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

type Lines = (Line, Line, Monitor);

fn open(child: &mut Child, listeners: &[line::Listener; 4], events: &Sender<Event>) -> Result<Lines, Error> {
    let deadline = Instant::now() + START_LIMIT;
    let mut accept = |listener: &line::Listener| {
        while Instant::now() < deadline {
            if let Some(stream) = listener.accept().map_err(host("take the emulator's line"))? {
                return Ok(stream);
            }
            if let Some(status) = child.try_wait().map_err(host("watch QEMU"))? {
                return Err(Error::Died { status: status.to_string(), message: last_words(child) });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(Error::Silent)
    };
    let [com1, com2, exit, control] = listeners;
    let com1 = Line::new(accept(com1)?, events.clone(), |bytes| vec![Event::Com1(bytes.to_vec())]);
    let com2 = Line::new(accept(com2)?, events.clone(), |bytes| vec![Event::Com2(bytes.to_vec())]);
    let to_exits = |bytes: &[u8]| bytes.iter().copied().map(Event::Exit).collect();
    Line::new(accept(exit)?, events.clone(), to_exits).map_err(host("read the exit port"))?;
    let control = accept(control)?;
    let sink = events.clone();
    let monitor = Monitor::new(control, move |event| {
        let _ = sink.send(event.map_or(Event::Gone, Event::Stopped));
    })?;
    Ok((com1.map_err(host("read COM1"))?, com2.map_err(host("read COM2"))?, monitor))
}

/// A start that failed because QEMU ended is told in QEMU's own words.
fn quoted(child: &mut Child, error: Error) -> Error {
    if !matches!(error, Error::Monitor(_)) {
        end(child);
        return error;
    }
    // The socket closes a moment before the process is gone.
    std::thread::sleep(Duration::from_millis(200));
    match child.try_wait() {
        Ok(Some(status)) => Error::Died { status: status.to_string(), message: last_words(child) },
        _ => {
            end(child);
            error
        }
    }
}

fn last_words(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(stderr) = child.stderr.as_mut() {
        // The process has ended, so the pipe ends too; what cannot be read is not worth an error of its own.
        let _ = stderr.read_to_string(&mut text);
    }
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned()
}

fn end(child: &mut Child) {
    // It may have ended by itself; then there is nothing to kill.
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests;
