//! The boot frame allocator: hands out RAM once, never takes it back. After boot nobody holds it (R2).

use super::error::BootError;
use super::handover::Region;
use arrayvec::ArrayVec;

/// Frames may be asked to lie below this address: the part of the core's half where virtual and
/// physical addresses are the same.
pub const CORE_HALF: u64 = crate::mem::FIXED_MAPS;

const FULL: &str = "boot: free memory is in more than 80 pieces (limit 80)";

fn none(pages: u64) -> BootError {
    BootError::Number("boot: not so many contiguous free pages left; give the machine more memory; pages", pages)
}

/// The allocator: what is free.
pub struct Frames(ArrayVec<Region, 80>);

impl Frames {
    /// All of `ram` above the first MiB, without the `taken` regions; partial pages are dropped, and so is what an entry
    /// of `ram` says a second time.
    pub fn new<'a>(ram: &[Region], taken: impl Iterator<Item = &'a Region>) -> Result<Self, BootError> {
        let mut frames = Self(ArrayVec::new());
        for region in ram {
            let start = region.start.max(1 << 20).saturating_add(0xfff) & !0xfff;
            let region = Region { start, end: region.end & !0xfff };
            if region.start < region.end {
                frames.remove(region)?;
                frames.0.try_push(region).map_err(|_| FULL)?;
            }
        }
        for hole in taken {
            frames.remove(Region { start: hole.start & !0xfff, end: hole.end.saturating_add(0xfff) & !0xfff })?;
        }
        Ok(frames)
    }

    /// Take `hole` out of what is free.
    fn remove(&mut self, hole: Region) -> Result<(), BootError> {
        for region in core::mem::take(&mut self.0) {
            let below = Region { start: region.start, end: region.end.min(hole.start) };
            let above = Region { start: region.start.max(hole.end), end: region.end };
            for part in [below, above] {
                if part.start < part.end {
                    self.0.try_push(part).map_err(|_| FULL)?;
                }
            }
        }
        Ok(())
    }

    /// Take `pages` contiguous frames of the core's half, the lowest. The caller zeroes them.
    pub fn take_low(&mut self, pages: u64) -> Result<u64, BootError> {
        let bytes = pages.saturating_mul(4096);
        let fits = |region: &&Region| region.start.saturating_add(bytes) <= region.end.min(CORE_HALF);
        let found = self.0.iter().filter(fits).map(|region| region.start).min();
        self.cut(found, pages)
    }

    /// Take `pages` contiguous frames aligned to `align` bytes from anywhere, the highest, so that the core's
    /// half is left to the core. The caller zeroes them.
    pub fn take(&mut self, pages: u64, align: u64) -> Result<u64, BootError> {
        let bytes = pages.saturating_mul(4096);
        let place = |region: &Region| {
            let start = region.end.checked_sub(bytes)? & !align.wrapping_sub(1);
            (start >= region.start).then_some(start)
        };
        let found = self.0.iter().filter_map(place).max();
        self.cut(found, pages)
    }

    /// As many of `pages`, at least one, as [`Frames::take`] can give in one piece; all of them if it can give none.
    pub fn most(&self, pages: u64, align: u64) -> u64 {
        let inside = align.wrapping_sub(1);
        let room = |region: &Region| region.end.saturating_sub(region.start.saturating_add(inside) & !inside) & !inside;
        let largest = self.0.iter().map(room).max().unwrap_or(0) >> 12;
        if largest == 0 { pages } else { pages.min(largest) }
    }

    fn cut(&mut self, start: Option<u64>, pages: u64) -> Result<u64, BootError> {
        let start = start.ok_or(none(pages))?;
        self.remove(Region { start, end: start.saturating_add(pages.saturating_mul(4096)) })?;
        Ok(start)
    }

    /// Pages left.
    pub fn left(&self) -> u64 {
        self.0.iter().map(|region| region.end.wrapping_sub(region.start) >> 12).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_piece_of_memory_holds_is_taken_in_several() {
        const GIB: u64 = 1 << 30;
        let ram = [Region { start: 0x10_0000, end: 2 * GIB }, Region { start: 4 * GIB, end: 10 * GIB - 0x1000 }];
        let mut frames = Frames::new(&ram, [].iter()).unwrap();
        let mut left = (7 * GIB) >> 12;
        let mut pieces = Vec::new();
        while left > 0 {
            let pages = frames.most(left, 1 << 21);
            let start = frames.take(pages, 1 << 21).unwrap();
            assert_eq!((start & 0x1f_ffff, pages & 511), (0, 0));
            pieces.push((start, pages << 12));
            left -= pages;
        }
        let high = 6 * GIB - (2 << 20);
        let low = 7 * GIB - high;
        assert_eq!(pieces, [(4 * GIB, high), (2 * GIB - low, low)]);
        assert_eq!(frames.most(1 << 19, 1 << 21), (GIB - (4 << 20)) >> 12);
        let none = Frames::new(&[Region { start: 0x10_0000, end: 0x2f_f000 }], [].iter()).unwrap();
        assert_eq!(none.most(512, 1 << 21), 512, "so that what is refused is what was wanted");
    }

    #[test]
    fn frames_never_overlap_holes_or_each_other_and_keep_alignment_and_half() {
        let ram = [Region { start: 0, end: 0x9f000 }, Region { start: 0x10_0000, end: 0x5000_0000 }];
        let hole = [Region { start: 0x20_0000, end: 0x30_0001 }];
        let mut frames = Frames::new(&ram, hole.iter()).unwrap();
        let total = frames.left();
        let mut seen: Vec<(u64, u64)> = vec![(0x20_0000, 0x30_1000)];
        for (pages, align) in [(1, 0), (512, 1 << 21), (3, 4096), (1024, 1 << 21), (700, 0), (7, 4096)] {
            let low = align == 0;
            let taken = if low { frames.take_low(pages) } else { frames.take(pages, align) };
            let start = taken.unwrap();
            let end = start + pages * 4096;
            assert!(start >= 0x10_0000 && end <= if low { CORE_HALF } else { 0x5000_0000 });
            assert!(low || start % align == 0);
            assert!(low || start >= 0x4000_0000, "the core's half is left to the core");
            assert!(seen.iter().all(|(a, b)| end <= *a || start >= *b));
            seen.push((start, end));
        }
        assert_eq!(frames.left(), total - 1 - 512 - 3 - 1024 - 700 - 7);
        assert_eq!(frames.take(1 << 30, 4096), Err(none(1 << 30)));
        assert_eq!(frames.take_low(CORE_HALF >> 12), Err(none(CORE_HALF >> 12)));
    }
}
