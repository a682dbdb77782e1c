//! The table of what `vcpu_resume` takes and refuses, after the allowed sets in `docs/abi.md`: for each field
//! values just outside, which must be a misuse, and values just inside.

use crate::guest_state::{SECOND_CR0, SECOND_CR4, SECOND_EFER, State, at};
use portcullis_ipc::exit::{event, group};
use portcullis_ipc::record::misuse;
use portcullis_ipc::syscall::Resume;

/// One resume of vCPU 0 of a VM with one vCPU and XCR0 of x87 and SSE at most.
pub struct Case {
    /// Name.
    pub name: &'static str,
    /// What it is: a [`misuse`], or 0 when it is taken.
    pub code: u32,
    /// Changes a state that is taken.
    pub change: fn(&mut State),
    /// Dirty groups.
    pub dirty: u32,
    /// Resume word.
    pub word: u64,
    /// Bits set in the vCPU id.
    pub id: u64,
    /// It is refused on VMX; on SVM it is taken.
    pub vmx: bool,
}

impl Case {
    /// What it is on this processor.
    pub fn code(&self) -> u32 {
        let svm = core::arch::x86_64::__cpuid(0x8000_0001).ecx >> 2 & 1 != 0;
        if self.vmx && svm { 0 } else { self.code }
    }
}

const fn taken(name: &'static str, change: fn(&mut State)) -> Case {
    Case { name, code: 0, change, dirty: group::ALL, word: Resume::STOP, id: 0, vmx: false }
}

const fn refused(name: &'static str, change: fn(&mut State)) -> Case {
    Case { code: misuse::STATE, ..taken(name, change) }
}

/// An address that is not canonical: an entry of VMX refuses it, SVM makes it canonical.
const fn address(name: &'static str, change: fn(&mut State)) -> Case {
    Case { vmx: true, ..refused(name, change) }
}

const fn argument(name: &'static str, dirty: u32, word: u64, id: u64) -> Case {
    Case { name, code: misuse::ARGUMENT, change: |_| {}, dirty, word, id, vmx: false }
}

/// Lowest and highest address that is not canonical.
const HOLE: [u64; 2] = [1 << 47, 0xffff_7fff_ffff_ffff];
/// Their canonical neighbours.
const EDGE: [u64; 2] = [0x7fff_ffff_ffff, 0xffff_8000_0000_0000];
const VALID: u64 = event::VALID;

/// Bits of a physical address on this processor.
fn physical_bits() -> u32 {
    core::arch::x86_64::__cpuid(0x8000_0008).eax & 0xff
}

/// CR4 bits that hang on the processor: FSGSBASE, SMEP, SMAP, UMIP.
fn optional_cr4() -> u64 {
    let leaf = core::arch::x86_64::__cpuid_count(7, 0);
    let bit = |register: u32, from: u32, to: u32| u64::from(register >> from & 1) << to;
    bit(leaf.ebx, 0, 16) | bit(leaf.ebx, 7, 20) | bit(leaf.ebx, 20, 21) | bit(leaf.ecx, 2, 11)
}

