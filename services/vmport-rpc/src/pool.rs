//! The pool: blocks of [`BLOCK`] bytes, linked to chains. A message takes its chain when the guest announces
//! it; a value keeps the chain of the message that set it.
//!
//! Links and bytes of free blocks are written outside any transaction: nothing committed points to them.

use crate::channel::NONE;
use crate::layout::{BLOCK, BLOCK_WORDS};
use crate::store::{Marks, Store};
use portcullis_runtime::state::Words;

/// Blocks for a number of bytes.
pub const fn blocks(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK)
}

/// A byte of a chain: its block, and which of that block; [`BLOCK`] for the first of the next block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The block.
    pub block: u16,
    /// The byte in it.
    pub offset: usize,
}

impl<W: Words> Store<W> {
    fn place(&self, block: u16) -> usize {
        self.layout.links() + usize::from(block)
    }

    /// The block after another one.
    pub fn link(&self, block: u16) -> u16 {
        self.journal.load(self.place(block)) as u16
    }

    /// Takes a chain for `bytes`; `None`, and nothing taken, when the pool does not hold that. No bytes are
    /// no chain.
    pub fn allocate(&mut self, bytes: usize) -> Option<u16> {
        let count = blocks(bytes);
        if count > self.free_blocks {
            return None;
        }
        if count == 0 {
            return Some(NONE);
        }
        let head = self.free;
        let last = self.walk(head, count - 1);
        self.free = self.link(last);
        self.free_blocks -= count;
        self.journal.store(self.place(last), NONE.into());
        Some(head)
    }

    /// Gives a chain back that nothing committed names any more.
    pub fn release(&mut self, head: u16) {
        let mut last = head;
        let mut count = 1;
        while count < self.layout.blocks && self.link(last) != NONE {
            last = self.link(last);
            count += 1;
        }
        self.journal.store(self.place(last), self.free.into());
        self.free = head;
        self.free_blocks += count;
    }

    /// Stages the end of a chain after its first `bytes` (at least one); the rest has no owner then.
    pub fn trim(&mut self, head: u16, bytes: usize) {
        let last = self.walk(head, blocks(bytes).saturating_sub(1));
        let rest = self.link(last);
        if rest != NONE {
            self.journal.stage(self.place(last), NONE.into());
            self.orphan(rest);
        }
    }

    /// The block `steps` after `block`.
    fn walk(&self, block: u16, steps: usize) -> u16 {
        (0..steps).fold(block, |block, _| self.link(block))
    }

    /// Byte `position` of a chain.
    pub fn cursor(&self, head: u16, position: usize) -> Cursor {
        Cursor { block: self.walk(head, position / BLOCK), offset: position % BLOCK }
    }

    /// Blocks of a chain.
    pub fn chain_blocks(&self, head: u16) -> usize {
        let mut block = head;
        let mut count = 0;
        while block != NONE && count < self.layout.blocks {
            block = self.link(block);
            count += 1;
        }
        count
    }

    /// Notes a chain as taken; returns its blocks.
    pub(crate) fn mark(&self, head: u16, marks: &mut Marks) -> usize {
        let mut block = head;
        let mut count = 0;
        while block != NONE && count < self.layout.blocks {
            if let Some(word) = marks.get_mut(usize::from(block) / 64) {
                *word |= 1 << (block % 64);
            }
            block = self.link(block);
            count += 1;
        }
        count
    }

    /// Makes a chain of all blocks that are not marked.
    pub(crate) fn thread(&mut self, marks: &Marks) {
        for block in (0..self.layout.blocks).rev() {
            if marks.get(block / 64).is_some_and(|word| word & 1 << (block % 64) == 0) {
                let next = u64::from(self.free);
                if self.journal.load(self.layout.links() + block) != next {
                    self.journal.store(self.layout.links() + block, next);
                }
                self.free = block as u16;
                self.free_blocks += 1;
            }
        }
    }

    fn next(&self, at: Cursor) -> Cursor {
        if at.offset < BLOCK { at } else { Cursor { block: self.link(at.block), offset: 0 } }
    }

    fn word(&self, at: Cursor) -> usize {
        self.layout.data() + usize::from(at.block) * BLOCK_WORDS + at.offset / 8
    }

    /// Copies bytes of a chain out; returns where they end. The chain must hold them.
    pub fn read(&self, from: Cursor, bytes: &mut [u8]) -> Cursor {
        let mut at = from;
        let mut rest = bytes;
        while !rest.is_empty() {
            at = self.next(at);
            let (piece, after) = rest.split_at_mut(rest.len().min(BLOCK - at.offset));
            self.read_run(at, piece);
            at.offset += piece.len();
            rest = after;
        }
        at
    }

    /// Copies bytes within one block out.
    fn read_run(&self, at: Cursor, bytes: &mut [u8]) {
        let (first, lane) = (self.word(at), at.offset % 8);
        if lane + bytes.len() <= 8 {
            let word = self.journal.load(first).to_le_bytes();
            copy(bytes, word.get(lane..).unwrap_or_default());
            return;
        }
        let mut buffer = [0; BLOCK];
        let words = (lane + bytes.len()).div_ceil(8);
        for (index, to) in buffer.as_chunks_mut::<8>().0.iter_mut().take(words).enumerate() {
            *to = self.journal.load(first + index).to_le_bytes();
        }
        copy(bytes, buffer.get(lane..).unwrap_or_default());
    }

