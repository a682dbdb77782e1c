//! Where things lie in guest memory, and what it holds at the start: every piece is claimed before anything is written, so
//! that a guest that does not fit leaves memory as it was.

use super::error::Error;
use super::map::{Kind, Map, reaching};
use crate::memory::GuestMemory;
use arrayvec::ArrayVec;
use core::fmt;
use portcullis_ipc::ram::{self, Ram};

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A segment of the kernel.
    Kernel,
    /// The initial RAM disk.
    Initrd,
    /// The command line.
    CommandLine,
    /// Start info, zero page, multiboot information, descriptors, memory map.
    BootData,
}

impl fmt::Display for What {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::CommandLine => "command line",
            Self::BootData => "boot data",
        })
    }
}

/// Pieces at most: the kernel's segments and the loader's own.
const PIECES: usize = super::error::SEGMENTS + 4;
const PAGE: u64 = 0x1000;

/// The plan of guest memory.
pub struct Space {
    map: Map,
    taken: ArrayVec<(u64, u64, What), PIECES>,
}

impl Space {
    /// Nothing claimed yet.
    pub fn new(map: Map) -> Self {
        Self { map, taken: ArrayVec::new() }
    }

    /// The memory map.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// Where RAM ends below `limit`, with a range that it may cut.
    pub fn ram_end(&self, limit: u64) -> u64 {
        let ram = self.map.iter().filter(|range| range.kind == Kind::Ram && range.start < limit);
        ram.map(|range| range.end.min(limit)).fold(0, u64::max)
    }

    /// Whether `start` to `end` is RAM and free.
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        self.is_ram(start, end) && self.holder(start, end).is_none()
    }

    fn is_ram(&self, start: u64, end: u64) -> bool {
        let mut ram = self.map.iter().filter(|range| range.kind == Kind::Ram);
        start <= end && ram.any(|range| range.start <= start && end <= range.end)
    }

    fn holder(&self, start: u64, end: u64) -> Option<What> {
        let taken = self.taken.iter().find(|(other, other_end, _)| *other < end && start < *other_end);
        taken.map(|(_, _, what)| *what)
    }

    /// The lowest address from which everything up to `end` is free; `end` when nothing is.
    fn free_below(&self, end: u64) -> u64 {
        let mut ram = self.map.iter().filter(|range| range.kind == Kind::Ram);
        let Some(range) = ram.find(|range| range.start < end && end <= range.end) else { return end };
        let below = self.taken.iter().filter(|(start, _, _)| *start < end);
        below.map(|(_, taken, _)| (*taken).min(end)).fold(range.start, u64::max)
    }

    /// Claims `bytes` from `start`.
    pub fn claim(&mut self, start: u64, bytes: u64, what: What) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        let end = start.checked_add(bytes).ok_or(Error::Corrupt("an address range wraps"))?;
        if !self.is_ram(start, end) {
            // Beyond the end more memory helps; in the holes below 1 MiB and 4 GiB nothing does.
            let ram_end = self.ram_end(u64::MAX);
            let could = Ram::new(ram::MOST).holds(start, bytes);
            let beyond = end > ram_end && could && (start >= super::map::HIGH || self.is_ram(start, start));
            let [needed, have] = [end, ram_end].map(reaching);
            return Err(if beyond { Error::Memory { needed, have } } else { Error::NotRam(what, start, end) });
        }
        if let Some(other) = self.holder(start, end) {
            return Err(Error::Overlap(what, other, start, end));
        }
        self.taken.try_push((start, end, what)).map_err(|_| Error::Segments { found: PIECES })
    }

    /// Claims the highest free pages that hold `bytes` and end below `limit`; returns their address.
    pub fn claim_top(&mut self, bytes: u64, limit: u64, what: What) -> Result<u64, Error> {
        let (mut room, mut best) = (0, None);
        // A free stretch ends at the end of RAM or where a piece begins, and begins likewise.
        let ends = self.map.iter().map(|range| range.end).chain(self.taken.iter().map(|(start, _, _)| *start));
        for end in ends.map(|end| end.min(limit) & !(PAGE - 1)) {
            let floor = self.free_below(end).next_multiple_of(PAGE);
            let free = end.saturating_sub(floor);
            room = room.max(free);
            if free >= bytes {
                best = best.max(Some((end - bytes) & !(PAGE - 1)));
            }
        }
        let start = best.ok_or(Error::Initrd { bytes, room })?;
        self.claim(start, bytes, what)?;
        Ok(start)
    }
}

/// Writes what the loader itself says to the guest. Its place was claimed, so that this fails only where guest memory
/// and its map disagree.
pub fn put(memory: &mut impl GuestMemory, address: u64, bytes: &[u8]) -> Result<(), Error> {
    let needed = address.saturating_add(bytes.len() as u64);
    if memory.write(address, bytes) { Ok(()) } else { Err(Error::Memory { needed, have: memory.size() }) }
}

