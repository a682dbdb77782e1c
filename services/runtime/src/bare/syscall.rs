//! The system-call instruction and one typed function for each call.
//!
//! `docs/abi.md` holds the contract; the numbers are [`portcullis_ipc::syscall`]. A call that its caller
//! had no right to make does not return: the core freezes this instance.
//!
//! A function whose call has the core write memory of ours to which a reference may exist takes that reference, and hands
//! the address to the instruction: the compiler then knows that the bytes change there.

use core::arch::asm;
use portcullis_ipc::exit::ExitPage;
use portcullis_ipc::syscall::{Call, Id, Resume, Status, VcpuId};

/// What a system call brought: RAX and RDX.
#[derive(Clone, Copy)]
pub struct Returned {
    /// RAX.
    pub raw: u64,
    /// RDX.
    pub value: u64,
}

impl Returned {
    /// The status; `None` for a value the core never returns.
    #[inline(always)]
    pub fn status(self) -> Option<Status> {
        Status::from_raw(self.raw)
    }

    /// Whether the call was done.
    #[inline(always)]
    pub fn ok(self) -> bool {
        self.raw == Status::Ok as u64
    }

    /// The value, when the call was done.
    #[inline(always)]
    pub fn done(self) -> Result<u64, Status> {
        match self.status() {
            Some(Status::Ok) => Ok(self.value),
            Some(status) => Err(status),
            None => Err(Status::Gone),
        }
    }
}

/// One system call with up to four arguments; of addresses among them the provenance is exposed.
#[inline(always)]
fn syscall4(call: Call, a: u64, b: u64, c: u64, d: u64) -> Returned {
    let (raw, value);
    // SAFETY: the core keeps every register but RAX, RDX, RCX and R11. Of this partition's memory it writes the
    // message page, to which no reference exists; the exit page of a vCPU that comes with an event, and references to
    // those end before the next event is waited for (`pages::exit_page`); the page of `vcpu_fetch` and the buffer of
    // `lease_read`, by pointers that their callers' exclusive references became; and leased memory, whose address its
    // lender exposed for the time of the call.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") call as u64 => raw,
            in("rdi") a,
            in("rsi") b,
            inlateout("rdx") c => value,
            in("r10") d,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    Returned { raw, value }
}

/// Waits for an event; only the notification bits of `mask` end the wait.
#[inline(always)]
pub fn wait(mask: u64) -> Returned {
    syscall4(Call::Wait, mask, 0, 0, 0)
}

/// Sends the reply in the send area to the current caller, then waits.
#[inline(always)]
pub fn reply_wait(mask: u64) -> Returned {
    syscall4(Call::ReplyWait, mask, 0, 0, 0)
}

/// Calls an endpoint with the message in the send area.
#[inline(always)]
pub fn call(endpoint: Id) -> Returned {
    syscall4(Call::Call, endpoint.0, 0, 0, 0)
}

/// Sets bits in another partition's notification word.
pub fn notify(target: Id, bits: u64) -> Returned {
    syscall4(Call::Notify, target.0, bits, 0, 0)
}

/// Arms a timer for an absolute TSC value; 0 disarms it.
pub fn timer_set(slot: u16, deadline: u64) -> Returned {
    syscall4(Call::TimerSet, slot.into(), deadline, 0, 0)
}

/// Answers an exit or starts a stopped vCPU; waits too when the word asks for it.
#[inline(always)]
pub fn vcpu_resume(vcpu: VcpuId, word: u64, mask: u64) -> Returned {
    syscall4(Call::VcpuResume, vcpu.0, Resume(word).0, mask, 0)
}

/// Copies from a lease, starting `offset` bytes into it, until `buffer` is full.
#[inline(always)]
pub fn lease_read(lease: u64, offset: u64, buffer: &mut [u8]) -> Returned {
    let address = buffer.as_mut_ptr().expose_provenance() as u64;
    syscall4(Call::LeaseRead, lease, offset, address, buffer.len() as u64)
}

/// Copies bytes into a lease, starting `offset` bytes into it.
#[inline(always)]
pub fn lease_write(lease: u64, offset: u64, bytes: &[u8]) -> Returned {
    let address = bytes.as_ptr().expose_provenance() as u64;
    syscall4(Call::LeaseWrite, lease, offset, address, bytes.len() as u64)
}

/// Fills state groups of a stopped vCPU into its exit page, which is `page`: a pointer that comes from the reference
/// to it where there is one. The core does not look at it.
#[inline(always)]
pub fn vcpu_fetch(vcpu: VcpuId, groups: u32, page: *mut ExitPage) -> Returned {
    syscall4(Call::VcpuFetch, vcpu.0, groups.into(), 0, page.expose_provenance() as u64)
}

/// Brings a running or parked vCPU to a recall exit.
pub fn vcpu_recall(vcpu: VcpuId) -> Returned {
    syscall4(Call::VcpuRecall, vcpu.0, 0, 0, 0)
}

/// Changes the rights of guest memory, `pages` pages from `address`.
pub fn vm_protect(slot: u16, address: u64, pages: u64, rights: u8) -> Returned {
    syscall4(Call::VmProtect, slot.into(), address, pages, rights.into())
}

/// Sets an entry of the port answer table from the payload in the send area.
pub fn vm_answer(slot: u16, entry: u64) -> Returned {
    syscall4(Call::VmAnswer, slot.into(), entry, 0, 0)
}

/// Reads (`write` is `None`) or writes a port of `width` bytes.
#[inline(always)]
pub fn port_io(slot: u16, port: u16, width: u8, write: Option<u32>) -> Returned {
    let how = u64::from(width) | u64::from(write.is_some()) << 8;
    syscall4(Call::PortIo, slot.into(), port.into(), write.unwrap_or(0).into(), how)
}

/// Unmasks an interrupt after it was served.
pub fn interrupt_ack(slot: u16) -> Returned {
    syscall4(Call::InterruptAck, slot.into(), 0, 0, 0)
}

/// Kills, restarts or abandons a partition.
pub fn partition_control(target: Id, operation: u64) -> Returned {
    syscall4(Call::PartitionControl, target.0, operation, 0, 0)
}

/// Delivers a partition's status into the receive payload.
pub fn partition_status(slot: u16) -> Returned {
    syscall4(Call::PartitionStatus, slot.into(), 0, 0, 0)
}

/// Appends the log frame in the message page, `bytes` long.
#[inline(always)]
pub fn log_write(bytes: usize) -> Returned {
    syscall4(Call::LogWrite, bytes as u64, 0, 0, 0)
}

/// Has the log records below a sequence forgotten and those after them copied into the message page; the
/// value is their length in bytes.
pub fn log_read(slot: u16, below: u64) -> Returned {
    syscall4(Call::LogRead, slot.into(), below, 0, 0)
}

/// Sets the wall clock: nanoseconds since 1970 at a TSC value.
pub fn clock_set(slot: u16, nanoseconds: u64, tsc: u64) -> Returned {
    syscall4(Call::ClockSet, slot.into(), nanoseconds, tsc, 0)
}

/// Gives up with a reason; the supervisor reads it in the fault record.
pub fn abort(reason: u64) -> ! {
    loop {
        syscall4(Call::Abort, reason, 0, 0, 0);
    }
}
