//! Interrupts, timers and starts of vCPUs as the machine brings them about.

use super::{CODE, CONFIG, IDENTITY, Model, over, page, port_page};
use crate::config::Config;
use crate::cpuid::Identity;
use crate::host::Note;
use crate::machine::Machine;
use crate::registers::INTERRUPTS;
use crate::saved::{life, pending, start};
use portcullis_ipc::exit::event::{exception, interrupt};
use portcullis_ipc::exit::{ExitPage, Reason, event, gpr, group, segment, shadow, window};
use portcullis_ipc::proto::link::VmEventKind;
use portcullis_ipc::syscall::Resume;
use proptest::prelude::*;

const NMI: u64 = event::VALID | event::NMI << event::TYPE_SHIFT | 2;

pub const APIC: Config = Config { lapic: true, ioapic: true, ..CONFIG };

/// A machine with interrupt controllers, x2APIC mode on both vCPUs.
pub fn machine() -> Machine<Model> {
    let mut machine = Machine::new(Model::new(), APIC, IDENTITY);
    machine.start(false);
    machine.host.recalled.clear();
    for vcpu in 0..2 {
        msr(&mut machine, vcpu, 1 + u64::from(vcpu), 0x1b, Some(0xfee0_0c00 | if vcpu == 0 { 0x100 } else { 0 }));
        msr(&mut machine, vcpu, 3 + u64::from(vcpu), 0x80f, Some(0x1ff));
    }
    machine
}

/// Serves an MSR access of a vCPU with interrupts off; what it read.
pub fn msr(machine: &mut Machine<Model>, vcpu: u16, sequence: u64, number: u64, write: Option<u64>) -> u64 {
    let mut page = msr_page(sequence, number, write);
    assert_eq!(machine.exited(vcpu, &mut page), Resume::ENTER);
    assert_eq!(page.rip, CODE + 2, "MSR {number:#x} refused");
    page.registers[gpr::RDX] << 32 | page.registers[gpr::RAX]
}

fn msr_page(sequence: u64, number: u64, write: Option<u64>) -> ExitPage {
    let mut page = page(Reason::Msr);
    (page.sequence, page.next_rip) = (sequence, CODE + 2);
    page.qualification[0] = write.is_some().into();
    page.registers[gpr::RCX] = number;
    page.registers[gpr::RAX] = write.unwrap_or(0) & 0xffff_ffff;
    page.registers[gpr::RDX] = write.unwrap_or(0) >> 32;
    page
}

/// An exit of `reason` with interrupts on.
fn open(reason: Reason, sequence: u64) -> ExitPage {
    let mut page = page(reason);
    (page.sequence, page.next_rip) = (sequence, CODE + 1);
    page.rflags |= INTERRUPTS;
    page
}

#[test]
fn the_base_of_a_local_apic_is_as_wide_as_addresses_and_turns_the_bit_of_cpuid() {
    let mut machine = Machine::new(Model::new(), APIC, Identity { apic: true, ..IDENTITY });
    machine.start(false);
    machine.address_bits = 40;
    let shown = |machine: &mut Machine<Model>, sequence| {
        [1, 0x8000_0001].map(|leaf| {
            let mut page = page(Reason::Cpuid);
            (page.sequence, page.next_rip) = (sequence, CODE + 2);
            page.registers[gpr::RAX] = leaf;
            machine.exited(0, &mut page);
            page.registers[gpr::RDX] >> 9 & 1
        })
    };
    assert_eq!(shown(&mut machine, 1), [1, 1]);
    msr(&mut machine, 0, 2, 0x1b, Some(0xfee0_0100));
    assert_eq!(shown(&mut machine, 3), [0, 0]);
    msr(&mut machine, 0, 4, 0x1b, Some(0xff_fee0_0900));
    assert_eq!(shown(&mut machine, 5), [1, 1]);
    for wide in [1 << 40, 1 << 51, 1 << 63] {
        let mut page = msr_page(6, 0x1b, Some(wide | 0xfee0_0900));
        machine.exited(0, &mut page);
        assert_eq!(page.event, exception(13, Some(0)), "{wide:#x}");
    }
    assert_eq!(msr(&mut machine, 0, 7, 0x1b, None), 0xff_fee0_0900, "what was refused changed nothing");
}

