//! Input for a console on its way through COM2: numbered, in frames, sent again until the system says that it was
//! taken. So nothing is lost and nothing comes twice, whichever service is restarted meanwhile, and a long text
//! waits here until its guest has read what came before.

use crate::logs::frames::{self, Frame};
use portcullis_ipc::frame::channel;
use portcullis_ipc::proto::control::InputTaken;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bytes of one frame at most.
const PIECE: usize = 64;
/// Time after which a frame without an answer is sent again.
const PATIENCE: Duration = Duration::from_millis(30);

/// What was typed for one console and not yet taken.
pub struct Typing {
    waiting: VecDeque<u8>,
    /// Number of the first waiting byte, modulo 2^32; `None` until the system has said how much it took, from this
    /// host or from another one.
    first: Option<u32>,
    /// When the frame that is on its way was sent.
    sent: Option<Instant>,
    /// The system had no room when it last said.
    full: bool,
    /// Bytes of the next frame at most: fewer after each that had no answer, because a frame must get through
    /// within the life of one instance.
    piece: usize,
}

impl Default for Typing {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), first: None, sent: None, full: false, piece: PIECE }
    }
}

impl Typing {
    /// Adds what was typed.
    pub fn push(&mut self, bytes: &[u8]) {
        self.waiting.extend(bytes);
    }

    /// The system was started anew: its numbers begin anew, too. What waits is for the new one.
    pub fn forget(&mut self) {
        (self.first, self.sent, self.full, self.piece) = (None, None, false, PIECE);
    }

    /// Bytes that were typed and not yet taken.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The system says what it took.
    pub fn taken(&mut self, notice: &InputTaken) {
        let Some(first) = self.first else {
            (self.first, self.sent, self.full) = (Some(notice.upto), None, notice.room == 0);
            return;
        };
        let taken = notice.upto.wrapping_sub(first) as usize;
        if taken > self.waiting.len().min(PIECE) {
            // More than was sent: its numbers are not this host's.
            return self.forget();
        }
        self.waiting.drain(..taken);
        if taken > 0 {
            self.piece = (self.piece * 2).min(PIECE);
        }
        self.first = Some(notice.upto);
        // One that takes nothing answers an older frame, or says that there is no room.
        let goes_on = notice.room > 0 && (taken > 0 || self.full);
        self.sent = self.sent.filter(|_| !goes_on);
        self.full = notice.room == 0;
    }

