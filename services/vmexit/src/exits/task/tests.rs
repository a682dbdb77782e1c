//! Switches between the tasks of a small machine.

use super::Switch;
use crate::exception::has_error;
use crate::machine::Machine;
use crate::memory::tests::Plain;
use crate::memory::{GuestMemory, load};
use crate::tests::{CODE, Model, machine, page};
use portcullis_ipc::exit::event::{NMI, SOFTWARE, TYPE_SHIFT, VALID, exception, interrupt};
use portcullis_ipc::exit::{ExitPage, Reason, Segment, gpr, group, segment, shadow};
use portcullis_ipc::syscall::Resume;
use zerocopy::IntoBytes;

const CALL: u64 = 0;
const IRET: u64 = 1;
const JUMP: u64 = 2;
const GATE: u64 = 3;

const GDT: u64 = 0x2000;
/// The task that the machine is in.
const OLD: u64 = 0x3000;
/// A task of 32 bits, ring 0.
const NEW: u64 = 0x3100;
/// A task of 16 bits, ring 0.
const HALF: u64 = 0x3180;
const LDT: u64 = 0x3200;
/// Where the new tasks' stack ends.
const STACK: u32 = 0x5000;
const ENTRY: u32 = 0x1800;

const RING0: u16 = 0x08;
const DATA: u16 = 0x10;
const OLD_TASK: u16 = 0x18;
const NEW_TASK: u16 = 0x20;
const HALF_TASK: u16 = 0x28;
const TABLE: u16 = 0x30;
const RING3: u16 = 0x3b;
const USER: u16 = 0x43;
const ABSENT: u16 = 0x48;
const ABSENT_TASK: u16 = 0x50;
const SHORT_TASK: u16 = 0x58;
const ABSENT_TABLE: u16 = 0x60;
const ABSENT_CODE: u16 = 0x68;
const BEYOND: u16 = 0x70;
/// Of the LDT.
const PRIVATE: u16 = 0x04;

/// Access bytes, flags and limits as the GDT holds them.
const DESCRIPTORS: [(u16, u64, u64, u64); 12] = [
    (RING0, 0, 0xc9a, 0xf_ffff),
    (DATA, 0, 0xc92, 0xf_ffff),
    (OLD_TASK, OLD, 0x8b, 0x67),
    (NEW_TASK, NEW, 0x89, 0x67),
    (HALF_TASK, HALF, 0x81, 0x2b),
    (TABLE, LDT, 0x82, 7),
    (RING3, 0, 0xcfa, 0xf_ffff),
    (USER, 0, 0xcf2, 0xf_ffff),
    (ABSENT, 0, 0xc12, 0xf_ffff),
    (ABSENT_TASK, NEW, 0x09, 0x67),
    (SHORT_TASK, NEW, 0x89, 0x66),
    (ABSENT_TABLE, LDT, 0x02, 7),
];

fn descriptor(base: u64, attributes: u64, limit: u64) -> [u8; 8] {
    let low = limit & 0xffff | (base & 0xff_ffff) << 16 | (attributes & 0xff) << 40;
    (low | (limit >> 16) << 48 | (attributes >> 8) << 52 | (base >> 24) << 56).to_le_bytes()
}

/// A machine in the old task whose next instruction, or whose page's event, switches.
struct Bench {
    machine: Machine<Model>,
    page: ExitPage,
}

