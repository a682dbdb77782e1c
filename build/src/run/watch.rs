//! When a run is over, and how: decided from what the system says. Nothing is shown here.

use super::EXIT_PASS;
use super::demo::{Check, Mark, mark};
use super::lines::Lines;
use super::session::Said;
use crate::emulator::Event;
use crate::logs::render::printable;
use crate::logs::symbols::Level;
use crate::manifest::{System, Vm};
use portcullis_ipc::proto::link::VmEventKind;
use std::collections::BTreeMap;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Every guest is off or has ended well.
    GuestsDone,
    /// A guest wrote the first value to its test exit port, where the second means success.
    GuestFailed(u32, u32),
    /// A VM stopped: number, and what its log says.
    VmStopped(u8, Option<String>),
    /// The demonstration's checks are done: all well or not.
    Demo(bool),
    /// The system ended itself with this value.
    System(u8),
    /// The machine stopped; the emulator's word for it.
    Machine(String),
    /// The emulator is gone.
    Gone,
    /// The time of the run is over.
    Time,
    /// The user ended it.
    User,
    /// A signal ended it.
    Signal(i32),
}

impl End {
    /// What went wrong, or what ended the run well. `demo`: a verdict was to come, and only that is well.
    pub fn judge(&self, demo: bool) -> Result<String, String> {
        let what = match self {
            Self::Demo(true) => return Ok("all checks of the demonstration are well".into()),
            Self::Demo(false) => return Err("a check of the demonstration failed".into()),
            Self::GuestsDone => Ok("the guest switched its machine off"),
            Self::User => Ok("ended by Ctrl-A x"),
            Self::Time => Ok("the time of the run is over"),
            Self::System(EXIT_PASS) => Ok("the system ended itself: all went well"),
            Self::System(value) => {
                Err(format!("the system ended itself with value {value:#x}, and success is {EXIT_PASS:#x}"))
            }
            Self::GuestFailed(value, success) => {
                Err(format!("the guest ended with value {value:#x}, and success is {success:#x} (--exit-port)"))
            }
            Self::VmStopped(vm, Some(why)) => Err(format!("VM {vm}: {}", printable(why))),
            Self::VmStopped(vm, None) => Err(format!("VM {vm} stopped, and its service gave no reason; see the log")),
            Self::Machine(why) if why == "guest-shutdown" => Ok("the machine was switched off"),
            Self::Machine(why) => Err(format!("the machine stopped: {why}")),
            Self::Gone => Err("the emulator ended by itself".to_owned()),
            Self::Signal(number) => Err(format!("ended by signal {number}")),
        };
        match what {
            Ok(text) if demo => Err(format!("no verdict of the demonstration: {text}")),
            Ok(text) => Ok(text.to_owned()),
            Err(text) => Err(text),
        }
    }

    /// Whether the core may have left last words in the machine's memory.
    pub fn may_be_the_cores(&self) -> bool {
        matches!(self, Self::System(_) | Self::Machine(_) | Self::Time)
    }
}

/// Texts of log lines that tell why a VM stopped.
const REASONS: [&str; 2] = ["vCPU stopped", "guest not loaded"];

/// Watches one run.
pub struct Watch {
    /// The service of each VM.
    services: Vec<String>,
    /// The value of a guest's test exit port that means success.
    success: u32,
    /// What each VM that ended came to.
    ended: BTreeMap<u8, VmEventKind>,
    /// The reason that each service gave last for a VM that stopped.
    reasons: BTreeMap<String, String>,
    /// The last warning or error of each service.
    complaints: BTreeMap<String, String>,
    demo: bool,
    console: Lines,
    failed: bool,
}

impl Watch {
    /// Watches a system. `success`: the value with which a guest says that all is well; `demo`: the run ends with the
    /// demonstration's verdict.
    pub fn new(system: &System, success: u32, demo: bool) -> Self {
        let service = |vm: &Vm| system.partitions.get(usize::from(vm.vmexit)).map(|one| one.name.clone());
        let services = system.vms.iter().map(|vm| service(vm).unwrap_or_default()).collect();
        Self::of_services(services, success, demo)
    }

    fn of_services(services: Vec<String>, success: u32, demo: bool) -> Self {
        let (ended, reasons, complaints) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { services, success, ended, reasons, complaints, demo, console: Lines::default(), failed: false }
    }

