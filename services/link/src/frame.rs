//! Frames in both directions: head, payload, checksum, COBS, delimiter (`portcullis_ipc::frame`).

use portcullis_ipc::checksum::crc32;
use portcullis_ipc::frame::{Head, MAX_ENCODED, MAX_PAYLOAD};
use zerocopy::{FromBytes, IntoBytes};

const HEAD: usize = size_of::<Head>();
const RAW: usize = HEAD + MAX_PAYLOAD + 4;

/// A frame that is being sent.
pub struct Outgoing {
    bytes: [u8; MAX_ENCODED],
    length: usize,
    sent: usize,
    raw: [u8; RAW],
}

impl Outgoing {
    /// No frame. The first byte that leaves is a delimiter, which ends what an instance before was at.
    pub const fn new() -> Self {
        Self { bytes: [0; MAX_ENCODED], length: 1, sent: 0, raw: [0; RAW] }
    }

    /// Whether the last frame has left.
    pub fn is_done(&self) -> bool {
        self.sent >= self.length
    }

    /// The next byte to leave.
    pub fn next(&mut self) -> Option<u8> {
        let byte = self.bytes.get(..self.length)?.get(self.sent).copied()?;
        self.sent += 1;
        Some(byte)
    }

    /// Starts a frame; of a payload longer than [`MAX_PAYLOAD`] only the beginning is sent.
    pub fn start(&mut self, channel: u8, sequence: u32, payload: &[u8]) {
        let payload = payload.get(..payload.len().min(MAX_PAYLOAD)).unwrap_or_default();
        let head = Head { channel, version: 1, length: payload.len() as u16, sequence };
        let end = HEAD + payload.len();
        let parts = head.as_bytes().iter().chain(payload);
        for (to, from) in self.raw.iter_mut().zip(parts) {
            *to = *from;
        }
        let checksum = crc32(0, self.raw.get(..end).unwrap_or_default()).to_le_bytes();
        for (to, from) in self.raw.iter_mut().skip(end).zip(checksum) {
            *to = from;
        }
        let raw = self.raw.get(..end + 4).unwrap_or_default();
        self.length = cobs::try_encode(raw, &mut self.bytes).map_or(0, |used| used + 1);
        if let Some(delimiter) = self.length.checked_sub(1).and_then(|last| self.bytes.get_mut(last)) {
            *delimiter = 0;
        }
        self.sent = 0;
    }
}

/// Collects arriving bytes into frames.
pub struct Receiver {
    bytes: [u8; MAX_ENCODED],
    /// Bytes since the last delimiter; more than fit means that the frame is dropped.
    length: usize,
    frame: [u8; MAX_ENCODED],
}

impl Receiver {
    /// Nothing arrived yet.
    pub const fn new() -> Self {
        Self { bytes: [0; MAX_ENCODED], length: 0, frame: [0; MAX_ENCODED] }
    }

    /// Takes one byte; returns the frame that it ends. What is too long, cut, damaged or of another
    /// version is dropped.
    pub fn take(&mut self, byte: u8) -> Option<(Head, &[u8])> {
        if byte != 0 {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = byte;
            }
            self.length = (self.length + 1).min(MAX_ENCODED + 1);
            return None;
        }
        let encoded = self.bytes.get(..core::mem::take(&mut self.length))?;
        let length = cobs::decode(encoded, &mut self.frame).ok()?.frame_size();
        let raw = self.frame.get(..length)?;
        let (covered, checksum) = raw.split_last_chunk::<4>()?;
        let (head, payload) = Head::read_from_prefix(covered).ok()?;
        let whole = crc32(0, covered) == u32::from_le_bytes(*checksum);
        let shaped = head.version == 1 && usize::from(head.length) == payload.len();
        (whole && shaped).then_some((head, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(channel: u8, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Outgoing::new();
        out.start(channel, sequence, payload);
        std::iter::from_fn(|| out.next()).collect()
    }

    fn decode(bytes: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
        let mut receiver = Receiver::new();
        let mut frames = Vec::new();
        for &byte in bytes {
            if let Some((head, payload)) = receiver.take(byte) {
                frames.push((head.channel, head.sequence, payload.to_vec()));
            }
        }
        frames
    }

    proptest! {
        #[test]
        fn a_frame_comes_back_whatever_its_bytes_and_the_noise_before(
            noise in prop::collection::vec(any::<u8>(), 0..3000),
            channel: u8,
            sequence: u32,
            payload in prop::collection::vec(any::<u8>(), 0..=MAX_PAYLOAD)
        ) {
            let mut line = noise;
            line.push(0);
            line.extend(encode(channel, sequence, &payload));
            let frames = decode(&line);
            prop_assert_eq!(frames.last(), Some(&(channel, sequence, payload)));
        }

        #[test]
        fn a_damaged_frame_is_dropped_and_the_next_one_is_taken(
            payload in prop::collection::vec(any::<u8>(), 1..300),
            at: prop::sample::Index,
            flip in 1u8..
        ) {
            let mut line = encode(1, 2, &payload);
            let at = at.index(line.len() - 1);
            line[at] ^= flip;
            line.push(0);
            line.extend(encode(3, 4, b"next"));
            let frames = decode(&line);
            prop_assert_eq!(frames.last(), Some(&(3, 4, b"next".to_vec())));
            prop_assert!(!frames.contains(&(1, 2, payload)));
        }
    }

    #[test]
    fn the_longest_frame_fits_and_holds_its_delimiter_at_the_end() {
        let bytes = encode(1, u32::MAX, &[0xff; MAX_PAYLOAD]);
        assert!(bytes.len() <= MAX_ENCODED);
        assert_eq!(bytes.iter().position(|&byte| byte == 0), Some(bytes.len() - 1));
    }

    #[test]
    fn a_new_instance_first_sends_a_delimiter() {
        let mut out = Outgoing::new();
        assert_eq!((out.next(), out.next()), (Some(0), None));
        assert!(out.is_done());
    }
}
