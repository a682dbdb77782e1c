//! The timer in its three modes. One step of the count is 4 ns times the divider.

use super::{CLOCK, at, enabled};
use crate::apic::lapic::{Clock, Effect, Lapic};
use proptest::prelude::*;

const START: u64 = CLOCK.now;
const DIVIDE_BY_1: u32 = 0xb;
const DIVIDE_BY_16: u32 = 3;

/// An enabled APIC whose timer has entry `entry` and divider `divide`.
fn timer(entry: u32, divide: u32) -> Lapic {
    let mut lapic = enabled();
    lapic.write(0x320, entry, &CLOCK);
    lapic.write(0x3e0, divide, &CLOCK);
    lapic
}

#[test]
fn the_divider_has_its_codes() {
    for (code, divider) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
        let mut lapic = timer(0x31, code);
        lapic.write(0x380, 1000, &CLOCK);
        assert_eq!(lapic.deadline(&CLOCK), Some(START + 4000 * divider), "{code}");
    }
}

#[test]
fn a_one_shot_counts_down_interrupts_once_and_stays_at_0() {
    let mut lapic = timer(0x31, DIVIDE_BY_16);
    assert_eq!(lapic.write(0x380, 100, &CLOCK), Effect::Timer);
    for (later, count) in [(0, 100), (63, 100), (64, 99), (6399, 1), (6400, 0), (1 << 40, 0)] {
        assert_eq!(lapic.read(0x390, &at(START + later)), count, "{later}");
    }
    assert_eq!(lapic.deadline(&CLOCK), Some(START + 6400));
    assert_eq!((lapic.expire(&at(START + 6399)), lapic.pending()), (false, None));
    assert_eq!((lapic.expire(&at(START + 6400)), lapic.pending()), (true, Some(0x31)));
    lapic.take(0x31);
    assert_eq!((lapic.expire(&at(START + 9000)), lapic.pending()), (false, None));
    assert_eq!((lapic.deadline(&CLOCK), lapic.read(0x390, &CLOCK)), (None, 0));
}

#[test]
fn a_period_comes_again_without_drift_and_missed_ones_come_together() {
    let mut lapic = timer(0x2_0031, DIVIDE_BY_16);
    lapic.write(0x380, 10_000, &CLOCK);
    let period = 640_000;
    assert_eq!(lapic.read(0x390, &at(START + period / 4)), 7500);
    for round in 1..=5 {
        let due = START + round * period;
        assert_eq!(lapic.deadline(&CLOCK), Some(due));
        assert!(lapic.expire(&at(due + 77)));
        assert_eq!(lapic.read(0x390, &at(due)), 10_000);
        lapic.take(0x31);
    }
    assert!(lapic.expire(&at(START + 9 * period + 1)));
    assert!(!lapic.expire(&at(START + 9 * period + 1)));
    assert_eq!(lapic.deadline(&CLOCK), Some(START + 10 * period));
}

#[test]
fn a_period_too_short_for_an_interrupt_each_interrupts_at_a_bounded_rate() {
    let mut lapic = timer(0x2_0031, DIVIDE_BY_1);
    lapic.write(0x380, 1, &CLOCK);
    assert_eq!(lapic.deadline(&CLOCK), Some(START + 100_000));
    lapic.write(0x380, 10_000, &CLOCK);
    assert_eq!(lapic.deadline(&CLOCK), Some(START + 120_000));
}

#[test]
fn a_deadline_is_in_the_guests_time_and_ends_with_its_interrupt() {
    let mut lapic = timer(0x4_0031, DIVIDE_BY_1);
    let guest = START + CLOCK.offset;
    assert_eq!(lapic.write_msr(0x6e0, guest + 500, &CLOCK), Ok(Effect::Timer));
    assert_eq!(lapic.read_msr(0x6e0, &CLOCK), Ok(guest + 500));
    assert_eq!(lapic.deadline(&CLOCK), Some(START + 500));
    assert!(!lapic.expire(&at(START + 499)));
    assert!(lapic.expire(&at(START + 500)));
    assert_eq!((lapic.pending(), lapic.read_msr(0x6e0, &CLOCK), lapic.deadline(&CLOCK)), (Some(0x31), Ok(0), None));
    lapic.take(0x31);
    lapic.write(0xb0, 0, &CLOCK);
    lapic.write_msr(0x6e0, guest - 1, &CLOCK).unwrap();
    assert_eq!((lapic.pending(), lapic.deadline(&CLOCK)), (Some(0x31), None));
}

#[test]
fn a_guest_behind_the_host_has_its_deadline_too() {
    let behind = Clock { offset: (START - 100).wrapping_neg(), ..CLOCK };
    let mut lapic = timer(0x4_0031, DIVIDE_BY_1);
    lapic.write_msr(0x6e0, 150, &behind).unwrap();
    assert_eq!(lapic.deadline(&behind), Some(START + 50));
}

