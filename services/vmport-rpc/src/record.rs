//! The last answer of a vCPU that had an effect, so that a call which is given again is answered from here
//! and not done twice (R13).

use crate::layout::RECORD;
use portcullis_ipc::port::PortReply;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What the record answers.
pub mod kind {
    /// A call at the low-bandwidth port.
    pub const PORT: u8 = 1;
    /// A piece that the guest sent.
    pub const OUTPUT: u8 = 2;
    /// A piece that the guest took: its bytes still stand in the channel.
    pub const INPUT: u8 = 3;
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Record {
    /// Sequence of the exit; the core's first is 1.
    pub sequence: u64,
    /// [`kind`].
    pub kind: u8,
    /// Mask of the reply.
    pub mask: u8,
    /// Piece: channel.
    pub channel: u16,
    /// Piece: bytes moved.
    pub moved: u32,
    /// Values of the reply.
    pub values: [[u8; 4]; 6],
}

static_assertions::const_assert_eq!(size_of::<Record>(), RECORD * 8);

impl Record {
    /// The record of a port call.
    pub fn port(sequence: u64, reply: &PortReply) -> Self {
        Self { sequence, kind: kind::PORT, mask: reply.mask, channel: 0, moved: 0, values: reply.values }
    }

    /// The record of a piece.
    pub fn piece(sequence: u64, kind: u8, channel: u16, moved: u32) -> Self {
        Self { sequence, kind, mask: 0, channel, moved, values: [[0; 4]; 6] }
    }

    /// From its words.
    pub fn from_words(words: [u64; RECORD]) -> Self {
        zerocopy::transmute!(words)
    }

    /// As words.
    pub fn words(self) -> [u64; RECORD] {
        zerocopy::transmute!(self)
    }

    /// The recorded reply of a port call.
    pub fn reply(&self) -> PortReply {
        PortReply { mask: self.mask, values: self.values }
    }
}
