//! Durable state that is changed in place, some words at a time: a transaction of up to [`MOST`] words takes
//! effect as a whole or not at all, whenever the instance ends (R13).
//!
//! The region holds an envelope, a redo list and the content. A transaction writes its words into the list,
//! stores the list's length (the commit point), copies the words to their places and clears the length. An
//! instance that finds a length finishes the copying. One thread writes the region, and the length is one
//! aligned 64-bit store.
//!
//! A restart costs at most [`MOST`] words, however large the content is. The envelope carries no checksum:
//! nobody but this service writes the region, and it never leaves the machine like this. Live state of another
//! version, schema or size is refused, never emptied: a guest may run on it. An instance of another version
//! gets its state as a checked envelope ([`crate::state`]).

use crate::state::Words;
use portcullis_ipc::state::Envelope;
use zerocopy::IntoBytes;

/// Words that one transaction changes at most.
pub const MOST: usize = 255;
/// Words of the region before the content: envelope, length and the pairs of the redo list.
pub const HEAD_WORDS: usize = ENVELOPE_WORDS + 1 + 2 * MOST + 1;

const ENVELOPE_WORDS: usize = size_of::<Envelope>() / 8;
const LENGTH: usize = ENVELOPE_WORDS;
const LIST: usize = LENGTH + 1;
/// "PCLV": live state, changed in place.
const MAGIC: u32 = u32::from_le_bytes(*b"PCLV");

/// A transaction was refused, and nothing of it took effect: it changes more than [`MOST`] words, or one
/// outside the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// The region holds live state that this program cannot continue: of another service, version, schema or size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Version that stands there.
    pub version: u32,
    /// Bytes of content that stand there.
    pub length: u32,
}

/// A region of words with transactions.
pub struct Journal<W> {
    region: W,
    /// Words staged since the last commit.
    staged: usize,
    /// One of them was refused.
    refused: bool,
}

