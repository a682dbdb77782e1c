//! Starts an emulator with an image, carries its lines, and ends it in its own time limit.
//!
//! A system ends by itself with one byte to port 0xF4: the byte arrives here as an event and the
//! machine stays, so that its memory can be looked at ([`Emulator::snapshot`]). What the lines
//! mean is not known here. [`machine`] says what is wanted, [`qemu`] and [`bochs`] are the two that can do it.

pub mod bochs;
mod flow;
mod line;
pub mod machine;
pub mod qemu;
mod starved;

use crate::monitor;
use crate::process;
use flow::Flow;
use line::Line;
use machine::{Kind, Machine};
use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Port with which a system ends itself: one byte, 0x10 for success.
pub const EXIT_PORT: u16 = 0xf4;

/// Time within which an emulator must have opened all its lines.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Time without a word after which an end is taken to be the last.
const LINGER: Duration = Duration::from_millis(300);

/// The same for a system that talks on.
const LONGEST_LINGER: Duration = Duration::from_secs(3);

/// Why an emulator does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The emulator is not on PATH.
    #[error("`{0}` is not installed: run `cargo xtask setup`, or `apt-get install {1}`")]
    Missing(String, &'static str),
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
    /// The emulator ended before it ran.
    #[error("{emulator} ended at once ({status}): {message}")]
    Died {
        /// Which.
        emulator: &'static str,
        /// How it ended.
        status: String,
        /// Its last words.
        message: String,
    },
    /// The emulator did not open its lines.
    #[error("{0} did not open its lines within {limit} s: is the machine overloaded?", limit = START_LIMIT.as_secs())]
    Silent(&'static str),
    /// QEMU's monitor refused.
    #[error(transparent)]
    Monitor(#[from] monitor::Error),
    /// Bochs's debugger refused.
    #[error(transparent)]
    Debugger(#[from] bochs::debugger::Error),
    /// Bochs does not know the processor.
    #[error("Bochs has no processor `{0}`: `bochs --help cpu` lists those that it has")]
    Processor(String),
    /// Bochs cannot boot so.
    #[error("Bochs boots from a CD under a BIOS only: use `--boot bios`")]
    NoCd,
    /// The host refused.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: String,
        /// What the host said.
        source: io::Error,
    },
}

fn host(what: &str) -> impl Fn(io::Error) -> Error + '_ {
    move |source| Error::Host { what: what.to_owned(), source }
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
    /// The machine stopped: shut down, reset or crashed; the emulator's word for it.
    Stopped(String),
    /// The emulator itself is gone.
    Gone,
    /// The time limit of the run is over.
    Deadline,
    /// Nothing happened within the time that the caller gave.
    Quiet,
}

/// What the processor has of the things that an audit expects to be in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Supervisor-mode access prevention.
    pub smap: bool,
    /// User-mode instruction prevention.
    pub umip: bool,
    /// VT-x; without it AMD-V.
    pub vmx: bool,
}

/// Where events go: each with the time at which it arrived, taken where the bytes are read and not where somebody looks
/// at them.
#[derive(Clone)]
struct Events {
    sender: Sender<(Instant, Event)>,
    flow: Arc<Flow>,
}

impl Events {
    /// Whether anybody still listens. Waits for room where a COM port says more than is looked at.
    fn send(&self, event: Event) -> bool {
        let now = Instant::now();
        self.flow.take(said(&event));
        self.sender.send((now, event)).is_ok()
    }
}

/// Bytes of a COM port.
fn said(event: &Event) -> usize {
    if let Event::Com1(bytes) | Event::Com2(bytes) = event { bytes.len() } else { 0 }
}

/// The machine's state, captured while it stood still.
pub struct Snapshot {
    /// The control registers of every CPU in the emulator's words.
    pub registers: String,
    /// What the processor has.
    pub features: Features,
    /// RAM from physical address 0 on, as far as it lies in one piece. Bochs shows what the core maps at its own
    /// address; the rest is 0.
    pub memory: Vec<u8>,
}

/// What the emulators' own consoles have in common.
trait Console {
    /// Lets the machine run.
    fn go(&mut self) -> Result<(), Error>;
    /// Stops it.
    fn stop(&mut self) -> Result<(), Error>;
    /// Lets the stopped machine run to the next exit of a guest; `after_entry` is where the core goes on after one.
    fn leave_guest(&mut self, after_entry: u64) -> Result<(), Error>;
    /// The stopped machine's control registers.
    fn registers(&mut self) -> Result<String, Error>;
    /// Where the stopped machine is, for a person: registers, and in QEMU what its local APIC holds.
    fn state(&mut self) -> Result<String, Error>;
    /// The first `bytes` of the stopped machine's memory, or all there is.
    fn memory(&mut self, bytes: u64) -> Result<Vec<u8>, Error>;
    /// What the processor has.
    fn features(&self) -> Features;
}

/// An emulator that has a machine ready and frozen.
struct Started {
    child: Child,
    com1: Line,
    com2: Line,
    console: Box<dyn Console>,
}