#[test]
fn a_timer_that_is_due_recalls_its_vcpu_and_interrupts_it_once() {
    let mut machine = machine();
    msr(&mut machine, 1, 10, 0x832, Some(0x4_0031));
    msr(&mut machine, 1, 11, 0x6e0, Some(1_500_000));
    assert_eq!(machine.host.deadline, 1_500_000);
    assert_eq!(msr(&mut machine, 1, 12, 0x6e0, None), 1_500_000);
    let mut halt = open(Reason::Hlt, 13);
    assert_eq!(machine.exited(1, &mut halt), Resume::PARK);
    machine.host.tsc = 1_500_000;
    machine.timer();
    assert_eq!(machine.host.recalled, [1]);
    let mut back = open(Reason::Recall, 14);
    assert_eq!(machine.exited(1, &mut back), Resume::ENTER);
    assert_eq!((back.event, back.dirty & group::EVENT), (interrupt(0x31), group::EVENT));
    let mut next = open(Reason::Recall, 15);
    assert_eq!(machine.exited(1, &mut next), Resume::ENTER);
    assert_eq!((next.event, next.dirty), (0, 0));
}

#[test]
fn a_halt_with_something_to_deliver_is_none() {
    let mut machine = machine();
    msr(&mut machine, 0, 10, 0x83f, Some(0x40));
    let mut halt = open(Reason::Hlt, 11);
    halt.shadow = shadow::INTERRUPT;
    assert_eq!(machine.exited(0, &mut halt), Resume::ENTER);
    assert_eq!((halt.event, halt.rip, halt.shadow), (interrupt(0x40), CODE + 1, 0));
}

/// A halt with interrupts off of vCPU 0.
fn deaf(machine: &mut Machine<Model>) -> u64 {
    let mut halt = page(Reason::Hlt);
    (halt.sequence, halt.next_rip) = (10, CODE + 1);
    machine.exited(0, &mut halt)
}

#[test]
fn the_last_vcpu_that_halts_with_interrupts_off_ends_the_machine_and_the_host_is_told() {
    let halted = |flags| {
        let mut machine = machine();
        machine.vcpu(1).unwrap().life = life::HALTED;
        machine.commit();
        (machine.host.stopped, machine.host.stopped_with) = (vec![1], flags);
        machine
    };
    let waiting = || {
        let mut machine = machine();
        machine.vcpu(1).unwrap().life = life::WAITING;
        machine.commit();
        machine
    };
    for (name, mut machine) in [("waits for its start", waiting()), ("halts like it", halted(2))] {
        assert_eq!(deaf(&mut machine), Resume::STOP, "the other {name}");
        assert_eq!(machine.host.events, [(1, VmEventKind::Stopped)]);
        assert!(matches!(machine.host.notes[..], [Note::Stopped(_, CODE, 2)]), "{:?}", machine.host.notes);
        // The exit is given again.
        assert_eq!(deaf(&mut machine), Resume::STOP);
        assert_eq!((machine.host.events.len(), machine.host.notes.len()), (1, 1));
    }
    let mut pending = waiting();
    pending.vcpu(0).unwrap().pending = pending::NMI;
    pending.commit();
    assert_eq!(deaf(&mut pending), Resume::ENTER, "an NMI waits");
    let mut serial = waiting();
    // Pin 4: NMI, not masked.
    serial.durable.ioapic.write(0, 0x18);
    serial.durable.ioapic.write(0x10, 0x400);
    let runs = machine();
    for (name, mut machine) in [("can be interrupted", halted(2 | INTERRUPTS)), ("runs", runs), ("has an NMI", serial)]
    {
        assert_eq!(deaf(&mut machine), Resume::PARK, "one {name}");
        assert_eq!(machine.host.events, []);
    }
}