/// What is refused.
pub static REFUSED: &[Case] = &[
    refused("cr0 bit 6", |s| s.put(at::CR0, SECOND_CR0 | 1 << 6)),
    refused("cr0 bit 15", |s| s.put(at::CR0, SECOND_CR0 | 1 << 15)),
    refused("cr0 bit 17", |s| s.put(at::CR0, SECOND_CR0 | 1 << 17)),
    refused("cr0 bit 19", |s| s.put(at::CR0, SECOND_CR0 | 1 << 19)),
    refused("cr0 bit 28", |s| s.put(at::CR0, SECOND_CR0 | 1 << 28)),
    refused("cr0 bit 32", |s| s.put(at::CR0, SECOND_CR0 | 1 << 32)),
    refused("cr0 PG without PE", |s| s.put(at::CR0, SECOND_CR0 & !1)),
    refused("cr0 NW without CD", |s| s.put(at::CR0, SECOND_CR0 | 1 << 29)),
    refused("cr3 above the physical addresses", |s| s.put(at::CR3, 1 << physical_bits())),
    refused("cr3 bit 63", |s| s.put(at::CR3, 1 << 63)),
    refused("cr4 PCE", |s| s.put(at::CR4, SECOND_CR4 | 1 << 8)),
    refused("cr4 LA57", |s| s.put(at::CR4, SECOND_CR4 | 1 << 12)),
    refused("cr4 VMXE", |s| s.put(at::CR4, SECOND_CR4 | 1 << 13)),
    refused("cr4 PCIDE", |s| s.put(at::CR4, SECOND_CR4 | 1 << 17)),
    refused("cr4 bit 19", |s| s.put(at::CR4, SECOND_CR4 | 1 << 19)),
    refused("cr4 PKE", |s| s.put(at::CR4, SECOND_CR4 | 1 << 22)),
    refused("cr4 CET", |s| s.put(at::CR4, SECOND_CR4 | 1 << 23)),
    refused("cr4 bit 32", |s| s.put(at::CR4, SECOND_CR4 | 1 << 32)),
    refused("efer bit 1", |s| s.put(at::EFER, SECOND_EFER | 1 << 1)),
    refused("efer SVME", |s| s.put(at::EFER, SECOND_EFER | 1 << 12)),
    refused("efer LMSLE", |s| s.put(at::EFER, SECOND_EFER | 1 << 13)),
    refused("efer FFXSR", |s| s.put(at::EFER, SECOND_EFER | 1 << 14)),
    refused("efer bit 32", |s| s.put(at::EFER, SECOND_EFER | 1 << 32)),
    refused("efer LMA without LME", |s| s.put(at::EFER, SECOND_EFER & !(1 << 8))),
    refused("efer LME and PG without LMA", |s| s.put(at::EFER, SECOND_EFER & !(1 << 10))),
    refused("efer LMA without PG", |s| s.put(at::CR0, SECOND_CR0 & !(1 << 31))),
    refused("xcr0 without x87", |s| s.put(at::XCR0, 2)),
    refused("xcr0 0", |s| s.put(at::XCR0, 0)),
    refused("xcr0 AVX without SSE", |s| s.put(at::XCR0, 5)),
    refused("xcr0 outside the VM's set", |s| s.put(at::XCR0, 7)),
    refused("xcr0 bit 63", |s| s.put(at::XCR0, 3 | 1 << 63)),
    refused("dr6 bit 32", |s| s.put(at::DR6, 0xffff_0ff0 | 1 << 32)),
    refused("dr6 bit 63", |s| s.put(at::DR6, 0xffff_0ff0 | 1 << 63)),
    refused("dr7 bit 32", |s| s.put(at::DR7, 0x400 | 1 << 32)),
    refused("dr7 bit 63", |s| s.put(at::DR7, 0x400 | 1 << 63)),
    refused("rflags without bit 1", |s| s.put(at::RFLAGS, 0x244)),
    refused("rflags bit 3", |s| s.put(at::RFLAGS, 2 | 1 << 3)),
    refused("rflags bit 5", |s| s.put(at::RFLAGS, 2 | 1 << 5)),
    refused("rflags bit 15", |s| s.put(at::RFLAGS, 2 | 1 << 15)),
    refused("rflags bit 22", |s| s.put(at::RFLAGS, 2 | 1 << 22)),
    refused("rflags bit 32", |s| s.put(at::RFLAGS, 2 | 1 << 32)),
    address("rip bit 48", |s| s.put(at::RIP, 1 << 48)),
    address("rip bit 63", |s| s.put(at::RIP, 1 << 63)),
    address("rip without bit 48", |s| s.put(at::RIP, 0xfffe_ffff_ffff_ffff)),
    address("es base", |s| s.put(at::base(0), HOLE[0])),
    address("cs base", |s| s.put(at::base(1), HOLE[0])),
    address("ss base", |s| s.put(at::base(2), HOLE[0])),
    address("ds base", |s| s.put(at::base(3), HOLE[0])),
    address("fs base", |s| s.put(at::base(4), HOLE[0])),
    address("gs base", |s| s.put(at::base(5), HOLE[0])),
    address("gdtr base", |s| s.put(at::base(6), HOLE[0])),
    address("ldtr base", |s| s.put(at::base(7), HOLE[0])),
    address("idtr base", |s| s.put(at::base(8), HOLE[0])),
    address("tr base", |s| s.put(at::base(9), HOLE[0])),
    refused("cs attributes bit 12", |s| s.put(at::SEGMENTS + 16, 0xffff << 32 | 0x109b << 16)),
    address("gs base below the upper half", |s| s.put(at::base(5), HOLE[1])),
    address("lstar", |s| s.put(at::LSTAR, HOLE[0])),
    address("lstar below the upper half", |s| s.put(at::LSTAR, HOLE[1])),
    address("cstar", |s| s.put(at::CSTAR, HOLE[0])),
    address("kernel_gs_base", |s| s.put(at::KERNEL_GS_BASE, HOLE[0])),
    address("sysenter_esp", |s| s.put(at::SYSENTER_ESP, HOLE[0])),
    address("sysenter_eip", |s| s.put(at::SYSENTER_EIP, HOLE[0])),
    refused("pat type 2", |s| s.put(at::PAT, 2)),
    refused("pat type 3 in the last byte", |s| s.put(at::PAT, 3 << 56)),
    refused("pat type 8", |s| s.put(at::PAT, 8 << 24)),
    refused("event without its valid bit", |s| s.put(at::EVENT, 0x30)),
    refused("event of type 1", |s| s.put(at::EVENT, VALID | 1 << 8 | 0x30)),
    refused("event of type 5", |s| s.put(at::EVENT, VALID | 5 << 8 | 0x30)),
    refused("event of type 7", |s| s.put(at::EVENT, VALID | 7 << 8 | 0x30)),
    refused("NMI with vector 3", |s| s.put(at::EVENT, VALID | 2 << 8 | 3)),
    refused("exception 2", |s| s.put(at::EVENT, event::exception(2, None))),
    refused("exception 32", |s| s.put(at::EVENT, event::exception(32, None))),
    refused("event bit 12", |s| s.put(at::EVENT, event::interrupt(0x30) | 1 << 12)),
    refused("event bit 30", |s| s.put(at::EVENT, event::interrupt(0x30) | 1 << 30)),
    refused("error code without bit 11", |s| s.put(at::EVENT, event::exception(13, None) | 1 << 32)),
    refused("shadow bit 2", |s| s.put(at::SHADOW, 4)),
    refused("shadow bit 31", |s| s.put(at::SHADOW, 1 << 31)),
    refused("windows bit 2", |s| s.put(at::SHADOW, 4 << 32)),
    refused("windows bit 31", |s| s.put(at::SHADOW, 1 << 63)),
    refused("xstate_bv bit 3", |s| s.put(at::XSAVE_HEADER, 7 | 1 << 3)),
    refused("xstate_bv bit 63", |s| s.put(at::XSAVE_HEADER, 7 | 1 << 63)),
    refused("xcomp_bv bit 0", |s| s.put(at::XSAVE_HEADER + 8, 1)),
    refused("xcomp_bv bit 63", |s| s.put(at::XSAVE_HEADER + 8, 1 << 63)),
    refused("third word of the xsave header", |s| s.put(at::XSAVE_HEADER + 16, 1)),
    refused("last word of the xsave header", |s| s.put(at::XSAVE_HEADER + 56, 1 << 63)),
    refused("mxcsr bit 16", |s| s.put(at::MXCSR, 0x1f80 | 1 << 16)),
    refused("mxcsr bit 31", |s| s.put(at::MXCSR, 0x1f80 | 1 << 31)),
    argument("dirty bit 9", group::ALL | 1 << 9, Resume::STOP, 0),
    argument("dirty bit 31", group::ALL | 1 << 31, Resume::STOP, 0),
    argument("action 5", group::ALL, 5, 0),
    argument("action 255", group::ALL, 255, 0),
    argument("port access where there is none", group::ALL, Resume::port(4, true, 1), 0),
    argument("vCPU 1 of 1", group::ALL, Resume::STOP, 1 << 16),
    argument("vCPU 65535", group::ALL, Resume::STOP, 0xffff << 16),
    argument("vCPU id bit 32", group::ALL, Resume::STOP, 1 << 32),
];

