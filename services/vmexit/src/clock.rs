//! The CMOS clock at ports 0x70 and 0x71: the time, which cannot be set, and cells that hold 0. There are no
//! alarms and no interrupts, and an update never is in progress, because the time is computed when it
//! is read.

/// Seconds of a day.
const DAY: u64 = 86_400;
const NANOSECONDS: u64 = 1_000_000_000;

/// Cells.
mod cell {
    pub const SECOND: u8 = 0x00;
    pub const MINUTE: u8 = 0x02;
    pub const HOUR: u8 = 0x04;
    pub const WEEKDAY: u8 = 0x06;
    pub const DAY: u8 = 0x07;
    pub const MONTH: u8 = 0x08;
    pub const YEAR: u8 = 0x09;
    pub const STATUS_A: u8 = 0x0a;
    pub const STATUS_B: u8 = 0x0b;
    pub const STATUS_D: u8 = 0x0d;
    pub const CENTURY: u8 = 0x32;
}

/// 32,768 Hz, 1,024 Hz, no update in progress.
const STATUS_A: u8 = 0x26;
/// 24 hours, BCD.
const STATUS_B: u8 = 0x02;
/// The battery is good.
const STATUS_D: u8 = 0x80;

fn bcd(value: u64) -> u8 {
    (value / 10 % 10 * 16 + value % 10) as u8
}

/// Year, month and day of a day since 1970-01-01: the year is counted from March, so that its odd day comes
/// last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + carry, month, day)
}

/// The cell `index` at `now`, nanoseconds since 1970.
pub fn read(index: u8, now: u64) -> u8 {
    let seconds = now / NANOSECONDS;
    let (days, second) = (seconds / DAY, seconds % DAY);
    let (year, month, day) = date(days);
    match index & 0x7f {
        cell::SECOND => bcd(second % 60),
        cell::MINUTE => bcd(second / 60 % 60),
        cell::HOUR => bcd(second / 3_600),
        // 1970-01-01 was a Thursday; Sunday is 1.
        cell::WEEKDAY => bcd((days + 4) % 7 + 1),
        cell::DAY => bcd(day),
        cell::MONTH => bcd(month),
        cell::YEAR => bcd(year % 100),
        cell::CENTURY => bcd(year / 100),
        cell::STATUS_A => STATUS_A,
        cell::STATUS_B => STATUS_B,
        cell::STATUS_D => STATUS_D,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_read_as_their_dates() {
        // Century, year, month, day, weekday, hour, minute, second.
        let table: [(u64, [u8; 8]); 6] = [
            (0, [0x19, 0x70, 1, 1, 5, 0, 0, 0]),
            (951_782_399, [0x20, 0x00, 2, 0x28, 2, 0x23, 0x59, 0x59]),
            (951_782_400, [0x20, 0x00, 2, 0x29, 3, 0, 0, 0]),
            (1_735_689_599, [0x20, 0x24, 0x12, 0x31, 3, 0x23, 0x59, 0x59]),
            (1_763_783_825, [0x20, 0x25, 0x11, 0x22, 7, 3, 0x57, 5]),
            (4_107_542_400, [0x21, 0x00, 3, 1, 2, 0, 0, 0]),
        ];
        for (seconds, expected) in table {
            let now = seconds * NANOSECONDS + 999_999_999;
            let found = [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| read(index, now));
            assert_eq!(found, expected, "{seconds}");
        }
    }

    #[test]
    fn status_registers_say_valid_binary_coded_and_never_in_update() {
        let found = [0xa, 0xb, 0xc, 0xd, 1, 0x0e, 0x7f, 0x8a].map(|index| read(index, 1 << 60));
        assert_eq!(found, [0x26, 2, 0, 0x80, 0, 0, 0, 0x26]);
    }

    /// Each day follows the one before.
    #[test]
    fn dates_go_on_day_by_day_for_four_centuries() {
        let mut before = date(0);
        for days in 1..146_097 {
            let now = date(days);
            let (year, month, day) = now;
            let next = (year, month, day) == (before.0, before.1, before.2 + 1)
                || day == 1 && (year, month) == (before.0, before.1 + 1)
                || (month, day) == (1, 1) && year == before.0 + 1 && (before.1, before.2) == (12, 31);
            assert!(next && day <= 31, "{before:?} then {now:?}");
            before = now;
        }
        assert_eq!(before, (2369, 12, 31));
    }
}