    /// What goes to COM2 now.
    pub fn next(&mut self, now: Instant) -> Option<Vec<u8>> {
        let due = self.sent.is_none_or(|sent| now.duration_since(sent) >= PATIENCE);
        if self.waiting.is_empty() || !due {
            return None;
        }
        if self.sent.is_some() && !self.full && self.first.is_some() {
            self.piece = (self.piece / 2).max(1);
        }
        // A frame without bytes asks for the number of the next one.
        let most = if self.first.is_some() { self.piece } else { 0 };
        let payload: Vec<u8> = self.waiting.iter().take(most).copied().collect();
        self.sent = Some(now);
        let sequence = self.first.unwrap_or_default();
        let frame = frames::encode(&Frame { channel: channel::CONSOLE, sequence, payload }).ok()?;
        // The delimiter in front ends what an instance that is gone left half read.
        Some([vec![0], frame].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(bytes: Option<Vec<u8>>) -> Vec<Frame> {
        frames::Reader::default().push(&bytes.unwrap_or_default()).into_iter().map(Result::unwrap).collect()
    }

    fn taken(upto: u32) -> InputTaken {
        InputTaken { console: 0, upto, room: 256 }
    }

    /// After the system has said that it took nothing yet.
    fn open() -> Typing {
        Typing { first: Some(0), ..Typing::default() }
    }

    /// The queue of `link`, as far as its numbers are concerned: the bytes that it took.
    fn deliver(typing: &mut Typing, text: &mut Vec<u8>, now: Instant) {
        for frame in frames(typing.next(now)) {
            let known = (text.len() as u32).wrapping_sub(frame.sequence) as usize;
            text.extend(frame.payload.get(known..).unwrap_or_default());
            typing.taken(&taken(text.len() as u32));
        }
    }

    #[test]
    fn a_host_that_comes_to_a_system_that_has_read_before_loses_nothing() {
        for before in [0, 1, 3, 5, 64, 1000] {
            let (mut typing, now) = (Typing::default(), Instant::now());
            let mut text = vec![b'-'; before];
            typing.push(b"hello");
            (0..3).for_each(|_| deliver(&mut typing, &mut text, now));
            assert_eq!(&text[before..], b"hello", "{before}");
        }
    }

    #[test]
    fn a_host_that_outlives_its_system_types_for_the_next_one() {
        for told in [false, true] {
            let (mut typing, now) = (Typing::default(), Instant::now());
            let mut text = Vec::new();
            typing.push(b"root");
            (0..3).for_each(|_| deliver(&mut typing, &mut text, now));
            assert_eq!(text, b"root");
            let mut next = Vec::new();
            if told {
                typing.forget();
            }
            typing.push(b"again");
            for round in 0..5 {
                deliver(&mut typing, &mut next, now + round * PATIENCE);
            }
            assert_eq!(next, b"again", "told: {told}");
        }
    }

    #[test]
    fn the_number_of_the_first_byte_is_asked_for_until_it_is_told() {
        let (mut typing, start) = (Typing::default(), Instant::now());
        typing.push(b"x");
        for round in 0..3 {
            let asked = frames(typing.next(start + round * PATIENCE));
            assert_eq!((asked[0].sequence, asked[0].payload.len()), (0, 0));
            assert!(typing.next(start + round * PATIENCE).is_none());
        }
        typing.taken(&taken(7));
        let first = frames(typing.next(start + 2 * PATIENCE));
        assert_eq!((first[0].sequence, &first[0].payload[..]), (7, &b"x"[..]));
    }

    #[test]
    fn one_frame_is_on_its_way_until_it_is_taken() {
        let (mut typing, start) = (open(), Instant::now());
        assert!(frames(typing.next(start)).is_empty());
        typing.push(&[b'x'; 100]);
        let first = frames(typing.next(start));
        assert_eq!((first[0].channel, first[0].sequence, first[0].payload.len()), (16, 0, PIECE));
        assert!(typing.next(start).is_none());
        typing.taken(&taken(64));
        let second = frames(typing.next(start));
        assert_eq!((second[0].sequence, second[0].payload.len()), (64, 36));
        typing.taken(&taken(100));
        assert!(typing.next(start + 2 * PATIENCE).is_none());
    }

    #[test]
    fn what_is_not_answered_or_taken_in_part_is_sent_again() {
        let (mut typing, start) = (open(), Instant::now());
        typing.push(b"hello");
        let first = frames(typing.next(start));
        let again = frames(typing.next(start + PATIENCE));
        assert_eq!((again[0].sequence, again.len()), (first[0].sequence, 1));
        typing.taken(&taken(0));
        assert!(typing.next(start + PATIENCE).is_none());
        typing.taken(&taken(2));
        let rest = frames(typing.next(start + PATIENCE));
        assert_eq!((rest[0].sequence, &rest[0].payload[..]), (2, &b"llo"[..]));
    }

    #[test]
    fn frames_get_shorter_until_one_gets_through_and_longer_after_that() {
        let (mut typing, mut now) = (open(), Instant::now());
        typing.push(&[b'x'; 500]);
        let mut lengths = Vec::new();
        for _ in 0..8 {
            lengths.push(frames(typing.next(now))[0].payload.len());
            now += PATIENCE;
        }
        assert_eq!(lengths, [64, 32, 16, 8, 4, 2, 1, 1]);
        typing.taken(&taken(1));
        assert_eq!(frames(typing.next(now))[0].payload.len(), 2);
    }

    #[test]
    fn a_full_system_is_asked_again_after_a_while_and_at_once_when_it_has_room() {
        let (mut typing, start) = (open(), Instant::now());
        typing.push(b"hello");
        typing.next(start);
        typing.taken(&InputTaken { console: 0, upto: 3, room: 0 });
        assert!(typing.next(start).is_none());
        typing.taken(&taken(3));
        assert_eq!(frames(typing.next(start))[0].payload, b"lo");
    }

    #[test]
    fn numbers_wrap_and_nonsense_makes_the_host_ask() {
        let mut typing = Typing { first: Some(u32::MAX), ..Typing::default() };
        typing.push(b"ab");
        typing.taken(&taken(1));
        assert!(typing.waiting.is_empty());
        typing.push(b"ab");
        typing.taken(&taken(7));
        assert_eq!((typing.waiting.len(), typing.first), (2, None));
    }
}