impl Bench {
    fn new(source: u64, selector: u16) -> Self {
        let mut bench = Self { machine: machine(), page: page(Reason::TaskSwitch) };
        for (selector, base, attributes, limit) in DESCRIPTORS {
            bench.put(GDT + u64::from(selector & !7), &descriptor(base, attributes, limit));
        }
        bench.put(GDT + u64::from(ABSENT_CODE), &descriptor(0, 0xc1a, 0xf_ffff));
        bench.put(LDT, &descriptor(0x400, 0x492, 0xffff));
        let code: &[u8] = match source {
            CALL => &[0x9a, 0, 0, 0, 0, 0, 0],
            IRET => &[0xcf],
            JUMP => &[0xea, 0, 0, 0, 0, 0, 0],
            _ => &[0xcd, 0x40],
        };
        bench.put(CODE, code);
        let code = [(28, 0x7000), (32, ENTRY), (36, 0x0202), (40, 0xa0), (56, STACK), (68, 0xd1)];
        code.into_iter().for_each(|(at, value)| bench.field(at, value));
        bench.selectors([DATA, RING0, DATA, DATA, 0, PRIVATE]);
        bench.field(96, TABLE.into());
        let half = [(14, ENTRY), (16, 0x0202), (18, 0xa0), (26, STACK), (32, 0xd1)];
        let selectors = [(34, DATA), (36, RING0), (38, DATA), (40, DATA), (42, 0)];
        half.into_iter().for_each(|(at, value)| bench.put(HALF + at, &(value as u16).to_le_bytes()));
        selectors.into_iter().for_each(|(at, value)| bench.put(HALF + at, &value.to_le_bytes()));

        bench.page.qualification = [selector.into(), u64::from(selector) | source << 30, 0];
        bench.page.segments[segment::GDTR] = Segment { base: GDT, limit: 0x6f, ..Segment::default() };
        bench.page.segments[segment::LDTR] = Segment::default();
        bench.page.segments[segment::TR] = Segment { selector: OLD_TASK, attributes: 0x8b, limit: 0x67, base: OLD };
        for (index, one) in bench.page.segments.iter_mut().take(6).enumerate() {
            one.selector = 0x100 + 8 * index as u16;
        }
        bench.page.registers = core::array::from_fn(|index| 0xffff_ffff_1111_0000 | index as u64);
        bench.page.rflags = 0x47;
        bench
    }

    fn put(&mut self, address: u64, bytes: &[u8]) {
        self.machine.host.memory.put(address as usize, bytes);
    }

    /// Sets a field of the new task.
    fn field(&mut self, at: u64, value: u32) {
        self.put(NEW + at, &value.to_le_bytes());
    }

    /// Sets ES, CS, SS, DS, FS, GS of the new task.
    fn selectors(&mut self, selectors: [u16; 6]) {
        (72..).step_by(4).zip(selectors).for_each(|(at, selector)| self.field(at, selector.into()));
    }

    fn word(&self, address: u64) -> u64 {
        load::<4>(&self.machine.host.memory, address)
    }

    fn half(&self, address: u64) -> u64 {
        self.word(address & !3) >> (8 * (address & 2)) & 0xffff
    }

    /// Access byte of a descriptor of the GDT.
    fn access(&self, selector: u16) -> u64 {
        self.word(GDT + u64::from(selector & !7) + 4) >> 8 & 0xff
    }

    fn exit(&mut self) -> u64 {
        self.machine.exited(0, &mut self.page)
    }

    fn selectors_now(&self) -> [u16; 6] {
        core::array::from_fn(|index| self.page.segments[index].selector)
    }

    /// The vCPU is in the new task, with its registers and segments, and only what had to be fetched was changed.
    fn assert_entered(&self) {
        let page = &self.page;
        assert_eq!((page.rip, page.registers[gpr::RAX], page.registers[gpr::RDI]), (ENTRY.into(), 0xa0, 0xd1));
        assert_eq!(page.registers[8], 0xffff_ffff_1111_0008);
        assert_eq!(page.segments[segment::CS].attributes, 0xc9b);
        assert_eq!((page.segments[segment::SS].attributes, page.segments[segment::SS].limit), (0xc93, u32::MAX));
        assert_eq!((page.cpl, page.cr0 & 8, page.shadow & shadow::INTERRUPT), (0, 8, 0));
        let changed = group::GENERAL | group::FLOW | group::CONTROL | group::SEGMENTS | group::EVENT;
        assert_eq!(page.dirty & !group::DEBUG, changed);
        assert_eq!(page.dirty & !(page.valid | group::ALWAYS | group::EVENT), 0);
    }

    fn assert_saved(&self, next: u64, flags: u64) {
        assert_eq!((self.word(OLD + 32), self.word(OLD + 36)), (next, flags));
        for index in 0..8 {
            assert_eq!(self.word(OLD + 40 + 4 * index), 0x1111_0000 | index);
        }
        for index in 0..6 {
            assert_eq!(self.word(OLD + 72 + 4 * index), 0x100 + 8 * index);
        }
        assert_eq!((self.word(OLD + 28), self.word(OLD + 96)), (0, 0), "static fields");
    }
}

