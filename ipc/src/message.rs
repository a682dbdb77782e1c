//! The message page and the wire header. The core reads and writes headers and copies payloads; it
//! never looks into a payload.

use crate::{layout, limits};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Fixed header of every message, 32 bytes, little endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// Schema key of the payload type and of the operation's path ([`crate::proto`]).
    pub key: u64,
    /// Payload bytes, at most [`limits::PAYLOAD`].
    pub length: u16,
    /// Leases the call carries, at most [`limits::LEASES`].
    pub leases: u8,
    /// 0, or [`ERROR`] in a reply whose payload is a [`crate::proto::Refusal`].
    pub flags: u8,
    /// On receipt: sequence of the call, set by the core; names the leases of the call.
    pub sequence: u32,
    /// On receipt: badge of the capability the caller used, set by the core.
    pub badge: u32,
    /// On receipt: index of the caller's partition, set by the core; [`FROM_CORE`] for a port call.
    pub source: u32,
    /// On receipt: generation of the caller's partition, set by the core.
    pub generation: u32,
    /// Zero.
    pub reserved: u32,
}

static_assertions::const_assert_eq!(size_of::<Header>(), 32);

/// Header flag: the reply is a refusal.
pub const ERROR: u8 = 1;
/// `source` of a message that the core itself sent on behalf of a vCPU.
pub const FROM_CORE: u32 = u32::MAX;

/// Descriptor of one lease, in the lease table of the message page, 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Lease {
    /// First byte, an address of the caller.
    pub address: u64,
    /// Bytes, at most [`limits::LEASE_BYTES`].
    pub length: u32,
    /// [`crate::syscall::rights`] READ and WRITE, from the borrower's point of view.
    pub rights: u32,
}

static_assertions::const_assert_eq!(size_of::<Lease>(), 16);
static_assertions::const_assert!(layout::SEND + 32 + limits::PAYLOAD <= layout::RECEIVE);
static_assertions::const_assert!(layout::RECEIVE + 32 + limits::PAYLOAD <= layout::LEASE_TABLE);
static_assertions::const_assert!(layout::LEASE_TABLE + 16 * limits::LEASES <= layout::LOG_OUT);
static_assertions::const_assert!(layout::LOG_OUT + limits::LOG_FRAME <= layout::LOG_IN);
static_assertions::const_assert!(layout::LOG_IN + limits::LOG_READ <= layout::PAGE);
