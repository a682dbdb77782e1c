//! Log records as they leave the core's ring: one record per defmt frame, with the origin added by the
//! core, so that a partition cannot forge it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Head of one record, 24 bytes; `length` payload bytes follow, then zeros up to a multiple of 8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RecordHead {
    /// Payload bytes.
    pub length: u16,
    /// Index of the partition, [`CORE`] for the core.
    pub partition: u8,
    /// [`payload`].
    pub kind: u8,
    /// Generation of the partition.
    pub generation: u32,
    /// Sequence over all records of the system; a gap is a loss.
    pub sequence: u64,
    /// TSC when the record was made.
    pub tsc: u64,
}

static_assertions::const_assert_eq!(size_of::<RecordHead>(), 24);

/// `partition` of the core's own records.
pub const CORE: u8 = 0xff;

/// Kinds of payload.
pub mod payload {
    /// One raw defmt frame of the origin's ELF (defmt wire format 4, encoding raw).
    pub const DEFMT: u8 = 0;
    /// An instance started: build id of its ELF (20 bytes), then its name.
    pub const START: u8 = 1;
    /// TSC ticks per second, u64 little endian; the first record of the system.
    pub const CLOCK: u8 = 2;
    /// Records of this partition that were dropped since its last record, u32 little endian.
    pub const DROPPED: u8 = 3;
}

/// The core keeps its log ring in one static of this shape, found in a memory dump by `magic`.
/// After it follow `capacity` bytes of ring.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RingHead {
    /// [`RING_MAGIC`].
    pub magic: [u8; 16],
    /// Bytes of the ring, a power of two.
    pub capacity: u64,
    /// Bytes ever written; the position is this modulo `capacity`.
    pub written: u64,
    /// Bytes ever forgotten at the word of `log_read`'s caller.
    pub taken: u64,
    /// Where the oldest record that is still whole begins, as bytes ever written; `written` where none is.
    pub oldest: u64,
    /// Epitaph: bytes of UTF-8 text in `epitaph`, 0 while the core lives.
    pub epitaph_length: u64,
    /// Why the core stopped.
    pub epitaph: [u8; EPITAPH],
}

/// Bytes of the epitaph, at most.
pub const EPITAPH: usize = 192;
/// What a core that stops writes on COM2 before the records that nobody took: a zero that ends the frame under way, and a
/// name that no frame begins with. The bytes of the records follow as u64, then the records as they stand in the ring.
pub const LAST_RECORDS: [u8; 17] = *b"\0PORTCULLIS-END-1";
/// First bytes of the ring.
pub const RING_MAGIC: [u8; 16] = *b"PORTCULLIS-LOG-2";

static_assertions::const_assert_eq!(size_of::<RingHead>(), 248);