/// A running emulator. Dropping it ends the process.
pub struct Emulator {
    started: Started,
    events: Receiver<(Instant, Event)>,
    flow: Arc<Flow>,
    /// When the last event arrived.
    arrived: Instant,
    begun: Instant,
    limit: Duration,
    deadline: Instant,
    /// An end that was seen and waits for what was said before it, and how long at most.
    ended: Option<(Event, Instant)>,
    /// Sockets and files of the run.
    _directory: tempfile::TempDir,
}

impl Emulator {
    /// Starts `machine`; it is stopped when it had `limit`, time in which the host gave it no processor left out.
    pub fn start(machine: &Machine, limit: Duration) -> Result<Self, Error> {
        Self::start_in(machine, limit, &std::env::temp_dir())
    }

    /// [`Self::start`] with the run's own directory below `above`.
    fn start_in(machine: &Machine, limit: Duration, above: &Path) -> Result<Self, Error> {
        let what = format!("make a directory for the emulator in {}, where TMPDIR leads", above.display());
        let directory = std::path::absolute(above)
            .and_then(|above| tempfile::Builder::new().prefix("portcullis-").tempdir_in(above))
            .map_err(host(&what))?;
        let (sender, events) = channel();
        let flow = Arc::new(Flow::default());
        let sender = Events { sender, flow: Arc::clone(&flow) };
        let started = match machine.target.kind {
            Kind::Qemu => qemu::start(machine, directory.path(), &sender)?,
            Kind::Bochs => bochs::start(machine, directory.path(), &sender)?,
        };
        let begun = Instant::now();
        let (arrived, deadline, ended) = (begun, begun + limit, None);
        let mut emulator =
            Self { started, events, flow, arrived, begun, limit, deadline, ended, _directory: directory };
        // The machine was started frozen, so that it cannot end before all lines are open.
        emulator.started.console.go()?;
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
        if let Ok((at, event)) = &event {
            self.arrived = *at;
            self.flow.give(said(event));
        }
        match event.map(|(_, event)| event) {
            Ok(end @ (Event::Exit(_) | Event::Stopped(_) | Event::Gone)) => {
                self.ended.get_or_insert((end, Instant::now() + LONGEST_LINGER));
                self.next(patience)
            }
            Ok(event) => event,
            Err(RecvTimeoutError::Disconnected) if self.ended.is_none() => Event::Gone,
            Err(_) if otherwise == Event::Deadline && self.is_owed_time() => self.next(patience),
            Err(_) => {
                self.ended = None;
                otherwise
            }
        }
    }

    /// Moves the deadline by what the host did not give; whether it is ahead then.
    fn is_owed_time(&mut self) -> bool {
        self.deadline = self.begun + self.limit + starved::time(self.started.child.id());
        self.deadline > Instant::now()
    }

    /// When the last event that [`Emulator::next`] gave arrived.
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// The emulator's process.
    pub fn process(&self) -> u32 {
        self.started.child.id()
    }

    /// Sends bytes to COM1.
    pub fn send_com1(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.started.com1.send(bytes).map_err(host("write to COM1"))
    }

    /// Sends bytes to COM2.
    pub fn send_com2(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.started.com2.send(bytes).map_err(host("write to COM2"))
    }

    /// Stops the machine and captures its registers and memory.
    pub fn snapshot(&mut self) -> Result<Snapshot, Error> {
        let console = &mut self.started.console;
        console.stop()?;
        let registers = console.registers()?;
        let memory = console.memory(u64::MAX)?;
        Ok(Snapshot { registers, features: console.features(), memory })
    }

    /// Stops the machine and says where it is, for a person.
    pub fn state(&mut self) -> Result<String, Error> {
        self.started.console.stop()?;
        self.started.console.state()
    }

    /// Stops the machine and captures the first `bytes` of its memory, or all there is.
    pub fn memory(&mut self, bytes: u64) -> Result<Vec<u8>, Error> {
        self.started.console.stop()?;
        self.started.console.memory(bytes)
    }

    /// Lets a stopped machine run for a moment of the host's, and stops it again: the registers of every CPU.
    pub fn registers_after(&mut self, time: Duration) -> Result<String, Error> {
        self.started.console.go()?;
        std::thread::sleep(time);
        self.started.console.stop()?;
        self.started.console.registers()
    }

    /// Lets a stopped machine run to the next exit of a guest, which a guest that spins has, too; `after_entry` is the
    /// linear address at which the core goes on after one.
    pub fn leave_guest(&mut self, after_entry: u64) -> Result<(), Error> {
        self.started.console.leave_guest(after_entry)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        end(&mut self.started.child);
    }
}

/// A program that ends with this process even when that is killed.
fn with_this_process(words: &[&OsStr]) -> Command {
    // A tool of util-linux, which every Debian has; others do without.
    const SETPRIV: &str = "setpriv";
    let prefix: &[&str] =
        if process::find(SETPRIV.as_ref()).is_some() { &[SETPRIV, "--pdeathsig", "KILL", "--"] } else { &[] };
    let all: Vec<&OsStr> = prefix.iter().map(OsStr::new).chain(words.iter().copied()).collect();
    let mut command = Command::new(all[0]);
    command.args(&all[1..]);
    command
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
