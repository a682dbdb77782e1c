//! Console output between the guest that wrote it and the lines that carry it.
//!
//! A write is taken once, by its sequence; it is dropped when every line that carries the console has
//! all of it. Each write is one frame on COM2, so that a frame sent again after a restart is the same
//! frame with the same sequence.

use portcullis_ipc::proto::Refusal;
use portcullis_ipc::proto::link::CONSOLE_BYTES;
use postcard_schema::Schema;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Writes of one console that wait at most: what a guest may be ahead of the lines.
pub const WRITES: usize = 8;

/// The output of one console, as the state region holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Schema)]
#[repr(C)]
pub struct Output {
    /// Sequence of the last write that was taken.
    pub sequence: u64,
    /// Writes that were dropped; the frame of the first waiting write has this sequence.
    dropped: u64,
    /// Position of the first waiting write's first byte in all that was ever written.
    pub base: u64,
    /// Waiting writes, at most [`WRITES`].
    count: u64,
    /// Waiting writes that COM2 has wholly.
    framed: u64,
    /// Bytes of the write in each place; the first waiting one has the place `dropped % WRITES`.
    lengths: [u8; WRITES],
    bytes: [[u8; 32]; WRITES * QUARTERS],
}

/// The schema is made of arrays of at most 32.
const QUARTERS: usize = CONSOLE_BYTES / 32;

impl Default for Output {
    fn default() -> Self {
        Self {
            sequence: 0,
            dropped: 0,
            base: 0,
            count: 0,
            framed: 0,
            lengths: [0; WRITES],
            bytes: [[0; 32]; WRITES * QUARTERS],
        }
    }
}

impl Output {
    /// Puts what no instance of this program can have written right, so that it does no further harm.
    pub fn check(&mut self) {
        self.count = self.count.min(WRITES as u64);
        self.framed = self.framed.min(self.count);
        for length in &mut self.lengths {
            *length = (*length).min(CONSOLE_BYTES as u8);
        }
    }

    fn place(&self, index: u64) -> usize {
        (self.dropped.wrapping_add(index) % WRITES as u64) as usize
    }

    /// The waiting write of this index.
    fn write(&self, index: u64) -> Option<&[u8]> {
        let place = self.place(index);
        let length = usize::from(*self.lengths.get(place)?);
        let bytes = self.bytes.as_flattened().get(place * CONSOLE_BYTES..)?.get(..length)?;
        (index < self.count).then_some(bytes)
    }

    /// Takes a write unless its sequence says that it was taken before.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] when it is longer than a write may be, [`Refusal::Full`] when too many
    /// wait.
    pub fn take(&mut self, sequence: u64, bytes: &[u8]) -> Result<bool, Refusal> {
        if sequence <= self.sequence {
            return Ok(false);
        }
        if bytes.len() > CONSOLE_BYTES {
            return Err(Refusal::Malformed);
        }
        if self.count >= WRITES as u64 {
            return Err(Refusal::Full);
        }
        let place = self.place(self.count);
        if let Some(length) = self.lengths.get_mut(place) {
            *length = bytes.len() as u8;
        }
        for (to, from) in self.bytes.as_flattened_mut().iter_mut().skip(place * CONSOLE_BYTES).zip(bytes) {
            *to = *from;
        }
        self.count += 1;
        self.sequence = sequence;
        Ok(true)
    }

    /// The next write for COM2 and the sequence of its frame.
    pub fn next_frame(&self) -> Option<(u32, &[u8])> {
        let write = self.write(self.framed)?;
        Some((self.dropped.wrapping_add(self.framed) as u32, write))
    }

    /// COM2 has the write that [`Self::next_frame`] gave.
    pub fn frame_sent(&mut self) {
        self.framed = (self.framed + 1).min(self.count);
    }

    /// Position after the last byte that was taken.
    pub fn end(&self) -> u64 {
        let waiting: u64 = (0..self.count).filter_map(|index| self.write(index)).map(|write| write.len() as u64).sum();
        self.base.wrapping_add(waiting)
    }