#[test]
fn a_halt_with_interrupts_off_goes_on_halting_until_an_nmi() {
    let mut machine = machine();
    let mut halt = page(Reason::Hlt);
    (halt.sequence, halt.next_rip) = (10, CODE + 1);
    assert_eq!(machine.exited(1, &mut halt), Resume::PARK);
    msr(&mut machine, 0, 10, 0x830, Some(1 << 32 | 0x31));
    let mut recalled = page(Reason::Recall);
    recalled.sequence = 11;
    assert_eq!((machine.exited(1, &mut recalled), recalled.event), (Resume::PARK, 0));
    machine.host.recalled.clear();
    msr(&mut machine, 0, 11, 0x830, Some(1 << 32 | 0x32));
    assert_eq!(machine.host.recalled, [], "it can take no interrupt");
    msr(&mut machine, 0, 12, 0x830, Some(1 << 32 | 0x400));
    assert_eq!(machine.host.recalled, [1]);
    recalled.sequence = 12;
    assert_eq!((machine.exited(1, &mut recalled), recalled.event), (Resume::ENTER, NMI));
}

#[test]
fn what_cannot_be_taken_now_asks_for_its_window() {
    // Interrupts off, shadow, an event in delivery; NMIs held.
    let cases: [(&str, fn(&mut ExitPage), u64); 4] = [
        ("off", |page| page.rflags = 2, 0),
        ("shadow", |page| page.shadow = shadow::INTERRUPT, 0),
        ("in delivery", |page| page.event = interrupt(0x20), interrupt(0x20)),
        ("low priority", |page| page.rflags = 2, 0),
    ];
    for (name, change, event) in cases {
        let mut machine = machine();
        msr(&mut machine, 1, 10, 0x83f, Some(0x41));
        let mut blocked = open(Reason::Recall, 11);
        change(&mut blocked);
        assert_eq!(machine.exited(1, &mut blocked), Resume::ENTER, "{name}");
        assert_eq!((blocked.event, blocked.windows), (event, window::INTERRUPT), "{name}");
        let mut window = open(Reason::InterruptWindow, 12);
        assert_eq!(machine.exited(1, &mut window), Resume::ENTER);
        assert_eq!((window.event, window.windows), (interrupt(0x41), 0), "{name}");
    }
}

#[test]
fn an_nmi_waits_for_the_end_of_the_one_before() {
    let mut machine = machine();
    msr(&mut machine, 0, 10, 0x830, Some(1 << 32 | 0x400));
    let mut held = open(Reason::Recall, 11);
    held.shadow = shadow::NMI;
    machine.exited(1, &mut held);
    assert_eq!((held.event, held.windows), (0, window::NMI));
    let mut window = open(Reason::NmiWindow, 12);
    machine.exited(1, &mut window);
    assert_eq!((window.event, machine.durable.vcpus[1].pending), (NMI, 0));
}

#[test]
fn an_nmi_that_meets_an_event_in_delivery_is_tried_again_soon() {
    let mut machine = machine();
    msr(&mut machine, 0, 10, 0x830, Some(1 << 32 | 0x400));
    let mut busy = open(Reason::Recall, 11);
    busy.event = interrupt(0x20);
    machine.exited(1, &mut busy);
    assert_eq!(busy.event, interrupt(0x20));
    let at = machine.host.deadline;
    assert!(at > machine.host.tsc && at - machine.host.tsc < 1_000_000);
    machine.host.recalled.clear();
    machine.host.tsc = at;
    machine.timer();
    assert_eq!(machine.host.recalled, [1]);
    let mut back = open(Reason::Recall, 12);
    machine.exited(1, &mut back);
    assert_eq!(back.event, NMI);
}

#[test]
fn an_interrupt_below_the_task_priority_waits_until_cr8_falls() {
    let mut machine = machine();
    machine.lapic(0).unwrap().set_cr8(5);
    msr(&mut machine, 0, 10, 0x83f, Some(0x41));
    let mut exit = open(Reason::Recall, 11);
    machine.exited(0, &mut exit);
    assert_eq!((exit.event, exit.windows), (0, 0));
    let mut lower = super::long_page(&mut machine.host, Reason::ControlRegister);
    (lower.sequence, lower.rflags) = (12, 2 | INTERRUPTS);
    super::put(&mut machine, &lower, &[0x44, 0x0f, 0x22, 0xc1]);
    machine.exited(0, &mut lower);
    assert_eq!(lower.event, interrupt(0x41));
}

