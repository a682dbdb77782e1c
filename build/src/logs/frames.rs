//! Frames on the control line: cutting a byte stream at the delimiters, checking each piece, and
//! encoding. What a payload means is not known here. The format is `portcullis_ipc::frame`; what a core that stops writes
//! without frames (`portcullis_ipc::log::LAST_RECORDS`) is read as one more frame of the log.

use portcullis_ipc::checksum::crc32;
use portcullis_ipc::frame::{Head, MAX_ENCODED, MAX_PAYLOAD, channel};
use portcullis_ipc::log::LAST_RECORDS;
use zerocopy::{FromBytes, IntoBytes};

/// Version of the framing that this code reads and writes.
const VERSION: u8 = 1;
/// Bytes of the head.
const HEAD: usize = size_of::<Head>();
/// Bytes of the checksum after the payload.
const CHECKSUM: usize = 4;

/// One good frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Channel (`portcullis_ipc::frame::channel`).
    pub channel: u8,
    /// Sequence in this channel and direction.
    pub sequence: u32,
    /// Payload, at most `MAX_PAYLOAD` bytes.
    pub payload: Vec<u8>,
}

/// Why a piece of the stream is not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The bytes between two delimiters are not COBS.
    #[error("not COBS")]
    Encoding,
    /// Too short for a head and a checksum.
    #[error("{0} bytes are too few for a frame")]
    Short(usize),
    /// Longer than any frame.
    #[error("no delimiter within {MAX_ENCODED} bytes")]
    Oversize,
    /// A framing version that this tool does not know.
    #[error("framing version {0}, this tool reads {VERSION}")]
    Version(u8),
    /// The head's length is not that of the frame.
    #[error("head says {said} payload bytes, {there} are there")]
    Length {
        /// Bytes that the head names.
        said: usize,
        /// Bytes between head and checksum.
        there: usize,
    },
    /// The checksum is wrong.
    #[error("wrong checksum")]
    Checksum,
}

/// Sequence of the frame that a stopping core's last records are read as: no frame of `link` gets there.
const LAST_SEQUENCE: u32 = 1 << 31;
/// Bytes of last records that are believed.
const MAX_LAST: usize = 1 << 26;

/// Cuts a byte stream into frames. After damage it goes on at the next delimiter.
#[derive(Default)]
pub struct Reader {
    pending: Vec<u8>,
    mode: Mode,
}

/// What the next bytes are.
#[derive(Default, PartialEq, Eq)]
enum Mode {
    /// A frame.
    #[default]
    Frame,
    /// The rest of what is not a frame.
    Skip,
    /// A core's last records, after their name.
    Last,
}

impl Reader {
    /// Takes the next bytes of the stream and returns the frames, and the damage, that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Result<Frame, Damage>> {
        let mut out = Vec::new();
        for &byte in bytes {
            match self.mode {
                Mode::Last => {
                    self.pending.push(byte);
                    out.extend(self.last_records());
                }
                Mode::Frame | Mode::Skip if byte == 0 => {
                    if self.mode == Mode::Frame && !self.pending.is_empty() {
                        out.push(decode(&self.pending));
                    }
                    *self = Self::default();
                }
                Mode::Frame => {
                    self.pending.push(byte);
                    if self.pending == LAST_RECORDS[1..] {
                        *self = Self { pending: Vec::new(), mode: Mode::Last };
                    } else if self.pending.len() >= MAX_ENCODED {
                        out.push(Err(Damage::Oversize));
                        *self = Self { pending: Vec::new(), mode: Mode::Skip };
                    }
                }
                Mode::Skip => {}
            }
        }
        out
    }

    /// The last records once they are complete.
    fn last_records(&mut self) -> Option<Result<Frame, Damage>> {
        let (length, payload) = self.pending.split_first_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if payload.len() < length && length <= MAX_LAST {
            return None;
        }
        let frame = Frame { channel: channel::LOG, sequence: LAST_SEQUENCE, payload: payload.to_vec() };
        *self = Self::default();
        Some(if length <= MAX_LAST { Ok(frame) } else { Err(Damage::Oversize) })
    }
}

/// Decodes the bytes between two delimiters.
fn decode(encoded: &[u8]) -> Result<Frame, Damage> {
    let bytes = cobs::decode_vec(encoded).map_err(|_| Damage::Encoding)?;
    let Some(there) = bytes.len().checked_sub(HEAD + CHECKSUM) else {
        return Err(Damage::Short(bytes.len()));
    };
    let (body, checksum) = bytes.split_at(bytes.len() - CHECKSUM);
    if crc32(0, body).to_le_bytes() != checksum {
        return Err(Damage::Checksum);
    }
    let (head, payload) = Head::read_from_prefix(body).map_err(|_| Damage::Short(body.len()))?;
    if head.version != VERSION {
        return Err(Damage::Version(head.version));
    }
    if usize::from(head.length) != there {
        return Err(Damage::Length { said: head.length.into(), there });
    }
    Ok(Frame { channel: head.channel, sequence: head.sequence, payload: payload.to_vec() })
}