#[test]
fn a_call_nests_the_new_task_and_iret_goes_back() {
    let mut bench = Bench::new(CALL, NEW_TASK);
    assert_eq!(bench.exit(), Resume::ENTER);
    bench.assert_entered();
    bench.assert_saved(CODE + 7, 0x47);
    assert_eq!((bench.word(NEW), bench.page.rflags), (OLD_TASK.into(), 0x4202));
    assert_eq!((bench.access(OLD_TASK), bench.access(NEW_TASK)), (0x8b, 0x8b));
    assert_eq!(bench.page.event, 0);
    let task = Segment { selector: NEW_TASK, attributes: 0x8b, limit: 0x67, base: NEW };
    assert_eq!(bench.page.segments[segment::TR], task);
    let table = Segment { selector: TABLE, attributes: 0x82, limit: 7, base: LDT };
    assert_eq!(bench.page.segments[segment::LDTR], table);
    let private = Segment { selector: PRIVATE, attributes: 0x493, limit: 0xffff, base: 0x400 };
    assert_eq!(bench.page.segments[segment::GS], private);
    assert_eq!(bench.page.segments[segment::FS], Segment::default());
    assert_eq!((bench.access(RING0), bench.access(DATA)), (0x9b, 0x93), "accessed");
    assert_eq!(bench.word(LDT + 4) >> 8 & 0xff, 0x93, "accessed");
    assert_eq!(bench.page.cr3, 0, "no paging, no CR3");

    let selectors = (72..96).step_by(4).zip([DATA, RING0, DATA, DATA, 0, 0]);
    selectors.for_each(|(at, selector)| bench.put(OLD + at, &selector.to_le_bytes()));
    bench.put(ENTRY.into(), &[0xcf]);
    bench.page.qualification = [OLD_TASK.into(), u64::from(OLD_TASK) | IRET << 30, 0];
    bench.page.dirty = 0;
    assert_eq!(bench.exit(), Resume::ENTER);
    assert_eq!((bench.page.rip, bench.page.rflags), (CODE + 7, 0x47));
    let registers = core::array::from_fn(|index| 0x1111_0000 | index as u64);
    assert_eq!(bench.page.registers[..8], registers as [u64; 8]);
    assert_eq!(bench.selectors_now(), [DATA, RING0, DATA, DATA, 0, 0]);
    assert_eq!(bench.page.segments[segment::TR].base, OLD);
    assert_eq!((bench.access(OLD_TASK), bench.access(NEW_TASK)), (0x8b, 0x89));
    assert_eq!((bench.word(NEW + 32), bench.word(NEW + 36)), (u64::from(ENTRY) + 1, 0x202), "saved without NT");
    assert_eq!(bench.word(NEW), OLD_TASK.into(), "the back link stays");
}

#[test]
fn a_jump_leaves_the_old_task_behind() {
    let mut bench = Bench::new(JUMP, NEW_TASK);
    bench.page.rflags |= 1 << 14;
    bench.page.dr7 = 0x7ff;
    bench.page.shadow = shadow::INTERRUPT | shadow::NMI;
    assert_eq!(bench.exit(), Resume::ENTER);
    bench.assert_entered();
    bench.assert_saved(CODE + 7, 0x4047);
    assert_eq!((bench.word(NEW), bench.page.rflags), (0, 0x202));
    assert_eq!((bench.access(OLD_TASK), bench.access(NEW_TASK)), (0x89, 0x8b));
    assert_eq!((bench.page.dr7, bench.page.dirty & group::DEBUG), (0x6aa, group::DEBUG));
    assert_eq!(bench.page.shadow, shadow::NMI);
}

#[test]
fn a_gate_of_the_idt_nests_and_brings_the_error_code() {
    let software = VALID | SOFTWARE << TYPE_SHIFT | 0x40;
    let nmi = VALID | NMI << TYPE_SHIFT | 2;
    let table = [
        // Event, where the old task goes on, what lies on the new stack, NMIs held.
        (0, CODE + 2, None, 0),
        (software, CODE + 2, None, 0),
        (interrupt(0x40), CODE, None, 0),
        (nmi, CODE, None, shadow::NMI),
        (exception(6, None), CODE, None, 0),
        (exception(13, Some(0x1_0042)), CODE, Some(0x1_0042), 0),
        (exception(14, Some(7)), CODE, Some(7), 0),
    ];
    for (event, next, error, held) in table {
        let mut bench = Bench::new(GATE, NEW_TASK);
        bench.page.event = event;
        assert_eq!(bench.exit(), Resume::ENTER, "{event:#x}");
        bench.assert_entered();
        bench.assert_saved(next, 0x47);
        assert_eq!((bench.word(NEW), bench.page.rflags, bench.page.event), (OLD_TASK.into(), 0x4202, 0), "{event:#x}");
        let (depth, pushed) = error.map_or((0, 0), |error| (4, error));
        assert_eq!(bench.page.registers[gpr::RSP], u64::from(STACK) - depth, "{event:#x}");
        assert_eq!(bench.word(u64::from(STACK) - 4), pushed, "{event:#x}");
        assert_eq!(bench.page.shadow, held, "{event:#x}");
    }
}