#[test]
fn the_serial_port_interrupts_by_way_of_pin_4() {
    let mut machine = machine();
    // Pin 4 to vCPU 1, vector 0x51, edge.
    for (register, value) in [(0x19, 1 << 24), (0x18, 0x51)] {
        machine.write_device(0, 0xfec0_0000, register);
        machine.write_device(0, 0xfec0_0010, value);
    }
    machine.commit();
    let write = |machine: &mut Machine<Model>, sequence, port, value| {
        let mut page = port_page(port, 1, false);
        (page.sequence, page.registers[gpr::RAX]) = (sequence, value);
        assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
    };
    write(&mut machine, 10, 0x3fc, 0x0b);
    write(&mut machine, 11, 0x3f9, 1);
    assert_eq!(machine.host.recalled, []);
    machine.host.input = b"x".to_vec();
    machine.input();
    assert_eq!(machine.host.recalled, [1]);
    let mut back = open(Reason::Recall, 12);
    machine.exited(1, &mut back);
    assert_eq!(back.event, interrupt(0x51));
    // The line stays asserted: an edge comes again only after it fell.
    machine.host.recalled.clear();
    machine.host.input = b"xy".to_vec();
    machine.input();
    assert_eq!(machine.host.recalled, []);
}

#[test]
fn a_level_that_finds_its_local_apic_disabled_interrupts_once_that_is_enabled() {
    let mut machine = machine();
    msr(&mut machine, 1, 8, 0x80f, Some(0xff));
    // Pin 4 to vCPU 1, vector 0x51, level.
    for (register, value) in [(0x19, 1 << 24), (0x18, 0x8051)] {
        machine.write_device(0, 0xfec0_0000, register);
        machine.write_device(0, 0xfec0_0010, value);
    }
    machine.commit();
    for (sequence, port, value) in [(10, 0x3fc, 0x0b), (11, 0x3f9, 1)] {
        let mut page = port_page(port, 1, false);
        (page.sequence, page.registers[gpr::RAX]) = (sequence, value);
        assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
    }
    machine.host.input = b"x".to_vec();
    machine.input();
    assert_eq!((machine.read_device(0, 0xfec0_0010), machine.host.recalled.as_slice()), (0x8051, &[][..]));
    msr(&mut machine, 1, 12, 0x80f, Some(0x1ff));
    assert_eq!(machine.read_device(0, 0xfec0_0010), 0xc051);
    let mut exit = open(Reason::Recall, 13);
    machine.exited(1, &mut exit);
    assert_eq!(exit.event, interrupt(0x51));
}

/// vCPU 1 waits for its start-up and is stopped.
fn cold() -> Machine<Model> {
    let mut machine = machine();
    machine.vcpu(1).unwrap().life = life::WAITING;
    machine.commit();
    machine.host.stopped.push(1);
    machine
}

#[test]
fn init_and_start_up_start_a_stopped_vcpu_once() {
    let mut machine = cold();
    msr(&mut machine, 0, 20, 0x830, Some(1 << 32 | 0xc500));
    assert_eq!(machine.host.stopped, [1]);
    msr(&mut machine, 0, 21, 0x830, Some(1 << 32 | 0x699));
    assert_eq!((machine.host.stopped.as_slice(), machine.durable.vcpus[1].life), (&[][..], life::RUNNING));
    assert_eq!(machine.durable.vcpus[1].start, start::real_mode(0x9_9000));
    msr(&mut machine, 0, 22, 0x830, Some(1 << 32 | 0x688));
    assert_eq!(machine.durable.vcpus[1].start, start::real_mode(0x9_9000));
}

#[test]
fn init_stops_a_running_vcpu_and_a_start_up_that_comes_first_is_kept() {
    for early in [false, true] {
        let mut machine = machine();
        msr(&mut machine, 0, 20, 0x830, Some(1 << 32 | 0xc500));
        if early {
            msr(&mut machine, 0, 21, 0x830, Some(1 << 32 | 0x612));
        }
        assert_eq!(machine.host.recalled, [1]);
        let mut back = open(Reason::Recall, 22);
        let word = machine.exited(1, &mut back);
        if early {
            assert_eq!((word, back.rip, back.segments[1].base), (Resume::ENTER, 0, 0x1_2000));
            // Given again, it starts again.
            let mut again = open(Reason::Recall, 22);
            let mut next = over_again(machine);
            assert_eq!((next.exited(1, &mut again), again.segments[1].base), (Resume::ENTER, 0x1_2000));
        } else {
            assert_eq!((word, machine.durable.vcpus[1].life), (Resume::STOP, life::WAITING));
        }
    }
}

