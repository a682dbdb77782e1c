//! The control block (VMCB): offsets, the intercepts every guest runs with, and its reset state.

use crate::arch::{cpu, extended};
use crate::mem::page::CorePage;
use crate::object::{Vcpu, Vm};
use crate::state::Index;
use portcullis_ipc::image::feature;
use zerocopy::FromZeros;

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
    /// CR4, CR3, CR0, DR7, DR6, RFLAGS, RIP.
    pub const CR4: usize = 0x548;
    pub const CR0: usize = 0x558;
    pub const DR7: usize = 0x560;
    pub const DR6: usize = 0x568;
    pub const RFLAGS: usize = 0x570;
    pub const RIP: usize = 0x578;
    pub const RSP: usize = 0x5d8;
    pub const RAX: usize = 0x5f8;
    /// STAR, LSTAR, CSTAR, SFMASK, KernelGsBase, SYSENTER_CS, _ESP, _EIP.
    pub const SYSCALL: usize = 0x600;
    pub const CR2: usize = 0x640;
    pub const PAT: usize = 0x668;
}

/// EFER.SVME: set for every guest, never shown.
pub const EFER_SVME: u64 = 1 << 12;
/// Reset value of the PAT register.
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// VINTR among the intercepts at [`at::EXCEPTIONS`].
pub const INTERCEPT_VINTR: u64 = 1 << 36;
/// IRET among the intercepts at [`at::EXCEPTIONS`].
pub const INTERCEPT_IRET: u64 = 1 << 52;
/// V_INTR_MASKING, always.
pub const MASKING: u64 = 1 << 24;
/// V_IRQ with highest priority, TPR ignored: an interrupt window.
pub const WINDOW: u64 = 1 << 8 | 0xf << 16 | 1 << 20;

/// CR8 reads; CR4 and CR8 writes; writes of all debug registers: an emulator that keeps a guest's breakpoints
/// over the exit would raise them in the core.
const CR: u64 = 1 << 8 | 1 << 20 | 1 << 24 | 0xff << 48;
/// INTR, NMI, INIT, RDPMC, CPUID, INVD, HLT, INVLPGA, IOIO, MSR, SHUTDOWN.
const MISC_1: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 15 | 1 << 18 | 1 << 22 | 1 << 24 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 31;
/// VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, WBINVD, MONITOR, MWAIT, XSETBV.
const MISC_2: u64 = 0x7f | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 13;
/// #DB and #AC (a guest could loop in their delivery for ever) and #MC, which is the host's.
const EXCEPTIONS: u64 = 1 << 1 | 1 << 17 | 1 << 18;
const GP: u64 = 1 << 13;

/// The extension as found at boot.
#[derive(Clone, Copy, FromZeros)]
pub struct Machine {
    /// Three contiguous pages: every port is intercepted.
    pub io_bitmap: u64,
    /// Two contiguous pages.
    pub msr_bitmap: u64,
    /// Control block that keeps the host's own state for VMLOAD.
    pub host: CorePage,
    /// CR4 bits that a guest may set.
    pub cr4: u64,
    /// Physical address bits.
    pub physical_bits: u32,
    /// The processor stores the next RIP.
    pub next_rip: bool,
    /// TLB control value that flushes one guest: 3 with FlushByASID, else 1 (all).
    pub flush: u64,
}

impl Machine {
    /// Whether the processor can do what the core needs, by CPUID and VM_CR. `Err` names what is missing.
    pub fn refusal(extended_ecx: u32, svm_edx: u32, vm_cr: Option<u64>) -> Option<&'static str> {
        if extended_ecx >> 2 & 1 == 0 {
            return Some("vm: this processor has no SVM (CPUID 0x80000001 ECX bit 2); VMs need it");
        }
        if vm_cr.is_some_and(|value| value >> 4 & 1 != 0) {
            return Some("vm: SVM is disabled by the firmware (VM_CR.SVMDIS); enable it there");
        }
        if svm_edx & 1 == 0 {
            return Some("vm: this processor has no nested paging (CPUID 0x8000000A EDX bit 0); VMs need it");
        }
        None
    }

    /// CR4 bits of a guest: those of the host's features that the core keeps apart.
    pub fn guest_cr4() -> u64 {
        let leaf1 = cpu::cpuid(1, 0);
        let leaf7 = cpu::cpuid(7, 0);
        let mut bits = 0x7f | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 18;
        for (register, from, bit) in [(leaf7.ebx, 0, 16), (leaf7.ebx, 7, 20), (leaf7.ebx, 20, 21), (leaf7.ecx, 2, 11)] {
            bits |= u64::from(register >> from & 1) << bit;
        }
        if leaf1.edx >> 7 & 1 == 0 { bits & !(1 << 6) } else { bits }
    }

    /// Put `vcpu` of `vm` into its reset state; `number` is its index in the core and makes its ASID.
    pub fn reset(&self, vcpu: &Vcpu, vm: &Vm, number: u8) {
        let block = vcpu.control;
        block.clear();
        let mut misc = MISC_1;
        if vm.features & feature::INTERCEPT_RDTSC != 0 {
            misc |= 1 << 14;
        }
        if vm.features & feature::INTERCEPT_PAUSE != 0 {
            misc |= 1 << 23;
        }
        let more = if vm.features & feature::INTERCEPT_RDTSC != 0 { MISC_2 | 1 << 7 } else { MISC_2 };
        let exceptions = if vm.vmport != Index::NONE { EXCEPTIONS | GP } else { EXCEPTIONS };
        let words = [
            (at::CR_INTERCEPTS, CR),
            (at::EXCEPTIONS, exceptions | misc << 32),
            (at::MORE_INTERCEPTS, more),
            (at::IO_BITMAP, self.io_bitmap),
            (at::MSR_BITMAP, self.msr_bitmap),
            (at::ASID, u64::from(number).wrapping_add(1) | 1 << 32),
            (at::VIRTUAL_INTERRUPT, MASKING),
            (at::NESTED, 1),
            (at::NESTED_ROOT, vm.nested),
            (at::EFER, EFER_SVME),
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_piece_of_svm_is_named() {
        assert!(Machine::refusal(0, 1, None).unwrap().contains("no SVM"));
        assert!(Machine::refusal(4, 1, Some(1 << 4)).unwrap().contains("SVMDIS"));
        assert!(Machine::refusal(4, 0, Some(0)).unwrap().contains("nested paging"));
        assert_eq!(Machine::refusal(4, 1, None), None, "a VM_CR that cannot be read counts as not locked");
    }
}