#[test]
fn iret_out_of_a_nonmaskable_interrupt_lets_the_next_one_in() {
    let mut bench = Bench::new(IRET, NEW_TASK);
    bench.page.shadow = shadow::NMI;
    bench.exit();
    assert_eq!(bench.page.shadow, 0);
}

#[test]
fn a_task_of_16_bits_is_entered_and_left() {
    let mut bench = Bench::new(CALL, HALF_TASK);
    bench.exit();
    bench.assert_entered();
    assert_eq!((bench.half(HALF), bench.page.rflags), (OLD_TASK.into(), 0x4202));
    assert_eq!(bench.selectors_now(), [DATA, RING0, DATA, DATA, 0, 0]);
    assert_eq!(bench.page.registers[gpr::RSP], STACK.into());
    assert_eq!(bench.page.segments[segment::TR].attributes, 0x83);
    assert_eq!(bench.access(HALF_TASK), 0x83);

    bench.put(ENTRY.into(), &[0xcf]);
    let selectors = (72..96).step_by(4).zip([DATA, RING0, DATA, DATA, 0, 0]);
    selectors.for_each(|(at, selector)| bench.put(OLD + at, &selector.to_le_bytes()));
    bench.page.registers[gpr::RBX] = 0xabcd_1234;
    bench.page.qualification = [OLD_TASK.into(), u64::from(OLD_TASK) | IRET << 30, 0];
    bench.exit();
    assert_eq!((bench.page.rip, bench.page.segments[segment::TR].base), (CODE + 7, OLD));
    assert_eq!((bench.half(HALF + 14), bench.half(HALF + 16)), (u64::from(ENTRY) + 1, 0x202));
    assert_eq!((bench.half(HALF + 24), bench.half(HALF + 36)), (0x1234, RING0.into()));
    assert_eq!((bench.half(HALF + 42), bench.access(HALF_TASK)), (0, 0x81));

    let mut bench = Bench::new(GATE, HALF_TASK);
    bench.page.event = exception(13, Some(0x1_0042));
    bench.put(u64::from(STACK) - 4, &[0xee; 4]);
    bench.exit();
    assert_eq!((bench.page.registers[gpr::RSP], bench.word(u64::from(STACK) - 4)), (u64::from(STACK) - 2, 0x0042_eeee));
}

#[test]
fn a_task_of_virtual_8086_mode_has_segments_of_real_mode() {
    let mut bench = Bench::new(JUMP, NEW_TASK);
    bench.field(36, 0x2_3202);
    bench.selectors([0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0xffff]);
    bench.exit();
    assert_eq!((bench.page.rflags, bench.page.cpl, bench.page.event), (0x2_3202, 3, 0));
    for (index, selector) in [0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0xffff].into_iter().enumerate() {
        let expected = Segment { selector, attributes: 0xf3, limit: 0xffff, base: u64::from(selector) << 4 };
        assert_eq!(bench.page.segments[index], expected);
    }
    assert_eq!(bench.page.segments[segment::LDTR].base, LDT);
    // An old one keeps its flag.
    let mut bench = Bench::new(GATE, NEW_TASK);
    bench.page.rflags |= 1 << 17;
    bench.page.event = interrupt(0x40);
    bench.exit();
    bench.assert_entered();
    bench.assert_saved(CODE, 0x2_0047);
}

#[test]
fn a_task_of_ring_3_gets_its_error_code_with_the_rights_of_ring_3() {
    let mut bench = Bench::new(GATE, NEW_TASK);
    bench.selectors([0, RING3, USER, USER, USER, 0]);
    bench.page.event = exception(13, Some(0));
    bench.exit();
    assert_eq!((bench.page.cpl, bench.page.event), (3, 0));
    assert_eq!(bench.page.segments[segment::SS].attributes, 0xcf3);
    assert_eq!(bench.page.registers[gpr::RSP], u64::from(STACK) - 4);
}