fn over_again(machine: Machine<Model>) -> Machine<Model> {
    let mut model = machine.host;
    model.live(u32::MAX);
    Machine::new(model, APIC, IDENTITY)
}

#[test]
fn a_vcpu_that_was_to_start_is_started_by_the_next_instance() {
    let mut machine = cold();
    machine.start_at(1, start::real_mode(0x8000));
    machine.commit();
    let mut next = over_again(machine);
    next.start(false);
    assert_eq!((next.host.stopped.as_slice(), next.durable.vcpus[1].life), (&[][..], life::RUNNING));
}

#[test]
fn a_machine_that_never_ran_loads_its_guest_and_starts_vcpu_0() {
    let mut model = Model::cold();
    model.stopped = vec![0, 1];
    let mut machine = over(model);
    machine.start(false);
    assert_eq!((&machine.host.stopped[..], &machine.host.recalled[..]), (&[1][..], &[0][..]));
    assert_eq!(machine.host.memory.0[0x7c00], 0, "the vCPU pays for the loading, in its first exit");
    let page = first_exit(&mut machine);
    assert_eq!((page.rip, page.segments[segment::CS].base), (0x7c00, 0));
    assert_eq!(machine.host.memory.0[0x7c00..0x7c10], [0xf4; 16]);
    machine.host.recalled.clear();
    let mut again = over(machine.host);
    again.start(false);
    assert_eq!(again.host.recalled, [0], "it runs");
}

/// Serves the exit to which vCPU 0 of a machine that starts was recalled.
pub fn first_exit(machine: &mut Machine<Model>) -> ExitPage {
    let mut page = page(Reason::Recall);
    assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
    page
}

#[test]
fn an_event_that_was_injected_is_injected_again_when_its_exit_is_given_again() {
    let mut machine = machine();
    msr(&mut machine, 1, 10, 0x83f, Some(0x41));
    let mut first = open(Reason::Recall, 11);
    machine.exited(1, &mut first);
    let mut next = over_again(machine);
    let mut again = open(Reason::Recall, 11);
    assert_eq!(next.exited(1, &mut again), Resume::ENTER);
    assert_eq!((first.event, again.event), (interrupt(0x41), interrupt(0x41)));
    assert_eq!(msr(&mut next, 1, 12, 0x812, None), 1 << 1, "in service once");
}

#[test]
fn an_instance_that_starts_recalls_and_arms_what_the_one_before_left() {
    let mut machine = machine();
    msr(&mut machine, 1, 10, 0x832, Some(0x4_0031));
    msr(&mut machine, 1, 11, 0x6e0, Some(1_500_000));
    machine.host.deadline = 0;
    let mut next = over_again(machine);
    next.host.recalled.clear();
    next.start(false);
    assert_eq!((next.host.recalled.as_slice(), next.host.deadline), (&[0, 1][..], 1_500_000));
}

/// What vCPU 1 does in the model below.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Running,
    /// With an exit that is not answered.
    Exited(Reason),
    Parked,
}

/// The core and a guest that counts its interrupts, as far as vCPU 1 is concerned.
struct Core {
    machine: Machine<Model>,
    state: State,
    recall: bool,
    sequence: u64,
    event: u64,
    window: bool,
    interrupts: bool,
    sent: u64,
    taken: u64,
    /// Sequence of vCPU 0's exits.
    other: u64,
}

impl Core {
    fn new() -> Self {
        Self {
            machine: machine(),
            state: State::Running,
            recall: false,
            sequence: 100,
            event: 0,
            window: false,
            interrupts: true,
            sent: 0,
            taken: 0,
            other: 100,
        }
    }

    /// Takes the recalls that the service asked for.
    fn recalls(&mut self) {
        for vcpu in std::mem::take(&mut self.machine.host.recalled) {
            if vcpu == 1 {
                if self.state == State::Parked { self.exit(Reason::Recall) } else { self.recall = true }
            }
        }
    }

    fn exit(&mut self, reason: Reason) {
        self.sequence += 1;
        self.state = State::Exited(reason);
    }

