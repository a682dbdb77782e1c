//! The host's CMOS clock (MC146818 and its kin): read once, when the machine starts, to know what time it is.

/// Access to the clock's registers by index.
pub trait Cmos {
    /// Reads a register.
    fn read(&self, index: u8) -> u8;
}

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
/// Where firmware keeps the century on every PC that has one.
const CENTURY: u8 = 0x32;

/// Status A: the registers are being counted up.
const UPDATING: u8 = 1 << 7;
/// Status B: values are binary, else BCD.
const BINARY: u8 = 1 << 2;
/// Status B: hours go to 23, else to 12 with [`AFTERNOON`].
const WHOLE_DAY: u8 = 1 << 1;
/// Hours: the second half of the day.
const AFTERNOON: u8 = 1 << 7;

/// Looks before a clock that is always being updated is given up: an update takes 2 ms, a look some
/// microseconds.
const LOOKS: u32 = 20_000;

/// The registers at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Raw {
    seconds: u8,
    minutes: u8,
    hours: u8,
    day: u8,
    month: u8,
    year: u8,
    century: u8,
    status: u8,
}

/// Seconds since 1970 UTC as the clock says; `None` when it says no time. The clock is taken to run in UTC.
pub fn seconds(cmos: &impl Cmos) -> Option<u64> {
    let mut looks = 0..LOOKS;
    loop {
        looks.next()?;
        if cmos.read(STATUS_A) & UPDATING == 0 {
            // The same twice: no update came in between.
            let raw = registers(cmos);
            if cmos.read(STATUS_A) & UPDATING == 0 && registers(cmos) == raw {
                return decode(&raw);
            }
        }
    }
}

fn registers(cmos: &impl Cmos) -> Raw {
    Raw {
        seconds: cmos.read(SECONDS),
        minutes: cmos.read(MINUTES),
        hours: cmos.read(HOURS),
        day: cmos.read(DAY),
        month: cmos.read(MONTH),
        year: cmos.read(YEAR),
        century: cmos.read(CENTURY),
        status: cmos.read(STATUS_B),
    }
}

/// A register's value, when it lies between `least` and `most`.
fn value(raw: u8, binary: bool, least: u64, most: u64) -> Option<u64> {
    let number = match (binary, raw >> 4, raw & 0xf) {
        (true, ..) => raw,
        (false, tens @ 0..=9, ones @ 0..=9) => tens * 10 + ones,
        _ => return None,
    };
    Some(u64::from(number)).filter(|number| (least..=most).contains(number))
}

