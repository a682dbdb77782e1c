//! The way of a control block's words into the VMCS and back. What the guest may have changed is carried back when it
//! is asked for, group by group (the privilege level with FLOW); what was changed meanwhile is carried in at the next entry. RIP, CR2 and
//! the interrupt shadow are carried back at every exit ([`super::exits`]), RIP and CR2 in at every entry.

use super::capability::{INTERRUPT_WINDOW, LONG_MODE, NMI_WINDOW, PAUSE_EXITS, RDTSC_EXITS};
use super::instruction::{flush, load, read, write};
use crate::mem::page::CorePage;
use crate::object::Vcpu;
use crate::state::{Core, Index};
use crate::svm::control::EFER_SVME;
use crate::vcpu::block::at;
use portcullis_ipc::exit::{event, group, window};
use portcullis_ipc::image::feature;
use portcullis_ipc::layout;
use portcullis_ipc::syscall::rights;
use x86::vmx::vmcs::{control, guest};

/// CD and NW of CR0, which neither an entry nor an exit changes: a guest's own are only shown to it.
pub const UNTOUCHED: u64 = 3 << 29;

/// Words that both hold alike: group, offset in the control block, field.
const WORDS: [(u32, usize, u32); 7] = [
    (group::CONTROL, at::CR3, guest::CR3),
    (group::DEBUG, at::DR7, guest::DR7),
    (group::SYSCALL, at::SYSENTER, guest::IA32_SYSENTER_CS),
    (group::SYSCALL, at::SYSENTER + 8, guest::IA32_SYSENTER_ESP),
    (group::SYSCALL, at::SYSENTER + 16, guest::IA32_SYSENTER_EIP),
    (group::SYSCALL, at::PAT, guest::IA32_PAT_FULL),
    (group::TIME, at::TSC_OFFSET, control::TSC_OFFSET_FULL),
];

/// The VMCS's number of each segment in the control block's order; from [`TABLES`] on there are limit and base only.
const PLACES: [u32; 10] = [0, 1, 2, 3, 4, 5, TABLES, 6, TABLES + 1, TASK];
const TASK: u32 = 7;
const TABLES: u32 = 8;

/// MSRs that the processor swaps by lists: STAR, LSTAR, CSTAR, SFMASK, KernelGsBase, in the control block's order.
pub const SWAPPED: [u32; 5] = [0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0102];

const UNUSABLE: u64 = 1 << 16;
const TRAP: u64 = 1 << 8;
const INTERRUPTS: u64 = 1 << 9;

/// Access rights of the segment `place` from attributes of the control block's form. The entry wants the accessed bit of
/// code and data set, and a busy task; one that is absent there is taken for a busy one.
fn access_rights(attributes: u64, place: u32) -> u64 {
    let (present, memory) = (attributes & 1 << 7 != 0, attributes & 1 << 4 != 0);
    let spread = attributes & 0xff | (attributes & 0xf00) << 4;
    match (place, present) {
        (TASK, true) => spread | 2,
        (TASK, false) => 0x8b,
        (_, false) => spread | UNUSABLE,
        (_, true) => spread | u64::from(memory),
    }
}

/// Attributes of the control block's form; a segment that cannot be used keeps its privilege level alone.
fn attributes(access_rights: u64) -> u64 {
    if access_rights & UNUSABLE != 0 { access_rights & 0x60 } else { access_rights & 0xff | access_rights >> 4 & 0xf00 }
}

/// Bits 0 and 1 of the interruptibility state: held by STI where interrupts are on, else by MOV SS.
fn blocking(shadow: u64, flags: u64) -> u64 {
    match (shadow & 1 != 0, flags & INTERRUPTS != 0) {
        (false, _) => 0,
        (true, true) => 1,
        (true, false) => 2,
    }
}

