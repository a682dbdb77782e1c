//! The ledger's book: exactly-once appends in the state region.

use crate::proto::{Append, Appended, Ledger};
use portcullis_runtime::pages::{RegionWords, state_region};
use portcullis_runtime::state::StateRegion;

const BYTES: usize = 24;

/// The book.
pub struct Book {
    region: StateRegion<RegionWords>,
    totals: Ledger,
}

impl Book {
    /// Opens the book as the last instance left it.
    pub fn open() -> Self {
        let region = state_region("test-ledger", 1, 0, 0);
        let mut buffer = [0; BYTES];
        let totals = region.read(&mut buffer).map_or(Ledger::default(), |(_, bytes)| decode(bytes));
        Self { region, totals }
    }

    /// Appends, once for each sequence.
    pub fn append(&mut self, entry: &Append) -> Appended {
        if entry.sequence == self.totals.last + 1 {
            let next = Ledger {
                last: entry.sequence,
                effects: self.totals.effects + 1,
                sum: self.totals.sum.wrapping_add(entry.value),
            };
            if self.region.commit(&encode(&next)).is_ok() {
                self.totals = next;
            }
        }
        Appended { last: self.totals.last, dead: 0 }
    }

    /// What the book says.
    pub fn totals(&self) -> Ledger {
        self.totals
    }
}

fn encode(totals: &Ledger) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip([totals.last, totals.effects, totals.sum]) {
        *to = word.to_le_bytes();
    }
    bytes
}

fn decode(bytes: &[u8]) -> Ledger {
    let word = |index: usize| bytes.as_chunks::<8>().0.get(index).map_or(0, |chunk| u64::from_le_bytes(*chunk));
    Ledger { last: word(0), effects: word(1), sum: word(2) }
}
