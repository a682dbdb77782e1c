//! Console input on its way to a guest: a bounded queue of numbered bytes. What was given stays until the
//! reader acknowledges it, so that a reply which is lost with an instance is given again.
//!
//! Input comes in two ways. A host that speaks frames numbers what it sends and learns how much was taken, so
//! that nothing is lost and nothing comes twice whatever instance dies. A person at COM1 has no numbers: what
//! finds the queue full waits in the line's hardware as long as that can keep it.

use portcullis_ipc::proto::control::InputTaken;
use postcard_schema::Schema;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes that wait for the guest at most.
pub const CAPACITY: usize = 256;

/// The input of one console, as the state region holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Schema)]
#[repr(C)]
pub struct Input {
    /// Number of the first byte that is kept; its place is this modulo [`CAPACITY`].
    first: u64,
    /// Bytes that are kept.
    length: u64,
    /// Bytes that ever came in frames and were taken.
    framed: u64,
    /// The schema is made of arrays of at most 32.
    bytes: [[u8; 32]; CAPACITY / 32],
}

impl Input {
    /// Puts what no instance of this program can have written right, so that it does no further harm.
    pub fn check(&mut self) {
        self.length = self.length.min(CAPACITY as u64);
    }

    /// Bytes that fit.
    pub fn room(&self) -> usize {
        CAPACITY - self.length as usize
    }

    /// Whether bytes wait for the guest.
    pub fn waits(&self) -> bool {
        self.length > 0
    }