/// Privilege level of a vCPU; its VMCS must be the current one where the level stands there alone: right after an exit.
#[inline]
pub fn level(state: &Vcpu) -> u32 {
    let stale = state.stale & group::FLOW != 0;
    let word = if stale { read(guest::SS_ACCESS_RIGHTS) >> 5 } else { state.control.word(at::CPL) >> 24 };
    word as u32 & 3
}

impl Core {
    /// Make the VMCS of `vcpu` the current one.
    #[inline]
    pub fn select(&mut self, vcpu: u8) {
        if self.machine.vmx.current != Index::of(vcpu) {
            self.machine.vmx.current = Index::of(vcpu);
            load(self.vcpus[vcpu].vmcs);
        }
    }

    /// Bring `groups` of the control block up to date.
    #[inline]
    pub fn pull(&mut self, vcpu: u8, groups: u32) {
        // On SVM nothing is ever stale.
        let wanted = self.vcpus[vcpu].stale & groups;
        if wanted == 0 {
            return;
        }
        self.select(vcpu);
        let state = &mut self.vcpus[vcpu];
        let level = u64::from(level(state)) << 24;
        state.stale &= !wanted;
        if wanted & group::GENERAL != 0 {
            state.control.set_word(at::RSP, read(guest::RSP));
        }
        if wanted & group::FLOW != 0 {
            state.control.set_word(at::RFLAGS, read(guest::RFLAGS));
            state.control.set_word(at::CPL, level);
        }
        if wanted & !group::ALWAYS != 0 {
            self.pull_rest(vcpu, wanted);
        }
    }

    /// The same where it need not be fast.
    #[inline(never)]
    pub fn pull_slowly(&mut self, vcpu: u8, groups: u32) {
        self.pull(vcpu, groups);
    }

    #[inline(never)]
    fn pull_rest(&mut self, vcpu: u8, wanted: u32) {
        let (block, vmx) = (self.vcpus[vcpu].control, &self.machine.vmx);
        for (_, offset, field) in WORDS.iter().filter(|row| row.0 & wanted != 0) {
            block.set_word(*offset, read(*field));
        }
        if wanted & group::CONTROL != 0 {
            block.set_word(at::EFER, read(guest::IA32_EFER_FULL) | EFER_SVME);
            let shown = vmx.cr0 | UNTOUCHED;
            block.set_word(at::CR0, read(guest::CR0) & !shown | read(control::CR0_READ_SHADOW) & shown);
            block.set_word(at::CR4, read(guest::CR4) & !vmx.cr4 | read(control::CR4_READ_SHADOW) & vmx.cr4);
        }
        if wanted & group::SEGMENTS != 0 {
            for (place, number) in PLACES.into_iter().zip(0usize..) {
                let step = place << 1;
                let mut word = read(guest::ES_LIMIT.wrapping_add(step)) << 32;
                if place < TABLES {
                    let rights = read(guest::ES_ACCESS_RIGHTS.wrapping_add(step));
                    word |= read(guest::ES_SELECTOR.wrapping_add(step)) | attributes(rights) << 16;
                }
                let at = at::SEGMENTS.wrapping_add(number << 4);
                block.set_word(at, word);
                block.set_word(at.wrapping_add(8), read(guest::ES_BASE.wrapping_add(step)));
            }
        }
        if wanted & group::SYSCALL != 0 {
            for number in 0..SWAPPED.len() {
                block.set_word(at::SYSCALL.wrapping_add(number << 3), block.word(msr_place(number)));
            }
        }
    }

