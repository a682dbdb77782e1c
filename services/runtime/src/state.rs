//! The state region: two slots, each an envelope and its bytes. A commit writes the slot that is not
//! current and stores its commit count last, so that an end between any two stores leaves the state
//! before the commit or the state after it, never one between (R9, R13).
//!
//! The order of the stores is the whole protection: one thread writes the region, and the count is one
//! aligned 64-bit store.

use portcullis_ipc::checksum::crc32;
use portcullis_ipc::state::{Envelope, MAGIC};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of an envelope.
pub const HEAD: usize = size_of::<Envelope>();
const COMMIT: usize = core::mem::offset_of!(Envelope, commit);

/// Memory that is read and written in aligned 64-bit words. A store must not be moved over another.
pub trait Words {
    /// Words there are.
    fn words(&self) -> usize;
    /// The word at `index`; 0 outside.
    fn load(&self, index: usize) -> u64;
    /// Stores the word at `index`; nothing outside.
    fn store(&mut self, index: usize, value: u64);
}

/// A commit was refused: the bytes do not fit into a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// Bytes that fit.
    pub capacity: usize,
}

/// Head of the state that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Version of the state's type.
    pub version: u32,
    /// Schema hash of the state's type.
    pub schema: u64,
    /// Bytes.
    pub length: usize,
}

/// A state region of one service.
pub struct StateRegion<W> {
    words: W,
    service: [u8; 16],
    version: u32,
    schema: u64,
    /// Slot of the newest commit and its count; count 0 while there is none.
    current: (usize, u64),
}

impl<W: Words> StateRegion<W> {
    /// Opens the region of `service`, whose commits will carry `version` and `schema`.
    pub fn open(words: W, service: &str, version: u32, schema: u64) -> Self {
        let mut name = [0; 16];
        for (to, from) in name.iter_mut().zip(service.bytes()) {
            *to = from;
        }
        let mut region = Self { words, service: name, version, schema, current: (0, 0) };
        for slot in 0..2 {
            if let Some(envelope) = region.valid(slot)
                && envelope.commit > region.current.1
            {
                region.current = (slot, envelope.commit);
            }
        }
        region
    }

    /// Bytes that one commit can hold.
    pub fn capacity(&self) -> usize {
        (self.slot_words() * 8).saturating_sub(HEAD)
    }

    /// Count of the newest commit; 0 when there is none.
    pub fn commits(&self) -> u64 {
        self.current.1
    }

    /// Copies the current state into `buffer`. `None` when there is none, or when it is longer than the
    /// buffer.
    pub fn read<'b>(&self, buffer: &'b mut [u8]) -> Option<(Saved, &'b [u8])> {
        let (slot, count) = self.current;
        if count == 0 {
            return None;
        }
        let envelope = self.envelope(slot);
        let saved = Saved { version: envelope.version, schema: envelope.schema, length: envelope.length as usize };
        let target = buffer.get_mut(..saved.length)?;
        self.copy_out(slot, target);
        Some((saved, target))
    }

    /// Makes `bytes` the state.
    pub fn commit(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        if HEAD + bytes.len() > self.slot_words() * 8 {
            return Err(TooLarge { capacity: self.capacity() });
        }
        let (slot, count) = match self.current {
            (_, 0) => (0, 0),
            (slot, count) => (1 - slot, count),
        };
        let first = self.first_word(slot);
        for (index, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.words.store(first + HEAD / 8 + index, u64::from_le_bytes(word));
        }
        let envelope = Envelope {
            magic: MAGIC,
            version: self.version,
            service: self.service,
            schema: self.schema,
            length: bytes.len() as u32,
            checksum: crc32(0, bytes),
            commit: count + 1,
        };
        let mut head = [0; HEAD];
        head.copy_from_slice(envelope.as_bytes());
        let (words, _) = head.as_chunks::<8>();
        for (index, word) in words.iter().enumerate() {
            if index != COMMIT / 8 {
                self.words.store(first + index, u64::from_le_bytes(*word));
            }
        }
        self.words.store(first + COMMIT / 8, count + 1);
        self.current = (slot, count + 1);
        Ok(())
    }

    fn slot_words(&self) -> usize {
        self.words.words() / 2
    }

    fn first_word(&self, slot: usize) -> usize {
        slot * self.slot_words()
    }

    fn envelope(&self, slot: usize) -> Envelope {
        let mut head = [0; HEAD];
        let first = self.first_word(slot);
        for (index, chunk) in head.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *chunk = self.words.load(first + index).to_le_bytes();
        }
        Envelope::read_from_bytes(&head).unwrap_or_default()
    }

    fn copy_out(&self, slot: usize, target: &mut [u8]) {
        let first = self.first_word(slot) + HEAD / 8;
        for (index, chunk) in target.chunks_mut(8).enumerate() {
            let word = self.words.load(first + index).to_le_bytes();
            for (to, from) in chunk.iter_mut().zip(word) {
                *to = from;
            }
        }
    }

    /// The envelope of a slot that holds a whole commit of this service.
    fn valid(&self, slot: usize) -> Option<Envelope> {
        let envelope = self.envelope(slot);
        let fits = envelope.length as usize <= self.capacity();
        let ours = envelope.magic == MAGIC && envelope.service == self.service && fits;
        (ours && self.checksum(slot, envelope.length as usize) == envelope.checksum).then_some(envelope)
    }

    fn checksum(&self, slot: usize, length: usize) -> u32 {
        let first = self.first_word(slot) + HEAD / 8;
        let (mut crc, mut left, mut index) = (0, length, first);
        while left > 0 {
            let word = self.words.load(index).to_le_bytes();
            let take = left.min(8);
            crc = crc32(crc, word.get(..take).unwrap_or_default());
            left -= take;
            index += 1;
        }
        crc
    }
}