#[test]
fn the_trap_flag_of_the_new_task_raises_a_debug_exception_there() {
    let mut bench = Bench::new(JUMP, NEW_TASK);
    bench.field(100, 0x68_0001);
    // The old task's single step does not follow.
    bench.page.rflags |= 1 << 8;
    bench.exit();
    bench.assert_entered();
    assert_eq!((bench.page.event, bench.page.dr6), (exception(1, None), 1 << 15));
    assert_eq!(bench.page.dirty & group::DEBUG, group::DEBUG);
}

/// What is refused before anything is stored: the old task goes on with the exception.
#[test]
fn a_task_that_cannot_be_entered_is_refused_in_the_old_one() {
    let local = NEW_TASK | 4;
    let table: [(u64, u16, fn(&mut Bench), u8, u16); 13] = [
        (CALL, BEYOND, |_| {}, 13, BEYOND),
        (JUMP, 0xfff8, |_| {}, 13, 0xfff8),
        (IRET, BEYOND, |_| {}, 10, BEYOND),
        (CALL, local, |_| {}, 13, local),
        (IRET, local, |_| {}, 10, local),
        (JUMP, DATA, |_| {}, 13, DATA),
        (IRET, TABLE, |_| {}, 10, TABLE),
        (CALL, 0, |_| {}, 13, 0),
        (CALL, ABSENT_TASK, |_| {}, 11, ABSENT_TASK),
        (IRET, ABSENT_TASK | 3, |_| {}, 11, ABSENT_TASK),
        (JUMP, SHORT_TASK, |_| {}, 10, SHORT_TASK),
        (CALL, HALF_TASK, |bench| bench.put(GDT + u64::from(HALF_TASK), &[0x2a]), 10, HALF_TASK),
        (CALL, NEW_TASK, |bench| bench.page.segments[segment::TR].limit = 0x5e, 10, OLD_TASK),
    ];
    for (source, selector, change, number, named) in table {
        let mut bench = Bench::new(source, selector);
        change(&mut bench);
        let (page, memory) = (bench.page, bench.machine.host.memory.0.clone());
        assert_eq!(bench.exit(), Resume::ENTER);
        assert_eq!(bench.page.event, exception(number, Some(named.into())), "{source} {selector:#x}");
        assert_eq!(bench.page.dirty, group::EVENT, "{source} {selector:#x}");
        assert_eq!((bench.page.rip, bench.page.segments), (page.rip, page.segments), "{source} {selector:#x}");
        assert!(bench.machine.host.memory.0 == memory, "{source} {selector:#x}");
    }
}

/// What is found when the new task's segments are loaded: the switch is done, and the exception is the new task's.
#[test]
fn a_segment_that_a_task_may_not_have_is_refused_in_the_new_one() {
    const ALL: [u16; 6] = [DATA, RING0, DATA, DATA, 0, 0];
    let with = |index: usize, selector| {
        let mut selectors = ALL;
        selectors[index] = selector;
        selectors
    };
    let table = [
        // Selectors, LDT, exception, what it names, CPL there.
        (with(segment::CS, 0), 0, 10, 0, 3),
        (with(segment::CS, BEYOND), 0, 10, BEYOND, 3),
        (with(segment::CS, DATA), 0, 10, DATA, 3),
        (with(segment::CS, RING3 & !3), 0, 10, RING3 & !3, 3),
        (with(segment::CS, ABSENT_CODE), 0, 11, ABSENT_CODE, 3),
        (with(segment::SS, 0), 0, 10, 0, 3),
        (with(segment::SS, RING0), 0, 10, RING0, 3),
        (with(segment::SS, ABSENT), 0, 12, ABSENT, 3),
        (with(segment::SS, USER), 0, 10, USER & !3, 3),
        (with(segment::DS, BEYOND), 0, 10, BEYOND, 0),
        (with(segment::ES, NEW_TASK), 0, 10, NEW_TASK, 0),
        (with(segment::FS, ABSENT), 0, 11, ABSENT, 0),
        (with(segment::GS, DATA | 3), 0, 10, DATA, 0),
        (with(segment::GS, PRIVATE), 0, 10, PRIVATE, 0),
        (ALL, BEYOND, 10, BEYOND, 3),
        (ALL, DATA, 10, DATA, 3),
        (ALL, TABLE | 4, 10, TABLE | 4, 3),
        (ALL, ABSENT_TABLE, 10, ABSENT_TABLE, 3),
    ];
    for (selectors, ldt, number, named, cpl) in table {
        let mut bench = Bench::new(CALL, NEW_TASK);
        bench.selectors(selectors);
        bench.field(96, ldt.into());
        bench.field(100, 1);
        assert_eq!(bench.exit(), Resume::ENTER);
        let what = format!("{selectors:x?} {ldt:#x}");
        assert_eq!(bench.page.event, exception(number, Some(named.into())), "{what}");
        bench.assert_saved(CODE + 7, 0x47);
        assert_eq!((bench.page.rip, bench.page.segments[segment::TR].base), (ENTRY.into(), NEW), "{what}");
        assert_eq!((bench.selectors_now(), bench.page.segments[segment::LDTR].selector), (selectors, ldt), "{what}");
        assert_eq!((bench.access(NEW_TASK), bench.page.cpl), (0x8b, cpl), "{what}");
        // A state that a processor enters: code, and its level on the stack.
        let [code, stack] = [segment::CS, segment::SS].map(|index| bench.page.segments[index].attributes);
        assert_eq!((code & 0x9b, code >> 5 & 3, stack >> 5 & 3), (0x9b & code, cpl as u16, cpl as u16), "{what}");
        assert_eq!(code & 0x98, 0x98, "{what}");
    }
}