    /// Copies bytes into a chain, outside any transaction; returns where they end. The chain must hold them,
    /// and nothing committed may count them yet.
    pub fn write(&mut self, to: Cursor, bytes: &[u8]) -> Cursor {
        let mut at = to;
        let mut rest = bytes;
        while !rest.is_empty() {
            at = self.next(at);
            let (piece, after) = rest.split_at(rest.len().min(BLOCK - at.offset));
            self.write_run(at, piece);
            at.offset += piece.len();
            rest = after;
        }
        at
    }

    /// Copies bytes into one block.
    fn write_run(&mut self, at: Cursor, bytes: &[u8]) {
        let (first, lane) = (self.word(at), at.offset % 8);
        if lane + bytes.len() <= 8 {
            let mut word = self.journal.load(first).to_le_bytes();
            copy(word.get_mut(lane..).unwrap_or_default(), bytes);
            self.journal.store(first, u64::from_le_bytes(word));
            return;
        }
        let mut buffer = [0; BLOCK];
        let words = (lane + bytes.len()).div_ceil(8);
        let ends = [0, words - 1];
        for index in ends {
            if let Some(to) = buffer.as_chunks_mut::<8>().0.get_mut(index) {
                *to = self.journal.load(first + index).to_le_bytes();
            }
        }
        copy(buffer.get_mut(lane..).unwrap_or_default(), bytes);
        for (index, from) in buffer.as_chunks::<8>().0.iter().take(words).enumerate() {
            self.journal.store(first + index, u64::from_le_bytes(*from));
        }
    }

    /// How many of `length` bytes stand before the first zero.
    pub fn before_zero(&self, from: Cursor, length: usize) -> usize {
        let (mut at, mut seen) = (from, 0);
        while seen < length {
            at = self.next(at);
            let lane = at.offset % 8;
            // Bytes before the lane are made to be no zeros.
            let word = self.journal.load(self.word(at)) | ((1 << (lane * 8)) - 1);
            let zeros = word.wrapping_sub(0x0101_0101_0101_0101) & !word & 0x8080_8080_8080_8080;
            if zeros != 0 {
                let found = zeros.trailing_zeros() as usize / 8;
                return (seen + found - lane).min(length);
            }
            seen += 8 - lane;
            at.offset += 8 - lane;
        }
        length
    }
}

/// Copies as much as fits.
fn copy(to: &mut [u8], from: &[u8]) {
    let length = to.len().min(from.len());
    if let (Some(to), Some(from)) = (to.get_mut(..length), from.get(..length)) {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::store;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_come_back_wherever_they_were_written(
            before in 0usize..600,
            bytes in prop::collection::vec(any::<u8>(), 0..700),
            split in any::<prop::sample::Index>(),
        ) {
            let mut store = store();
            let head = store.allocate(1300).unwrap();
            store.write(store.cursor(head, 0), &[0xee; 1300]);
            let split = split.index(bytes.len() + 1);
            let at = store.write(store.cursor(head, before), &bytes[..split]);
            store.write(at, &bytes[split..]);
            let mut all = vec![0; 1300];
            let at = store.read(store.cursor(head, 0), &mut all[..split]);
            store.read(at, &mut all[split..]);
            let mut expected = vec![0xee; 1300];
            expected[before..before + bytes.len()].copy_from_slice(&bytes);
            prop_assert_eq!(all, expected);
        }

        #[test]
        fn the_first_zero_is_found(
            before in 0usize..300,
            bytes in prop::collection::vec(prop_oneof![9 => 1u8.., 1 => Just(0u8)], 0..600),
        ) {
            let mut store = store();
            let head = store.allocate(1000).unwrap();
            store.write(store.cursor(head, before), &bytes);
            let expected = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            prop_assert_eq!(store.before_zero(store.cursor(head, before), bytes.len()), expected);
        }
    }

    #[test]
    fn the_pool_ends_with_none_and_takes_back_what_it_gave() {
        let mut store = store();
        let all = store.free_blocks;
        assert_eq!(store.allocate((all + 1) * BLOCK), None);
        let chain = store.allocate(all * BLOCK).unwrap();
        assert_eq!((store.free_blocks, store.chain_blocks(chain)), (0, all));
        assert_eq!(store.allocate(1), None);
        assert_eq!(store.allocate(0), Some(NONE));
        store.release(chain);
        assert_eq!(store.free_blocks, all);
        assert_eq!(store.chain_blocks(store.free), all);
    }

    #[test]
    fn a_trimmed_chain_gives_its_rest_back_with_the_commit() {
        let mut store = store();
        let all = store.free_blocks;
        let head = store.allocate(5 * BLOCK).unwrap();
        store.trim(head, BLOCK + 1);
        assert_eq!(store.chain_blocks(head), 5);
        assert!(store.commit());
        assert_eq!((store.chain_blocks(head), store.free_blocks), (2, all - 2));
    }
}
