//! Entering a guest, and what both vendors do about its exits: the event that an exit interrupted, and the state that the
//! processor refused.

use super::machine::Vendor;
use crate::arch::mitigation;
use crate::object::Work;
use crate::object::account::of_vcpu;
use crate::object::partition::queue;
use crate::object::vm::Exit;
use crate::state::{Core, Index};
use portcullis_ipc::exit::{Reason, event};
use portcullis_ipc::record::cause;

/// The interrupted event without what its word leaves undefined.
fn defined(word: u64) -> u64 {
    let low = event::VECTOR | event::TYPE << event::TYPE_SHIFT | event::ERROR_VALID | event::VALID;
    if word & event::ERROR_VALID != 0 { word & (low | !0xffff_ffff) } else { word & low }
}

/// Whether the event that the exit interrupted must be delivered again. One that an instruction of the
/// guest raised (INT n, INT3, INTO) is not: RIP still points at the instruction, which raises it anew.
fn must_redeliver(interrupted: u64, injected: u64) -> bool {
    let vector = interrupted & event::VECTOR;
    let raised = match interrupted >> event::TYPE_SHIFT & event::TYPE {
        event::SOFTWARE => true,
        event::EXCEPTION => vector == 3 || vector == 4,
        _ => false,
    };
    !raised || interrupted == injected
}

impl Core {
    /// Run the guest of `vcpu` until an exit that the core does not answer at once.
    #[inline(never)]
    pub fn run_guest(&mut self, vcpu: u8) {
        if self.take_recall(vcpu) {
            return;
        }
        if self.vcpus[vcpu].windows != 0 {
            self.set_windows(vcpu);
        }
        self.load_extended(vcpu);
        self.cross(of_vcpu(vcpu));
        match self.machine.vendor {
            Vendor::Svm => while self.enter_svm(vcpu) {},
            Vendor::Vmx => self.run_vmx(vcpu),
        }
        // The first return of a function that was called before the guest ran.
        mitigation::fill_return_stack(self.mitigations);
    }

    /// An exit interrupted the delivery of an event; `injected` is the one that the entry was to deliver.
    #[inline(never)]
    pub fn keep_event(&mut self, vcpu: u8, interrupted: u64, injected: u64) {
        let interrupted = defined(interrupted);
        if must_redeliver(interrupted, injected) {
            self.vcpus[vcpu].event = interrupted;
        }
    }

    /// The processor refused the state: the service that wrote it is to blame, and its VM stops. The
    /// control block may hold anything now, the host's state among it, so it is made anew.
    pub fn refused(&mut self, vcpu: u8) {
        let vm = self.vcpus[vcpu].vm;
        let vmexit = self.vms[vm].vmexit;
        for index in self.vms[vm].vcpus() {
            self.stop(index);
            if self.loaded == Index::of(index) {
                self.clear_extended();
            }
            let state = &mut self.vcpus[index];
            state.exit = Exit { reason: Reason::BadState, qualification: [0; 3], next_rip: 0 };
            (state.registers, state.event, state.windows, state.nmi_held) = ([0; 16], 0, 0, false);
            self.reset_vcpu(index);
        }
        self.freeze(vmexit, cause::BAD_GUEST_STATE, vcpu, 0);
        // What was asked for a VM that is stopped now is not asked any more.
        let owners = [Some(vmexit), self.vms[vm].vmport.get()];
        for index in self.vms[vm].vcpus() {
            for owner in owners.into_iter().flatten() {
                let thread = &mut self.partitions[owner].thread;
                thread.queue &= !(queue::exit(index) | queue::port(index));
                if thread.work == Work::Port(index) {
                    thread.work = Work::Orphan;
                    self.activate(owner);
                }
            }
        }
    }

    /// Apply the mitigations when another domain runs than before.
    #[inline]
    pub fn cross(&mut self, domain: u8) {
        if self.domain != domain {
            self.domain = domain;
            if self.mitigations & mitigation::AT_CROSSINGS != 0 {
                mitigation::cross(self.mitigations);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_delivered_again_unless_its_instruction_raises_it_anew() {
        let software = event::VALID | event::SOFTWARE << event::TYPE_SHIFT | 0x80;
        assert_eq!(defined(event::interrupt(0x30) | 7 << 32 | 1 << 13), event::interrupt(0x30));
        assert_eq!(defined(event::exception(14, Some(2))), event::exception(14, Some(2)));
        assert!(must_redeliver(event::exception(14, Some(2)), 0));
        assert!(must_redeliver(event::interrupt(0x30), event::interrupt(0x30)));
        assert!(!must_redeliver(software, 0) && must_redeliver(software, software));
        assert!(!must_redeliver(event::exception(3, None), 0));
    }
}
