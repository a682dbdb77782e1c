//! What only the core's callers need: names and words for system calls, what came back, port replies.

use crate::port::{PortCall, PortReply, register};
use crate::syscall::{Id, Resume, Status, VcpuId};

impl Status {
    /// The status that RAX holds; `None` for a value that the core never returns.
    pub const fn from_raw(raw: u64) -> Option<Self> {
        Some(match raw {
            0 => Self::Ok,
            1 => Self::Dead,
            2 => Self::Timeout,
            3 => Self::Gone,
            4 => Self::BadLease,
            5 => Self::NotStopped,
            6 => Self::Full,
            16 => Self::Notified,
            17 => Self::Called,
            18 => Self::Exited,
            _ => return None,
        })
    }
}

impl Id {
    /// The id for `slot` at `generation`.
    pub const fn new(slot: u16, generation: u32) -> Self {
        Self(slot as u64 | (generation as u64) << 32)
    }
}

impl VcpuId {
    /// The id of vCPU `index` of the VM in `slot`.
    pub const fn new(slot: u16, index: u16) -> Self {
        Self(slot as u64 | (index as u64) << 16)
    }
}

impl Resume {
    /// A port access of `width` bytes by an instruction of `length` bytes.
    pub const fn port(width: u8, input: bool, length: u8) -> u64 {
        Self::PORT | (width as u64) << 8 | (input as u64) << 16 | (length as u64) << 24
    }
}

/// Id of lease `index` of the call that carried `sequence` (low half of the received header's).
pub const fn lease_id(index: u16, sequence: u32) -> u64 {
    index as u64 | (sequence as u64) << 32
}

impl PortCall {
    /// The low half of register `index`, 0 for an index that does not exist.
    pub fn register(&self, index: usize) -> u32 {
        self.registers.get(index).map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }
}

impl PortReply {
    /// A reply that changes nothing.
    pub const UNCHANGED: Self = Self { mask: 0, values: [[0; 4]; 6] };
    /// EAX all ones, nothing else changed: the answer to a command that is not known.
    pub const UNKNOWN: Self = Self::UNCHANGED.with(register::EAX, u32::MAX);

    /// The reply with register `index` set to `value`; an index past EDI changes nothing.
    pub const fn with(mut self, index: usize, value: u32) -> Self {
        if index < 6 {
            self.mask |= 1 << index;
            self.values[index] = value.to_le_bytes();
        }
        self
    }
}