#[cfg(test)]
/// Memory that records its stores, for the tests of what lies in a region.
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Memory that keeps the order of its stores.
    #[derive(Clone, Default)]
    pub struct Recorded {
        /// Its words now.
        pub words: Vec<u64>,
        /// Every store, in order.
        pub stores: Vec<(usize, u64)>,
    }

    impl Recorded {
        /// `bytes` of zeros.
        pub fn new(bytes: usize) -> Self {
            Self { words: vec![0; bytes / 8], stores: Vec::new() }
        }
        /// `words` after `stores`.
        pub fn replay(words: &[u64], stores: &[(usize, u64)]) -> Self {
            let mut words = words.to_vec();
            for &(index, value) in stores {
                words[index] = value;
            }
            Self { words, stores: Vec::new() }
        }
    }

    impl Words for Recorded {
        fn words(&self) -> usize {
            self.words.len()
        }
        fn load(&self, index: usize) -> u64 {
            self.words.get(index).copied().unwrap_or(0)
        }
        fn store(&mut self, index: usize, value: u64) {
            if let Some(word) = self.words.get_mut(index) {
                *word = value;
                self.stores.push((index, value));
            }
        }
    }

    fn content(words: Recorded) -> Option<Vec<u8>> {
        let region = StateRegion::open(words, "test", 1, 2);
        let mut buffer = [0; 512];
        region.read(&mut buffer).map(|(_, bytes)| bytes.to_vec())
    }

    proptest! {
        #[test]
        fn an_end_between_any_two_stores_leaves_the_state_before_or_after(
            states in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..6)
        ) {
            let mut region = StateRegion::open(Recorded::new(1024), "test", 1, 2);
            let mut before = None;
            for state in &states {
                let words = region.words.words.clone();
                region.words.stores.clear();
                region.commit(state).unwrap();
                let stores = region.words.stores.clone();
                for cut in 0..=stores.len() {
                    let seen = content(Recorded::replay(&words, &stores[..cut]));
                    let after = Some(state.clone());
                    prop_assert!(seen == before || seen == after, "cut at {cut}");
                    prop_assert!(cut < stores.len() || seen == after);
                }
                before = Some(state.clone());
            }
        }

        #[test]
        fn garbage_in_the_region_is_never_taken_for_state_and_can_be_written_over(
            words in prop::collection::vec(any::<u64>(), 128)
        ) {
            let garbage = Recorded { words, stores: Vec::new() };
            prop_assert_eq!(content(garbage.clone()), None);
            let mut region = StateRegion::open(garbage, "test", 1, 2);
            region.commit(b"first").unwrap();
            prop_assert_eq!(content(region.words), Some(b"first".to_vec()));
        }
    }

    #[test]
    fn the_head_of_the_state_comes_back() {
        let mut region = StateRegion::open(Recorded::new(256), "test", 7, 9);
        region.commit(b"abc").unwrap();
        let mut buffer = [0; 8];
        let (saved, bytes) = region.read(&mut buffer).unwrap();
        assert_eq!((saved, bytes), (Saved { version: 7, schema: 9, length: 3 }, &b"abc"[..]));
        assert_eq!(region.commits(), 1);
    }

    #[test]
    fn state_of_another_service_is_not_read() {
        let mut region = StateRegion::open(Recorded::new(256), "other", 1, 2);
        region.commit(b"abc").unwrap();
        assert_eq!(content(region.words), None);
    }

    #[test]
    fn a_state_that_does_not_fit_is_refused_and_changes_nothing() {
        let mut region = StateRegion::open(Recorded::new(256), "test", 1, 2);
        assert_eq!(region.capacity(), 80);
        region.commit(&[1; 80]).unwrap();
        assert_eq!(region.commit(&[2; 81]), Err(TooLarge { capacity: 80 }));
        assert_eq!(content(region.words), Some(vec![1; 80]));
    }

    #[test]
    fn a_region_of_no_bytes_holds_nothing_and_harms_nothing() {
        let mut region = StateRegion::open(Recorded::new(0), "test", 1, 2);
        assert!(region.commit(&[1]).is_err());
        assert_eq!(region.commit(&[]), Err(TooLarge { capacity: 0 }));
        assert_eq!(content(region.words), None);
    }
}
