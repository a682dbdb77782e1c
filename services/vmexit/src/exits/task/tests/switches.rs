//! What each kind of switch does to both tasks.

use super::{
    Bench, CALL, DATA, ENTRY, GATE, HALF, HALF_TASK, IRET, JUMP, LDT, NEW, NEW_TASK, OLD, OLD_TASK, PRIVATE, RING0,
    RING3, STACK, TABLE, USER,
};
use crate::tests::CODE;
use portcullis_ipc::exit::event::{NMI, SOFTWARE, TYPE_SHIFT, VALID, exception, interrupt};
use portcullis_ipc::exit::{Segment, gpr, group, segment, shadow};
use portcullis_ipc::syscall::Resume;

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
    bench.page.dr7 = 0x2402;
    bench.exit();
    bench.assert_entered();
    assert_eq!((bench.page.event, bench.page.dr6, bench.page.dr7), (exception(1, None), 1 << 15, 0x402));
    assert_eq!(bench.page.dirty & group::DEBUG, group::DEBUG);
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