#[test]
fn an_error_code_that_finds_no_room_raises_a_stack_fault_in_the_new_task() {
    // Stack segment: attributes, limit in bytes; ESP; whether there is room.
    let table = [
        (0x092, 0xffff, 0x1000, true),
        (0x092, 0x0fff, 0x1000, true),
        (0x092, 0x0ffe, 0x1000, false),
        (0x492, 0x0fff, 0x2, false),
        (0x092, 0xffff, 0x2, false),
        (0x092, 0xffff, 0x4, true),
        (0x496, 0x0fff, 0x1004, true),
        (0x496, 0x0fff, 0x1003, false),
        (0x096, 0x0fff, 0x2, false),
    ];
    for (attributes, limit, esp, room) in table {
        let mut bench = Bench::new(GATE, NEW_TASK);
        bench.put(GDT + u64::from(ABSENT), &descriptor(0, attributes, limit));
        bench.selectors([DATA, RING0, ABSENT, DATA, 0, 0]);
        bench.field(56, esp);
        bench.page.event = exception(17, Some(0));
        bench.exit();
        let expected = if room { 0 } else { exception(12, Some(1)) };
        assert_eq!(bench.page.event, expected, "{attributes:#x} {limit:#x} {esp:#x}");
        let pushed = if room { 4 } else { 0 };
        assert_eq!(bench.page.registers[gpr::RSP], u64::from(esp) - pushed, "{attributes:#x} {limit:#x} {esp:#x}");
    }
}

#[test]
fn an_exception_in_the_switch_is_combined_with_the_event_that_switched() {
    let double = exception(8, Some(0));
    let table = [
        (interrupt(0x40), Some(exception(10, Some(u32::from(BEYOND) | 1)))),
        (0, Some(exception(10, Some(BEYOND.into())))),
        (exception(6, None), Some(exception(10, Some(u32::from(BEYOND) | 1)))),
        (exception(13, Some(0)), Some(double)),
        (exception(14, Some(0)), Some(double)),
        (double, None),
    ];
    for (event, expected) in table {
        let mut bench = Bench::new(GATE, NEW_TASK);
        bench.selectors([DATA, RING0, DATA, BEYOND, 0, 0]);
        bench.page.event = event;
        let word = bench.exit();
        match expected {
            Some(expected) => assert_eq!((word, bench.page.event), (Resume::ENTER, expected), "{event:#x}"),
            None => assert_eq!(word, Resume::STOP, "{event:#x}"),
        }
    }
}

/// Directory and table of the old task, and those of the new one.
const TABLES: [(u64, u64); 2] = [(0x6000, 0x6800), (0x7000, 0x7800)];

/// Turns paging on, everything mapped to itself in both tasks.
fn paged(bench: &mut Bench) {
    for (directory, _) in TABLES {
        bench.put(directory, &((directory as u32 + 0x8000) | 0x27).to_le_bytes());
        for frame in 0..0x20u32 {
            bench.put(directory + 0x8000 + 4 * u64::from(frame), &(frame << 12 | 0x67).to_le_bytes());
        }
    }
    (bench.page.cr0, bench.page.cr3) = (0x8001_0011, TABLES[0].0);
}

