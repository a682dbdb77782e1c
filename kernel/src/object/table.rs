//! A fixed table whose index cannot leave it: the index is masked to the table's size, a power of two.
//! Whether the entry is in use, the entry itself says.

use crate::arch::cpu::below;
use core::ops::{Index, IndexMut};
use zerocopy::FromZeros;

/// A table of `N` entries, `N` a power of two of at most 256.
#[derive(FromZeros)]
#[repr(transparent)]
pub struct Table<T, const N: usize>([T; N]);

impl<T, const N: usize> Table<T, N> {
    /// The index that somebody else chose, if there is an entry of that number.
    #[inline(always)]
    pub fn place(&self, index: u64) -> Option<u8> {
        below::<N>(index)
    }

    /// All entries with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &T)> {
        self.0.iter().enumerate().map(|(index, entry)| (index as u8, entry))
    }

    /// All entries with their indices.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u8, &mut T)> {
        self.0.iter_mut().enumerate().map(|(index, entry)| (index as u8, entry))
    }
}

impl<T, const N: usize> Index<u8> for Table<T, N> {
    type Output = T;
    #[inline(always)]
    #[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)] // masked below N, and N is not 0
    fn index(&self, index: u8) -> &T {
        const { assert!(N.is_power_of_two() && N <= 256) };
        &self.0[index as usize & (N - 1)]
    }
}

impl<T, const N: usize> IndexMut<u8> for Table<T, N> {
    #[inline(always)]
    #[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)] // masked below N, and N is not 0
    fn index_mut(&mut self, index: u8) -> &mut T {
        &mut self.0[index as usize & (N - 1)]
    }
}
