//! Ports and model-specific registers that a partition may be given: lists of what is allowed. By any other a holder could
//! take over the machine, write memory, stop the clock or undo a mitigation. The builder refuses a manifest that names
//! another, and the core an image.

/// First and last number of a range.
pub type Range = (u64, u64);

/// Ports: CMOS clock, the emulators' exit port, and the serial lines COM4, COM2, COM3, COM1.
pub const PORTS: [Range; 6] =
    [(0x70, 0x71), (0xf4, 0xf4), (0x2e8, 0x2ef), (0x2f8, 0x2ff), (0x3e8, 0x3ef), (0x3f8, 0x3ff)];

/// Registers, for reading only: MPERF and APERF, PERF_STATUS, thermal state of core and package, energy units and counters
/// of Intel's and of AMD's.
pub const MSRS: [Range; 11] = [
    (0xe7, 0xe8),
    (0x198, 0x198),
    (0x19c, 0x19c),
    (0x1a2, 0x1a2),
    (0x1b1, 0x1b1),
    (0x606, 0x606),
    (0x611, 0x611),
    (0x619, 0x619),
    (0x639, 0x639),
    (0x641, 0x641),
    (0xc001_0299, 0xc001_029b),
];

/// The `count` numbers from `first` lie in one range of `list`, and there are some.
pub fn within(list: &[Range], first: u64, count: u64) -> bool {
    let last = first.saturating_add(count.wrapping_sub(1));
    first <= last && list.iter().any(|range| range.0 <= first && last <= range.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_allowed_only_as_a_whole() {
        for (first, count) in [(0x3f8, 8), (0x3ff, 1), (0x70, 2), (0xf4, 1), (0x2e8, 3)] {
            assert!(within(&PORTS, first, count), "{first:#x}+{count:#x}");
        }
        for (first, count) in [
            (0x3f7, 8),
            (0x3f8, 9),
            (0x3f8, 0),
            (0x20, 2),
            (0x40, 4),
            (0x61, 1),
            (0x64, 1),
            (0x92, 1),
            (0xb2, 1),
            (0xcf8, 8),
            (0x400, 4),
            (0x1804, 2),
            (0x5658, 1),
            (0xc000, 64),
            (0, u64::MAX),
            (u64::MAX, 1),
        ] {
            assert!(!within(&PORTS, first, count), "{first:#x}+{count:#x}");
        }
    }

    #[test]
    fn no_register_that_changes_anything_is_allowed() {
        let changing = [
            0x10,
            0x1b,
            0x1c,
            0x33,
            0x3a,
            0x48,
            0x79,
            0x122,
            0x123,
            0x140,
            0x150,
            0x174,
            0x186,
            0x199,
            0x1a0,
            0x1c4,
            0x1d9,
            0x277,
            0x38f,
            0x3f1,
            0x400,
            0x570,
            0x600,
            0x610,
            0x680,
            0x6a0,
            0x6e0,
            0x6e1,
            0x770,
            0x808,
            0x985,
            0xc8f,
            0xd93,
            0xda0,
            0x14ce,
            0xc000_0080,
            0xc000_0102,
            0xc000_010f,
            0xc000_0302,
            0xc000_2000,
            0xc001_0114,
            0xc001_1029,
        ];
        for number in changing {
            assert!(!within(&MSRS, number, 1), "{number:#x}");
        }
        assert!(within(&MSRS, 0xe7, 2) && !within(&MSRS, 0xe7, 3) && within(&MSRS, 0xc001_029b, 1));
    }

    #[test]
    fn ranges_stand_in_order() {
        let sorted = |list: &[Range]| list.is_sorted_by(|one, next| one.0 <= one.1 && one.1 < next.0);
        assert!(sorted(&PORTS) && sorted(&MSRS));
    }
}