#[test]
fn writing_0_disarms() {
    let mut lapic = timer(0x4_0031, DIVIDE_BY_1);
    lapic.write_msr(0x6e0, u64::MAX, &CLOCK).unwrap();
    assert!(lapic.deadline(&CLOCK).is_some());
    lapic.write_msr(0x6e0, 0, &CLOCK).unwrap();
    assert_eq!(lapic.deadline(&CLOCK), None);
    let mut counting = timer(0x31, DIVIDE_BY_1);
    counting.write(0x380, 100, &CLOCK);
    counting.write(0x380, 0, &CLOCK);
    assert_eq!((counting.deadline(&CLOCK), counting.read(0x390, &CLOCK)), (None, 0));
}

#[test]
fn each_mode_ignores_the_registers_of_the_other() {
    let mut lapic = timer(0x4_0031, DIVIDE_BY_1);
    assert_eq!(lapic.write(0x380, 100, &CLOCK), Effect::None);
    assert_eq!((lapic.read(0x380, &CLOCK), lapic.read(0x390, &CLOCK)), (0, 0));
    let mut counting = timer(0x31, DIVIDE_BY_1);
    counting.write_msr(0x6e0, START, &CLOCK).unwrap();
    assert_eq!(counting.read_msr(0x6e0, &CLOCK), Ok(0));
}

#[test]
fn a_change_between_counting_and_deadline_stops_what_ran() {
    let mut lapic = timer(0x31, DIVIDE_BY_1);
    lapic.write(0x380, 100, &CLOCK);
    lapic.write(0x320, 0x2_0031, &CLOCK);
    assert!(lapic.deadline(&CLOCK).is_some());
    for mode in [0x4_0031, 0x6_0031] {
        let mut stopped = lapic;
        stopped.write(0x320, mode, &CLOCK);
        assert_eq!((stopped.deadline(&CLOCK), stopped.read(0x390, &CLOCK)), (None, 0));
        stopped.write(0x320, 0x31, &CLOCK);
        assert_eq!(stopped.deadline(&CLOCK), None);
    }
}

#[test]
fn a_masked_timer_counts_without_interrupting_and_what_it_missed_does_not_come_later() {
    for entry in [0x31, 0x2_0031] {
        let mut lapic = timer(0x1_0000 | entry, DIVIDE_BY_1);
        lapic.write(0x380, 1_000_000, &CLOCK);
        assert_eq!(lapic.deadline(&CLOCK), None);
        assert_eq!(lapic.read(0x390, &at(START + 400)), 999_900);
        let late = at(START + 4_000_400);
        lapic.write(0x320, entry, &late);
        assert_eq!(lapic.pending(), None);
        lapic.expire(&late);
        assert_eq!(lapic.pending(), None);
        assert_eq!(lapic.deadline(&late).is_some(), entry != 0x31);
    }
}

#[test]
fn what_was_due_interrupts_by_the_entry_it_was_due_under() {
    let mut lapic = timer(0x31, DIVIDE_BY_1);
    lapic.write(0x380, 100, &CLOCK);
    lapic.write(0x320, 0x1_0031, &at(START + 400));
    assert_eq!(lapic.pending(), Some(0x31));
}

#[test]
fn a_change_of_the_divider_goes_on_from_the_count() {
    let mut lapic = timer(0x31, DIVIDE_BY_16);
    lapic.write(0x380, 1000, &CLOCK);
    let later = at(START + 64 * 400);
    lapic.write(0x3e0, DIVIDE_BY_1, &later);
    assert_eq!(lapic.read(0x390, &later), 600);
    assert_eq!(lapic.deadline(&later), Some(later.now + 2400));
}

proptest! {
    #[test]
    fn the_deadline_is_the_first_tick_at_which_the_timer_expires(
        initial in 1u32.., code in 0u32..16, now in 0u64..1 << 50, tsc_hz in 1_000_000u64..6_000_000_000,
        lapic_hz in 1_000_000u64..2_000_000_000
    ) {
        let clock = Clock { now, offset: 0, tsc_hz, lapic_hz };
        let mut lapic = enabled();
        lapic.write(0x320, 0x31, &clock);
        lapic.write(0x3e0, code, &clock);
        lapic.write(0x380, initial, &clock);
        let due = lapic.deadline(&clock).unwrap();
        prop_assert!(due > now);
        prop_assert_eq!(lapic.read(0x390, &clock), initial);
        let (just_before, then) = (Clock { now: due - 1, ..clock }, Clock { now: due, ..clock });
        prop_assert!(lapic.read(0x390, &just_before) > 0);
        let mut early = lapic;
        prop_assert!(!early.expire(&just_before));
        prop_assert!(lapic.expire(&then));
    }

    #[test]
    fn a_period_that_is_looked_at_at_any_time_never_loses_its_place(
        initial in 1u32..1 << 20, looks in prop::collection::vec(1u64..1 << 32, 1..50)
    ) {
        let mut lapic = timer(0x2_0031, DIVIDE_BY_1);
        lapic.write(0x380, initial, &CLOCK);
        let mut now = START;
        for look in looks {
            now += look;
            lapic.expire(&at(now));
            // 4 ns a step: no rounding, so the place in the period is exact.
            let place = (now - START) / 4 % u64::from(initial);
            prop_assert_eq!(u64::from(lapic.read(0x390, &at(now))), u64::from(initial) - place);
        }
    }
}
