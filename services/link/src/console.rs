//! Console output between the guest that wrote it and the lines that carry it.
//!
//! A write is taken once, by its sequence; it is dropped when every line that carries the console has
//! all of it. Each write is one frame on COM2, so that a frame sent again after a restart is the same
//! frame with the same sequence.

use alloc::vec::Vec;
use arrayvec::ArrayVec;
use portcullis_ipc::proto::Refusal;
use portcullis_ipc::proto::link::CONSOLE_BYTES;

/// Writes of one console that wait at most.
pub const WRITES: usize = 8;

/// The bytes of one write.
pub type Write = ArrayVec<u8, CONSOLE_BYTES>;

/// One console.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Console {
    /// Sequence of the last write that was taken.
    pub sequence: u64,
    /// Frame sequence of the first waiting write.
    pub frame: u32,
    /// Position of the first waiting write's first byte in all that was ever written.
    pub base: u64,
    /// Waiting writes, at most [`WRITES`].
    pub writes: Vec<Write>,
    /// Waiting writes that COM2 has wholly.
    pub framed: usize,
}

impl Console {
    /// Takes a write unless its sequence says that it was taken before.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] when it is longer than a write may be, [`Refusal::Full`] when too many
    /// wait.
    pub fn take(&mut self, sequence: u64, bytes: &[u8]) -> Result<bool, Refusal> {
        if sequence <= self.sequence {
            return Ok(false);
        }
        let write = Write::try_from(bytes).map_err(|_| Refusal::Malformed)?;
        if self.writes.len() >= WRITES {
            return Err(Refusal::Full);
        }
        self.writes.push(write);
        self.sequence = sequence;
        Ok(true)
    }

    /// The next write for COM2 and the sequence of its frame.
    pub fn next_frame(&self) -> Option<(u32, &[u8])> {
        let write = self.writes.get(self.framed)?;
        Some((self.frame.wrapping_add(self.framed as u32), write))
    }

    /// Position behind the last byte that was taken.
    pub fn end(&self) -> u64 {
        self.base + self.writes.iter().map(|write| write.len() as u64).sum::<u64>()
    }

    /// The byte at absolute position `at`, when it waits here.
    pub fn byte(&self, at: u64) -> Option<u8> {
        let mut left = usize::try_from(at.checked_sub(self.base)?).ok()?;
        for write in &self.writes {
            match write.get(left) {
                Some(byte) => return Some(*byte),
                None => left -= write.len(),
            }
        }
        None
    }

    /// Drops the writes that COM2 has and whose bytes all lie before absolute position `plain`; says
    /// whether there were any.
    pub fn drop_done(&mut self, plain: u64) -> bool {
        let mut dropped = false;
        while self.framed > 0 {
            let Some(first) = self.writes.first() else {
                break;
            };
            let end = self.base + first.len() as u64;
            if end > plain {
                break;
            }
            self.base = end;
            self.frame = self.frame.wrapping_add(1);
            self.framed -= 1;
            self.writes.remove(0);
            dropped = true;
        }
        dropped
    }

    /// COM2 is not there: all waiting writes count as sent on it.
    pub fn no_frames(&mut self) {
        self.framed = self.writes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sequence_that_was_taken_is_taken_no_second_time() {
        let mut console = Console::default();
        assert_eq!(console.take(1, b"a"), Ok(true));
        assert_eq!(console.take(1, b"a"), Ok(false));
        assert_eq!(console.take(5, b"b"), Ok(true));
        assert_eq!(console.take(4, b"c"), Ok(false));
        assert_eq!(console.writes.len(), 2);
    }

    #[test]
    fn a_full_console_refuses_and_takes_the_same_sequence_later() {
        let mut console = Console::default();
        for sequence in 1..=WRITES as u64 {
            assert_eq!(console.take(sequence, b"x"), Ok(true));
        }
        assert_eq!(console.take(9, b"y"), Err(Refusal::Full));
        assert_eq!(console.sequence, 8);
        console.framed = 1;
        assert!(console.drop_done(1));
        assert_eq!(console.take(9, b"y"), Ok(true));
        assert_eq!(console.take(10, &[0; CONSOLE_BYTES + 1]), Err(Refusal::Malformed));
    }

    #[test]
    fn a_write_waits_until_both_lines_have_it() {
        let mut console = Console::default();
        console.take(1, b"abc").unwrap();
        assert!(!console.drop_done(3));
        console.framed = 1;
        assert!(!console.drop_done(2));
        assert!(console.drop_done(3));
        assert_eq!((console.base, console.frame, console.framed), (3, 1, 0));
    }

    #[test]
    fn an_empty_write_passes_through() {
        let mut console = Console::default();
        console.take(1, b"").unwrap();
        assert_eq!(console.next_frame(), Some((0, &b""[..])));
        console.no_frames();
        assert!(console.drop_done(0));
    }

    proptest! {
        /// Whatever the pace of the two lines, each carries all bytes once and in order.
        #[test]
        fn both_lines_carry_every_byte_once_and_in_order(
            steps in prop::collection::vec((0u8..3, prop::collection::vec(any::<u8>(), 0..20)), 1..200)
        ) {
            let mut console = Console::default();
            let (mut plain, mut framed, mut written) = (Vec::new(), Vec::new(), Vec::new());
            let mut sequence = 0;
            let mut frames = 0;
            for (what, bytes) in steps {
                match what {
                    0 => {
                        if console.take(sequence + 1, &bytes) == Ok(true) {
                            sequence += 1;
                            written.extend(bytes);
                        }
                    }
                    1 => {
                        if let Some((frame, bytes)) = console.next_frame() {
                            prop_assert_eq!(frame, frames);
                            frames += 1;
                            framed.extend(bytes);
                            console.framed += 1;
                        }
                    }
                    _ => plain.extend(console.byte(plain.len() as u64)),
                }
                console.drop_done(plain.len() as u64);
                prop_assert!(written.starts_with(&framed) && written.starts_with(&plain));
            }
            while let Some(byte) = console.byte(plain.len() as u64) {
                plain.push(byte);
            }
            prop_assert_eq!(plain, written);
        }
    }
}