/// Sets the entry of a page in one of the two tasks' tables.
fn map(bench: &mut Bench, task: usize, address: u64, entry: u32) {
    bench.put(TABLES[task].0 + 0x8000 + 4 * (address >> 12), &entry.to_le_bytes());
}

#[test]
fn the_new_task_has_its_own_address_space() {
    let mut bench = Bench::new(GATE, NEW_TASK);
    paged(&mut bench);
    // Its stack lies in another frame.
    map(&mut bench, 1, 0x4000, 0x9067);
    bench.page.event = exception(13, Some(0x42));
    bench.exit();
    bench.assert_entered();
    assert_eq!((bench.page.cr3, bench.word(0x9ffc), bench.word(0x4ffc)), (0x7000, 0x42, 0));
    let mut bench = Bench::new(CALL, HALF_TASK);
    paged(&mut bench);
    bench.exit();
    assert_eq!(bench.page.cr3, 0x6000);
}

#[test]
fn a_page_fault_in_the_old_task_changes_nothing() {
    const READ_ONLY: u32 = 0x61;
    let table: [(u64, u64, u32, u64, u32); 7] = [
        // Source, page, its entry, address and error code of the fault.
        (CALL, GDT, 0, GDT + 0x20, 0),
        (CALL, OLD, 0, OLD + 32, 2),
        (JUMP, OLD, OLD as u32 | READ_ONLY, OLD + 32, 3),
        (CALL, GDT, GDT as u32 | READ_ONLY, GDT + 0x25, 3),
        (JUMP, GDT, GDT as u32 | READ_ONLY, GDT + 0x25, 3),
        (IRET, GDT, GDT as u32 | READ_ONLY, GDT + 0x1d, 3),
        (CALL, 0xf000, 0xf000 | READ_ONLY, 0xffd0, 3),
    ];
    for (source, address, entry, fault, error) in table {
        let mut bench = Bench::new(source, NEW_TASK);
        paged(&mut bench);
        if address == 0xf000 {
            bench.put(GDT + u64::from(NEW_TASK), &descriptor(0xffd0, 0x89, 0x67));
        }
        map(&mut bench, 0, address, entry);
        // The processor's own accesses have the supervisor's rights in ring 3 as well.
        (bench.page.cpl, bench.page.rflags) = (3, 0x4_0002);
        let (page, memory) = (bench.page, bench.machine.host.memory.0.clone());
        assert_eq!(bench.exit(), Resume::ENTER);
        assert_eq!((bench.page.event, bench.page.cr2), (exception(14, Some(error)), fault), "{source} {address:#x}");
        assert_eq!((bench.page.rip, bench.page.segments), (page.rip, page.segments), "{source} {address:#x}");
        assert_eq!(bench.page.dirty, group::EVENT | group::CONTROL, "{source} {address:#x}");
        let after = &bench.machine.host.memory.0;
        let differs = |at: &usize| after[*at] != memory[*at] && !(0xe000..0x1_0000).contains(at);
        assert_eq!((0..0x2_0000).find(differs), None, "{source} {address:#x}");
    }
}

#[test]
fn a_page_fault_behind_the_switch_is_the_new_tasks() {
    let table = [
        // Page that the new task lacks; address, error code and level.
        (GDT, GDT + u64::from(TABLE), 0, 3),
        (LDT, LDT, 0, 0),
        (0x4000, 0x4ffc, 2, 0),
    ];
    for (address, fault, error, cpl) in table {
        let mut bench = Bench::new(GATE, NEW_TASK);
        paged(&mut bench);
        map(&mut bench, 1, address, 0);
        bench.page.event = exception(17, Some(0));
        bench.exit();
        assert_eq!((bench.page.event, bench.page.cr2), (exception(14, Some(error)), fault));
        assert_eq!((bench.page.rip, bench.page.cr3, bench.page.cpl), (ENTRY.into(), 0x7000, cpl));
        assert_eq!(bench.page.registers[gpr::RSP], STACK.into());
    }
}