    /// Hears what the system says: the end of the run, if this is it, and checks of the demonstration.
    pub fn hear(&mut self, said: &Said) -> (Option<End>, Vec<Check>) {
        match said {
            Said::Console(0, bytes) => return self.demonstration(bytes),
            Said::Log(line) if REASONS.iter().any(|reason| line.text.contains(reason)) => {
                self.reasons.insert(line.origin.clone(), line.text.clone());
            }
            Said::Log(line) if line.level >= Some(Level::Warn) => {
                self.complaints.insert(line.origin.clone(), line.text.clone());
            }
            Said::Vm(notice) => match notice.kind {
                VmEventKind::Reset => {}
                kind => {
                    self.ended.insert(notice.vm, kind);
                }
            },
            Said::Event(event) => return (Self::event(event), Vec::new()),
            _ => {}
        }
        (self.guests(), Vec::new())
    }

    /// A VM has stopped and the log has not yet said why.
    pub fn waits_for_the_log(&self) -> bool {
        self.vm_that_stopped().is_some_and(|vm| self.reason(vm).is_none())
    }

    /// The end that a stopped VM is, when nothing more comes.
    pub fn stopped(&self) -> Option<End> {
        let vm = self.vm_that_stopped()?;
        let complaint = || self.services.get(usize::from(vm)).and_then(|service| self.complaints.get(service));
        Some(End::VmStopped(vm, self.reason(vm).or_else(complaint).cloned()))
    }

    fn vm_that_stopped(&self) -> Option<u8> {
        self.ended.iter().find(|(_, kind)| **kind == VmEventKind::Stopped).map(|(vm, _)| *vm)
    }

    fn reason(&self, vm: u8) -> Option<&String> {
        self.reasons.get(self.services.get(usize::from(vm))?)
    }

    fn guests(&self) -> Option<End> {
        if self.vm_that_stopped().is_some_and(|vm| self.reason(vm).is_some()) {
            return self.stopped();
        }
        let failed = self.ended.values().find_map(|kind| match kind {
            VmEventKind::TestExit(value) if *value != self.success => Some(*value),
            _ => None,
        });
        if let Some(value) = failed {
            return Some(End::GuestFailed(value, self.success));
        }
        let well = self.ended.values().all(|kind| *kind != VmEventKind::Stopped);
        (well && !self.services.is_empty() && self.ended.len() >= self.services.len()).then_some(End::GuestsDone)
    }

    fn demonstration(&mut self, bytes: &[u8]) -> (Option<End>, Vec<Check>) {
        let mut checks = Vec::new();
        let mut end = None;
        for line in self.console.push(bytes) {
            match mark(&line) {
                Some(Mark::Check(check)) => {
                    self.failed |= !check.ok;
                    checks.push(check);
                }
                Some(Mark::Done(well)) if self.demo => end = end.or(Some(End::Demo(well && !self.failed))),
                _ => {}
            }
        }
        (end, checks)
    }

