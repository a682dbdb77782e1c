//! The log frame on its way: its records have left the core's ring, so they lie in the state region until
//! COM2 has them. A new instance sends the frame again, with the same sequence.

use portcullis_ipc::limits::LOG_READ;
use portcullis_runtime::state::Words;

/// Words that a spill takes.
pub const SIZE: usize = 1 + LOG_READ / 8;

/// The frame. Word 0 holds its sequence (bits 16 to 47) and its length in bytes, 0 for none; it is stored
/// last at the start and alone at the end.
pub struct Spill<W> {
    words: W,
    sequence: u32,
}

impl<W: Words> Spill<W> {
    /// Opens what an instance before left.
    pub fn open(words: W) -> Self {
        let sequence = (words.load(0) >> 16) as u32;
        Self { words, sequence }
    }

    /// The frame that was not sent to its end: its sequence and its bytes.
    pub fn pending<'b>(&self, buffer: &'b mut [u8; LOG_READ]) -> Option<(u32, &'b [u8])> {
        let length = usize::from(self.words.load(0) as u16);
        let bytes = buffer.get_mut(..length).filter(|bytes| !bytes.is_empty())?;
        for (index, chunk) in bytes.chunks_mut(8).enumerate() {
            for (to, from) in chunk.iter_mut().zip(self.words.load(1 + index).to_le_bytes()) {
                *to = from;
            }
        }
        Some((self.sequence, bytes))
    }

    /// Keeps a frame of at most [`LOG_READ`] bytes until it is done; returns its sequence.
    pub fn start(&mut self, bytes: &[u8]) -> u32 {
        for (index, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.words.store(1 + index, u64::from_le_bytes(word));
        }
        self.words.store(0, u64::from(self.sequence) << 16 | bytes.len() as u64 & 0xffff);
        self.sequence
    }

    /// The frame was sent.
    pub fn done(&mut self) {
        self.sequence = self.sequence.wrapping_add(1);
        self.words.store(0, u64::from(self.sequence) << 16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone)]
    struct Recorded {
        words: Vec<u64>,
        stores: Vec<(usize, u64)>,
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

    fn after(before: &[u64], stores: &[(usize, u64)]) -> Spill<Recorded> {
        let mut words = before.to_vec();
        for &(index, value) in stores {
            words[index] = value;
        }
        Spill::open(Recorded { words, stores: Vec::new() })
    }

    proptest! {
        #[test]
        fn an_end_between_any_two_stores_leaves_a_whole_frame_or_none(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..LOG_READ), 1..5)
        ) {
            let mut spill = Spill::open(Recorded { words: vec![0; SIZE], stores: Vec::new() });
            let mut buffer = [0; LOG_READ];
            for (number, frame) in frames.iter().enumerate() {
                let before = spill.words.words.clone();
                spill.words.stores.clear();
                prop_assert_eq!(spill.start(frame), number as u32);
                let stores = spill.words.stores.clone();
                for cut in 0..=stores.len() {
                    let seen = after(&before, &stores[..cut]);
                    let whole = (number as u32, frame.as_slice());
                    let expected = (cut == stores.len()).then_some(whole);
                    prop_assert_eq!(seen.pending(&mut buffer), expected);
                }
                spill.done();
                prop_assert_eq!(spill.pending(&mut buffer), None);
            }
        }
    }

    #[test]
    fn without_memory_sequences_still_rise() {
        let mut spill = Spill::open(Recorded { words: Vec::new(), stores: Vec::new() });
        assert_eq!(spill.start(b"a"), 0);
        spill.done();
        assert_eq!(spill.start(b"b"), 1);
        assert_eq!(spill.pending(&mut [0; LOG_READ]), None);
    }
}
