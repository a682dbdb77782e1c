//! Bochs's log: bytes for the exit port, resets, crashes, and what the processor has.

use crate::emulator::{EXIT_PORT, Error, Event, Events, Features, host};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

/// The log's reader, to be asked for the reason when Bochs ended before it ran.
pub struct Last {
    reader: JoinHandle<()>,
    line: Arc<Mutex<String>>,
}

impl Last {
    /// The last complaint, after Bochs has ended.
    pub fn text(self) -> String {
        // It ends with Bochs; a panic in it would leave the last line it read.
        let _ = self.reader.join();
        self.line.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Starts the reader. Every line goes to `file`, too, if there is one.
pub fn listen(
    log: impl Read + Send + 'static,
    file: Option<&Path>,
    features: Arc<OnceLock<Features>>,
    events: Events,
) -> Result<Last, Error> {
    let mut copy = file.map(File::create).transpose().map_err(host("write Bochs's log"))?;
    let line = Arc::new(Mutex::new("it said nothing".to_owned()));
    let last = Arc::clone(&line);
    let reader = std::thread::spawn(move || {
        let mut report = Reader::default();
        let mut log = BufReader::new(log);
        let mut bytes = Vec::new();
        while matches!(log.read_until(b'\n', &mut bytes), Ok(1..)) {
            // A log that cannot be written is no reason to end a run.
            let _ = copy.as_mut().map(|file| file.write_all(&bytes));
            let text = String::from_utf8_lossy(&bytes);
            match report.line(text.trim_end()) {
                // Nobody listens after the end of the run.
                Some(Report::Event(event)) => {
                    events.send(event);
                }
                Some(Report::Features(found)) => drop(features.set(found)),
                Some(Report::Complaint(text)) => *last.lock().unwrap_or_else(PoisonError::into_inner) = text,
                None => {}
            }
            bytes.clear();
        }
    });
    Ok(Last { reader, line })
}

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
enum Report {
    Event(Event),
    Features(Features),
    /// A reason why Bochs may end.
    Complaint(String),
}

#[derive(Default)]
struct Reader {
    started: bool,
    vmx: bool,
}

impl Reader {
    fn line(&mut self, line: &str) -> Option<Report> {
        let text = line.trim_start_matches(|c: char| c.is_ascii_digit());
        let (level, text) = text.split_at_checked(1)?;
        let text = text.split_once("] ").map_or(text, |(_, rest)| rest).trim();
        if level == "p" {
            let text = text.trim_start_matches(">>PANIC<<").trim().to_owned();
            return Some(if self.started { Report::Event(Event::Stopped(text)) } else { Report::Complaint(text) });
        }
        if let Some(rest) = text.strip_prefix("unmapped: 8-bit write to ") {
            let (port, value) = rest.split_once(" = ")?;
            let is_exit = u16::from_str_radix(port, 16) == Ok(EXIT_PORT);
            return is_exit.then(|| u8::from_str_radix(value, 16).ok().map(Event::Exit).map(Report::Event))?;
        }
        if let Some(registers) = text.strip_prefix("CPUID[0x00000001]: ") {
            self.vmx = word(registers, 2)? >> 5 & 1 != 0;
        }
        if let Some(registers) = text.strip_prefix("CPUID[0x00000007]: ") {
            let smap = word(registers, 1)? >> 20 & 1 != 0;
            let umip = word(registers, 2)? >> 2 & 1 != 0;
            return Some(Report::Features(Features { smap, umip, vmx: self.vmx }));
        }
        if text.starts_with("bx_pc_system_c::Reset(") {
            let again = self.started;
            self.started = true;
            return again.then(|| Report::Event(Event::Stopped("reset".to_owned())));
        }
        None
    }
}

fn word(registers: &str, index: usize) -> Option<u32> {
    u32::from_str_radix(registers.split_whitespace().nth(index)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_for_the_exit_port_a_crash_and_a_second_reset_are_events() {
        let mut reader = Reader::default();
        let mut event = |line: &str| reader.line(line);
        assert_eq!(
            event("00000000000p[      ] >>PANIC<< no such file"),
            Some(Report::Complaint("no such file".into()))
        );
        assert_eq!(event("00000000000i[SYS   ] bx_pc_system_c::Reset(HARDWARE) called"), None);
        assert_eq!(event("00000362648d[UNMAP ] unmapped: 8-bit write to 02f9 = 02"), None);
        assert_eq!(event("00000362649d[UNMAP ] unmapped: 8-bit read from 00f4 = ff"), None);
        let exit = event("00103508880d[UNMAP ] unmapped: 8-bit write to 00f4 = 10");
        assert_eq!(exit, Some(Report::Event(Event::Exit(0x10))));
        let crash = event("00103508880p[CPU0  ] >>PANIC<< exception(): 3rd (13) exception with no resolution");
        assert_eq!(
            crash,
            Some(Report::Event(Event::Stopped("exception(): 3rd (13) exception with no resolution".into())))
        );
        let reset = event("00103508881i[SYS   ] bx_pc_system_c::Reset(SOFTWARE) called");
        assert_eq!(reset, Some(Report::Event(Event::Stopped("reset".into()))));
        assert_eq!(event(""), None);
        assert_eq!(event("="), None);
    }

    #[test]
    fn features_are_those_of_the_processors_own_leaves() {
        let mut reader = Reader::default();
        assert_eq!(reader.line("00000000000i[CPU0  ] CPUID[0x00000001]: 00800f11 00010800 76d8320b 178bfbff"), None);
        let ryzen = reader.line("00000000000i[CPU0  ] CPUID[0x00000007]: 00000000 209c01a9 00000000 00000000");
        assert_eq!(ryzen, Some(Report::Features(Features { smap: true, umip: false, vmx: false })));
        reader.line("00000000000i[CPU0  ] CPUID[0x00000001]: 000306c3 00010800 77faf3bf bfebfbff");
        let haswell = reader.line("00000000000i[CPU0  ] CPUID[0x00000007]: 00000000 000027ab 00000000 00000000");
        assert_eq!(haswell, Some(Report::Features(Features { smap: false, umip: false, vmx: true })));
    }
}