/// What the files of a guest bring, and where it goes.
#[derive(Default)]
pub struct Contents<'a>(ArrayVec<(u64, &'a [u8]), { super::error::SEGMENTS + 1 }>);

impl<'a> Contents<'a> {
    /// With one more piece; pieces do not overlap.
    pub fn with(mut self, address: u64, bytes: &'a [u8]) -> Result<Self, Error> {
        self.0.try_push((address, bytes)).map_err(|_| Error::Segments { found: self.0.len() })?;
        Ok(self)
    }

    /// Gives every byte of guest memory its first value, in one sweep from the lowest to the highest: the pieces, and
    /// zeros where none is.
    pub fn write(mut self, memory: &mut impl GuestMemory) -> Result<(), Error> {
        self.0.sort_unstable_by_key(|(address, _)| *address);
        let have = memory.size();
        let missing = |needed| Error::Memory { needed, have };
        let mut rest = self.0.into_iter().filter(|(_, bytes)| !bytes.is_empty()).peekable();
        for ram in Ram::new(have).pieces() {
            let mut at = ram.start;
            while let Some((start, bytes)) = rest.next_if(|(start, _)| *start < ram.end) {
                let cleared = start.checked_sub(at).is_some_and(|gap| memory.zero(at, gap));
                cleared.then_some(()).ok_or(missing(start))?;
                put(memory, start, bytes)?;
                at = start.saturating_add(bytes.len() as u64);
            }
            let cleared = ram.end.checked_sub(at).is_some_and(|gap| memory.zero(at, gap));
            cleared.then_some(()).ok_or(missing(at))?;
        }
        rest.next().map_or(Ok(()), |(start, _)| Err(missing(start)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::map::map;
    use super::*;
    use crate::memory::tests::Plain;
    use proptest::prelude::*;

    const MEMORY: u64 = 16 << 20;

    fn space() -> Space {
        Space::new(map(MEMORY, true))
    }

    #[test]
    fn a_piece_must_lie_in_ram_and_in_nobody_elses_place() {
        let mut space = space();
        assert_eq!(space.claim(0x10_0000, 0x1000, What::Kernel), Ok(()));
        let overlap = Error::Overlap(What::Initrd, What::Kernel, 0x10_0fff, 0x10_1000);
        assert_eq!(space.claim(0x10_0fff, 1, What::Initrd), Err(overlap));
        assert_eq!(space.claim(0x10_1000, 1, What::Initrd), Ok(()));
        let hole = Error::NotRam(What::Kernel, 0x9_e000, 0xa_1000);
        assert_eq!(space.claim(0x9_e000, 0x3000, What::Kernel), Err(hole));
        let beyond = Error::Memory { needed: MEMORY + 1, have: MEMORY };
        assert_eq!(space.claim(MEMORY, 1, What::Kernel), Err(beyond));
        assert!(space.claim(u64::MAX, 2, What::Kernel).is_err());
        assert_eq!(space.claim(0x9_f000, 0, What::Kernel), Ok(()));
    }

    #[test]
    fn a_piece_in_the_hole_below_four_gib_is_not_told_that_more_memory_helps() {
        const G: u64 = 1 << 30;
        let mut space = Space::new(map(8 * G, true));
        assert_eq!((space.ram_end(4 * G), space.ram_end(u64::MAX)), (3 * G, 9 * G));
        let hole = |start, end| Err(Error::NotRam(What::Kernel, start, end));
        assert_eq!(space.claim(3 * G, 1, What::Kernel), hole(3 * G, 3 * G + 1));
        assert_eq!(space.claim(3 * G - 1, 2, What::Kernel), hole(3 * G - 1, 3 * G + 1));
        assert_eq!(space.claim(2 * G, 3 * G, What::Kernel), hole(2 * G, 5 * G));
        assert_eq!(space.claim(65 * G, 1, What::Kernel), hole(65 * G, 65 * G + 1), "no VM has so much");
        let beyond = Error::Memory { needed: 8 * G + 1, have: 8 * G };
        assert_eq!(space.claim(9 * G - 1, 2, What::Kernel), Err(beyond));
        assert_eq!(space.claim(3 * G - 1, 1, What::Kernel), Ok(()));
        assert_eq!(space.claim(4 * G, 1, What::Kernel), Ok(()));
        // Below 4 GiB the top is the top of the low piece, above it that of the high one.
        assert_eq!(space.claim_top(0x1000, 4 * G, What::Initrd), Ok(3 * G - 0x2000));
        assert_eq!(space.claim_top(0x1000, u64::MAX, What::Initrd), Ok(9 * G - 0x1000));
        let room = 3 * G - 0x2000 - 0x10_0000;
        assert_eq!(space.claim_top(3 * G, 4 * G, What::Initrd), Err(Error::Initrd { bytes: 3 * G, room }));
    }

    #[test]
    fn the_top_is_the_highest_free_place_below_the_limit() {
        let mut space = space();
        assert_eq!(space.claim_top(1, MEMORY, What::Initrd), Ok(MEMORY - 0x1000));
        assert_eq!(space.claim_top(0x1001, MEMORY, What::Initrd), Ok(MEMORY - 0x3000));
        space.claim(0x10_0000, MEMORY - 0x10_5000, What::Kernel).unwrap();
        let (bytes, room) = (0x10_0000, 0x9_f000);
        assert_eq!(space.claim_top(bytes, MEMORY, What::Initrd), Err(Error::Initrd { bytes, room }));
        assert_eq!(space.claim_top(0x2000, MEMORY, What::Initrd), Ok(MEMORY - 0x5000));
        assert_eq!(space.claim_top(0x2000, MEMORY, What::Initrd), Ok(0x9_d000));
        assert_eq!(space.claim_top(0x1000, 0x8800, What::Initrd), Ok(0x7000));
    }

    #[test]
    fn memory_holds_the_pieces_and_zeros_and_nothing_that_was_there_before() {
        let mut memory = Plain::new(0x4000);
        memory.0.fill(7);
        let pieces = Contents::default().with(0x1801, &[3; 9]).and_then(|pieces| pieces.with(0xfff, &[1, 2]));
        pieces.and_then(|pieces| pieces.with(0, &[])).unwrap().write(&mut memory).unwrap();
        let mut expected = vec![0; 0x4000];
        expected[0xfff..0x1001].copy_from_slice(&[1, 2]);
        expected[0x1801..0x180a].fill(3);
        assert_eq!(memory.0, expected);
        for (address, bytes) in [(0x3fff, &[1, 2][..]), (0x4001, &[1])] {
            let beyond = Contents::default().with(address, bytes).unwrap();
            assert!(beyond.write(&mut memory).is_err());
        }
        let overlap = Contents::default().with(0, &[1; 9]).and_then(|pieces| pieces.with(8, &[2])).unwrap();
        assert!(overlap.write(&mut memory).is_err());
    }

    /// Memory that is too large for a test: it notes what is written where.
    struct Noted(u64, Vec<(u64, u64)>);

    impl GuestMemory for Noted {
        fn size(&self) -> u64 {
            self.0
        }
        fn read(&self, _: u64, _: &mut [u8]) -> bool {
            false
        }
        fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
            self.zero(address, bytes.len() as u64)
        }
        fn zero(&mut self, address: u64, length: u64) -> bool {
            self.1.push((address, address + length));
            self.holds(address, length)
        }
        fn exchange(&mut self, _: u64, _: usize, _: u64, _: u64) -> bool {
            false
        }
    }

    #[test]
    fn memory_above_the_hole_is_cleared_and_the_hole_is_not() {
        const G: u64 = 1 << 30;
        let written = |address, bytes| {
            let mut memory = Noted(8 * G, Vec::new());
            Contents::default().with(address, bytes).unwrap().write(&mut memory).map(|()| memory.1)
        };
        let bytes = &[1; 16];
        assert_eq!(written(G, bytes), Ok(vec![(0, G), (G, G + 16), (G + 16, 3 * G), (4 * G, 9 * G)]));
        let high = [(0, 3 * G), (4 * G, 5 * G), (5 * G, 5 * G + 16), (5 * G + 16, 9 * G)];
        assert_eq!(written(5 * G, bytes), Ok(high.to_vec()));
        for outside in [3 * G - 8, 3 * G, 4 * G - 8, 9 * G - 8, 9 * G] {
            assert!(written(outside, bytes).is_err(), "{outside:#x}");
        }
    }

    proptest! {
        #[test]
        fn pieces_never_overlap_and_never_leave_ram(
            pieces in prop::collection::vec((0..2 * MEMORY, 0..MEMORY, any::<bool>()), 0..30),
        ) {
            let mut space = space();
            for (start, bytes, top) in pieces {
                let _ = if top {
                    space.claim_top(bytes, start, What::Initrd).map(|_| ())
                } else {
                    space.claim(start, bytes, What::Kernel)
                };
            }
            let taken = space.taken.clone();
            for (index, (start, end, _)) in taken.iter().enumerate() {
                prop_assert!(space.is_ram(*start, *end));
                let others = taken.iter().skip(index + 1);
                prop_assert!(others.into_iter().all(|(other, other_end, _)| other >= end || start >= other_end));
            }
        }
    }
}