#[test]
fn an_address_space_that_the_processor_would_refuse_is_refused() {
    for (entry, taken) in [(0x9001u64, true), (0x9003, false)] {
        let mut bench = Bench::new(CALL, NEW_TASK);
        // Two-megabyte pages, one to one.
        for root in [0x6000, 0x7000] {
            bench.put(root, &(0x9001u64).to_le_bytes());
        }
        bench.put(0x9000, &(0xe7u64).to_le_bytes());
        bench.put(0x7008, &entry.to_le_bytes());
        (bench.page.cr0, bench.page.cr3, bench.page.cr4) = (0x8001_0011, 0x6000, 0x20);
        bench.exit();
        let (cr3, event) = if taken { (0x7000, 0) } else { (0x6000, exception(10, Some(0))) };
        assert_eq!((bench.page.cr3, bench.page.event, bench.page.rip), (cr3, event, ENTRY.into()));
    }
}

#[test]
fn an_instruction_that_no_longer_switches_is_run_again() {
    for (source, code, event) in [(CALL, 0xcf, 0), (GATE, 0x90, VALID | SOFTWARE << TYPE_SHIFT | 0x40)] {
        let mut bench = Bench::new(source, NEW_TASK);
        bench.put(CODE, &[code]);
        bench.page.event = event;
        let memory = bench.machine.host.memory.0.clone();
        assert_eq!(bench.exit(), Resume::ENTER);
        assert_eq!((bench.page.rip, bench.page.event), (CODE, 0));
        assert!(bench.machine.host.memory.0 == memory);
    }
}

#[test]
fn a_task_that_returns_to_itself_finds_what_was_just_saved() {
    let mut bench = Bench::new(IRET, OLD_TASK);
    let one = Segment { selector: DATA, attributes: 0xc93, limit: u32::MAX, base: 0 };
    for index in [segment::ES, segment::SS, segment::DS, segment::FS, segment::GS] {
        bench.page.segments[index] = one;
    }
    bench.page.segments[segment::CS] = Segment { selector: RING0, attributes: 0xc9b, ..one };
    bench.exit();
    assert_eq!((bench.page.rip, bench.page.registers[gpr::RDI], bench.page.event), (CODE + 1, 0x1111_0007, 0));
}

/// Guest memory that takes so many more bytes: the service was killed there.
struct Dying {
    memory: Plain,
    left: usize,
}

impl GuestMemory for Dying {
    fn size(&self) -> u64 {
        self.memory.size()
    }
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        self.memory.read(address, bytes)
    }
    fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
        let count = bytes.len().min(self.left);
        self.left -= count;
        self.memory.write(address, &bytes[..count])
    }
}

#[test]
fn a_kill_in_any_byte_that_is_stored_changes_nothing_of_the_switch() {
    let cases: [(u64, u16, fn(&mut Bench)); 7] = [
        (CALL, NEW_TASK, |_| {}),
        (JUMP, NEW_TASK, paged),
        (IRET, NEW_TASK, |bench| bench.put(GDT + u64::from(NEW_TASK), &descriptor(NEW, 0x8b, 0x67))),
        (GATE, NEW_TASK, |bench| bench.page.event = exception(13, Some(0x42))),
        (GATE, HALF_TASK, |bench| bench.page.event = exception(13, Some(0x42))),
        (CALL, NEW_TASK, |bench| bench.selectors([DATA, RING0, DATA, BEYOND, 0, 0])),
        (IRET, OLD_TASK, |_| {}),
    ];
    for (source, selector, change) in cases {
        let fresh = || {
            let mut bench = Bench::new(source, selector);
            change(&mut bench);
            bench
        };
        let mut whole = fresh();
        whole.exit();
        let mut bytes = 0;
        loop {
            let mut bench = fresh();
            let mut lost = bench.page;
            let switch: Switch = bench.machine.switch_of(0, &mut lost).unwrap();
            let memory = Plain(core::mem::take(&mut bench.machine.host.memory.0));
            let mut dying = Dying { memory, left: bytes };
            let _ = switch.carry_out(&mut lost, &mut dying);
            *bench.machine.host.memory = dying.memory;
            bench.exit();
            assert!(bench.page.as_bytes() == whole.page.as_bytes(), "{source} {selector:#x}: {bytes}");
            assert!(bench.machine.host.memory.0 == whole.machine.host.memory.0, "{source} {selector:#x}: {bytes}");
            if dying.left > 0 {
                break;
            }
            bytes += 1;
        }
        assert!(bytes > 60 || selector == HALF_TASK && bytes > 28, "{source} {selector:#x}: {bytes}");
    }
}

#[test]
fn the_exceptions_of_a_switch_have_error_codes() {
    assert!([10, 11, 12, 13, 14].into_iter().all(has_error));
}
