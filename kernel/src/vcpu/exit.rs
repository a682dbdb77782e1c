//! What happens to a vCPU between two entries: its exits, their delivery, park, recall.

use crate::object::VcpuState;
use crate::object::account::of_vcpu;
use crate::object::vm::Exit;
use crate::state::Core;
use crate::vmx;
use portcullis_ipc::exit::{ExitPage, Reason, VERSION, group, window};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Head of the exit page, up to the general registers.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Head {
    version: u32,
    vendor: u32,
    sequence: u64,
    reason: u32,
    valid: u32,
    dirty: u32,
    cpl: u32,
    qualification: [u64; 3],
    next_rip: u64,
}

static_assertions::const_assert_eq!(size_of::<Head>(), core::mem::offset_of!(ExitPage, registers));

impl Core {
    /// The guest of `vcpu` left for `exit`: `vmexit` must answer.
    pub fn exit(&mut self, vcpu: u8, exit: Exit) {
        if self.vcpus[vcpu].step != 0 {
            self.end_step(vcpu);
        }
        let state = &mut self.vcpus[vcpu];
        state.state = VcpuState::Exited;
        state.sequence = state.sequence.wrapping_add(1);
        state.exit = exit;
        let vmexit = self.vms[state.vm].vmexit;
        self.activate_vcpu(vcpu);
        self.ask(vmexit, vcpu.wrapping_add(32));
    }

    fn exit_for(&mut self, vcpu: u8, reason: Reason) {
        self.exit(vcpu, Exit { reason, qualification: [0; 3], next_rip: 0 });
    }

    /// Tell the exit of `vcpu` in its exit page, as it is or once more.
    pub fn fill_exit(&mut self, vcpu: u8) {
        self.fill_always(vcpu);
        let state = &self.vcpus[vcpu];
        let head = Head {
            version: VERSION,
            vendor: self.machine.vendor.number(),
            sequence: state.sequence,
            reason: state.exit.reason as u32,
            valid: group::ALWAYS | group::EVENT,
            dirty: 0,
            cpl: vmx::level(state),
            qualification: state.exit.qualification,
            next_rip: state.exit.next_rip,
        };
        state.page.write::<Head, 0>(&head);
    }

    /// Ask for an exit of `vcpu`, which is not stopped.
    pub fn recall(&mut self, vcpu: u8) {
        if self.vcpus[vcpu].state == VcpuState::Parked {
            self.exit_for(vcpu, Reason::Recall);
        } else {
            self.vcpus[vcpu].recall = true;
        }
    }

    /// Take a recall that was asked for, before the guest is entered. `true` if there was one.
    pub fn take_recall(&mut self, vcpu: u8) -> bool {
        let asked = core::mem::take(&mut self.vcpus[vcpu].recall);
        if asked {
            self.exit_for(vcpu, Reason::Recall);
        }
        asked
    }

    /// The vCPU waits for a recall; one that was asked for meanwhile comes at once.
    pub fn park(&mut self, vcpu: u8) {
        self.vcpus[vcpu].state = VcpuState::Parked;
        if core::mem::take(&mut self.vcpus[vcpu].recall) {
            self.exit_for(vcpu, Reason::Recall);
        } else {
            self.deactivate(of_vcpu(vcpu));
        }
    }

    /// The vCPU stops until a service starts it again.
    pub fn stop(&mut self, vcpu: u8) {
        let state = &mut self.vcpus[vcpu];
        state.state = VcpuState::Stopped;
        state.recall = false;
        self.deactivate(of_vcpu(vcpu));
    }

    /// The vCPU wants to run.
    pub fn make_ready(&mut self, vcpu: u8) {
        self.vcpus[vcpu].state = VcpuState::Ready;
        self.activate_vcpu(vcpu);
    }

    /// An interrupt or NMI window that was asked for has opened.
    pub fn window_opened(&mut self, vcpu: u8, which: u32) {
        self.vcpus[vcpu].windows &= !which;
        self.set_windows(vcpu);
        let reason = if which == window::INTERRUPT { Reason::InterruptWindow } else { Reason::NmiWindow };
        self.exit_for(vcpu, reason);
    }
}