/// The payload is longer than a frame can carry.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame carries at most {MAX_PAYLOAD} bytes, not {0}")]
pub struct TooLong(pub usize);

/// Encodes a frame, delimiter included.
pub fn encode(frame: &Frame) -> Result<Vec<u8>, TooLong> {
    let length = frame.payload.len();
    if length > MAX_PAYLOAD {
        return Err(TooLong(length));
    }
    let head = Head { channel: frame.channel, version: VERSION, length: length as u16, sequence: frame.sequence };
    let mut body = head.as_bytes().to_vec();
    body.extend_from_slice(&frame.payload);
    body.extend_from_slice(&crc32(0, &body).to_le_bytes());
    let mut encoded = cobs::encode_vec(&body);
    encoded.push(0);
    Ok(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame() -> impl Strategy<Value = Frame> {
        (any::<u8>(), any::<u32>(), proptest::collection::vec(any::<u8>(), 0..=MAX_PAYLOAD))
            .prop_map(|(channel, sequence, payload)| Frame { channel, sequence, payload })
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_read_back_however_the_stream_is_cut(
            frames in proptest::collection::vec(frame(), 1..5),
            cut in 1usize..700,
        ) {
            let line: Vec<u8> = frames.iter().flat_map(|f| encode(f).unwrap()).collect();
            let mut reader = Reader::default();
            let read: Vec<_> = line.chunks(cut).flat_map(|c| reader.push(c)).collect();
            prop_assert_eq!(read, frames.into_iter().map(Ok).collect::<Vec<_>>());
        }

        #[test]
        fn an_encoded_frame_fits_the_longest_line(frame in frame()) {
            prop_assert!(encode(&frame).unwrap().len() <= MAX_ENCODED);
        }

        #[test]
        fn garbage_never_panics_and_the_next_frame_is_read(
            garbage in proptest::collection::vec(any::<u8>(), 0..4000),
            frame in frame(),
        ) {
            let mut reader = Reader::default();
            reader.push(&garbage);
            reader.push(&[0]);
            prop_assert_eq!(reader.push(&encode(&frame).unwrap()), vec![Ok(frame)]);
        }

        #[test]
        fn a_flipped_bit_is_damage_or_another_cut_but_never_another_frame(
            frame in frame(), at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let mut line = encode(&frame).unwrap();
            let at = at.index(line.len());
            line[at] ^= 1 << bit;
            line.push(0);
            for read in Reader::default().push(&line) {
                prop_assert!(read.is_err(), "{:?}", read);
            }
        }
    }

    #[test]
    fn a_stopping_cores_last_records_are_one_frame_of_the_log_however_the_frame_before_was_cut() {
        let payload = [0, 1, 0, 0, 7];
        let mut line = vec![9, 9];
        line.extend_from_slice(&LAST_RECORDS);
        line.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        line.extend_from_slice(&payload);
        let next = Frame { channel: 1, sequence: 1, payload: vec![1, 1] };
        line.extend_from_slice(&encode(&next).unwrap());
        let last = Frame { channel: channel::LOG, sequence: LAST_SEQUENCE, payload: payload.to_vec() };
        for cut in 1..line.len() {
            let mut reader = Reader::default();
            let read: Vec<_> = line.chunks(cut).flat_map(|piece| reader.push(piece)).collect();
            assert_eq!(read, [Err(Damage::Encoding), Ok(last.clone()), Ok(next.clone())]);
        }
    }

    #[test]
    fn a_payload_that_is_too_long_is_refused() {
        let frame = Frame { channel: 0, sequence: 0, payload: vec![0; MAX_PAYLOAD + 1] };
        assert_eq!(encode(&frame), Err(TooLong(MAX_PAYLOAD + 1)));
    }

    #[test]
    fn each_kind_of_damage_is_named() {
        let sealed = |mut body: Vec<u8>| {
            body.extend_from_slice(&crc32(0, &body).to_le_bytes());
            let mut line = cobs::encode_vec(&body);
            line.push(0);
            Reader::default().push(&line)
        };
        assert_eq!(sealed(vec![1, 2]), [Err(Damage::Short(6))]);
        assert_eq!(sealed(vec![2, 9, 0, 0, 0, 0, 0, 0]), [Err(Damage::Version(9))]);
        assert_eq!(sealed(vec![2, 1, 3, 0, 0, 0, 0, 0, 7]), [Err(Damage::Length { said: 3, there: 1 })]);
        assert_eq!(Reader::default().push(&[5, 1, 0]), [Err(Damage::Encoding)]);
        assert_eq!(Reader::default().push(&[1; MAX_ENCODED + 9]), [Err(Damage::Oversize)]);
        let mut line = encode(&Frame { channel: 1, sequence: 1, payload: vec![1, 1] }).unwrap();
        let at = line.iter().position(|&b| b == 1).unwrap();
        line[at] = 3;
        assert!(Reader::default().push(&line)[0].is_err());
    }
}
