//! The boot frame allocator: hands out RAM once, never takes it back. After boot nobody holds it (R2).

use super::error::BootError;
use super::handover::Region;
use crate::audit::{Owner, Ownership};
use arrayvec::ArrayVec;

/// Frames may be asked to lie below this address: the part of the core's half where virtual and
/// physical addresses are the same.
pub const CORE_HALF: u64 = crate::mem::FIXED_MAPS;

/// The allocator. It remembers who got what, for the audit.
pub struct Frames {
    free: ArrayVec<Region, 80>,
    /// Who owns which frames.
    pub owned: Ownership,
}

impl Frames {
    /// All of `ram` above the first MiB, without the `taken` regions; partial pages are dropped, and so is
    /// what an entry of `ram` says a second time.
    pub fn new<'a>(ram: &[Region], taken: impl Iterator<Item = &'a Region>) -> Self {
        let mut free: ArrayVec<Region, 80> = ArrayVec::new();
        for region in ram {
            let start = region.start.max(1 << 20).saturating_add(0xfff) & !0xfff;
            let end = region.end & !0xfff;
            let fresh = free.iter().all(|known| end <= known.start || known.end <= start);
            if start < end && fresh {
                let _ = free.try_push(Region { start, end });
            }
        }
        for hole in taken {
            let (hole_start, hole_end) = (hole.start & !0xfff, hole.end.saturating_add(0xfff) & !0xfff);
            let mut kept: ArrayVec<Region, 80> = ArrayVec::new();
            for region in &free {
                let parts = [
                    Region { start: region.start, end: region.end.min(hole_start) },
                    Region { start: region.start.max(hole_end), end: region.end },
                ];
                for part in parts {
                    if part.start < part.end {
                        let _ = kept.try_push(part);
                    }
                }
            }
            free = kept;
        }
        Self { free, owned: Ownership::EMPTY }
    }

    /// Take `pages` contiguous frames of the core's half, the lowest. The caller zeroes them.
    pub fn take_low(&mut self, pages: u64, owner: Owner) -> Result<u64, BootError> {
        let bytes = pages.saturating_mul(4096);
        let fits = |region: &Region| region.start.saturating_add(bytes) <= region.end.min(CORE_HALF);
        let found = self.free.iter().filter(|region| fits(region)).map(|region| region.start).min();
        self.cut(found.ok_or(BootError::Memory(pages))?, pages, owner)
    }

    /// Take `pages` contiguous frames aligned to `align` bytes from anywhere, the highest, so that the core's
    /// half is left to the core. The caller zeroes them.
    pub fn take(&mut self, pages: u64, align: u64, owner: Owner) -> Result<u64, BootError> {
        let bytes = pages.saturating_mul(4096);
        let place = |region: &Region| {
            let start = region.end.checked_sub(bytes)? & !align.wrapping_sub(1);
            (start >= region.start).then_some(start)
        };
        let found = self.free.iter().filter_map(place).max();
        self.cut(found.ok_or(BootError::Memory(pages))?, pages, owner)
    }

    fn cut(&mut self, start: u64, pages: u64, owner: Owner) -> Result<u64, BootError> {
        let end = start.saturating_add(pages.saturating_mul(4096));
        for region in &mut self.free {
            if region.start <= start && end <= region.end {
                let behind = Region { start: end, end: region.end };
                region.end = start;
                self.free.try_push(behind).map_err(|_| BootError::Memory(pages))?;
                self.free.retain(|region| region.start < region.end);
                self.owned.add(start, pages, owner);
                return Ok(start);
            }
        }
        Err(BootError::Memory(pages))
    }

    /// Pages left.
    pub fn left(&self) -> u64 {
        self.free.iter().map(|region| region.end.wrapping_sub(region.start) >> 12).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_never_overlap_holes_or_each_other_and_keep_alignment_and_half() {
        let ram = [Region { start: 0, end: 0x9f000 }, Region { start: 0x10_0000, end: 0x5000_0000 }];
        let hole = [Region { start: 0x20_0000, end: 0x30_0001 }];
        let mut frames = Frames::new(&ram, hole.iter());
        let total = frames.left();
        let mut seen: Vec<(u64, u64)> = vec![(0x20_0000, 0x30_1000)];
        for (pages, align) in [(1, 0), (512, 1 << 21), (3, 4096), (1024, 1 << 21), (700, 0), (7, 4096)] {
            let low = align == 0;
            let taken = if low { frames.take_low(pages, Owner::CORE) } else { frames.take(pages, align, Owner::CORE) };
            let start = taken.unwrap();
            let end = start + pages * 4096;
            assert!(start >= 0x10_0000 && end <= if low { CORE_HALF } else { 0x5000_0000 });
            assert!(low || start % align == 0);
            assert!(low || start >= 0x4000_0000, "the core's half is left to the core");
            assert!(seen.iter().all(|(a, b)| end <= *a || start >= *b));
            seen.push((start, end));
        }
        assert_eq!(frames.left(), total - 1 - 512 - 3 - 1024 - 700 - 7);
        assert_eq!(frames.take(1 << 30, 4096, Owner::CORE), Err(BootError::Memory(1 << 30)));
        assert_eq!(frames.take_low(CORE_HALF >> 12, Owner::CORE), Err(BootError::Memory(CORE_HALF >> 12)));
    }
}
