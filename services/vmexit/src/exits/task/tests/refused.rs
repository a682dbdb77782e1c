//! Switches that fail: in the old task before anything is stored, in the new one after that.

use super::*;
use crate::exception::has_error;
use portcullis_ipc::exit::event::{exception, interrupt};

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
        assert_eq!(bench.page.dirty, group::EVENT | group::FLOW, "{source} {selector:#x}");
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
        let mut seen = selectors;
        seen[segment::CS] |= cpl as u16;
        assert_eq!((bench.selectors_now(), bench.page.segments[segment::LDTR].selector), (seen, ldt), "{what}");
        assert_eq!((bench.access(NEW_TASK), bench.page.cpl), (0x8b, cpl), "{what}");
        // A state that a processor enters: code, and its level on the stack and, for Bochs, in the selector.
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

#[test]
fn the_exceptions_of_a_switch_have_error_codes() {
    assert!([10, 11, 12, 13, 14].into_iter().all(has_error));
}