    /// Adds the bytes that fit; returns how many did.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        for byte in bytes.iter().take(count) {
            let place = (self.first.wrapping_add(self.length) % CAPACITY as u64) as usize;
            if let Some(place) = self.bytes.as_flattened_mut().get_mut(place) {
                *place = *byte;
            }
            self.length += 1;
        }
        count
    }

    /// Takes the bytes of a frame, of which the first is the host's number `from` (low half): those that are
    /// new and fit. Says whether there were any.
    pub fn frame(&mut self, from: u32, bytes: &[u8]) -> bool {
        let known = (self.framed as u32).wrapping_sub(from) as usize;
        // One that begins after what was taken has a lost one before it, and both will come again.
        let taken = bytes.get(known..).map_or(0, |new| self.push(new));
        self.framed = self.framed.wrapping_add(taken as u64);
        taken > 0
    }

    /// What the host is told of the frames.
    pub fn taken(&self, console: u8) -> InputTaken {
        InputTaken { console, upto: self.framed as u32, room: self.room() as u16 }
    }

    /// Forgets the bytes before number `from` and copies those after it into `buffer`, as many as there are
    /// and fit; returns the number of the first.
    ///
    /// A number that lies beyond all input comes from a reader that outlived this queue: it is believed.
    pub fn read<'b>(&mut self, from: u64, buffer: &'b mut [u8]) -> (u64, &'b [u8]) {
        if from > self.first {
            self.length -= (from - self.first).min(self.length);
            self.first = from;
        }
        let count = (self.length as usize).min(buffer.len());
        for (index, to) in (0u64..).zip(buffer.iter_mut().take(count)) {
            let place = (self.first.wrapping_add(index) % CAPACITY as u64) as usize;
            *to = self.bytes.as_flattened().get(place).copied().unwrap_or(0);
        }
        (self.first, buffer.get(..count).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_come_out_in_order_across_the_end_of_the_ring() {
        let mut input = Input::default();
        let mut buffer = [0; 200];
        let mut next = 0;
        for round in 0..10u8 {
            let bytes: Vec<u8> = (0..150).map(|byte: u8| byte ^ round).collect();
            assert_eq!(input.push(&bytes), 150);
            assert_eq!(input.read(next, &mut buffer), (next, &bytes[..]));
            next += 150;
            input.read(next, &mut []);
        }
        assert!(input.read(next, &mut buffer).1.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_not_taken_and_what_fitted_stays() {
        let mut input = Input::default();
        assert_eq!(input.push(&[1; CAPACITY - 1]), CAPACITY - 1);
        assert_eq!(input.push(&[1, 2]), 1);
        assert_eq!(input.push(&[2]), 0);
        assert_eq!(input.read(0, &mut [0; 300]), (0, &[1; CAPACITY][..]));
    }

    #[test]
    fn input_is_given_again_until_it_is_acknowledged() {
        let mut input = Input::default();
        input.push(b"root");
        let mut buffer = [0; 8];
        assert_eq!(input.read(0, &mut buffer), (0, &b"root"[..]));
        assert_eq!(input.read(0, &mut buffer[..2]), (0, &b"ro"[..]));
        assert_eq!(input.read(2, &mut buffer), (2, &b"ot"[..]));
        assert_eq!(input.read(0, &mut buffer), (2, &b"ot"[..]));
        assert!(input.waits());
        assert_eq!(input.read(4, &mut buffer), (4, &b""[..]));
        assert!(!input.waits());
    }

    #[test]
    fn a_reader_that_knows_more_than_the_queue_goes_on_where_it_was() {
        let mut input = Input::default();
        input.push(&[1]);
        assert_eq!(input.read(900, &mut [0; 8]), (900, &b""[..]));
        input.push(b"x");
        assert_eq!(input.read(900, &mut [0; 8]), (900, &b"x"[..]));
    }

    #[test]
    fn an_empty_frame_of_a_host_that_knows_nothing_takes_nothing_and_asks_how_much_was_taken() {
        let mut input = Input::default();
        input.frame(0, b"of a host before");
        assert!(!input.frame(0, b""));
        assert_eq!(input.taken(0), InputTaken { console: 0, upto: 16, room: CAPACITY as u16 - 16 });
    }

    #[test]
    fn of_frames_only_what_is_new_and_follows_is_taken() {
        let mut input = Input { framed: u64::from(u32::MAX) - 1, ..Input::default() };
        assert!(input.frame(u32::MAX - 1, b"abc"));
        assert!(!input.frame(u32::MAX - 1, b"abc"));
        assert!(!input.frame(5, b"lost one before"));
        assert!(input.frame(u32::MAX, b"bcde"));
        assert_eq!(input.read(0, &mut [0; 8]), (0, &b"abcde"[..]));
        assert_eq!(input.taken(2), InputTaken { console: 2, upto: 3, room: CAPACITY as u16 - 5 });
    }

    proptest! {
        #[test]
        fn whatever_frames_are_lost_or_come_again_the_guest_reads_the_text_once(
            text in prop::collection::vec(any::<u8>(), 0..900),
            steps in prop::collection::vec((0usize..4, 1usize..90, 0usize..90), 0..200),
        ) {
            let (mut input, mut read) = (Input::default(), Vec::new());
            let mut sent = 0usize;
            for (what, length, most) in steps {
                let from = match what {
                    // The host goes on after what was taken, or repeats, or is ahead.
                    0 | 1 => sent,
                    2 => sent.saturating_sub(length),
                    _ => (sent + length).min(text.len()),
                };
                let piece = &text[from..(from + length).min(text.len())];
                input.frame(from as u32, piece);
                sent = input.taken(0).upto as usize;
                let mut buffer = [0; 90];
                let (first, bytes) = input.read(read.len() as u64, &mut buffer[..most]);
                prop_assert_eq!(first, read.len() as u64);
                read.extend(bytes);
                prop_assert!(text.starts_with(&read) && sent >= read.len());
            }
        }

        #[test]
        fn any_words_are_input_within_its_bounds(words in prop::collection::vec(any::<u8>(), size_of::<Input>())) {
            let mut input = Input::read_from_bytes(&words).unwrap();
            input.check();
            input.push(&[1; 300]);
            input.frame(3, &[1; 300]);
            input.read(u64::MAX, &mut [0; 300]);
            prop_assert!(input.room() <= CAPACITY);
        }
    }
}
