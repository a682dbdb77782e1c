//! Hardware task switches. VT-x makes every one of them exit and does no part of it (Intel SDM volume 3, "Task
//! Management", and "Treatment of Task Switches" under VMX non-root operation); AMD-V carries them out by itself.
//!
//! [`leave`] checks, translates every place that is written in the old task's context, and only then stores; up to there
//! a fault leaves the guest before the switch. [`enter`] loads the new task; its faults are the new task's.
//!
//! An exit that is given again (R13) meets the stores of the try before, all of them or the first few, in any byte.
//! It does the same stores again, because what they are made of is what no store changes:
//!
//! - The old task's registers come from the exit page, and so does the back link.
//! - The new task's registers are read after the stores into the old task, and nothing of them is stored but the back link.
//! - Whether the new task may be entered, available or for IRET busy, the processor checked before the exit. Here the
//!   busy bit counts for nothing, so the one that a try before has set refuses nothing.
//! - The old task is made available last: as long as it is busy no other vCPU takes it up, and what is stored into it
//!   again is what it holds.
//! - Accessed bits and the error code are stored where the new task is entered, from the same registers and descriptors.
//!
//! A guest whose tasks, stacks and descriptor tables overlap each other is not promised this.

mod descriptor;
mod enter;
mod leave;
#[cfg(test)]
mod tests;
mod tss;

use crate::exception::{Combined, combine, deliver, kind, vector};
use crate::host::Host;
use crate::machine::{Machine, Step};
use crate::memory::GuestMemory;
use crate::paging::Miss;
use crate::registers::after;
use descriptor::{Fault, WHICH};
use iced_x86::Mnemonic;
use portcullis_ipc::exit::{ExitPage, event, group};
use portcullis_ipc::syscall::Resume;

const GROUPS: u32 = group::CONTROL | group::SEGMENTS | group::DEBUG;
/// Error code bit: the event came from outside the program.
const EXTERNAL: u32 = 1;

/// What switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Call,
    Return,
    Jump,
    /// A task gate in the IDT.
    Gate,
}

impl Source {
    /// From the exit's qualification.
    const fn of(word: u64) -> Self {
        match word >> 30 & 3 {
            0 => Self::Call,
            1 => Self::Return,
            2 => Self::Jump,
            _ => Self::Gate,
        }
    }

    /// Whether the instruction can be what switched.
    const fn is(self, mnemonic: Mnemonic) -> bool {
        match self {
            Self::Call => matches!(mnemonic, Mnemonic::Call),
            Self::Return => matches!(mnemonic, Mnemonic::Iret | Mnemonic::Iretd),
            Self::Jump => matches!(mnemonic, Mnemonic::Jmp),
            Self::Gate => matches!(mnemonic, Mnemonic::Int | Mnemonic::Int1 | Mnemonic::Int3 | Mnemonic::Into),
        }
    }

    /// The new task is nested in the old one, and returns to it.
    const fn nests(self) -> bool {
        matches!(self, Self::Call | Self::Gate)
    }
}

/// A switch to be carried out.
#[derive(Clone, Copy, Debug)]
struct Switch {
    source: Source,
    /// The new task's descriptor.
    selector: u16,
    /// Where the old task goes on.
    next: u64,
    /// The event whose delivery switches, 0 for an instruction, INT among them.
    event: u64,
    /// Bits of a physical address.
    physical_bits: u32,
}

impl Switch {
    /// Carries it out. After a fault the page holds the task in whose context it is raised.
    fn carry_out(&self, page: &mut ExitPage, memory: &mut impl GuestMemory) -> Result<(), Fault> {
        let new = leave::leave(self, page, memory)?;
        enter::enter(self, page, memory, &new)
    }
}

/// What switches happens again; an instruction of its own accord, `event` by being delivered again.
fn again(page: &mut ExitPage, event: u64) -> u64 {
    if event == 0 && page.event != 0 {
        deliver(page, 0);
    }
    Resume::ENTER
}

impl<H: Host> Machine<H> {
    pub(crate) fn task_switch(&mut self, vcpu: u16, page: &mut ExitPage) -> Step {
        let switch = self.switch_of(vcpu, page)?;
        let Err(fault) = switch.carry_out(page, self.host.memory()) else { return Ok(Resume::ENTER) };
        let external = if switch.event != 0 { EXTERNAL } else { 0 };
        let (number, error) = match fault {
            Fault::Missed(Miss::Fault(fault)) => {
                page.cr2 = fault.address;
                page.dirty |= group::CONTROL;
                (vector::PAGE, fault.error)
            }
            Fault::Missed(Miss::Busy) if page.dirty & group::SEGMENTS == 0 => return Ok(again(page, switch.event)),
            Fault::Missed(Miss::Busy) => {
                return self.stop(vcpu, page, "tables that change all through a task switch", 0);
            }
            Fault::Selector(number, selector) => (number, u32::from(selector & WHICH) | external),
        };
        match combine(switch.event, number, Some(error)) {
            Combined::Deliver(event) => {
                deliver(page, event);
                Ok(Resume::ENTER)
            }
            Combined::Shutdown => self.triple_fault(vcpu, page),
        }
    }

    /// What switches to where; makes [`GROUPS`] valid.
    fn switch_of(&mut self, vcpu: u16, page: &mut ExitPage) -> Step<Switch> {
        let [selector, word, _] = page.qualification;
        let source = Source::of(word);
        let raised = source != Source::Gate || kind(page.event) == event::SOFTWARE;
        let event = if raised || page.event & event::VALID == 0 { 0 } else { page.event };
        let next = if event != 0 {
            self.host.fetch(vcpu, page, GROUPS);
            page.rip
        } else {
            let bytes = self.bytes(vcpu, page, GROUPS)?;
            let Some(instruction) = bytes.decode(page.rip).filter(|one| source.is(one.mnemonic())) else {
                // It was changed after the exit.
                return Err(again(page, event));
            };
            after(page, instruction.len(), bytes.bits)
        };
        let [eax, ..] = self.host.cpuid(0x8000_0008, 0);
        Ok(Switch { source, selector: selector as u16, next, event, physical_bits: eax & 0xff })
    }
}
