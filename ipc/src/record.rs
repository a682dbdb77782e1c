//! What the core keeps of a partition that stopped, and how it tells the supervisor.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// Why an instance ended.
pub mod cause {
    /// It did not end: cold boot.
    pub const NONE: u8 = 0;
    /// Processor exception; `detail` is the vector, `code` the error code.
    pub const EXCEPTION: u8 = 1;
    /// Misuse of a system call; `detail` is the call, `code` the [`super::misuse`].
    pub const MISUSE: u8 = 2;
    /// Killed by a holder of the kill right; `detail` is the killer's partition.
    pub const KILLED: u8 = 3;
    /// Had work and did not answer within its call limit.
    pub const HUNG: u8 = 4;
    /// Gave up by itself; `code` is its reason.
    pub const ABORTED: u8 = 5;
    /// Gave a vCPU a state with which the processor refused to enter the guest.
    pub const BAD_GUEST_STATE: u8 = 6;
    /// Abandoned by the supervisor.
    pub const ABANDONED: u8 = 7;
}

/// What was wrong with a system call.
pub mod misuse {
    /// No such system call.
    pub const NUMBER: u32 = 1;
    /// The slot is empty or holds another kind of capability.
    pub const SLOT: u32 = 2;
    /// The capability does not carry the right.
    pub const RIGHT: u32 = 3;
    /// An argument is outside what the call allows.
    pub const ARGUMENT: u32 = 4;
    /// The header in the send area is malformed.
    pub const HEADER: u32 = 5;
    /// A lease does not lie in the caller's memory with the rights it lends.
    pub const LEASE: u32 = 6;
    /// An address range does not lie in the caller's memory.
    pub const MEMORY: u32 = 7;
    /// Waited while a caller or an exit is unanswered, or replied to nobody.
    pub const PROTOCOL: u32 = 8;
    /// The exit page holds a value that the VM's allowed sets exclude.
    pub const STATE: u32 = 9;
    /// The payload of the answer or of the port reply does not decode.
    pub const PAYLOAD: u32 = 10;
}

/// What the instance was at when it ended.
pub mod phase {
    /// Waiting for an event.
    pub const WAITING: u8 = 0;
    /// Working on its own account: start-up or a notification.
    pub const OWN_WORK: u8 = 1;
    /// Serving a call.
    pub const SERVING_CALL: u8 = 2;
    /// Serving an exit.
    pub const SERVING_EXIT: u8 = 3;
    /// Blocked in a call of its own; OR-ed to one of the above.
    pub const CALLING: u8 = 0x80;
}

/// State of a partition.
pub mod state {
    /// Given up.
    pub const GONE: u8 = 0;
    /// Running or waiting.
    pub const ALIVE: u8 = 1;
    /// Stopped; its fault record is kept until a restart.
    pub const FROZEN: u8 = 2;
}

/// State and last fault record of a partition. Integers are little-endian byte arrays, so that the
/// encoding is a copy.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema, FromZeros, IntoBytes, Immutable,
)]
#[repr(C)]
pub struct Status {
    /// [`state`].
    pub state: u8,
    /// [`cause`] of the last end.
    pub cause: u8,
    /// [`phase`] at the last end.
    pub phase: u8,
    /// Exception vector, system call or killer, after `cause`.
    pub detail: u8,
    /// Error code, [`misuse`] or reason, after `cause`.
    pub code: [u8; 4],
    /// Generation of the instance that is there now; while frozen, that of the next one.
    pub generation: [u8; 4],
    /// Restarts since boot.
    pub restarts: [u8; 4],
    /// RIP at the end.
    pub rip: [u8; 8],
    /// RSP at the end.
    pub rsp: [u8; 8],
    /// CR2 at a page fault.
    pub address: [u8; 8],
    /// TSC at the end.
    pub tsc: [u8; 8],
}

/// Encoded bytes of a [`Status`].
pub const STATUS_BYTES: usize = 48;

#[cfg(test)]
mod tests {
    #[test]
    fn a_status_encodes_to_its_bytes_in_memory() {
        let status = super::Status { state: 1, code: [2; 4], rip: [3; 8], tsc: [4; 8], ..super::Status::default() };
        let bytes = postcard::to_allocvec(&status).unwrap();
        assert_eq!(bytes, zerocopy::IntoBytes::as_bytes(&status));
        assert_eq!(bytes.len(), super::STATUS_BYTES);
    }
}
