//! Interrupts, priorities and errors.

use super::{CLOCK, enabled, x2apic};
use crate::apic::lapic::Effect;

#[test]
fn an_interrupt_is_requested_then_in_service_then_ended() {
    let mut lapic = enabled();
    assert!(lapic.accept(0x51, false));
    assert_eq!((lapic.read(0x220, &CLOCK), lapic.pending()), (1 << 17, Some(0x51)));
    lapic.take(0x51);
    assert_eq!([lapic.read(0x220, &CLOCK), lapic.read(0x120, &CLOCK)], [0, 1 << 17]);
    assert_eq!((lapic.read(0xa0, &CLOCK), lapic.pending()), (0x50, None));
    assert_eq!(lapic.write(0xb0, 0, &CLOCK), Effect::None);
    assert_eq!((lapic.read(0x120, &CLOCK), lapic.read(0xa0, &CLOCK)), (0, 0));
    assert_eq!(lapic.write(0xb0, 0, &CLOCK), Effect::None);
}

#[test]
fn the_end_of_a_level_is_told_and_its_trigger_bit_follows_the_last_message() {
    let mut lapic = x2apic();
    lapic.accept(0x51, true);
    assert_eq!(lapic.read_msr(0x81a, &CLOCK), Ok(1 << 17));
    lapic.take(0x51);
    assert_eq!(lapic.write_msr(0x80b, 0, &CLOCK), Ok(Effect::EndOfInterrupt(0x51)));
    lapic.accept(0x51, false);
    assert_eq!(lapic.read_msr(0x81a, &CLOCK), Ok(0));
}

#[test]
fn what_is_deliverable_follows_the_priority_classes() {
    let table = [
        // Task priority, in service, requested, deliverable, processor priority.
        (0x00, None, 0x31, Some(0x31), 0x00),
        (0x30, None, 0x31, None, 0x30),
        (0x2f, None, 0x31, Some(0x31), 0x2f),
        (0x00, Some(0x35), 0x3f, None, 0x30),
        (0x00, Some(0x35), 0x41, Some(0x41), 0x30),
        (0x35, Some(0x31), 0x3f, None, 0x35),
        (0x25, Some(0x31), 0x3f, None, 0x30),
        (0x45, Some(0x31), 0x4f, None, 0x45),
    ];
    for (task, service, requested, deliverable, priority) in table {
        let mut lapic = enabled();
        lapic.write(0x80, task, &CLOCK);
        if let Some(vector) = service {
            lapic.take(vector);
        }
        lapic.accept(requested, false);
        assert_eq!(lapic.pending(), deliverable, "{task:#x} {service:x?} {requested:#x}");
        assert_eq!(lapic.read(0xa0, &CLOCK), priority);
    }
}

#[test]
fn interrupts_nest_and_end_from_the_highest() {
    let mut lapic = enabled();
    for vector in [0x31, 0x81, 0xf1] {
        lapic.accept(vector, true);
        assert_eq!(lapic.pending(), Some(vector));
        lapic.take(vector);
    }
    let ends: Vec<Effect> = (0..4).map(|_| lapic.write(0xb0, 0, &CLOCK)).collect();
    let end = Effect::EndOfInterrupt;
    assert_eq!(ends, [end(0xf1), end(0x81), end(0x31), Effect::None]);
}

#[test]
fn cr8_is_the_upper_half_of_the_task_priority() {
    let mut lapic = enabled();
    lapic.write(0x80, 0x47, &CLOCK);
    assert_eq!(lapic.cr8(), 4);
    lapic.set_cr8(9);
    assert_eq!(lapic.read(0x80, &CLOCK), 0x90);
}

#[test]
fn vectors_below_16_are_errors() {
    let mut lapic = enabled();
    lapic.write(0x370, 0xfe, &CLOCK);
    assert!(!lapic.accept(15, false));
    assert_eq!(lapic.pending(), Some(0xfe));
    assert_eq!(lapic.read(0x280, &CLOCK), 0);
    lapic.write(0x280, 0, &CLOCK);
    assert_eq!(lapic.read(0x280, &CLOCK), 0x40);
    assert!(matches!(lapic.write(0x300, 0x0f, &CLOCK), Effect::Send(_)));
    assert!(matches!(lapic.write(0x300, 0x400, &CLOCK), Effect::Send(_)));
    lapic.write(0x280, 0, &CLOCK);
    assert_eq!(lapic.read(0x280, &CLOCK), 0x20);
    let mut wide = x2apic();
    assert_eq!(wide.write_msr(0x83f, 3, &CLOCK), Ok(Effect::None));
    wide.write_msr(0x828, 0, &CLOCK).unwrap();
    assert_eq!(wide.read_msr(0x828, &CLOCK), Ok(0x60));
}

#[test]
fn an_error_interrupts_once_until_the_status_is_written() {
    let mut lapic = enabled();
    lapic.write(0x370, 0xfe, &CLOCK);
    lapic.read(0x40, &CLOCK);
    lapic.take(0xfe);
    lapic.write(0xb0, 0, &CLOCK);
    lapic.read(0x40, &CLOCK);
    assert_eq!(lapic.pending(), None);
    lapic.write(0x280, 0, &CLOCK);
    lapic.read(0x40, &CLOCK);
    assert_eq!(lapic.pending(), Some(0xfe));
}

#[test]
fn an_error_interrupt_with_a_reserved_vector_is_one_more_error() {
    let mut lapic = enabled();
    lapic.write(0x370, 0x0e, &CLOCK);
    lapic.read(0x40, &CLOCK);
    lapic.write(0x280, 0, &CLOCK);
    assert_eq!((lapic.read(0x280, &CLOCK), lapic.pending()), (0xc0, None));
}

#[test]
fn a_self_ipi_is_accepted_at_once() {
    let mut lapic = x2apic();
    assert_eq!(lapic.write_msr(0x83f, 0x77, &CLOCK), Ok(Effect::None));
    assert_eq!(lapic.pending(), Some(0x77));
}
