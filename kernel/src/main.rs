//! The core of Portcullis: the only part that runs privileged.
//!
//! Here live boot, address spaces, capabilities, messages, time, the world switch and the decode of one
//! port. Here does not live anything that parses what a guest, a firmware or an operator lays out: that
//! is the services' work (R1).
//!
//! Principles:
//!
//! 1. One entry, one decision: `entry` is called with a cause, changes the state, and leaves by what
//!    `dispatch` chose. Nothing blocks in the core, nothing is allocated, no stack is kept.
//! 2. Decode checks everything and may fail; what follows cannot (R5).
//! 3. An input of a service or a guest can fault its author, never the core (R6).
//! 4. `unsafe` stands in `arch`, `mem`, `boot`, `svm`, `vmx` and this file, and in three places besides that
//!    `docs/decisions/0010-where-unsafe-stands.md` names; each block names its invariant (R8).
#![cfg_attr(not(test), no_std, no_main)]
#![cfg_attr(test, allow(dead_code))]

mod arch;
mod audit;
mod boot;
mod epitaph;
mod fault;
mod ipc;
mod life;
mod log;
mod mem;
mod object;
mod port;
mod schedule;
#[cfg(test)]
mod simulation;
mod state;
mod svm;
mod syscall;
mod vcpu;
mod vmx;

use arch::entry::{self, Cause};
use arch::{apic, cpu, idt};
use portcullis_ipc::record::cause;
use schedule::Runner;
use state::{Core, NOBODY};

/// INV-CORE: the state is taken once at boot and then at every entry from ring 3, of which there is one at a time;
/// a reference never survives the way out.
// SAFETY: all zeros is a Core: it is FromZeros.
#[unsafe(no_mangle)]
static mut CORE: Core = unsafe { core::mem::zeroed() };

/// The state of the core, at boot and at each entry.
///
/// # Safety
/// INV-CORE: no other reference to it is used any more.
unsafe fn take_core() -> &'static mut Core {
    let core = &raw mut CORE;
    // SAFETY: by the caller's promise.
    unsafe { &mut *core }
}

/// Every entry from ring 3.
#[inline(always)]
pub fn entry(cause: Cause) -> ! {
    // SAFETY: INV-CORE: only ring 3 comes in here, by a way out that did not return to whoever had the state before.
    let core = unsafe { take_core() };
    core.enter(cause);
    run(core)
}

/// Run what there is to run until the next entry from ring 3.
#[inline(always)]
fn run(core: &mut Core) -> ! {
    loop {
        match core.dispatch() {
            Runner::Thread(index) => core.resume(index),
            Runner::Vcpu(index) => core.run_guest(index),
            Runner::Idle => {
                let vector = entry::interrupt_window(true);
                core.interrupt(vector);
            }
        }
    }
}

impl Core {
    #[inline(always)]
    fn enter(&mut self, why: Cause) {
        let Runner::Thread(caller) = self.runner else {
            epitaph::stop(format_args!("entry from ring 3 while no partition ran"))
        };
        match why {
            Cause::Call => self.syscall(caller),
            Cause::Event(vector @ 0..32, error) => self.freeze(caller, cause::EXCEPTION, vector, error),
            Cause::Event(vector, _) => self.interrupt(vector),
        }
    }

    /// An interrupt came; 0 is none.
    fn interrupt(&mut self, vector: u8) {
        match vector {
            idt::TIMER => {
                apic::end();
                self.tick();
            }
            idt::GSI..=idt::LAST_GSI => {
                self.line(vector.wrapping_sub(idt::GSI));
                apic::end();
            }
            0 | idt::SPURIOUS => return,
            _ => apic::end(),
        }
        // It touched the memory of whom it concerns, whoever runs next.
        self.domain = NOBODY;
    }

    #[inline(always)]
    fn resume(&mut self, index: u8) -> ! {
        // A guest's extended registers are for its own `vmexit` alone: CR0.TS does not stop what runs ahead.
        if let Some(vcpu) = self.loaded.get()
            && self.vms[self.vcpus[vcpu].vm].vmexit != index
        {
            self.unload_extended(vcpu);
        }
        self.cross(index);
        let partition = &mut self.partitions[index];
        if self.root != partition.root {
            self.root = partition.root;
            // SAFETY: every root holds the core's half.
            unsafe { cpu::set_cr3(partition.root) };
            entry::reset_segments();
        }
        // SAFETY: INV-ENTRY: the address space is loaded, the frame is static.
        unsafe { entry::resume(&raw mut partition.thread.frame) }
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    match info.location() {
        Some(location) => {
            epitaph::stop(format_args!("panic at {}:{}", arch::uart::Text(location.file()), location.line()))
        }
        None => epitaph::stop(format_args!("panic")),
    }
}
