//! The copy windows: three pages of the core's half through which it reaches a frame that it does not
//! map otherwise, one page at a time (R7). A window is empty outside these functions.
//!
//! INV-WINDOW: the table page that holds the windows' entries is shared by all address spaces, belongs to
//! the core, and the core runs on one CPU without preemption, so a window has one user at a time.

use super::FIXED_MAPS;
use super::page::CorePage;
use super::table;
use crate::arch::cpu;
use zerocopy::FromZeros;

const SOURCE: usize = 1;
const TARGET: usize = 2;
const DEVICE: usize = 3;

/// The windows; made once the core's own tables are in force.
#[derive(Clone, Copy, FromZeros)]
pub struct Windows(CorePage);

struct Open {
    table: CorePage,
    slot: usize,
}

impl Open {
    fn new(table: CorePage, slot: usize, physical: u64, flags: u64) -> Self {
        let open = Self { table, slot };
        table.set_word(slot << 3, physical & table::ADDRESS | flags | table::PRESENT | table::NO_EXECUTE | table::USED);
        cpu::invalidate(open.address());
        open
    }
    fn address(&self) -> u64 {
        FIXED_MAPS | (self.slot as u64) << 12
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.table.set_word(self.slot << 3, 0);
        cpu::invalidate(self.address());
    }
}

impl Windows {
    /// # Safety
    /// `table` is the last-level table of the fixed maps (INV-WINDOW) and in force.
    pub const unsafe fn new(table: CorePage) -> Self {
        Self(table)
    }

    /// Copy `length` bytes (at most to the end of either page) from frame to frame.
    pub fn copy(self, source: u64, target: u64, length: usize) {
        let from = Open::new(self.0, SOURCE, source, 0);
        let to = Open::new(self.0, TARGET, target, table::WRITE);
        let (a, b) = (source as usize & 0xfff, target as usize & 0xfff);
        let length = length.min(4096usize.wrapping_sub(a.max(b)));
        let from_pointer = (from.address() as usize | a) as *const u8;
        let to_pointer = (to.address() as usize | b) as *mut u8;
        // SAFETY: INV-WINDOW; both windows are open and the length ends within both pages.
        unsafe { core::ptr::copy_nonoverlapping(from_pointer, to_pointer, length) }
    }

    /// Set `length` bytes of a frame to zero, at most to its end.
    pub fn zero(self, target: u64, length: usize) {
        let to = Open::new(self.0, TARGET, target, table::WRITE);
        let offset = target as usize & 0xfff;
        let length = length.min(4096usize.wrapping_sub(offset));
        // SAFETY: INV-WINDOW; the window is open and the length ends within the page.
        unsafe { core::ptr::write_bytes((to.address() as usize | offset) as *mut u8, 0, length) }
    }

    /// Write a device register, then read one: the indirect access of an IOAPIC. `read` of `None` reads nothing.
    pub fn device(self, physical: u64, writes: &[(usize, u32)], read: Option<usize>) -> u32 {
        let open = Open::new(self.0, DEVICE, physical, table::WRITE | table::UNCACHED);
        let at = |offset: usize| (open.address() as usize | offset & 0xffc) as *mut u32;
        for (offset, value) in writes {
            // SAFETY: INV-WINDOW; the offset is masked into the page.
            unsafe { at(*offset).write_volatile(*value) };
        }
        // SAFETY: INV-WINDOW; the offset is masked into the page.
        read.map_or(0, |offset| unsafe { at(offset).read_volatile() })
    }
}
