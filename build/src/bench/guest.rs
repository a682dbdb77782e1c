//! The Debian guest's way to its first program: instructions of guest, core and services together, and the exits
//! among them. The first program switches the machine off at once, and then `vmexit` tells what it counted.

use super::{READY, figures, session};
use crate::emulator::Event;
use crate::emulator::machine::Kind;
use crate::guest::overrides::Overrides;
use crate::logs::decode::Line;
use crate::run::session::{Said, Session};
use crate::{image, manifest, workspace};
use anyhow::{Context, bail};
use portcullis_ipc::proto::link::VmEventKind;
use std::time::Duration;

/// How much the kernel says on its console, a serial port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// All that it says by default.
    Full,
    /// Nothing but errors.
    Quiet,
}

impl Console {
    /// Text after the kernel's command line; what runs in place of `/init` at its end.
    fn command_line(self) -> &'static str {
        match self {
            Self::Full => "rdinit=/bin/busybox -- poweroff -f",
            Self::Quiet => "quiet rdinit=/bin/busybox -- poweroff -f",
        }
    }

    fn names(self) -> [&'static str; 2] {
        match self {
            Self::Full => figures::GUEST_BOOT,
            Self::Quiet => figures::GUEST_QUIET,
        }
    }
}

/// Before the TSC at which the core was entered, in its log.
const ENTERED: &str = "entered at tsc ";
/// What `vmexit` logs when the guest writes to its console for the first time.
const FIRST_OUTPUT: &str = "first output of the guest";
/// The log line with the count of all exits ends with this.
const EXITS: &str = " exits of this instance";
/// Between the count and the reason in each line after it.
const REASON: &str = " exits: ";
/// The service that says it.
const VMEXIT: &str = "vmexit0";

/// What the log has told so far.
#[derive(Default)]
struct Seen {
    started: Option<u64>,
    exits: Option<u64>,
    ended: Option<u64>,
    reasons: Vec<(String, u64)>,
}

/// What a boot took.
pub struct Boot {
    /// Figures by name.
    pub figures: Vec<(String, u64)>,
    /// Exits by reason, the most frequent first.
    pub reasons: Vec<(String, u64)>,
}

impl Seen {
    fn hear(&mut self, line: &Line) {
        if line.origin != VMEXIT {
            return;
        }
        if line.text.ends_with(READY) {
            self.started = Some(line.tsc);
        }
        if let Some(count) = line.text.strip_suffix(EXITS) {
            self.exits = count.parse().ok();
            self.ended = Some(line.tsc);
        }
        if self.exits.is_some()
            && let Some((count, reason)) = line.text.split_once(REASON)
            && let Ok(count) = count.parse()
        {
            self.reasons.push((reason.to_owned(), count));
        }
    }

    /// Instructions and exits, as soon as every exit has its reason.
    fn figures(&self) -> Option<[u64; 2]> {
        let exits = self.exits?;
        let with_reason: u64 = self.reasons.iter().map(|(_, count)| count).sum();
        (with_reason == exits).then_some([self.ended?.checked_sub(self.started?)?, exits])
    }
}

/// The Debian guest with one vCPU and that text after its kernel's command line.
fn debian(kind: Kind, append: &str, limit: Duration) -> anyhow::Result<Session> {
    let path = workspace::debian_manifest();
    let mut system = manifest::load(&path)?;
    Overrides { append: Some(append.to_owned()), vcpus: Some(1), ..Overrides::default() }.apply(&mut system)?;
    let image = image::assemble(&path, system, Some(&workspace::out_dir().join("bench").join("debian")))?;
    session(&image, kind, limit)
}

/// Instructions from the core's first to the one with which the Debian guest's kernel says its first word, as soon as
/// it can: the load of the guest is what takes time before. The binaries are compiled.
pub fn first_byte(limit: Duration) -> anyhow::Result<u64> {
    let mut session = debian(Kind::Qemu, "earlyprintk=ttyS0", limit)?;
    let mut entered = None;
    loop {
        for said in session.next(Duration::from_secs(1)) {
            match said {
                Said::Log(line) if line.text.contains(ENTERED) => {
                    entered = line.text.split(ENTERED).nth(1).and_then(|tsc| tsc.parse().ok());
                }
                Said::Log(line) if line.origin == VMEXIT && line.text == FIRST_OUTPUT => {
                    let entered: u64 = entered.context("the core did not say when it was entered")?;
                    return Ok(line.tsc - entered);
                }
                Said::Event(event) if event != Event::Quiet => bail!("{event:?} before the Debian guest said a word"),
                _ => {}
            }
        }
    }
}

/// Boots the Debian guest with one vCPU in that emulator and counts. The binaries are compiled.
pub fn measure(kind: Kind, console: Console, limit: Duration) -> anyhow::Result<Boot> {
    let mut session = debian(kind, console.command_line(), limit)?;
    let mut seen = Seen::default();
    loop {
        for said in session.next(Duration::from_secs(1)) {
            match said {
                Said::Log(line) => seen.hear(&line),
                Said::Vm(notice) if notice.kind != VmEventKind::PowerOff => {
                    bail!("the Debian guest ended with {:?} instead of switching off", notice.kind)
                }
                Said::Event(event) if event != Event::Quiet => {
                    bail!("{event:?} before the Debian guest had switched off")
                }
                _ => {}
            }
            if let Some(figures) = seen.figures() {
                let figures = console.names().map(str::to_owned).into_iter().zip(figures).collect();
                return Ok(Boot { figures, reasons: seen.reasons });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(tsc: u64, origin: &str, text: &str) -> Line {
        Line {
            sequence: 0,
            tsc,
            seconds: 0.0,
            origin: origin.into(),
            generation: 1,
            level: None,
            text: text.into(),
            place: None,
        }
    }

    #[test]
    fn instructions_are_counted_from_the_services_start_to_the_guests_end() {
        let mut seen = Seen::default();
        seen.hear(&line(5, "link", "link ready, generation 1"));
        seen.hear(&line(10, VMEXIT, "vmexit ready, generation 1"));
        assert!(seen.figures().is_none());
        seen.hear(&line(900, VMEXIT, "70 exits: port"));
        seen.hear(&line(1000, VMEXIT, "123 exits of this instance"));
        seen.hear(&line(1001, VMEXIT, "100 exits: serial port"));
        seen.hear(&line(1001, "link", "23 exits: CPUID"));
        assert!(seen.figures().is_none(), "23 exits have no reason yet");
        seen.hear(&line(1002, VMEXIT, "23 exits: CPUID"));
        assert_eq!(seen.figures(), Some([990, 123]));
        assert_eq!(seen.reasons, [("serial port".to_owned(), 100), ("CPUID".to_owned(), 23)]);
    }
}
