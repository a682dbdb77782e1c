//! The virtualization extension that was found: which vendor's, and what both keep of it. The choice is a pure function
//! of CPUID and MSR values.

use crate::arch::cpu::{self, CpuidResult};
use crate::mem::page::CorePage;
use crate::state::Core;
use crate::vcpu::block;
use crate::{svm, vmx};
use portcullis_ipc::exit::{group, vendor};
use zerocopy::FromZeros;

/// Whose extension it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromZeros)]
#[repr(u8)]
pub enum Vendor {
    /// AMD SVM.
    Svm,
    /// Intel VMX.
    Vmx,
}

impl Vendor {
    /// Its number in exit pages and in the platform page.
    pub fn number(self) -> u32 {
        match self {
            Self::Svm => vendor::SVM,
            Self::Vmx => vendor::VMX,
        }
    }
}

/// The extension as found at boot.
#[derive(Clone, Copy, FromZeros)]
pub struct Machine {
    /// Whose it is.
    pub vendor: Vendor,
    /// Contiguous pages with a set bit for every port, all of which exit.
    pub io_bitmap: u64,
    /// Contiguous pages with a set bit for every MSR that exits.
    pub msr_bitmap: u64,
    /// SVM: control block that keeps the host's own state for VMLOAD.
    pub host: CorePage,
    /// CR4 bits that a guest may set.
    pub cr4: u64,
    /// CR3 bits that a guest may set: its physical addresses, and with LAM bits 61 and 62.
    pub cr3: u64,
    /// VMX: bits of a linear address, whatever paging the guest uses; an entry takes no address that is not canonical.
    /// SVM: 64, because VMRUN and VMLOAD take any and make it canonical.
    pub linear_bits: u32,
    /// MXCSR bits that a guest may set: 0 to 15, and on some of AMD's MM.
    pub mxcsr: u64,
    /// SVM: the processor stores the next RIP.
    pub next_rip: bool,
    /// SVM: TLB control value that flushes one guest: 3 with FlushByASID, else 1 (all). VMX: 1.
    pub flush: u64,
    /// What only VMX has.
    pub vmx: vmx::Extension,
}

const NEITHER: &str =
    "vm: this processor has neither SVM (CPUID 0x80000001 ECX bit 2) nor VMX (CPUID 1 ECX bit 5); VMs need one";

/// The extension to use for `vcpus` vCPUs, by CPUID leaf and by MSR; an MSR that raises #GP is `None`.
///
/// # Errors
/// The line that names what is missing.
pub fn choose(
    vcpus: usize,
    cpuid: impl Fn(u32) -> CpuidResult,
    msr: impl Fn(u32) -> Option<u64>,
) -> Result<Vendor, &'static str> {
    let (vendor, refusal) = if cpuid(0x8000_0001).ecx >> 2 & 1 != 0 {
        (Vendor::Svm, svm::refusal(vcpus, cpuid(0x8000_000a), msr(svm::VM_CR)))
    } else if cpuid(1).ecx >> 5 & 1 != 0 {
        (Vendor::Vmx, vmx::refusal(msr))
    } else {
        return Err(NEITHER);
    };
    refusal.map_or(Ok(vendor), Err)
}

/// MSRs that a guest reads and writes by itself: SYSENTER_*, STAR, LSTAR, CSTAR, SFMASK, and the three bases.
pub const OPEN_MSRS: [u32; 10] =
    [0x174, 0x175, 0x176, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0100, 0xc000_0101, 0xc000_0102];

/// Turn on the extension whose vendor `machine` names, with contiguous empty pages, which are its own from here on: I/O
/// map 3, MSR map 2, host block, the processor's own.
pub fn enable(machine: &mut Machine, pages: [CorePage; 7]) {
    let [io @ .., msr_low, msr_high, host, own] = pages;
    for page in io.iter().chain([&msr_low, &msr_high]) {
        for word in 0..512usize {
            page.set_word(word << 3, u64::MAX);
        }
    }
    let [first_io, ..] = io;
    machine.io_bitmap = first_io.physical();
    machine.msr_bitmap = msr_low.physical();
    machine.cr4 = guest_cr4();
    let sizes = cpu::cpuid(0x8000_0008, 0).eax;
    let masking = u64::from(cpu::cpuid(7, 1).eax >> 26 & 1).wrapping_mul(3 << 61);
    machine.cr3 = 1u64.wrapping_shl(sizes & 0xff).wrapping_sub(1) | masking;
    machine.linear_bits = if machine.vendor == Vendor::Svm { 64 } else { sizes >> 8 & 0xff };
    machine.mxcsr = 0xffff | u64::from(cpu::cpuid(0x8000_0001, 0).ecx >> 7 & 1) << 17;
    match machine.vendor {
        Vendor::Svm => svm::enable(machine, [msr_low, msr_high], host, own),
        Vendor::Vmx => vmx::enable(machine, msr_low, own),
    }
}

