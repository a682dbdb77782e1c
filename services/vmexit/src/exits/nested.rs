//! Accesses to guest-physical addresses that are not memory: an instruction that touches a device, or
//! nothing, is done here; one that cannot be raises the exception that fits.

use crate::exception::{raise, vector};
use crate::host::{Host, Note};
use crate::machine::{Machine, Step};
use crate::memory::GuestMemory;
use crate::mmio::{Bus, Done, Stop, execute, reach};
use crate::registers::{TRAP, after, finish};
use crate::saved::Block;
use iced_x86::Instruction;
use portcullis_ipc::exit::{ExitPage, access, event};
use portcullis_ipc::syscall::Resume;

impl<H: Host> Machine<H> {
    pub(crate) fn nested_fault(&mut self, vcpu: u16, page: &mut ExitPage) -> Step {
        let [address, how, _] = page.qualification;
        let mailbox = self.is_mailbox(address);
        if self.host.memory().holds(address, 1) && !mailbox {
            return self.stop(vcpu, page, "access to guest memory that its protection refuses", address);
        }
        if page.event & event::VALID != 0 {
            return self.stop(vcpu, page, "event delivered through memory that is not there", address);
        }
        let bytes = self.bytes(vcpu, page, 0)?;
        let fetches = how & access::FETCH != 0 && how & access::GUEST_WALK == 0;
        // Where there is no memory a fetch reads all ones, which are no instruction.
        let decoded = if fetches { None } else { bytes.decode(page.rip) };
        let Some(instruction) = decoded else {
            return self.unknown(page, address);
        };
        let again = self.answered(vcpu, page.sequence).is_some();
        let mut bus = Access { machine: self, vcpu, sequence: page.sequence, mailbox };
        match execute(page, &instruction, bytes.bits, &mut bus) {
            Ok(Done::Whole) => {
                finish(page, after(page, instruction.len(), bytes.bits));
                if mailbox {
                    self.mailbox_written(again);
                }
            }
            Ok(Done::Part) if page.rflags & TRAP != 0 => finish(page, page.rip),
            Ok(Done::Part) | Err(Stop::Memory) => {}
            Err(Stop::Missed(miss)) => return Ok(self.missed(page, miss)),
            Err(Stop::Exception(number)) => raise(page, number, Some(0)),
            Err(Stop::Unknown) if how & access::GUEST_WALK != 0 => {
                return self.broken_walk(page, &instruction, bytes.bits, address);
            }
            Err(Stop::Unknown) => return self.unknown(page, address),
        }
        Ok(Resume::ENTER)
    }

    /// The processor met page tables of the guest that lie outside memory and read all ones there, which
    /// have reserved bits set, on behalf of an instruction that is not emulated.
    fn broken_walk(&mut self, page: &mut ExitPage, instruction: &Instruction, code_bits: u32, address: u64) -> Step {
        match reach(page, self.host.memory(), instruction, code_bits) {
            Some(miss) => Ok(self.missed(page, miss)),
            None => self.unknown(page, address),
        }
    }

    /// An instruction that cannot be done where there is no memory is one that this processor lacks.
    fn unknown(&mut self, page: &mut ExitPage, address: u64) -> Step {
        self.host.note(Note::NotEmulated(page.rip, address));
        raise(page, vector::UNDEFINED, None);
        Ok(Resume::ENTER)
    }
}

/// The access of one exit.
struct Access<'a, H> {
    machine: &'a mut Machine<H>,
    vcpu: u16,
    sequence: u64,
    /// It writes to the mailbox.
    mailbox: bool,
}

impl<H: Host> Bus for Access<'_, H> {
    type Memory = H::Memory;

    fn memory(&mut self) -> &mut H::Memory {
        self.machine.host.memory()
    }

    fn watches(&self, address: u64) -> bool {
        self.machine.is_mailbox(address)
    }

    fn claims(&self, address: u64) -> bool {
        self.machine.is_device(self.vcpu, address)
    }

    fn read(&mut self, address: u64) -> u32 {
        self.machine.read_device(self.vcpu, address)
    }

    fn write(&mut self, address: u64, value: u32) {
        self.machine.write_device(self.vcpu, address, value);
    }

    fn once(&mut self, access: impl FnOnce(&mut Self) -> u64) -> u64 {
        if let Some(value) = self.machine.answered(self.vcpu, self.sequence) {
            return value;
        }
        let value = access(self);
        if self.mailbox {
            // What is stored follows from this, whatever stands there when the exit is given again.
            self.machine.touched.add(Block::Vcpu(self.vcpu.into()));
        }
        self.machine.record(self.vcpu, self.sequence, value);
        value
    }
}