    fn event(event: &Event) -> Option<End> {
        match event {
            Event::Exit(value) => Some(End::System(*value)),
            Event::Stopped(why) => Some(End::Machine(why.clone())),
            Event::Gone => Some(End::Gone),
            Event::Deadline => Some(End::Time),
            Event::Com1(_) | Event::Com2(_) | Event::Quiet => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::decode::Line;
    use portcullis_ipc::proto::control::VmNotice;

    fn vm(vm: u8, kind: VmEventKind) -> Said {
        Said::Vm(VmNotice { vm, sequence: 1, kind })
    }

    fn watching(vms: usize, demo: bool) -> Watch {
        Watch::of_services((0..vms).map(|vm| format!("vmexit{vm}")).collect(), EXIT_PASS.into(), demo)
    }

    fn log(text: &str) -> Said {
        Said::Log(Line {
            sequence: 0,
            tsc: 0,
            seconds: 0.0,
            origin: "vmexit0".into(),
            generation: 1,
            level: None,
            text: text.into(),
            place: None,
        })
    }

    fn ends(watch: &mut Watch, said: &Said) -> Option<End> {
        watch.hear(said).0
    }

    #[test]
    fn a_power_off_ends_the_run_well_and_a_reset_does_not_end_it() {
        let mut watch = watching(1, false);
        assert_eq!(ends(&mut watch, &vm(0, VmEventKind::Reset)), None);
        let end = ends(&mut watch, &vm(0, VmEventKind::PowerOff)).unwrap();
        assert_eq!(end, End::GuestsDone);
        assert!(end.judge(false).is_ok());
        assert!(end.judge(true).is_err());
    }

    #[test]
    fn of_several_vms_the_last_one_ends_the_run() {
        let mut watch = watching(2, false);
        assert_eq!(ends(&mut watch, &vm(1, VmEventKind::PowerOff)), None);
        assert_eq!(ends(&mut watch, &vm(0, VmEventKind::TestExit(0x10))), Some(End::GuestsDone));
    }

    #[test]
    fn a_stopped_vm_ends_the_run_with_the_logs_reason_whichever_comes_first() {
        let why = "vCPU stopped at 0x10: triple fault, 0x0";
        let expected = End::VmStopped(0, Some(why.into()));
        let mut watch = watching(1, false);
        assert_eq!(ends(&mut watch, &vm(0, VmEventKind::Stopped)), None);
        assert!(watch.waits_for_the_log());
        assert_eq!(watch.stopped(), Some(End::VmStopped(0, None)));
        assert_eq!(ends(&mut watch, &log(why)), Some(expected.clone()));
        let mut watch = watching(1, false);
        assert_eq!(ends(&mut watch, &log(why)), None);
        assert_eq!(ends(&mut watch, &vm(0, VmEventKind::Stopped)), Some(expected.clone()));
        assert_eq!(expected.judge(false), Err(format!("VM 0: {why}")));
    }

    #[test]
    fn a_vm_that_was_not_loaded_or_gave_up_says_why_and_another_vms_reason_is_not_its_own() {
        let why = "guest not loaded: the kernel is not an ELF: name another";
        let mut watch = watching(2, false);
        assert_eq!(ends(&mut watch, &vm(1, VmEventKind::Stopped)), None);
        assert_eq!(ends(&mut watch, &log(why)), None, "that is VM 0's");
        let Said::Log(line) = log("it gave up") else { panic!() };
        let line = Line { origin: "vmexit1".into(), level: Some(Level::Error), ..line };
        assert_eq!(ends(&mut watch, &Said::Log(line)), None);
        assert_eq!(watch.stopped(), Some(End::VmStopped(1, Some("it gave up".into()))));
        let end = ends(&mut watch, &vm(0, VmEventKind::Stopped)).unwrap();
        assert_eq!(end.judge(false), Err(format!("VM 0: {why}")));
    }

    #[test]
    fn a_guest_that_ends_with_another_value_than_success_fails_the_run() {
        let mut watch = watching(1, false);
        let end = ends(&mut watch, &vm(0, VmEventKind::TestExit(0x11))).unwrap();
        assert_eq!(end.judge(false), Err("the guest ended with value 0x11, and success is 0x10 (--exit-port)".into()));
    }

    #[test]
    fn the_demonstration_ends_with_its_last_line_and_only_when_asked_for() {
        let said = |text: &str| Said::Console(0, text.as_bytes().to_vec());
        let mut watch = watching(1, true);
        let (end, checks) = watch.hear(&said("guest demo: ok one\r\nguest de"));
        assert_eq!((end, checks.len()), (None, 1));
        assert_eq!(ends(&mut watch, &said("mo: done 1 ok 0 failed\r\n")), Some(End::Demo(true)));
        let mut watch = watching(1, true);
        let text = "guest demo: FAIL one\nguest demo: done 1 ok 0 failed\n";
        assert_eq!(ends(&mut watch, &said(text)), Some(End::Demo(false)));
        let mut watch = watching(1, false);
        assert_eq!(ends(&mut watch, &said(text)), None);
    }

    #[test]
    fn the_systems_own_end_and_the_machines_are_told_apart() {
        for (event, well) in [
            (Event::Exit(EXIT_PASS), true),
            (Event::Exit(0x11), false),
            (Event::Stopped("guest-shutdown".into()), true),
            (Event::Stopped("guest-reset".into()), false),
            (Event::Gone, false),
            (Event::Deadline, true),
        ] {
            let end = ends(&mut watching(1, false), &Said::Event(event)).unwrap();
            assert_eq!(end.judge(false).is_ok(), well, "{end:?}");
            assert!(end.judge(true).is_err());
        }
        assert_eq!(ends(&mut watching(1, false), &Said::Event(Event::Quiet)), None);
    }
}