/// What is taken.
pub static TAKEN: &[Case] = &[
    taken("all groups", |_| {}),
    Case {
        dirty: 0,
        ..taken("no group is dirty, whatever the page holds", |s| {
            for offset in [at::RIP, at::CR0, at::EFER, at::DR7, at::LSTAR, at::PAT, at::EVENT, at::XSAVE_HEADER] {
                s.put(offset, u64::MAX);
            }
        })
    },
    taken("cr0 all bits", |s| s.put(at::CR0, SECOND_CR0 | 0xc | 3 << 29)),
    taken("cr0 CD without NW", |s| s.put(at::CR0, SECOND_CR0 | 1 << 30)),
    taken("cr3 at the end of the physical addresses", |s| s.put(at::CR3, 1 << (physical_bits() - 1))),
    taken("cr4 all bits", |s| s.put(at::CR4, 0x4_06ff | optional_cr4())),
    taken("efer LME without paging", |s| {
        s.put(at::CR0, SECOND_CR0 & !(1 << 31));
        s.put(at::EFER, SECOND_EFER & !(1 << 10));
    }),
    taken("efer 0", |s| s.put(at::EFER, 0)),
    taken("xcr0 x87", |s| s.put(at::XCR0, 1)),
    taken("dr6 all bits", |s| s.put(at::DR6, 0xffff_ffff)),
    taken("dr7 all bits", |s| s.put(at::DR7, 0xffff_ffff)),
    taken("rflags all bits", |s| s.put(at::RFLAGS, 0x003f_7fd7)),
    taken("rip beyond the canonical addresses", |s| s.put(at::RIP, 1 << 47)),
    taken("rip below the upper half", |s| s.put(at::RIP, 0xffff << 48)),
    taken("bases at the lower edge", |s| (0..10).for_each(|index| s.put(at::base(index), EDGE[0]))),
    taken("bases at the upper edge", |s| (0..10).for_each(|index| s.put(at::base(index), EDGE[1]))),
    taken("addresses at the lower edge", |s| addresses(s, EDGE[0])),
    taken("addresses at the upper edge", |s| addresses(s, EDGE[1])),
    taken("pat with every type", |s| s.put(at::PAT, 0x0706_0504_0100_0706)),
    taken("no event", |s| s.put(at::EVENT, 0)),
    taken("interrupt 255", |s| s.put(at::EVENT, event::interrupt(255))),
    taken("NMI", |s| s.put(at::EVENT, VALID | 2 << 8 | 2)),
    taken("exception 31", |s| s.put(at::EVENT, event::exception(31, None))),
    taken("exception with an error code", |s| s.put(at::EVENT, event::exception(14, Some(u32::MAX)))),
    taken("software interrupt 128", |s| s.put(at::EVENT, VALID | 4 << 8 | 128)),
    taken("all shadows and windows", |s| s.put(at::SHADOW, 3 | 3 << 32)),
    taken("all of xstate_bv", |s| s.put(at::XSAVE_HEADER, 3)),
    taken("mxcsr all bits", |s| s.put(at::MXCSR, 0xffff)),
];

fn addresses(state: &mut State, address: u64) {
    for offset in [at::LSTAR, at::CSTAR, at::KERNEL_GS_BASE, at::SYSENTER_ESP, at::SYSENTER_EIP] {
        state.put(offset, address);
    }
}
