//! Where a VM's memory lies in its guest-physical addresses: below 3 GiB, and what is more from 4 GiB on. Between them
//! are the registers of devices, as on the machines of VMware and of QEMU.

use core::ops::Range;

/// End (exclusive) of the memory below 4 GiB, at most.
pub const LOW_END: u64 = 3 << 30;
/// Where the rest begins.
pub const HIGH: u64 = 4 << 30;
/// Memory of a VM at most, bytes.
pub const MOST: u64 = 64 << 30;

/// The layout of one VM's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ram {
    /// End (exclusive) of the memory below 4 GiB.
    pub low_end: u64,
    /// End (exclusive) of the rest; [`HIGH`] where there is none.
    pub high_end: u64,
}

impl Ram {
    /// The layout of so many bytes; more than [`MOST`] is for the caller to refuse.
    pub const fn new(bytes: u64) -> Self {
        let high = bytes.saturating_sub(LOW_END);
        Self { low_end: bytes.wrapping_sub(high), high_end: HIGH.saturating_add(high) }
    }

    /// The pieces that are not empty, lowest first.
    pub fn pieces(self) -> impl Iterator<Item = Range<u64>> {
        [0..self.low_end, HIGH..self.high_end].into_iter().filter(|piece| !piece.is_empty())
    }

    /// Whether the `length` bytes from `address` on are all memory, in one piece.
    #[inline]
    pub const fn holds(self, address: u64, length: u64) -> bool {
        let end = address.saturating_add(length);
        end <= self.low_end || (address >= HIGH && end <= self.high_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const M: u64 = 1 << 20;
    const G: u64 = 1 << 30;

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "a list of pieces with one piece")]
    fn memory_ends_at_three_gib_and_goes_on_at_four() {
        let table: [(u64, &[(u64, u64)]); 7] = [
            (0, &[]),
            (3 * G - 2 * M, &[(0, 3 * G - 2 * M)]),
            (3 * G, &[(0, 3 * G)]),
            (3 * G + 2 * M, &[(0, 3 * G), (4 * G, 4 * G + 2 * M)]),
            (3 * G + 512 * M, &[(0, 3 * G), (4 * G, 4 * G + 512 * M)]),
            (8 * G, &[(0, 3 * G), (4 * G, 9 * G)]),
            (MOST, &[(0, 3 * G), (4 * G, 65 * G)]),
        ];
        for (bytes, pieces) in table {
            let found: Vec<_> = Ram::new(bytes).pieces().map(|piece| (piece.start, piece.end)).collect();
            assert_eq!(found, pieces, "{bytes:#x}");
        }
    }

    #[test]
    fn no_access_reaches_into_the_hole() {
        let ram = Ram::new(3 * G + 2 * M);
        let table = [
            (0, 1, true),
            (3 * G - 1, 1, true),
            (3 * G - 1, 2, false),
            (3 * G, 1, false),
            (4 * G - 1, 1, false),
            (4 * G - 1, 2, false),
            (3 * G - 1, G + 2, false),
            (4 * G, 2 * M, true),
            (4 * G, 2 * M + 1, false),
            (4 * G + 2 * M, 1, false),
            (u64::MAX, 1, false),
            (u64::MAX, 2, false),
            (0, u64::MAX, false),
        ];
        for (address, length, held) in table {
            assert_eq!(ram.holds(address, length), held, "{address:#x}+{length:#x}");
        }
        assert!(!Ram::new(2 * M).holds(4 * G, 1), "a small machine has nothing there");
    }

    proptest! {
        /// Near the edges, and by the pieces: `holds` says the same.
        #[test]
        fn what_is_held_lies_in_one_piece(
            bytes in prop_oneof![0..=MOST, 3 * G - 8..3 * G + 8],
            edge in prop::sample::select(vec![0, 3 * G, 4 * G, 9 * G, 65 * G]),
            back in 0..64_u64,
            length in 1..128_u64,
        ) {
            let (ram, address) = (Ram::new(bytes), u64::saturating_sub(edge, back));
            let inside = ram.pieces().any(|piece| piece.contains(&address) && length <= piece.end - address);
            prop_assert_eq!(ram.holds(address, length), inside);
            prop_assert_eq!(ram.pieces().map(|piece| piece.end - piece.start).sum::<u64>(), bytes);
        }
    }
}
