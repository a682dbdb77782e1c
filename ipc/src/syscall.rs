//! System calls: numbers, statuses, identifiers. `docs/abi.md` says for each register of each call
//! what it holds, keeps or clears.
//!
//! RAX holds the number; RDI, RSI, RDX, R10 the arguments. RAX returns a status or an event kind, RDX
//! a value. RCX and R11 are clobbered by the processor; every other register is kept. A call that its
//! caller had no right to make, or whose arguments no correct program passes, faults the caller.
//!
//! At the first instruction of a partition's thread RDI holds the generation of this instance, RSI the
//! [`crate::record::cause`] that ended the instance before (0 at cold boot), RDX the CPU; RSP points to the
//! end of the stack segment; all other registers are 0.

/// System-call numbers, in RAX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Call {
    /// Wait for an event. RDI: mask of notification bits that may end the wait.
    Wait = 0,
    /// Call an endpoint with the message in the send area. RDI: [`Id`].
    Call = 1,
    /// Reply to the current caller with the send area, then wait. RDI: notification mask.
    ReplyWait = 2,
    /// Set bits in another partition's notification word. RDI: [`Id`]; RSI: bits.
    Notify = 3,
    /// Arm a timer. RDI: slot; RSI: absolute TSC deadline, 0 disarms.
    TimerSet = 4,
    /// Copy out of a lease of the current caller. RDI: [`lease id`](crate::client::lease_id); RSI: offset in the
    /// lease; RDX: own address; R10: bytes, at most 4096.
    LeaseRead = 5,
    /// Copy into a lease of the current caller. Arguments as [`Call::LeaseRead`].
    LeaseWrite = 6,
    /// Answer an exit or start a stopped vCPU. RDI: [`VcpuId`]; RSI: [`Resume`] word; RDX:
    /// notification mask of the wait that follows when the word asks for one.
    VcpuResume = 7,
    /// Fill state groups of a stopped vCPU into its exit page. RDI: [`VcpuId`]; RSI: group mask.
    VcpuFetch = 8,
    /// Bring a running or parked vCPU to a recall exit. RDI: [`VcpuId`].
    VcpuRecall = 9,
    /// Change the rights of guest memory in the nested page table. RDI: VM slot; RSI: first
    /// guest-physical address (page aligned); RDX: pages; R10: rights ([`rights`]).
    VmProtect = 10,
    /// Set one entry of the VM's port answer table from the payload of the send area
    /// (postcard [`crate::port::Answer`]). RDI: VM slot; RSI: entry index.
    VmAnswer = 11,
    /// Read or write an I/O port. RDI: slot; RSI: port; RDX: value to write; R10: width in bytes
    /// (1, 2, 4), bit 8 set for a write. RDX returns the value read.
    PortIo = 12,
    /// Read a model-specific register. RDI: slot; RSI: register. RDX returns the value.
    MsrRead = 13,
    /// Write a model-specific register. RDI: slot; RSI: register; RDX: value.
    MsrWrite = 14,
    /// Unmask an interrupt after it was served. RDI: slot.
    InterruptAck = 15,
    /// Kill or restart a partition. RDI: [`Id`] of the partition capability; RSI: [`control`] operation.
    PartitionControl = 16,
    /// Deliver a partition's [`crate::record::Status`] into the receive payload. RDI: slot.
    PartitionStatus = 17,
    /// Append the log frame in the message page to the core's log ring. RDI: bytes.
    LogWrite = 18,
    /// Take log records from the core's ring into the message page. RDI: slot. RDX returns bytes.
    LogRead = 19,
    /// Set the wall clock of the platform page, once. RDI: slot; RSI: nanoseconds since 1970; RDX:
    /// the TSC value at which they were read.
    ClockSet = 20,
    /// Give up: record a fault with a reason of the service's own. RDI: reason.
    Abort = 21,
}

/// Number of system calls.
pub const CALLS: u64 = 22;
static_assertions::const_assert!(CALLS <= 24);

