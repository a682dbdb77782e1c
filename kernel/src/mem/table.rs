//! Page tables: the pool they come from and the four-level walk that fills them, for address spaces and
//! for nested tables alike (AMD64 APM volume 2, sections 5.3 and 15.25; the formats are the same).

use super::page::CorePage;
use zerocopy::FromZeros;

/// Present.
pub const PRESENT: u64 = 1;
/// Writable.
pub const WRITE: u64 = 1 << 1;
/// Accessible in ring 3; in a nested table: accessible at all.
pub const USER: u64 = 1 << 2;
/// Not cached.
pub const UNCACHED: u64 = 1 << 4 | 1 << 3;
/// Accessed and dirty, set in advance.
pub const USED: u64 = 1 << 5 | 1 << 6;
/// Kept over a change of address space: the core's half only.
pub const GLOBAL: u64 = 1 << 8;
/// 2 MiB page.
pub const LARGE: u64 = 1 << 7;
/// Not executable.
pub const NO_EXECUTE: u64 = 1 << 63;
/// Address bits of an entry.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The page-table pool, of so many pages, is used up. Its size is in the image head (`pool_pages`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolExhausted(pub u64);

/// The pool of page-table pages: contiguous, in the core's half, never given back.
#[derive(FromZeros)]
pub struct Pool {
    base: u64,
    pages: u64,
    used: u64,
}

impl Pool {
    /// # Safety
    /// INV-CORE-PAGE holds for all `pages` pages from `base`, and nothing else uses them.
    pub const unsafe fn new(base: u64, pages: u64) -> Self {
        Self { base, pages, used: 0 }
    }

    /// First page and number of pages.
    pub const fn extent(&self) -> (u64, u64) {
        (self.base, self.pages)
    }

    /// Pages handed out.
    pub const fn used(&self) -> u64 {
        self.used
    }

    /// Pages left.
    pub const fn left(&self) -> u64 {
        self.pages.saturating_sub(self.used)
    }

    /// A zeroed table.
    pub fn table(&mut self) -> Result<u64, PoolExhausted> {
        if self.used >= self.pages {
            return Err(PoolExhausted(self.pages));
        }
        let physical = self.base.wrapping_add(self.used << 12);
        self.used = self.used.wrapping_add(1);
        // SAFETY: INV-CORE-PAGE by the contract of `new`: the page is within the pool.
        let page = unsafe { CorePage::new(physical) };
        page.clear();
        Ok(physical)
    }

    /// The page of the table at `physical`.
    fn page(&self, physical: u64) -> Result<CorePage, PoolExhausted> {
        let offset = physical.wrapping_sub(self.base);
        // SAFETY: INV-CORE-PAGE by the contract of `new`, for an address that lies in the pool.
        let page = (offset >> 12 < self.pages).then(|| unsafe { CorePage::new(physical & !0xfff) });
        page.ok_or(PoolExhausted(self.pages))
    }

    /// The entry of `level` (1: 4 KiB, 2: 2 MiB, 3: 1 GiB) for `address` below `root`, and its level: that of a larger page
    /// if one is mapped there. Tables that are missing on the way are made; those on the way are open to ring 3 if `flags`
    /// say so.
    pub fn walk(
        &mut self,
        root: u64,
        address: u64,
        level: u32,
        flags: u64,
    ) -> Result<(CorePage, usize, u32), PoolExhausted> {
        let (mut table, mut depth) = (root, 4u32);
        loop {
            let page = self.page(table)?;
            let offset = index(address, depth) << 3;
            let mut entry = page.word(offset);
            if depth <= level || entry & LARGE != 0 {
                return Ok((page, offset, depth));
            }
            if entry & PRESENT == 0 {
                entry = self.table()? | PRESENT | WRITE;
            }
            page.set_word(offset, entry | flags & USER);
            (table, depth) = (entry & ADDRESS, depth.wrapping_sub(1));
        }
    }

    /// Map `pages` contiguous pages; with [`LARGE`] among the `flags`, which are those of the leaves, in 2 MiB pages where
    /// both addresses allow.
    pub fn map_range(
        &mut self,
        root: u64,
        address: u64,
        physical: u64,
        pages: u64,
        flags: u64,
    ) -> Result<(), PoolExhausted> {
        let mut done = 0u64;
        while done < pages {
            let (at, from) = (address.wrapping_add(done << 12), physical.wrapping_add(done << 12));
            let large = flags & LARGE != 0 && (at | from) & 0x1f_ffff == 0 && pages.wrapping_sub(done) >= 512;
            let (level, flags, step) = if large { (2, flags, 512) } else { (1, flags & !LARGE, 1) };
            let (page, offset, _) = self.walk(root, at, level, flags)?;
            page.set_word(offset, from & ADDRESS | flags | PRESENT | USED);
            done = done.wrapping_add(step);
        }
        Ok(())
    }

    /// Change the leaf flags of the 4 KiB page at `address`; a 2 MiB page on the way is split first.
    pub fn protect(&mut self, root: u64, address: u64, flags: u64) -> Result<(), PoolExhausted> {
        let (page, offset, level) = self.walk(root, address, 1, 0)?;
        let entry = page.word(offset);
        if level == 2 {
            let fresh = self.table()?;
            let small = self.page(fresh)?;
            for slot in 0..512usize {
                small.set_word(slot << 3, (entry & !LARGE).wrapping_add((slot as u64) << 12));
            }
            page.set_word(offset, fresh | PRESENT | WRITE | USER);
            return self.protect(root, address, flags);
        }
        page.set_word(offset, entry & ADDRESS | flags | USED);
        Ok(())
    }

    /// Let the first GiB below `root` be the one below `core_root`: both share that part of the tables.
    pub fn share_core(&mut self, core_root: u64, root: u64) -> Result<(), PoolExhausted> {
        let (from, offset, _) = self.walk(core_root, 0, 3, 0)?;
        let (to, place, _) = self.walk(root, 0, 3, USER)?;
        to.set_word(place, from.word(offset));
        Ok(())
    }
}

const fn index(address: u64, level: u32) -> usize {
    (address >> level.wrapping_mul(9).wrapping_add(3) & 0x1ff) as usize
}
