//! The wall clock, from the platform page and the time-stamp counter, in whole numbers.

use portcullis_ipc::platform::PlatformPage;

const NANOSECONDS: u64 = 1_000_000_000;

/// A time, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wall {
    /// Seconds since 1970.
    pub seconds: u64,
    /// Microseconds of the second.
    pub microseconds: u32,
}

/// The time at counter value `tsc`; `None` while nobody has set the clock.
pub fn wall(platform: &PlatformPage, tsc: u64) -> Option<Wall> {
    if platform.wall_ns == 0 || platform.tsc_hz == 0 {
        return None;
    }
    let ticks = tsc.saturating_sub(platform.wall_tsc);
    let (seconds, rest) = (ticks / platform.tsc_hz, ticks % platform.tsc_hz);
    // The rest of a second at up to 18 GHz.
    let nanoseconds = rest.checked_mul(NANOSECONDS)? / platform.tsc_hz + platform.wall_ns % NANOSECONDS;
    Some(Wall {
        seconds: seconds + platform.wall_ns / NANOSECONDS + nanoseconds / NANOSECONDS,
        microseconds: (nanoseconds % NANOSECONDS / 1_000) as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn the_time_goes_on_with_the_counter_from_where_it_was_set() {
        let mut page = PlatformPage::new_zeroed();
        page.tsc_hz = 3_000_000_001;
        assert_eq!(wall(&page, 5), None);
        (page.wall_ns, page.wall_tsc) = (1_700_000_000_999_999_000, 1_000);
        let at = |tsc| wall(&page, tsc).map(|wall| (wall.seconds, wall.microseconds));
        assert_eq!(at(1_000), Some((1_700_000_000, 999_999)));
        assert_eq!(at(0), Some((1_700_000_000, 999_999)));
        assert_eq!(at(1_000 + 3_001), Some((1_700_000_001, 0)));
        assert_eq!(at(1_000 + 3_000_000_001 * 86_400), Some((1_700_086_400, 999_999)));
        assert!(at(u64::MAX).is_some());
    }
}
