//! A set of interrupt vectors.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One bit for each vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Vectors([u64; 4]);

impl Vectors {
    /// Adds or removes a vector.
    pub fn put(&mut self, vector: u8, present: bool) {
        let bit = 1 << (vector & 63);
        if let Some(word) = self.0.get_mut(usize::from(vector >> 6)) {
            *word = if present { *word | bit } else { *word & !bit };
        }
    }

    /// Whether it holds a vector.
    pub fn holds(&self, vector: u8) -> bool {
        self.0.get(usize::from(vector >> 6)).is_some_and(|word| word >> (vector & 63) & 1 != 0)
    }

    /// The highest vector.
    pub fn highest(&self) -> Option<u8> {
        let (index, word) = self.0.iter().enumerate().rfind(|(_, word)| **word != 0)?;
        Some((index * 64) as u8 + 63 - word.leading_zeros() as u8)
    }

    /// The 32 bits of register `index` (0 to 7).
    pub fn part(&self, index: u32) -> u32 {
        let word = self.0.get(index as usize / 2).copied().unwrap_or(0);
        (word >> (32 * (index & 1))) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_behaves_as_a_set(steps in prop::collection::vec((any::<u8>(), any::<bool>()), 0..100)) {
            let (mut vectors, mut model) = (Vectors::default(), BTreeSet::new());
            for (vector, present) in steps {
                vectors.put(vector, present);
                if present { model.insert(vector); } else { model.remove(&vector); }
                prop_assert_eq!(vectors.highest(), model.last().copied());
            }
            for vector in 0..=255u8 {
                prop_assert_eq!(vectors.holds(vector), model.contains(&vector));
                let part = vectors.part(u32::from(vector) / 32);
                prop_assert_eq!(part >> (vector & 31) & 1 != 0, model.contains(&vector));
            }
        }
    }
}
