//! VMs and vCPUs as the core keeps them: bookkeeping only; the processor's own structures are in `vcpu::block` and
//! `vmx`.

use super::Table;
use crate::mem::page::CorePage;
use crate::state::Index;
use portcullis_ipc::{exit::Reason, limits, port::Answer};
use zerocopy::FromZeros;

/// A virtual machine; all zeros is an empty slot of the table.
#[derive(FromZeros)]
pub struct Vm {
    /// The slot of the table is in use.
    pub exists: bool,
    /// Partition that serves its exits.
    pub vmexit: u8,
    /// Partition that serves its port, `None` when the port is off.
    pub vmport: Index,
    /// Badge of its port calls.
    pub badge: u32,
    /// [`portcullis_ipc::image::feature`].
    pub features: u32,
    /// XCR0 bits its vCPUs may set.
    pub xcr0: u64,
    /// Root of its nested table.
    pub nested: u64,
    /// Pages of its memory.
    pub pages: u64,
    /// The first of its vCPUs in the core's table.
    pub first_vcpu: u8,
    /// How many there are.
    pub vcpu_count: u8,
    /// Its port answer table; an entry with `used` 0 is free.
    pub answers: Table<Answer, { limits::ANSWERS }>,
}

impl Vm {
    /// Its vCPUs in the core's table.
    pub fn vcpus(&self) -> core::ops::Range<u8> {
        self.first_vcpu..self.first_vcpu.wrapping_add(self.vcpu_count)
    }
}

/// What a vCPU is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromZeros)]
#[repr(u8)]
pub enum VcpuState {
    /// Never entered, or stopped for good: only a resume starts it.
    Stopped,
    /// Waits for a recall.
    Parked,
    /// Runs, or wants to.
    Ready,
    /// Waits for `vmexit` to answer its exit (held while that one is dead).
    Exited,
    /// Waits for `vmport-rpc` to answer its port call (held while that one is dead).
    Port,
}

/// An exit as it is told to `vmexit`, kept so that it can be told again.
#[derive(Clone, Copy, Debug, FromZeros)]
pub struct Exit {
    /// Reason.
    pub reason: Reason,
    /// See [`Reason`].
    pub qualification: [u64; 3],
    /// Address of the next instruction, 0 if not known.
    pub next_rip: u64,
}

/// A port access that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromZeros)]
pub struct Access {
    /// Width in bytes: 1, 2, 4.
    pub width: u8,
    /// IN.
    pub input: bool,
    /// Address of the instruction after it.
    pub next_rip: u64,
}

/// A virtual processor; all zeros is an empty slot of the table.
#[derive(FromZeros)]
pub struct Vcpu {
    /// The slot of the table is in use.
    pub exists: bool,
    /// Its VM.
    pub vm: u8,
    /// Its index in the VM.
    pub index: u8,
    /// What it is at.
    pub state: VcpuState,
    /// Its control block ([`crate::vcpu::block`]).
    pub control: CorePage,
    /// VMX: its VMCS.
    pub vmcs: CorePage,
    /// VMX: the VMCS was entered since it was built.
    pub launched: bool,
    /// VMX: groups whose words the VMCS has newer than the control block.
    pub stale: u32,
    /// VMX: groups whose words the control block has newer than the VMCS.
    pub changed: u32,
    /// Its extended registers ([`crate::arch::extended`]); those of the one that is loaded are in the processor.
    pub extended: CorePage,
    /// Its exit page.
    pub page: CorePage,
    /// General registers in [`portcullis_ipc::exit::ExitPage::registers`] order; RAX and RSP are in the
    /// control block.
    pub registers: [u64; 16],
    /// Sequence of its last exit.
    pub sequence: u64,
    /// Its last exit.
    pub exit: Exit,
    /// Its port access under way.
    pub access: Access,
    /// An exit was asked for.
    pub recall: bool,
    /// Event to deliver at the next entry, 0 for none.
    pub event: u64,
    /// NMIs are held until IRET.
    pub nmi_held: bool,
    /// SVM: DR6 before the step over that IRET, in which RFLAGS.TF is the core's; 0 when none is made.
    pub step: u64,
    /// [`portcullis_ipc::exit::window`] bits asked for.
    pub windows: u32,
}
