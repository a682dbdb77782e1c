//! Bochs as the emulator: VT-x, and AMD-V with features that QEMU lacks. Its COM ports are terminals made here, its
//! log tells of the exit port, resets and crashes, its debugger stops the machine and shows it.
//!
//! [`config`] makes its configuration, [`log`] reads what it reports, [`debugger`] talks to it, [`state`] reads what
//! the debugger shows.

pub mod config;
pub mod debugger;
mod log;
mod state;

use super::line::Line;
use super::machine::{BUILD, Boot, Machine, present};
use super::{Console, Error, Event, Events, Features, START_LIMIT, Started, end, host, with_this_process};
use crate::process;
use debugger::Debugger;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

/// The emulator's program.
pub const BOCHS: &str = "bochs";
const NAME: &str = "Bochs";

/// Starts the machine, frozen.
pub(super) fn start(machine: &Machine, directory: &Path, events: &Events) -> Result<Started, Error> {
    let Boot::IsoBios(iso) = &machine.boot else {
        return Err(Error::NoCd);
    };
    if process::find(BOCHS.as_ref()).is_none() {
        return Err(Error::Missing(BOCHS.to_owned(), "bochs bochsbios vgabios"));
    }
    present("the CD image", iso, BUILD)?;
    for file in config::firmware(machine.target.bios) {
        present("the firmware", Path::new(file), "run `cargo xtask setup` (packages bochsbios, vgabios, seabios)")?;
    }
    let terminal = || Terminal::open().map_err(host("make a terminal for a COM port"));
    let (first, second) = (terminal()?, terminal()?);
    let file = directory.join("bochsrc");
    let text = config::text(machine, iso, [&first.path, &second.path]);
    std::fs::write(&file, text).map_err(host("write Bochs's configuration"))?;
    let mut child = command(&file)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(host("start Bochs"))?;
    let (Some(typed), Some(shown), Some(log)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
        unreachable!("all three are pipes");
    };
    let features = Arc::new(OnceLock::new());
    let last = log::listen(log, machine.log.as_deref(), Arc::clone(&features), events.clone())?;
    let sink = events.clone();
    let gone = move || {
        sink.send(Event::Gone);
    };
    let opened = Debugger::new(child.id(), typed, shown, gone).and_then(|debugger| debugger.ready(START_LIMIT));
    let debugger = match opened {
        Ok(debugger) => debugger,
        Err(debugger::Error::Ended(_)) => {
            let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            let message = last.text();
            return Err(match message.contains("cpu directive malformed") {
                true => Error::Processor(machine.target.processor.clone()),
                false => Error::Died { emulator: NAME, status, message },
            });
        }
        Err(error) => {
            end(&mut child);
            return Err(error.into());
        }
    };
    let line = |terminal: &Terminal, to_event| {
        let controller = terminal.controller.try_clone()?;
        Line::new(OwnedFd::from(controller), events.clone(), to_event)
    };
    let com1 = line(&first, |bytes| vec![Event::Com1(bytes.to_vec())]).map_err(host("read COM1"))?;
    let com2 = line(&second, |bytes| vec![Event::Com2(bytes.to_vec())]).map_err(host("read COM2"))?;
    let console = Bochs {
        debugger,
        features,
        bytes: u64::from(machine.low_mib()) << 20,
        file: directory.join("memory"),
        _terminals: [first, second],
    };
    Ok(Started { child, com1, com2, console: Box::new(console) })
}

/// Bochs with that configuration. Its display is a VNC server on every address of the host, the only one that needs
/// no display of the host's; nobody is to see or type there, so it gets a network of its own wherever that is allowed.
fn command(file: &Path) -> Command {
    static ISOLATION: OnceLock<&[&str]> = OnceLock::new();
    let isolation = ISOLATION.get_or_init(|| {
        let ways: [&[&str]; 2] = [&["unshare", "--net", "--"], &["unshare", "--map-root-user", "--net", "--"]];
        let works =
            |way: &&&[&str]| process::output(Command::new(way[0]).args(&way[1..]).arg("true"), "unshare").is_ok();
        ways.iter().find(works).copied().unwrap_or(&[])
    });
    let mut command = with_this_process(&isolation.iter().chain(&[BOCHS]).map(OsStr::new).collect::<Vec<_>>());
    command.arg("-q").arg("-f").arg(file);
    command
}

/// A terminal whose other end a COM port of Bochs is.
struct Terminal {
    controller: File,
    path: PathBuf,
    /// Keeps the terminal alive while Bochs has not opened it; the reader ends when both ends are closed.
    _end: File,
}

impl Terminal {
    fn open() -> io::Result<Self> {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&controller)?;
        unlockpt(&controller)?;
        let name = ptsname(&controller, Vec::new())?;
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let end = File::options().read(true).write(true).open(&path)?;
        // Bytes must come as they are sent, also before Bochs sets this itself.
        let mut mode = tcgetattr(&end)?;
        mode.make_raw();
        tcsetattr(&end, OptionalActions::Now, &mode)?;
        Ok(Self { controller: File::from(controller), path, _end: end })
    }
}

/// Bochs's debugger.
struct Bochs {
    debugger: Debugger,
    features: Arc<OnceLock<Features>>,
    /// RAM in one piece from 0.
    bytes: u64,
    /// Where memory is written to on its way here.
    file: PathBuf,
    _terminals: [Terminal; 2],
}

impl Console for Bochs {
    fn go(&mut self) -> Result<(), Error> {
        Ok(self.debugger.go()?)
    }

    fn stop(&mut self) -> Result<(), Error> {
        self.debugger.stop()?;
        Ok(self.debugger.leave_guest()?)
    }

    fn leave_guest(&mut self, _after_entry: u64) -> Result<(), Error> {
        Ok(self.debugger.leave_guest()?)
    }

    fn registers(&mut self) -> Result<String, Error> {
        Ok(self.debugger.ask("creg")?)
    }

    fn state(&mut self) -> Result<String, Error> {
        Ok(self.debugger.ask("r")? + &self.debugger.ask("creg")?)
    }

    fn memory(&mut self, bytes: u64) -> Result<Vec<u8>, Error> {
        let bytes = bytes.min(self.bytes);
        let mut memory = vec![0; usize::try_from(bytes).unwrap_or(0)];
        for range in state::mapped_at_their_own_address(&self.debugger.ask("info tab")?, bytes) {
            let length = range.end - range.start;
            self.debugger.ask(&format!("writemem \"{}\" {:#x} {length}", self.file.display(), range.start))?;
            let part = std::fs::read(&self.file).map_err(host("read the memory dump"))?;
            std::fs::remove_file(&self.file).map_err(host("remove the memory dump"))?;
            let at = usize::try_from(range.start).unwrap_or(usize::MAX);
            if let Some(place) = memory.get_mut(at..at.saturating_add(part.len())) {
                place.copy_from_slice(&part);
            }
        }
        Ok(memory)
    }

    fn features(&self) -> Features {
        // Bochs says it before it runs anything.
        *self.features.get_or_init(|| Features { smap: true, umip: true, vmx: false })
    }
}

#[cfg(test)]
mod tests;