impl<W: Words> Journal<W> {
    /// Opens the region as the live state of `service` in `version` and `schema`; says whether the content is
    /// that of an instance before. If not, it is all zeros.
    ///
    /// # Errors
    /// [`Foreign`] when live state of another kind stands there; nothing is changed.
    pub fn open(region: W, service: &str, version: u32, schema: u64) -> Result<(Self, bool), Foreign> {
        let mut journal = Self { region, staged: 0, refused: false };
        let mut name = [0; 16];
        for (to, from) in name.iter_mut().zip(service.bytes()) {
            *to = from;
        }
        let length = (journal.words() * 8) as u32;
        let envelope = Envelope { magic: MAGIC, version, service: name, schema, length, checksum: 0, commit: 1 };
        let mut found = Envelope::default();
        for (index, chunk) in found.as_mut_bytes().as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *chunk = journal.region.load(index).to_le_bytes();
        }
        let kept = found == envelope;
        if kept {
            journal.apply();
        } else if found.magic == MAGIC {
            return Err(Foreign { version: found.version, length: found.length });
        } else {
            journal.format(&envelope);
        }
        Ok((journal, kept))
    }

    /// The region itself.
    pub fn region(&self) -> &W {
        &self.region
    }

    /// Words of content.
    pub fn words(&self) -> usize {
        self.region.words().saturating_sub(HEAD_WORDS)
    }

    /// The word at `index` as the last commit left it; 0 outside the content.
    #[inline]
    pub fn load(&self, index: usize) -> u64 {
        self.region.load(HEAD_WORDS + index)
    }

    /// Adds a word to the transaction; [`Self::commit`] says when that was refused. Of two values for one
    /// place the later counts.
    #[inline]
    pub fn stage(&mut self, index: usize, value: u64) {
        if index >= self.words() || self.staged == MOST {
            self.refused = true;
            return;
        }
        self.region.store(LIST + 2 * self.staged, index as u64);
        self.region.store(LIST + 2 * self.staged + 1, value);
        self.staged += 1;
    }

    /// Adds those words of a block that differ from what stands there.
    pub fn stage_block(&mut self, first: usize, block: &[u64]) {
        for (index, value) in block.iter().enumerate() {
            if self.load(first + index) != *value {
                self.stage(first + index, *value);
            }
        }
    }

    /// Copies a block of the content out.
    pub fn load_block(&self, first: usize, block: &mut [u64]) {
        for (index, to) in block.iter_mut().enumerate() {
            *to = self.load(first + index);
        }
    }

    /// Makes the staged words the state, all of them or none.
    #[inline]
    pub fn commit(&mut self) -> Result<(), Refused> {
        let staged = core::mem::take(&mut self.staged);
        if core::mem::take(&mut self.refused) {
            return Err(Refused);
        }
        if staged > 0 {
            self.region.store(LENGTH, staged as u64);
            self.apply();
        }
        Ok(())
    }

    /// Stores a word at once, outside any transaction: for bytes that nothing committed points to yet.
    #[inline]
    pub fn store(&mut self, index: usize, value: u64) {
        self.region.store(HEAD_WORDS + index, value);
    }

    /// Copies what the redo list holds to its places.
    #[inline]
    fn apply(&mut self) {
        let length = (self.region.load(LENGTH) as usize).min(MOST);
        for entry in 0..length {
            let index = self.region.load(LIST + 2 * entry) as usize;
            let value = self.region.load(LIST + 2 * entry + 1);
            self.store(index, value);
        }
        self.region.store(LENGTH, 0);
    }

    /// Empties the region; the word that makes it live state comes last.
    fn format(&mut self, envelope: &Envelope) {
        for index in 0..self.region.words() {
            if self.region.load(index) != 0 {
                self.region.store(index, 0);
            }
        }
        let (words, _) = envelope.as_bytes().as_chunks::<8>();
        for (index, word) in words.iter().enumerate().rev() {
            self.region.store(index, u64::from_le_bytes(*word));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::Recorded;
    use proptest::prelude::*;

    const CONTENT: usize = 40;

    fn region() -> Recorded {
        Recorded::new((HEAD_WORDS + CONTENT) * 8)
    }

    fn open(words: Recorded) -> (Journal<Recorded>, bool) {
        Journal::open(words, "test", 1, 2).unwrap()
    }

    fn content(words: Recorded) -> Vec<u64> {
        let (journal, _) = open(words);
        (0..journal.words()).map(|index| journal.load(index)).collect()
    }

    proptest! {
        #[test]
        fn an_end_between_any_two_stores_leaves_the_state_before_or_after_a_transaction(
            transactions in prop::collection::vec(prop::collection::vec((0..CONTENT, any::<u64>()), 0..12), 1..8)
        ) {
            let (mut journal, _) = open(region());
            let mut before = vec![0; CONTENT];
            for transaction in &transactions {
                let words = journal.region.words.clone();
                journal.region.stores.clear();
                let mut after = before.clone();
                for &(index, value) in transaction {
                    journal.stage(index, value);
                    after[index] = value;
                }
                journal.commit().unwrap();
                let stores = journal.region.stores.clone();
                for cut in 0..=stores.len() {
                    let seen = content(Recorded::replay(&words, &stores[..cut]));
                    prop_assert!(seen == before || seen == after, "cut at {cut}");
                    prop_assert!(cut < stores.len() || seen == after);
                }
                before = after;
            }
        }

        #[test]
        fn garbage_is_never_taken_for_state(garbage in prop::collection::vec(any::<u64>(), HEAD_WORDS + CONTENT)) {
            let (journal, kept) = open(Recorded { words: garbage, stores: Vec::new() });
            prop_assert!(!kept);
            prop_assert_eq!(content(journal.region), vec![0; CONTENT]);
        }
    }

    #[test]
    fn an_end_while_the_replay_runs_leaves_a_replay_to_do() {
        let (mut journal, _) = open(region());
        journal.region.stores.clear();
        let words = journal.region.words.clone();
        (0..20).for_each(|index| journal.stage(index, 7));
        journal.commit().unwrap();
        let stores = journal.region.stores.clone();
        // The list and its length are written, nothing is copied.
        let crashed = Recorded::replay(&words, &stores[..41]);
        let (replayed, kept) = open(crashed.clone());
        assert!(kept);
        for cut in 0..=replayed.region.stores.len() {
            let again = Recorded::replay(&crashed.words, &replayed.region.stores[..cut]);
            assert_eq!(content(again)[..21], [[7; 20].as_slice(), &[0]].concat());
        }
    }

    #[test]
    fn a_transaction_that_does_not_fit_changes_nothing() {
        let (mut journal, _) = open(region());
        journal.stage(0, 1);
        journal.stage(CONTENT, 1);
        assert_eq!(journal.commit(), Err(Refused));
        (0..=MOST).for_each(|_| journal.stage(1, 1));
        assert_eq!(journal.commit(), Err(Refused));
        assert_eq!(content(journal.region), vec![0; CONTENT]);
    }

    #[test]
    fn a_block_stages_only_what_differs_and_comes_back() {
        let (mut journal, _) = open(region());
        journal.stage_block(3, &[0, 5, 0, 6]);
        assert_eq!(journal.staged, 2);
        journal.commit().unwrap();
        let mut block = [0; 4];
        journal.load_block(3, &mut block);
        assert_eq!(block, [0, 5, 0, 6]);
    }

    #[test]
    fn live_state_of_another_kind_is_refused_and_kept() {
        let (mut journal, kept) = open(region());
        assert!(!kept);
        journal.stage(0, 9);
        journal.commit().unwrap();
        let words = journal.region;
        let foreign = Foreign { version: 1, length: CONTENT as u32 * 8 };
        assert_eq!(Journal::open(words.clone(), "test", 2, 2).err(), Some(foreign));
        assert_eq!(Journal::open(words.clone(), "test", 1, 3).err(), Some(foreign));
        assert_eq!(Journal::open(words.clone(), "other", 1, 2).err(), Some(foreign));
        let (same, kept) = open(words);
        assert!(kept && same.load(0) == 9);
    }

    #[test]
    fn an_end_while_the_region_is_emptied_starts_it_over() {
        let fresh = Recorded { words: vec![7; HEAD_WORDS + CONTENT], stores: Vec::new() };
        let (journal, _) = open(fresh.clone());
        for cut in 0..journal.region.stores.len() {
            let (again, kept) = open(Recorded::replay(&fresh.words, &journal.region.stores[..cut]));
            assert!(!kept && (0..CONTENT).all(|index| again.load(index) == 0), "cut at {cut}");
        }
    }
}
