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

/// Page size of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
}

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

    /// The page of the table at `physical`, if the pool holds it.
    fn page(&self, physical: u64) -> Option<CorePage> {
        let offset = physical.checked_sub(self.base)?;
        // SAFETY: INV-CORE-PAGE by the contract of `new`, for an address that lies in the pool.
        (offset >> 12 < self.pages).then(|| unsafe { CorePage::new(physical & !0xfff) })
    }

    /// The entry that maps `address` below `root` and its level (1: 4 KiB, 2: 2 MiB); `None` if a table on
    /// the way is missing. Shared with [`Pool::map`] so that both walk alike.
    pub fn find(&self, root: u64, address: u64) -> Option<(CorePage, usize, u32)> {
        let mut table = root;
        for level in (1..=4u32).rev() {
            let page = self.page(table)?;
            let offset = index(address, level) << 3;
            let entry = page.word(offset);
            if level == 1 || (level == 2 && entry & LARGE != 0) {
                return Some((page, offset, level));
            }
            if entry & PRESENT == 0 {
                return None;
            }
            table = entry & ADDRESS;
        }
        None
    }

    /// Map one page at `address` below `root`. `flags` are those of the leaf; tables on the way get all
    /// rights that `flags` names but NX.
    pub fn map(&mut self, root: u64, address: u64, physical: u64, flags: u64, size: Size) -> Result<(), PoolExhausted> {
        let leaf = if size == Size::Large { 2 } else { 1 };
        let mut table = root;
        for level in (1..=4u32).rev() {
            let page = self.page(table).ok_or(PoolExhausted(self.pages))?;
            let offset = index(address, level) << 3;
            let entry = page.word(offset);
            if level == leaf {
                let large = if leaf == 2 { LARGE } else { 0 };
                page.set_word(offset, physical & ADDRESS | flags | large | PRESENT | USED);
                return Ok(());
            }
            table = if entry & PRESENT == 0 {
                let fresh = self.table()?;
                page.set_word(offset, fresh | PRESENT | WRITE | flags & USER);
                fresh
            } else {
                page.set_word(offset, entry | flags & USER);
                entry & ADDRESS
            };
        }
        Ok(())
    }

    /// Map `pages` contiguous pages, with 2 MiB pages where both addresses allow.
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
            let large = (at | from) & 0x1f_ffff == 0 && pages.wrapping_sub(done) >= 512;
            self.map(root, at, from, flags, if large { Size::Large } else { Size::Small })?;
            done = done.wrapping_add(if large { 512 } else { 1 });
        }
        Ok(())
    }

    /// Change the leaf flags of the 4 KiB page at `address`; a 2 MiB page on the way is split first.
    /// `false` if nothing is mapped there.
    pub fn protect(&mut self, root: u64, address: u64, flags: u64) -> Result<bool, PoolExhausted> {
        let Some((page, offset, level)) = self.find(root, address) else {
            return Ok(false);
        };
        let entry = page.word(offset);
        if level == 2 {
            let fresh = self.table()?;
            let small = self.page(fresh).ok_or(PoolExhausted(self.pages))?;
            for slot in 0..512usize {
                small.set_word(slot << 3, (entry & !LARGE).wrapping_add((slot as u64) << 12));
            }
            page.set_word(offset, fresh | PRESENT | WRITE | USER);
            return self.protect(root, address, flags);
        }
        if entry & ADDRESS == 0 && entry & PRESENT == 0 {
            return Ok(false);
        }
        page.set_word(offset, entry & ADDRESS | flags | USED);
        Ok(true)
    }

    /// Let the first GiB below `root` be the one below `core_root`: both share that part of the tables.
    /// Something above the first GiB must be mapped in `root` already.
    pub fn share_core(&mut self, core_root: u64, root: u64) -> Result<(), PoolExhausted> {
        let below = |table: u64| self.page(table).map(|page| page.word(0) & ADDRESS).and_then(|next| self.page(next));
        let (from, to) =
            (below(core_root).ok_or(PoolExhausted(self.pages))?, below(root).ok_or(PoolExhausted(self.pages))?);
        to.set_word(0, from.word(0));
        Ok(())
    }
}

const fn index(address: u64, level: u32) -> usize {
    (address >> level.wrapping_mul(9).wrapping_add(3) & 0x1ff) as usize
}