    /// The byte at absolute position `at`, when it waits here.
    pub fn byte(&self, at: u64) -> Option<u8> {
        let mut left = usize::try_from(at.checked_sub(self.base)?).ok()?;
        for write in (0..self.count).filter_map(|index| self.write(index)) {
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
        let mut any = false;
        while self.framed > 0
            && let Some(first) = self.write(0)
        {
            let end = self.base.wrapping_add(first.len() as u64);
            if end > plain {
                break;
            }
            self.base = end;
            self.dropped = self.dropped.wrapping_add(1);
            self.framed -= 1;
            self.count -= 1;
            any = true;
        }
        any
    }

    /// COM2 is not there: all waiting writes count as sent on it.
    pub fn no_frames(&mut self) {
        self.framed = self.count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sequence_that_was_taken_is_taken_no_second_time() {
        let mut output = Output::default();
        assert_eq!(output.take(1, b"a"), Ok(true));
        assert_eq!(output.take(1, b"a"), Ok(false));
        assert_eq!(output.take(5, b"b"), Ok(true));
        assert_eq!(output.take(4, b"c"), Ok(false));
        assert_eq!(output.count, 2);
    }

    #[test]
    fn a_full_console_refuses_and_takes_the_same_sequence_later() {
        let mut output = Output::default();
        for sequence in 1..=WRITES as u64 {
            assert_eq!(output.take(sequence, b"x"), Ok(true));
        }
        assert_eq!(output.take(9, b"y"), Err(Refusal::Full));
        assert_eq!(output.sequence, 8);
        output.frame_sent();
        assert!(output.drop_done(1));
        assert_eq!(output.take(9, b"y"), Ok(true));
        assert_eq!(output.take(10, &[0; CONSOLE_BYTES + 1]), Err(Refusal::Malformed));
    }

    #[test]
    fn a_write_waits_until_both_lines_have_it() {
        let mut output = Output::default();
        output.take(1, b"abc").unwrap();
        assert!(!output.drop_done(3));
        output.frame_sent();
        assert!(!output.drop_done(2));
        assert!(output.drop_done(3));
        assert_eq!((output.base, output.dropped, output.framed, output.end()), (3, 1, 0, 3));
    }

    #[test]
    fn an_empty_write_passes_through() {
        let mut output = Output::default();
        output.take(1, b"").unwrap();
        assert_eq!(output.next_frame(), Some((0, &b""[..])));
        output.no_frames();
        assert!(output.drop_done(0));
    }

    proptest! {
        /// Whatever the pace of the two lines, each carries all bytes once and in order.
        #[test]
        fn both_lines_carry_every_byte_once_and_in_order(
            steps in prop::collection::vec((0u8..3, prop::collection::vec(any::<u8>(), 0..20)), 1..200)
        ) {
            let mut output = Output::default();
            let (mut plain, mut framed, mut written) = (Vec::new(), Vec::new(), Vec::new());
            let mut sequence = 0;
            let mut frames = 0;
            for (what, bytes) in steps {
                match what {
                    0 => {
                        if output.take(sequence + 1, &bytes) == Ok(true) {
                            sequence += 1;
                            written.extend(bytes);
                        }
                    }
                    1 => {
                        if let Some((frame, bytes)) = output.next_frame() {
                            prop_assert_eq!(frame, frames);
                            frames += 1;
                            framed.extend(bytes);
                            output.frame_sent();
                        }
                    }
                    _ => plain.extend(output.byte(plain.len() as u64)),
                }
                output.drop_done(plain.len() as u64);
                prop_assert!(written.starts_with(&framed) && written.starts_with(&plain));
                prop_assert_eq!(output.end(), written.len() as u64);
            }
            while let Some(byte) = output.byte(plain.len() as u64) {
                plain.push(byte);
            }
            prop_assert_eq!(plain, written);
        }

        #[test]
        fn any_words_are_output_within_its_bounds(words in prop::collection::vec(any::<u8>(), size_of::<Output>())) {
            let mut output = Output::read_from_bytes(&words).unwrap();
            output.check();
            output.take(u64::MAX, &[1; CONSOLE_BYTES]).ok();
            while output.next_frame().is_some() {
                output.frame_sent();
            }
            output.byte(output.base.wrapping_add(3));
            output.drop_done(u64::MAX);
            prop_assert!(output.count <= WRITES as u64);
        }
    }
}
