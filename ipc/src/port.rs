//! The port call: what the core says to `vmport-rpc` when the guest uses port 0x5658 with the magic,
//! and what comes back. Every field is a byte or an array of bytes, so the postcard form is the
//! structure's bytes in memory and its size is known at compile time.
//! Registers and commands: facts of VMware's backdoor, section 1.

use postcard_schema::Schema;
use postcard_schema::key::Key;
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The low-bandwidth port.
pub const PORT: u16 = 0x5658;
/// The high-bandwidth port.
pub const PORT_HIGH_BANDWIDTH: u16 = 0x5659;
/// EAX of a backdoor call.
pub const MAGIC: u32 = 0x564D_5868;

/// Index of a register in [`PortCall::registers`], [`PortReply::values`] and the reply's mask bit.
pub mod register {
    /// EAX.
    pub const EAX: usize = 0;
    /// EBX.
    pub const EBX: usize = 1;
    /// ECX.
    pub const ECX: usize = 2;
    /// EDX.
    pub const EDX: usize = 3;
    /// ESI.
    pub const ESI: usize = 4;
    /// EDI.
    pub const EDI: usize = 5;
    /// EBP; read only, never returned.
    pub const EBP: usize = 6;
}

/// One access to the port, 40 bytes encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema, IntoBytes, Immutable)]
#[repr(C)]
pub struct PortCall {
    /// Sequence of the vCPU's exit, little endian: a call given again carries the same.
    pub sequence: [u8; 8],
    /// Index of the vCPU in its VM.
    pub vcpu: u8,
    /// Width of the access, bytes: 1, 2 or 4.
    pub width: u8,
    /// 1 for IN, 0 for OUT.
    pub input: u8,
    /// Privilege level of the guest code, 0 to 3.
    pub cpl: u8,
    /// Low halves of EAX, EBX, ECX, EDX, ESI, EDI, EBP, little endian.
    pub registers: [[u8; 4]; 7],
}

/// Path of the port call.
pub const PATH: &str = "vmport/port";
/// Schema key of a port call.
pub const KEY: u64 = u64::from_le_bytes(Key::for_path::<PortCall>(PATH).to_bytes());

/// What the registers become, 25 bytes encoded.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema, FromBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct PortReply {
    /// Bit n: register n of [`register`] (EAX to EDI) takes the value; a clear bit keeps it.
    pub mask: u8,
    /// Values of EAX, EBX, ECX, EDX, ESI, EDI, little endian.
    pub values: [[u8; 4]; 6],
}

/// Encoded bytes of a [`PortReply`].
pub const PORT_REPLY_BYTES: usize = 25;

/// One entry of a VM's answer table, 29 bytes encoded: a command that the core answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema, FromBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Answer {
    /// Command (CX), little endian.
    pub command: [u8; 2],
    /// Highest privilege level that gets this answer (0 to 3); above it the call goes to `vmport-rpc`.
    pub highest_cpl: u8,
    /// 1: the entry is in use; 0: it is free.
    pub used: u8,
    /// The answer.
    pub reply: PortReply,
}

/// Encoded bytes of an [`Answer`].
pub const ANSWER_BYTES: usize = 29;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_sizes_are_the_constants_and_the_encoding_is_a_copy() {
        let call = PortCall {
            sequence: 7u64.to_le_bytes(),
            vcpu: 1,
            width: 4,
            input: 1,
            cpl: 3,
            registers: [[1, 2, 3, 4]; 7],
        };
        let bytes = postcard::to_allocvec(&call).unwrap();
        assert_eq!(bytes.len(), size_of::<PortCall>());
        assert_eq!(&bytes[..12], &[7, 0, 0, 0, 0, 0, 0, 0, 1, 4, 1, 3]);
        assert_eq!(&bytes[12..16], &[1, 2, 3, 4]);
        let reply = PortReply::UNKNOWN;
        assert_eq!(postcard::to_allocvec(&reply).unwrap().len(), PORT_REPLY_BYTES);
        let answer = Answer { command: [10, 0], highest_cpl: 3, used: 1, reply };
        assert_eq!(postcard::to_allocvec(&answer).unwrap().len(), ANSWER_BYTES);
    }
}
