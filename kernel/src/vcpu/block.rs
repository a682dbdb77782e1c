//! The control block of a vCPU: one page in the layout of AMD's VMCB, on both vendors. On SVM the processor itself
//! reads and writes it; on VMX `vmx::carry` carries its words to and from the VMCS, and what only SVM has stands idle.

use crate::arch::extended;
use crate::object::Vcpu;

/// Offsets in the control block (APM volume 2, appendix B).
pub mod at {
    pub const CR_INTERCEPTS: usize = 0x000;
    pub const EXCEPTIONS: usize = 0x008;
    pub const MORE_INTERCEPTS: usize = 0x010;
    pub const IO_BITMAP: usize = 0x040;
    pub const MSR_BITMAP: usize = 0x048;
    pub const TSC_OFFSET: usize = 0x050;
    pub const ASID: usize = 0x058;
    pub const VIRTUAL_INTERRUPT: usize = 0x060;
    pub const SHADOW: usize = 0x068;
    pub const EXIT_CODE: usize = 0x070;
    pub const EXIT_INFO_1: usize = 0x078;
    pub const EXIT_INFO_2: usize = 0x080;
    pub const EXIT_EVENT: usize = 0x088;
    pub const NESTED: usize = 0x090;
    pub const EVENT: usize = 0x0a8;
    pub const NESTED_ROOT: usize = 0x0b0;
    pub const NEXT_RIP: usize = 0x0c8;
    /// ES, CS, SS, DS, FS, GS, GDTR, LDTR, IDTR, TR, 16 bytes each.
    pub const SEGMENTS: usize = 0x400;
    /// CPL is byte 3 of this word.
    pub const CPL: usize = 0x4c8;
    pub const EFER: usize = 0x4d0;
    pub const CR4: usize = 0x548;
    pub const CR3: usize = 0x550;
    pub const CR0: usize = 0x558;
    pub const DR7: usize = 0x560;
    pub const DR6: usize = 0x568;
    pub const RFLAGS: usize = 0x570;
    pub const RIP: usize = 0x578;
    pub const RSP: usize = 0x5d8;
    pub const RAX: usize = 0x5f8;
    /// STAR, LSTAR, CSTAR, SFMASK, KernelGsBase.
    pub const SYSCALL: usize = 0x600;
    /// SYSENTER_CS, _ESP, _EIP.
    pub const SYSENTER: usize = 0x628;
    pub const CR2: usize = 0x640;
    pub const PAT: usize = 0x668;
    /// VMX only, after the block's own fields: MSRs that the processor loads for the guest and saves of it
    /// (STAR to KernelGsBase), those that it loads for the core, and the guest's PDPTEs.
    pub const GUEST_MSRS: usize = 0xc00;
    pub const CORE_MSRS: usize = 0xc80;
    pub const PDPTES: usize = 0xd00;
}

/// Reset value of the PAT register.
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// Put the control block and the extended registers of `vcpu` into their reset state; `number` is its index in the core and
/// makes its address-space id (ASID, VPID).
pub fn reset(vcpu: &Vcpu, number: u8) {
    let block = vcpu.control;
    block.clear();
    let words = [
        (at::ASID, u64::from(number).wrapping_add(1) | 1 << 32),
        (at::CR0, 0x10),
        (at::DR6, 0xffff_0ff0),
        (at::DR7, 0x400),
        (at::RFLAGS, 2),
        (at::PAT, PAT_RESET),
    ];
    for (offset, value) in words {
        block.set_word(offset, value);
    }
    extended::reset(vcpu.extended);
}
