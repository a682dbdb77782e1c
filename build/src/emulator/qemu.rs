//! QEMU as the emulator: it connects to sockets that this process listens on, so no byte is lost before
//! somebody reads. [`command`] makes its command line, [`stub`] stops the machine at a place.

pub mod command;
pub mod program;
mod stub;

use super::line::{self, Line};
use super::machine::Machine;
use super::{Console, Error, Event, Events, Features, START_LIMIT, Started, end, host, last_words};
use crate::monitor::Monitor;
use command::Sockets;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const NAME: &str = "QEMU";

/// Starts the machine, frozen.
pub(super) fn start(machine: &Machine, directory: &Path, events: &Events) -> Result<Started, Error> {
    if !program::is_there() {
        return Err(Error::Missing(program::get().display().to_string(), "qemu-system-x86"));
    }
    // QEMU runs in the directory: the path of a socket has 107 bytes at most, and the directory's may be longer.
    let sockets = Sockets::in_directory(Path::new(""));
    let opened = File::open(directory).map_err(host("open the emulator's directory"))?;
    let listen = |name: &PathBuf| line::listen(&opened, name).map_err(host("listen for the emulator"));
    let listeners = [listen(&sockets.com1)?, listen(&sockets.com2)?, listen(&sockets.exit)?, listen(&sockets.monitor)?];
    let mut child = command::qemu(machine, &sockets, directory)?
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(host("start QEMU"))?;
    match open(&mut child, &listeners, events) {
        Ok((com1, com2, monitor)) => {
            let bytes = u64::from(machine.low_mib()) << 20;
            let (file, stub) = (directory.join("memory"), directory.join("stub"));
            let console = Box::new(Qemu { monitor, bytes, file, stub });
            Ok(Started { child, com1, com2, console })
        }
        Err(error) => Err(quoted(&mut child, error)),
    }
}

type Lines = (Line, Line, Monitor);

fn open(child: &mut Child, listeners: &[line::Listener; 4], events: &Events) -> Result<Lines, Error> {
    let deadline = Instant::now() + START_LIMIT;
    let mut accept = |listener: &line::Listener| {
        while Instant::now() < deadline {
            if let Some(stream) = listener.accept().map_err(host("take the emulator's line"))? {
                return Ok(stream);
            }
            if let Some(status) = child.try_wait().map_err(host("watch QEMU"))? {
                return Err(Error::Died { emulator: NAME, status: status.to_string(), message: last_words(child) });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(Error::Silent(NAME))
    };
    let [com1, com2, exit, control] = listeners;
    let com1 = Line::new(accept(com1)?, events.clone(), |bytes| vec![Event::Com1(bytes.to_vec())]);
    let com2 = Line::new(accept(com2)?, events.clone(), |bytes| vec![Event::Com2(bytes.to_vec())]);
    let to_exits = |bytes: &[u8]| bytes.iter().copied().map(Event::Exit).collect();
    Line::new(accept(exit)?, events.clone(), to_exits).map_err(host("read the exit port"))?;
    let control = accept(control)?;
    let sink = events.clone();
    let monitor = Monitor::new(control, move |event| {
        sink.send(event.map_or(Event::Gone, Event::Stopped));
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
        Ok(Some(status)) => Error::Died { emulator: NAME, status: status.to_string(), message: last_words(child) },
        _ => {
            end(child);
            error
        }
    }
}

/// QEMU's monitor.
struct Qemu {
    monitor: Monitor,
    /// RAM in one piece from 0.
    bytes: u64,
    /// Where memory is written to on its way here.
    file: PathBuf,
    /// Where the stub for debuggers listens while it is asked something.
    stub: PathBuf,
}

impl Console for Qemu {
    fn go(&mut self) -> Result<(), Error> {
        Ok(self.monitor.run("cont")?)
    }

    fn stop(&mut self) -> Result<(), Error> {
        Ok(self.monitor.run("stop")?)
    }

    fn leave_guest(&mut self, after_entry: u64) -> Result<(), Error> {
        self.monitor.human(&format!("gdbserver unix:{},server=on,wait=off", command::escaped(&self.stub)))?;
        let reached = stub::run_to(&self.stub, after_entry);
        // Without its connection the stub leaves the machine as it stands.
        self.monitor.human("gdbserver none")?;
        reached.map_err(host("run the machine to the guest's next exit"))
    }

    fn registers(&mut self) -> Result<String, Error> {
        Ok(self.monitor.human("info registers -a")?)
    }

    fn state(&mut self) -> Result<String, Error> {
        let registers = self.monitor.human("info registers -a")?;
        // Not those of the FPU, which are most of it.
        let registers: String = registers.split_inclusive('\n').filter(|line| !is_floating(line)).collect();
        Ok(registers + &self.monitor.human("info lapic")?)
    }

    fn memory(&mut self, bytes: u64) -> Result<Vec<u8>, Error> {
        self.monitor.save_memory(0, bytes.min(self.bytes), &self.file)?;
        let memory = std::fs::read(&self.file).map_err(host("read the memory dump"))?;
        std::fs::remove_file(&self.file).map_err(host("remove the memory dump"))?;
        Ok(memory)
    }

    fn features(&self) -> Features {
        Features { smap: true, umip: true, vmx: false }
    }
}

/// A line of `info registers` about x87, SSE or AVX.
fn is_floating(line: &str) -> bool {
    ["FCW", "FPR", "XMM", "YMM"].iter().any(|name| line.starts_with(name))
}