    /// One step of the guest on vCPU 1.
    fn run(&mut self, halts: bool, interrupts: bool) {
        if self.state != State::Running {
            return;
        }
        if std::mem::take(&mut self.recall) {
            return self.exit(Reason::Recall);
        }
        if std::mem::take(&mut self.event) != 0 {
            // The handler counts, ends the interrupt by an exit of its own, and returns.
            self.taken += 1;
            self.interrupts = false;
            return self.exit(Reason::Msr);
        }
        self.interrupts = interrupts || halts;
        if self.window && self.interrupts {
            self.window = false;
            return self.exit(Reason::InterruptWindow);
        }
        if halts {
            self.exit(Reason::Hlt);
        }
    }

    /// The service serves vCPU 1's exit, or dies `fuse` effects later and leaves it unanswered.
    fn serve(&mut self, fuse: Option<u32>) {
        let State::Exited(reason) = self.state else { return };
        let mut page = if reason == Reason::Msr {
            msr_page(self.sequence, 0x80b, Some(0))
        } else {
            let mut page = page(reason);
            (page.sequence, page.next_rip) = (self.sequence, CODE + 1);
            page
        };
        page.rflags = if self.interrupts { 2 | INTERRUPTS } else { 2 };
        page.windows = if self.window { window::INTERRUPT } else { 0 };
        page.event = self.event;
        self.machine.host.live_on(fuse.unwrap_or(u32::MAX));
        let word = self.machine.exited(1, &mut page);
        if self.machine.host.killed() {
            return self.restart();
        }
        self.machine.host.live_on(u32::MAX);
        self.recalls();
        if page.dirty & group::EVENT != 0 {
            (self.event, self.window) = (page.event, page.windows & window::INTERRUPT != 0);
        }
        match word {
            Resume::PARK if self.recall => {
                self.recall = false;
                self.exit(Reason::Recall);
            }
            Resume::PARK => self.state = State::Parked,
            _ => self.state = State::Running,
        }
    }

    /// vCPU 0 sends one interrupt, unless one waits still.
    fn send(&mut self, fuse: Option<u32>) {
        if self.sent > self.taken {
            return;
        }
        self.other += 1;
        self.sent += 1;
        let page = msr_page(self.other, 0x830, Some(1 << 32 | 0x31));
        self.machine.host.live_on(fuse.unwrap_or(u32::MAX));
        self.machine.exited(0, &mut page.clone());
        if self.machine.host.killed() {
            self.restart();
            self.machine.exited(0, &mut page.clone());
        }
        self.machine.host.live_on(u32::MAX);
        self.recalls();
    }

    fn restart(&mut self) {
        self.recalls();
        let machine = std::mem::replace(&mut self.machine, Machine::new(Model::cold(), APIC, IDENTITY));
        self.machine = over_again(machine);
        self.machine.start(false);
        self.recalls();
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Run { halts: bool, interrupts: bool },
    Serve(Option<u32>),
    Send(Option<u32>),
}

fn act() -> impl Strategy<Value = Act> {
    let fuse = || prop_oneof![3 => Just(None), 1 => (1u32..60).prop_map(Some)];
    prop_oneof![
        3 => (any::<bool>(), any::<bool>()).prop_map(|(halts, interrupts)| Act::Run { halts, interrupts }),
        3 => fuse().prop_map(Act::Serve),
        2 => fuse().prop_map(Act::Send),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// However exits, interrupts, halts and ends of the service interleave: every interrupt wakes and reaches
    /// the guest, once.
    #[test]
    fn no_interrupt_is_lost_or_doubled_whatever_comes_between(acts in prop::collection::vec(act(), 1..60)) {
        let mut core = Core::new();
        for act in &acts {
            match *act {
                Act::Run { halts, interrupts } => core.run(halts, interrupts),
                Act::Serve(fuse) => core.serve(fuse),
                Act::Send(fuse) => core.send(fuse),
            }
            prop_assert!(core.taken <= core.sent, "{core:?}", core = core.state);
        }
        // The guest goes on with interrupts on until nothing happens any more.
        for _ in 0..20 {
            core.run(false, true);
            core.serve(None);
        }
        prop_assert_eq!(core.taken, core.sent, "{:?}, pending {}", core.state, core.machine.durable.vcpus[1].pending & pending::NMI);
    }
}
