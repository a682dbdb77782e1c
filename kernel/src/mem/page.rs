//! Pages of the core's half: the core's own and those it shares with a partition.
//!
//! INV-CORE-PAGE: a [`CorePage`] is page aligned, lies below [`super::FIXED_MAPS`], was handed out once
//! by the boot allocator and is mapped readable and writable at its physical address in every address
//! space from before the first use on. A shared page may change under the core's hands, so it is only
//! ever copied from and to, never referenced.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// One page of the core's half; the zero is none, and nothing touches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromZeros)]
pub struct CorePage(u64);

impl CorePage {
    /// # Safety
    /// INV-CORE-PAGE holds for `physical`.
    pub const unsafe fn new(physical: u64) -> Self {
        Self(physical)
    }

    /// Physical address.
    pub const fn physical(self) -> u64 {
        self.0
    }

    /// The page's word at byte `offset`, which is rounded down into the page.
    #[inline(always)]
    pub fn word(self, offset: usize) -> u64 {
        let pointer = (self.0 as usize).wrapping_add(offset & 0xff8) as *const u64;
        // SAFETY: INV-CORE-PAGE; the offset is masked into the page.
        unsafe { pointer.read_volatile() }
    }

    /// Set the word at byte `offset`, rounded down into the page.
    #[inline(always)]
    pub fn set_word(self, offset: usize, value: u64) {
        let pointer = (self.0 as usize).wrapping_add(offset & 0xff8) as *mut u64;
        // SAFETY: INV-CORE-PAGE; the offset is masked into the page.
        unsafe { pointer.write_volatile(value) }
    }

    /// A copy of the `T` at `offset`, a constant offset that the caller knows to fit.
    #[inline(always)]
    pub fn read<T: FromBytes + Immutable, const OFFSET: usize>(self) -> T {
        const { assert!(OFFSET + size_of::<T>() <= 4096) };
        let pointer = (self.0 as usize).wrapping_add(OFFSET) as *const T;
        // SAFETY: INV-CORE-PAGE; the range lies in the page, any bytes are a T.
        unsafe { pointer.read_unaligned() }
    }

    /// Write a `T` at constant `OFFSET`.
    #[inline(always)]
    pub fn write<T: IntoBytes + Immutable, const OFFSET: usize>(self, value: &T) {
        const { assert!(OFFSET + size_of::<T>() <= 4096) };
        let target = (self.0 as usize).wrapping_add(OFFSET) as *mut u8;
        let bytes = value.as_bytes();
        // SAFETY: INV-CORE-PAGE; the range lies in the page and cannot overlap the borrowed value.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) }
    }

    /// Set the whole page to zero.
    pub fn clear(self) {
        self.write::<[u8; 4096], 0>(&[0; 4096]);
    }

    /// Copy `words` 8-byte words at `from` of this page to `to` of another page; both ranges are clipped
    /// to the page.
    #[inline(always)]
    pub fn copy_words(self, from: usize, target: Self, to: usize, words: usize) {
        let words = words.min(512usize.wrapping_sub((from & 0xff8).max(to & 0xff8) >> 3));
        let source = (self.0 as usize).wrapping_add(from & 0xff8) as *const u64;
        let target = (target.0 as usize).wrapping_add(to & 0xff8) as *mut u64;
        // SAFETY: INV-CORE-PAGE; both ranges end in their pages.
        unsafe { crate::arch::cpu::copy_words(source, target, words) };
    }
}