    /// Carry what was changed into the VMCS, which is current, before an entry that delivers the event `word`, 0 for none.
    #[inline(always)]
    pub fn push(&mut self, vcpu: u8, word: u64) {
        let state = &mut self.vcpus[vcpu];
        let (block, changed) = (state.control, core::mem::take(&mut state.changed));
        if changed & group::GENERAL != 0 {
            write(guest::RSP, block.word(at::RSP));
        }
        if changed & group::FLOW != 0 {
            write(guest::RFLAGS, block.word(at::RFLAGS));
            write(guest::PENDING_DBG_EXCEPTIONS, 0);
        }
        if changed & !group::ALWAYS != 0 {
            self.push_rest(vcpu, changed, word);
        }
        let asid = block.word(at::ASID);
        if asid >> 32 != 0 {
            block.set_word(at::ASID, asid & 0xffff_ffff);
            flush(self.vms[self.vcpus[vcpu].vm].nested | self.machine.vmx.eptp, asid & 0xffff);
        }
        if word != 0 {
            // In real mode nothing has an error code.
            let error = if read(guest::CR0) & 1 == 0 { event::ERROR_VALID } else { 0 };
            write(control::VMENTRY_INTERRUPTION_INFO_FIELD, word & 0xffff_ffff & !error);
            write(control::VMENTRY_EXCEPTION_ERR_CODE, word >> 32);
            write(control::VMENTRY_INSTRUCTION_LEN, 1);
        }
    }

    #[inline(never)]
    fn push_rest(&mut self, vcpu: u8, changed: u32, event: u64) {
        let (block, vmx) = (self.vcpus[vcpu].control, self.machine.vmx);
        let loads = !self.vcpus[vcpu].launched || loads_pdptes(block);
        for (_, offset, field) in WORDS.iter().filter(|row| row.0 & changed != 0) {
            write(*field, block.word(*offset));
        }
        if changed & group::CONTROL != 0 {
            let (cr0, cr4, efer) = (block.word(at::CR0), block.word(at::CR4), block.word(at::EFER) & !EFER_SVME);
            let long = efer >> 10 & 1 != 0;
            let [.., entry] = vmx.words;
            let fields = [
                (guest::CR0, cr0 & !UNTOUCHED | vmx.cr0),
                (control::CR0_READ_SHADOW, cr0),
                (guest::CR4, cr4 | vmx.cr4),
                (control::CR4_READ_SHADOW, cr4),
                (guest::IA32_EFER_FULL, efer),
                (control::VMENTRY_CONTROLS, u64::from(if long { entry | LONG_MODE } else { entry })),
            ];
            fields.into_iter().for_each(|(field, value)| write(field, value));
            if cr0 >> 31 & 1 != 0 && cr4 >> 5 & 1 != 0 && !long && loads {
                self.push_pdptes(vcpu);
            }
        }
        if changed & group::SEGMENTS != 0 {
            for (place, number) in PLACES.into_iter().zip(0usize..) {
                let step = place << 1;
                let at = at::SEGMENTS.wrapping_add(number << 4);
                let word = block.word(at);
                if place < TABLES {
                    write(guest::ES_SELECTOR.wrapping_add(step), word & 0xffff);
                    write(guest::ES_ACCESS_RIGHTS.wrapping_add(step), access_rights(word >> 16 & 0xfff, place));
                }
                write(guest::ES_LIMIT.wrapping_add(step), word >> 32);
                write(guest::ES_BASE.wrapping_add(step), block.word(at.wrapping_add(8)));
            }
        }
        if changed & group::SYSCALL != 0 {
            for number in 0..SWAPPED.len() {
                block.set_word(msr_place(number), block.word(at::SYSCALL.wrapping_add(number << 3)));
            }
        }
        if changed & group::EVENT != 0 {
            self.push_event(vcpu, block, event);
        }
    }