fn decode(raw: &Raw) -> Option<u64> {
    let binary = raw.status & BINARY != 0;
    let hours = if raw.status & WHOLE_DAY != 0 {
        value(raw.hours, binary, 0, 23)?
    } else {
        let afternoon = if raw.hours & AFTERNOON != 0 { 12 } else { 0 };
        value(raw.hours & !AFTERNOON, binary, 1, 12)? % 12 + afternoon
    };
    let of_century = value(raw.year, binary, 0, 99)?;
    let century = match value(raw.century, binary, 19, 29) {
        Some(century) => century,
        // Firmware without the register: two digits that began with the PC.
        None if of_century >= 80 => 19,
        None => 20,
    };
    let (year, month) = (century * 100 + of_century, value(raw.month, binary, 1, 12)?);
    let day = value(raw.day, binary, 1, days_of(year, month))?;
    let minutes = value(raw.minutes, binary, 0, 59)?;
    let seconds = value(raw.seconds, binary, 0, 59)?;
    let days = days_since_1970(year, month, day)?;
    Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date that is not before it.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let years: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let months: u64 = (1..month).map(|month| days_of(year, month)).sum();
    (year >= 1970).then_some(years + months + day - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    /// 2026-11-22 03:37:22 UTC.
    const RAW: Raw = Raw {
        seconds: 0x22,
        minutes: 0x37,
        hours: 0x03,
        day: 0x22,
        month: 0x11,
        year: 0x26,
        century: 0x20,
        status: WHOLE_DAY,
    };
    const TIME: u64 = 1_795_318_642;

    #[test]
    fn both_number_forms_and_both_day_forms_give_the_same_time() {
        assert_eq!(decode(&RAW), Some(TIME));
        let binary = Raw {
            seconds: 22,
            minutes: 37,
            hours: 3,
            day: 22,
            month: 11,
            year: 26,
            century: 20,
            status: WHOLE_DAY | BINARY,
        };
        assert_eq!(decode(&binary), Some(TIME));
        assert_eq!(decode(&Raw { status: 0, ..RAW }), Some(TIME));
        let half_day = 12 * 3600;
        assert_eq!(decode(&Raw { status: 0, hours: 0x83, ..RAW }), Some(TIME + half_day));
        // Twelve is the first hour of its half.
        let midnight = TIME - 3 * 3600;
        assert_eq!(decode(&Raw { status: 0, hours: 0x12, ..RAW }), Some(midnight));
        assert_eq!(decode(&Raw { status: 0, hours: 0x92, ..RAW }), Some(midnight + half_day));
        assert_eq!(decode(&Raw { hours: 140, status: BINARY, ..binary }), Some(midnight + half_day));
    }

    #[test]
    fn the_century_is_the_registers_or_a_guess() {
        let year = |year, century| decode(&Raw { year, century, day: 1, month: 1, ..RAW }).map(|time| time / 86_400);
        assert_eq!(year(0x70, 0x19), Some(0));
        assert_eq!(year(0x00, 0x20), year(0x00, 0xff));
        assert_eq!(year(0x99, 0x19), year(0x99, 0x00));
        assert_eq!(year(0x69, 0x19), None);
        // 2100 is not a leap year.
        assert_eq!(decode(&Raw { year: 0x00, century: 0x21, month: 0x02, day: 0x29, ..RAW }), None);
    }

    #[test]
    fn what_is_no_date_is_no_time() {
        let day = |month, day| decode(&Raw { month, day, ..RAW });
        assert!(day(0x02, 0x28).is_some());
        for (month, number) in [(0x02, 0x29), (0x04, 0x31), (0x13, 0x01), (0x00, 0x01), (0x01, 0x00), (0x01, 0x3a)] {
            assert_eq!(day(month, number), None, "{month:x} {number:x}");
        }
        assert_eq!(decode(&Raw { hours: 0x24, ..RAW }), None);
        assert_eq!(decode(&Raw { hours: 0x13, status: 0, ..RAW }), None);
        assert_eq!(decode(&Raw { seconds: 0x60, ..RAW }), None);
    }

    /// A clock that is updated between two looks at it.
    struct Clock {
        looks: Cell<u32>,
        update_at: u32,
        busy: bool,
    }

    impl Cmos for Clock {
        fn read(&self, index: u8) -> u8 {
            self.looks.set(self.looks.get() + 1);
            let seconds = if self.looks.get() > self.update_at { 0x23 } else { 0x22 };
            match index {
                SECONDS => seconds,
                STATUS_A => {
                    if self.busy || self.looks.get() == self.update_at {
                        UPDATING
                    } else {
                        0
                    }
                }
                MINUTES => RAW.minutes,
                HOURS => RAW.hours,
                DAY => RAW.day,
                MONTH => RAW.month,
                YEAR => RAW.year,
                CENTURY => RAW.century,
                _ => RAW.status,
            }
        }
    }

    #[test]
    fn a_clock_that_moves_while_it_is_read_is_read_again() {
        for update_at in 0..40 {
            let clock = Clock { looks: Cell::new(0), update_at, busy: false };
            let time = seconds(&clock).unwrap();
            assert!(time == TIME || time == TIME + 1, "{update_at}: {time}");
        }
    }

    #[test]
    fn a_clock_that_is_never_ready_is_given_up() {
        assert_eq!(seconds(&Clock { looks: Cell::new(0), update_at: 0, busy: true }), None);
    }

    proptest! {
        #[test]
        fn any_registers_are_a_time_or_none(bytes: [u8; 8]) {
            let [seconds, minutes, hours, day, month, year, century, status] = bytes;
            let raw = Raw { seconds, minutes, hours, day, month, year, century, status };
            prop_assert!(decode(&raw).is_none_or(|time| time < 1 << 40));
        }
    }
}
