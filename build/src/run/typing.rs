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
    /// Number of the first waiting byte, modulo 2^32.
    first: u32,
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
        Self { waiting: VecDeque::new(), first: 0, sent: None, full: false, piece: PIECE }
    }
}

impl Typing {
    /// Adds what was typed.
    pub fn push(&mut self, bytes: &[u8]) {
        self.waiting.extend(bytes);
    }

    /// The system says what it took.
    pub fn taken(&mut self, notice: &InputTaken) {
        let taken = notice.upto.wrapping_sub(self.first) as usize;
        // Not more than was sent: what else it says is about another host's input.
        if taken <= self.waiting.len().min(PIECE) {
            self.waiting.drain(..taken);
            if taken > 0 {
                self.piece = (self.piece * 2).min(PIECE);
            }
            self.first = notice.upto;
            // One that takes nothing answers an older frame, or says that there is no room.
            let goes_on = notice.room > 0 && (taken > 0 || self.full);
            self.sent = self.sent.filter(|_| !goes_on);
            self.full = notice.room == 0;
        }
    }

    /// What goes to COM2 now.
    pub fn next(&mut self, now: Instant) -> Option<Vec<u8>> {
        let due = self.sent.is_none_or(|sent| now.duration_since(sent) >= PATIENCE);
        if self.waiting.is_empty() || !due {
            return None;
        }
        if self.sent.is_some() && !self.full {
            self.piece = (self.piece / 2).max(1);
        }
        let payload: Vec<u8> = self.waiting.iter().take(self.piece).copied().collect();
        self.sent = Some(now);
        let frame = frames::encode(&Frame { channel: channel::CONSOLE, sequence: self.first, payload }).ok()?;
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

    #[test]
    fn one_frame_is_on_its_way_until_it_is_taken() {
        let (mut typing, start) = (Typing::default(), Instant::now());
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
        let (mut typing, start) = (Typing::default(), Instant::now());
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
        let (mut typing, mut now) = (Typing::default(), Instant::now());
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
        let (mut typing, start) = (Typing::default(), Instant::now());
        typing.push(b"hello");
        typing.next(start);
        typing.taken(&InputTaken { console: 0, upto: 3, room: 0 });
        assert!(typing.next(start).is_none());
        typing.taken(&taken(3));
        assert_eq!(frames(typing.next(start))[0].payload, b"lo");
    }

    #[test]
    fn numbers_wrap_and_nonsense_changes_nothing() {
        let mut typing = Typing { first: u32::MAX, ..Typing::default() };
        typing.push(b"ab");
        typing.taken(&taken(7));
        typing.taken(&taken(5));
        assert_eq!(typing.waiting.len(), 2);
        typing.taken(&taken(1));
        assert!(typing.waiting.is_empty());
    }
}