impl Core {
    /// Put vCPU `index` into its reset state.
    pub fn reset_vcpu(&mut self, index: u8) {
        let vcpu = &mut self.vcpus[index];
        block::reset(vcpu, index);
        (vcpu.stale, vcpu.changed) = (0, group::ALL);
        match self.machine.vendor {
            Vendor::Svm => svm::control::complete(&self.machine, vcpu, &self.vms[vcpu.vm]),
            Vendor::Vmx => self.build_vmcs(index),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: CpuidResult = CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };

    /// What a processor with SVM answers, one piece at a time taken away.
    fn svm(extended_ecx: u32, svm_edx: u32, ids: u32, vm_cr: Option<u64>) -> Result<Vendor, &'static str> {
        let cpuid = |leaf| match leaf {
            0x8000_0001 => CpuidResult { ecx: extended_ecx, ..NOTHING },
            0x8000_000a => CpuidResult { ebx: ids, edx: svm_edx, ..NOTHING },
            _ => NOTHING,
        };
        choose(15, cpuid, |_| vm_cr)
    }

    #[test]
    fn each_missing_piece_of_svm_is_named() {
        assert!(svm(0, 1, 16, None).unwrap_err().contains("neither SVM"));
        assert!(svm(4, 1, 16, Some(1 << 4)).unwrap_err().contains("SVMDIS"));
        assert!(svm(4, 0, 16, Some(0)).unwrap_err().contains("nested paging"));
        assert!(svm(4, 1, 15, Some(0)).unwrap_err().contains("address-space ids"));
        assert_eq!(svm(4, 1, 16, None), Ok(Vendor::Svm), "a VM_CR that cannot be read counts as not locked");
    }

    /// What a processor with VMX answers: every control may be 1 and may be 0; `changed` names an MSR and its value.
    fn vmx(changed: Option<(u32, u64)>) -> Result<Vendor, &'static str> {
        let cpuid = |leaf| if leaf == 1 { CpuidResult { ecx: 1 << 5, ..NOTHING } } else { NOTHING };
        let msr = |number| match (number, changed) {
            (_, Some((other, value))) if other == number => Some(value),
            (0x3a, _) => Some(5),
            (0x480, _) => Some(1 << 55),
            (0x48c, _) => Some(0x0f01_0633_4141),
            _ => Some(0xffff_ffff_0000_0000),
        };
        choose(1, cpuid, msr)
    }

    #[test]
    fn each_missing_piece_of_vmx_is_named() {
        let without = |bit: u32| 0xffff_ffff_0000_0000 & !(1u64 << 32 << bit);
        assert_eq!(vmx(None), Ok(Vendor::Vmx));
        for (msr, value, part) in [
            (0x3a, 1, "locked off"),
            (0x480, 0, "TRUE"),
            (0x48e, without(31), "secondary"),
            (0x48b, without(1), "no EPT"),
            (0x48b, without(7), "unrestricted"),
            (0x48b, without(5), "VPID"),
            (0x48d, without(5), "pin-based"),
            (0x48e, without(22), "primary"),
            (0x48e, 0xffff_ffff_0001_8000, "CR3"),
            (0x48f, without(22), "exit control"),
            (0x490, without(9), "entry control"),
            (0x48c, 0x0f01_0633_4141 & !(1 << 14), "lacks a part"),
        ] {
            let line = vmx(Some((msr, value))).unwrap_err();
            assert!(line.contains(part), "{msr:#x} {value:#x}: {line}");
        }
    }

    #[test]
    fn what_the_firmware_left_open_or_turned_on_is_taken() {
        assert_eq!((vmx(Some((0x3a, 0))), vmx(Some((0x3a, 5)))), (Ok(Vendor::Vmx), Ok(Vendor::Vmx)));
    }
}