    /// Interrupt shadow, NMIs held, windows asked for.
    fn push_event(&mut self, vcpu: u8, block: CorePage, event: u64) {
        self.pull(vcpu, group::FLOW);
        let state = &self.vcpus[vcpu];
        let flags = block.word(at::RFLAGS);
        let held = blocking(block.word(at::SHADOW), flags);
        // The NMI that is delivered now holds the next ones by itself.
        let delivers_nmi = event >> event::TYPE_SHIFT & event::TYPE == event::NMI && event != 0;
        let nmi = u64::from(state.nmi_held && !delivers_nmi) << 3;
        write(guest::INTERRUPTIBILITY_STATE, held | nmi);
        // The step of a trap that the shadow holds back.
        write(guest::PENDING_DBG_EXCEPTIONS, if held != 0 && flags & TRAP != 0 { 1 << 14 } else { 0 });
        let [_, primary, ..] = self.machine.vmx.words;
        let when = |condition, bit| if condition { bit } else { 0 };
        let features = self.vms[state.vm].features;
        let asked = when(state.windows & window::INTERRUPT != 0, INTERRUPT_WINDOW)
            | when(state.windows & window::NMI != 0, NMI_WINDOW)
            | when(features & feature::INTERCEPT_RDTSC != 0, RDTSC_EXITS)
            | when(features & feature::INTERCEPT_PAUSE != 0, PAUSE_EXITS);
        write(control::PRIMARY_PROCBASED_EXEC_CONTROLS, u64::from(primary | asked));
    }

    /// The entry takes the four entries of a PAE guest's first table from the VMCS, and the exit left there those that
    /// the processor has: here they are loaded, four words of guest memory, copied as they are.
    fn push_pdptes(&mut self, vcpu: u8) {
        let state = &self.vcpus[vcpu];
        let owner = &self.partitions[self.vms[state.vm].vmexit];
        let address = layout::GUEST_BASE.wrapping_add(state.control.word(at::CR3) & 0xffff_ffe0);
        let Some(table) = owner.translate(address, 32, rights::READ) else { return };
        self.windows.copy(table, state.control.physical().wrapping_add(at::PDPTES as u64), 32);
        for number in 0..4u32 {
            let word = state.control.word(at::PDPTES.wrapping_add((number as usize) << 3));
            write(guest::PDPTE0_FULL.wrapping_add(number << 1), word);
        }
    }
}

/// Whether a processor loads the PDPTEs of a PAE guest on the way from the state in the VMCS to that of `block` (SDM volume
/// 3, 4.4.1): CR3, CR0.PG, CR4.PSE, PAE, PGE or SMEP changes. Else it keeps those that it has, whatever the guest made of
/// its table since.
fn loads_pdptes(block: CorePage) -> bool {
    let [cr0, cr3, cr4] = [(guest::CR0, at::CR0), (guest::CR3, at::CR3), (guest::CR4, at::CR4)]
        .map(|(field, offset)| read(field) ^ block.word(offset));
    cr3 | cr0 & 1 << 31 | cr4 & (1 << 4 | 1 << 5 | 1 << 7 | 1 << 20) != 0
}

/// Offset of the value of the guest's swapped MSR `number` in the control block.
fn msr_place(number: usize) -> usize {
    at::GUEST_MSRS.wrapping_add(number << 4).wrapping_add(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_become_access_rights_that_an_entry_takes_and_come_back() {
        for (attributes_in, place, rights) in [
            (0xc9b, 1, 0xc09b),
            (0xc93, 3, 0xc093),
            (0xc92, 3, 0xc093),
            (0x0f3, 0, 0xf3),
            (0xa9b, 1, 0xa09b),
            (0x82, 6, 0x82),
            (0x8b, TASK, 0x8b),
            (0x89, TASK, 0x8b),
            (0, TASK, 0x8b),
            (0, 3, UNUSABLE),
            (0x60, 2, UNUSABLE | 0x60),
        ] {
            assert_eq!(access_rights(attributes_in, place), rights, "{attributes_in:#x}");
            let back = attributes(rights);
            assert_eq!(access_rights(back, place), rights, "{attributes_in:#x}");
        }
        assert_eq!(attributes(UNUSABLE | 0xc0f3), 0x60);
    }

    #[test]
    fn a_shadow_is_one_that_the_flags_allow() {
        assert_eq!((blocking(0, 2), blocking(1, INTERRUPTS | 2), blocking(1, 2)), (0, 1, 2));
    }
}