/// What a system call or a wait returned, in RAX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// The partition behind the id was restarted or upgraded; RDX holds its new generation.
    Dead = 1,
    /// The callee used up the lent budget and its own reserve.
    Timeout = 2,
    /// The partition behind the id is stopped for good.
    Gone = 3,
    /// The lease is not there any more, or does not cover the range or the direction.
    BadLease = 4,
    /// The vCPU is not in a state in which the request makes sense; nothing was changed.
    NotStopped = 5,
    /// The table or ring is full; nothing was changed.
    Full = 6,
    /// Event: notification bits, in RDX.
    Notified = 16,
    /// Event: a call; header and payload stand in the receive area.
    Called = 17,
    /// Event: a vCPU exit; RDX holds the index of the vCPU in its VM.
    Exited = 18,
}

/// Name of a peer: capability slot in bits 0-15, generation of the partition behind it in bits 32-63.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(pub u64);

impl Id {
    /// Capability slot.
    pub const fn slot(self) -> u16 {
        self.0 as u16
    }
    /// Generation the holder believes in.
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Name of a vCPU: slot of the VM capability in bits 0-15, index of the vCPU in bits 16-31.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuId(pub u64);

impl VcpuId {
    /// Capability slot.
    pub const fn slot(self) -> u16 {
        self.0 as u16
    }
    /// Index of the vCPU in its VM.
    pub const fn index(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// How a stopped vCPU goes on: the word in RSI of [`Call::VcpuResume`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume(pub u64);

impl Resume {
    /// Enter the guest.
    pub const ENTER: u64 = 0;
    /// Serve the exit as a port access: bits 8-15 width in bytes, bit 16 set for IN, bits 24-31
    /// length of the instruction.
    pub const PORT: u64 = 1;
    /// Park: HLT or wait for SIPI. Only a recall brings it back.
    pub const PARK: u64 = 2;
    /// Stop for good: shutdown. Only a resume by `vmexit` (a reset) brings it back.
    pub const STOP: u64 = 3;
    /// Enter the guest, but give up the rest of the slice first (PAUSE).
    pub const YIELD: u64 = 4;
    /// Flag: wait for the next event after the answer.
    pub const THEN_WAIT: u64 = 1 << 63;

    /// Which of the actions above.
    pub const fn action(self) -> u64 {
        self.0 & 0xff
    }
    /// Width of the port access, bytes.
    pub const fn width(self) -> u8 {
        (self.0 >> 8) as u8
    }
    /// Port access is an IN.
    pub const fn is_input(self) -> bool {
        self.0 & 1 << 16 != 0
    }
    /// Length of the instruction, bytes.
    pub const fn length(self) -> u8 {
        (self.0 >> 24) as u8
    }
    /// The service asks to wait for the next event.
    pub const fn then_wait(self) -> bool {
        self.0 & Self::THEN_WAIT != 0
    }
}

/// Operations of [`Call::PartitionControl`].
pub mod control {
    /// Freeze the partition as if it had faulted; its supervisor is notified.
    pub const KILL: u64 = 0;
    /// Start a frozen partition anew from the sealed image.
    pub const RESTART: u64 = 1;
    /// Give a frozen partition up: all its callers get `Gone` from now on.
    pub const ABANDON: u64 = 2;
}

/// Rights, as they stand in a capability record.
pub mod rights {
    /// Memory, nested page table, MSR set, lease: read.
    pub const READ: u8 = 1;
    /// Memory, nested page table, MSR set, lease: write.
    pub const WRITE: u8 = 2;
    /// Memory, nested page table: execute.
    pub const EXECUTE: u8 = 4;
    /// Partition: read its status.
    pub const STATUS: u8 = 1;
    /// Partition: restart or abandon it.
    pub const RESTART: u8 = 2;
    /// Partition: kill it.
    pub const KILL: u8 = 4;
    /// VM: serve exits, resume, fetch, recall, protect.
    pub const RUN: u8 = 1;
    /// VM: fill the port answer table.
    pub const ANSWER: u8 = 2;
    /// Interrupt: level triggered (else edge).
    pub const LEVEL: u8 = 1;
    /// Interrupt: active low (else high).
    pub const LOW: u8 = 2;
}
