//! Frames on the control line (COM2): channel, sequence, length, payload, checksum, COBS-encoded and
//! ended by a zero byte. The head is [`Head`], the checksum [`crate::checksum::crc32`] over head and
//! payload, little endian, after the payload.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Head of a frame, 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Head {
    /// [`channel`].
    pub channel: u8,
    /// Version of the framing, 1.
    pub version: u8,
    /// Payload bytes, at most [`MAX_PAYLOAD`].
    pub length: u16,
    /// Sequence in this channel and direction, from 0.
    pub sequence: u32,
}

static_assertions::const_assert_eq!(size_of::<Head>(), 8);

/// Payload bytes of one frame, at most.
pub const MAX_PAYLOAD: usize = 1024;
/// Bytes of a frame on the line, at most: head, payload, checksum, COBS overhead, delimiter.
pub const MAX_ENCODED: usize = 8 + MAX_PAYLOAD + 4 + (MAX_PAYLOAD + 12) / 254 + 1 + 1;

/// Channels.
pub mod channel {
    /// Control request, host to system.
    pub const REQUEST: u8 = 0;
    /// Control reply, system to host.
    pub const REPLY: u8 = 1;
    /// Log records ([`crate::log::RecordHead`] and payload), system to host.
    pub const LOG: u8 = 2;
    /// Control notices ([`crate::proto::control`]), system to host.
    pub const CONTROL: u8 = 3;
    /// Console of VM n: `CONSOLE + n`, both directions. From the host the sequence is the number of the first
    /// byte of the payload among all that the host ever sent to this console.
    pub const CONSOLE: u8 = 16;
}
