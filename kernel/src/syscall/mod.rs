//! System calls: each decodes its arguments against the caller's capabilities, and only then acts (R5).
//! A decoder that finds what no correct program passes returns [`Misuse`], which freezes the caller.

mod control;
mod device;
mod message;
mod vm;

use crate::fault::Misuse;
use crate::object::capability::Capability;
use crate::object::partition::Thread;
use crate::object::{Partition, Work};
use crate::state::Core;
use portcullis_ipc::record::{cause, misuse};
use portcullis_ipc::syscall::{Call, Status, rights};

/// What a call leaves in the caller's registers.
pub enum Outcome {
    /// RAX and RDX.
    Value(Status, u64),
    /// Nothing now: the caller waits, and whoever ends the wait sets its registers.
    Later,
}

type Decoded = Result<Outcome, Misuse>;

const DONE: Decoded = Ok(Outcome::Value(Status::Ok, 0));

impl Core {
    /// Serve the system call in the frame of partition `caller`.
    pub fn syscall(&mut self, caller: u8) {
        let number = self.partitions[caller].thread.frame.rax;
        match self.serve(caller, number) {
            Ok(Outcome::Later) => {}
            Ok(Outcome::Value(status, value)) => {
                let frame = &mut self.partitions[caller].thread.frame;
                frame.rax = status as u64;
                frame.rdx = value;
            }
            Err(Misuse(code)) => {
                self.freeze(caller, cause::MISUSE, u8::try_from(number).unwrap_or(u8::MAX), code);
            }
        }
    }

    #[inline(always)]
    fn serve(&mut self, caller: u8, number: u64) -> Decoded {
        const WAIT: u64 = Call::Wait as u64;
        const CALL: u64 = Call::Call as u64;
        const REPLY_WAIT: u64 = Call::ReplyWait as u64;
        const RESUME: u64 = Call::VcpuResume as u64;
        match number {
            CALL => self.sys_call(caller),
            REPLY_WAIT => self.sys_reply_wait(caller),
            RESUME => self.sys_vcpu_resume(caller),
            WAIT => self.sys_wait(caller),
            _ => self.serve_rest(caller, number),
        }
    }

    #[inline(never)]
    fn serve_rest(&mut self, caller: u8, number: u64) -> Decoded {
        if number == Call::Abort as u64 {
            let reason = self.partitions[caller].thread.frame.rdi as u32;
            self.freeze(caller, cause::ABORTED, 0, reason);
            return Ok(Outcome::Later);
        }
        // The numbers of `Call` from Notify on; no table of functions, because nothing branches where memory says (R14).
        match number.wrapping_sub(Call::Notify as u64) {
            0 => self.sys_notify(caller),
            1 => self.sys_timer_set(caller),
            2 => self.lease_copy(caller, rights::READ),
            3 => self.lease_copy(caller, rights::WRITE),
            4 => self.sys_vcpu_resume(caller),
            5 => self.sys_vcpu_fetch(caller),
            6 => self.sys_vcpu_recall(caller),
            7 => self.sys_vm_protect(caller),
            8 => self.sys_vm_answer(caller),
            9 => self.sys_port_io(caller),
            10 => self.sys_msr_read(caller),
            11 => self.sys_msr_write(caller),
            12 => self.sys_interrupt_ack(caller),
            13 => self.sys_partition_control(caller),
            14 => self.sys_partition_status(caller),
            15 => self.sys_log_write(caller),
            16 => self.sys_log_read(caller),
            17 => self.sys_clock_set(caller),
            _ => Err(Misuse(misuse::NUMBER)),
        }
    }

    /// What most calls begin with: the capability in the slot that the first argument names, of `kind` and with `rights`,
    /// and the other arguments.
    #[inline(never)]
    fn decode(&self, caller: u8, kind: u8, rights: u8) -> Result<(&Capability, [u64; 3]), Misuse> {
        let Partition { slots, thread: Thread { frame, .. }, .. } = &self.partitions[caller];
        Ok((slots.get(frame.rdi, kind, rights)?, [frame.rsi, frame.rdx, frame.r10]))
    }

    /// The thread may wait only when nobody waits for it.
    fn may_wait(&self, caller: u8) -> Result<(), Misuse> {
        let free = matches!(self.partitions[caller].thread.work, Work::None | Work::Own | Work::Orphan);
        if free { Ok(()) } else { Err(Misuse(misuse::PROTOCOL)) }
    }
}
