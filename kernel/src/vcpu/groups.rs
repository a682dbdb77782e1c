//! State groups between control block and exit page: out on demand, back after every check passed (R5).

use super::block::at;
use super::check::{self, Allowed, Control};
use super::machine::Machine;
use crate::arch::extended;
use crate::fault::Misuse;
use crate::object::VcpuState;
use crate::state::{Core, Index};
use crate::svm::control::{EFER_SVME, INTERCEPT_IRET, INTERCEPT_VINTR, MASKING, WINDOW};
use core::mem::offset_of;
use portcullis_ipc::exit::{ExitPage, Segment, XSAVE_BYTES, event, group, shadow, window};
use portcullis_ipc::record::misuse;
use zerocopy::{FromBytes, transmute};

/// RFLAGS.TF and RFLAGS.RF.
pub const TRAP: u64 = 1 << 8;
const RESUME: u64 = 1 << 16;
/// DR6.BS.
const STEPPED: u64 = 1 << 14;
/// DR7.GD.
const DETECT: u64 = 1 << 13;

/// Bits 0-1 of [`window`].
const WINDOWS: u32 = window::INTERRUPT | window::NMI;

const REGISTERS: usize = offset_of!(ExitPage, registers);
const FLOW: usize = offset_of!(ExitPage, rip);
const CONTROL: usize = offset_of!(ExitPage, cr4);
const EFER: usize = offset_of!(ExitPage, efer);
const CR0: usize = offset_of!(ExitPage, cr0);
const TIME: usize = offset_of!(ExitPage, tsc_offset);
const EVENT: usize = offset_of!(ExitPage, event);
const EXTENDED: usize = offset_of!(ExitPage, xsave);
const DIRTY: usize = offset_of!(ExitPage, dirty);
const REASON: usize = offset_of!(ExitPage, reason);
static_assertions::const_assert_eq!(offset_of!(ExitPage, valid), REASON + 4);
static_assertions::const_assert!(REASON & 7 == 0 && DIRTY & 7 == 0);

/// Where the words of the groups stand besides the exit page.
#[derive(PartialEq)]
enum Place {
    /// In the control block.
    Block,
    /// In the vCPU's extended registers ([`extended`]).
    Extended,
}
use Place::{Block, Extended};

/// Runs of words that the exit page holds as they are: group, offset in the page, place, offset there, words.
const RUNS: [(u32, usize, Place, usize, usize); 12] = [
    (group::CONTROL, CONTROL, Block, at::CR4, 3),
    (group::CONTROL, EFER, Block, at::EFER, 1),
    (group::CONTROL, offset_of!(ExitPage, cr2), Block, at::CR2, 1),
    (group::CONTROL, offset_of!(ExitPage, xcr0), Extended, extended::XCR0, 1),
    (group::DEBUG, offset_of!(ExitPage, dr), Extended, extended::DEBUG, 4),
    (group::DEBUG, offset_of!(ExitPage, dr7), Block, at::DR7, 2),
    (group::SEGMENTS, offset_of!(ExitPage, segments), Block, at::SEGMENTS, 20),
    (group::SYSCALL, offset_of!(ExitPage, star), Block, at::SYSCALL, 8),
    (group::SYSCALL, offset_of!(ExitPage, pat), Block, at::PAT, 1),
    (group::SYSCALL, offset_of!(ExitPage, tsc_aux), Extended, extended::TSC_AUX, 1),
    (group::TIME, TIME, Block, at::TSC_OFFSET, 1),
    (group::EXTENDED, EXTENDED, Extended, 0, XSAVE_BYTES / 8),
];

/// The groups from CONTROL to TIME as they lie in the exit page.
#[derive(FromBytes)]
#[repr(C)]
struct Rest {
    control: Control,
    debug: [u64; 6],
    segments: [Segment; 10],
    syscall: [u64; 10],
    time: u64,
}

/// Words of [`Rest`].
const REST: usize = size_of::<Rest>() / 8;
static_assertions::const_assert_eq!(offset_of!(Rest, time), TIME - CONTROL);

impl Core {
    /// RAX of a vCPU.
    #[inline]
    pub fn rax(&self, vcpu: u8) -> u64 {
        self.vcpus[vcpu].control.word(at::RAX)
    }

    /// Address of the instruction that follows the one of `length` bytes at `rip`.
    #[inline(always)]
    pub fn instruction_after(&mut self, vcpu: u8, rip: u64, length: u8) -> u64 {
        let next = rip.wrapping_add(length.into());
        // Only a carry out of the low half word tells the modes apart.
        if (rip ^ next) >> 16 == 0 { next } else { self.wrapped(vcpu, next) }
    }

    #[inline(never)]
    fn wrapped(&mut self, vcpu: u8, next: u64) -> u64 {
        self.pull_slowly(vcpu, group::CONTROL | group::SEGMENTS);
        let block = self.vcpus[vcpu].control;
        let code = block.word(at::SEGMENTS + 0x10) >> 16;
        let long = block.word(at::EFER) >> 10 & 1 != 0 && code >> 9 & 1 != 0;
        match (long, code >> 10 & 1 != 0) {
            (true, _) => next,
            (false, true) => next & 0xffff_ffff,
            (false, false) => next & 0xffff,
        }
    }

    /// End a port access, whose exit left RFLAGS in the control block: RAX, the next instruction, no interrupt shadow any
    /// more.
    #[inline]
    pub fn finish_port(&mut self, vcpu: u8, rax: u64, next_rip: u64) {
        let block = self.vcpus[vcpu].control;
        block.set_word(at::RAX, rax);
        block.set_word(at::RIP, next_rip);
        if block.word(at::SHADOW) != 0 {
            block.set_word(at::SHADOW, 0);
            self.set_windows(vcpu);
        }
        if block.word(at::RFLAGS) & (TRAP | RESUME) != 0 {
            self.finish_traced(vcpu);
        }
    }

    /// The same for an instruction that a debugger steps over, or goes on at after a breakpoint.
    #[inline(never)]
    fn finish_traced(&mut self, vcpu: u8) {
        self.pull(vcpu, group::FLOW | group::DEBUG);
        let state = &mut self.vcpus[vcpu];
        let block = state.control;
        let flags = block.word(at::RFLAGS);
        block.set_word(at::RFLAGS, flags & !RESUME);
        state.changed |= group::FLOW | group::DEBUG;
        if flags & TRAP != 0 {
            block.set_word(at::DR6, block.word(at::DR6) | STEPPED);
            block.set_word(at::DR7, block.word(at::DR7) & !DETECT);
            state.event = event::exception(1, None);
        }
    }

    /// The groups that every exit carries.
    pub fn fill_always(&mut self, vcpu: u8) {
        self.pull(vcpu, group::ALWAYS);
        let state = &self.vcpus[vcpu];
        let (block, page) = (state.control, state.page);
        page.write::<[u64; 16], REGISTERS>(&state.registers);
        page.set_word(REGISTERS, block.word(at::RAX));
        page.set_word(REGISTERS + 32, block.word(at::RSP));
        page.set_word(FLOW, block.word(at::RIP));
        page.set_word(FLOW + 8, block.word(at::RFLAGS));
        page.set_word(EVENT, state.event);
        let held = if state.nmi_held { shadow::NMI } else { 0 };
        page.set_word(EVENT + 8, block.word(at::SHADOW) & 1 | u64::from(held) | u64::from(state.windows) << 32);
    }

    /// Fill `groups` of a stopped vCPU.
    pub fn fill_groups(&mut self, vcpu: u8, groups: u32) {
        if groups & group::EXTENDED != 0 {
            self.unload_extended(vcpu);
        }
        self.keep_xcr0(vcpu);
        self.pull_slowly(vcpu, groups);
        if self.vcpus[vcpu].state != VcpuState::Exited {
            self.fill_always(vcpu);
        }
        let state = &self.vcpus[vcpu];
        let page = state.page;
        for (_, to, place, from, words) in RUNS.iter().filter(|run| groups & run.0 != 0) {
            let source = if *place == Block { state.control } else { state.extended };
            source.copy_words(*from, page, *to, *words);
        }
        if groups & group::CONTROL != 0 {
            page.set_word(EFER, page.word(EFER) & !EFER_SVME);
            // MOV to CR0 ignores the others, but not on each emulated processor.
            page.set_word(CR0, page.word(CR0) & check::CR0);
        }
        // `valid` is the high half of the word that starts with `reason`, which a stopped vCPU's owner may come to ask for.
        let valid = page.word(REASON) & !0xffff_ffff | u64::from(groups) << 32;
        page.set_word(REASON, valid | state.exit.reason as u64);
    }

    /// Take out of RFLAGS what no guest can have after an exit of SVM, before the next entry takes it for true.
    #[inline(never)]
    pub fn settle_flags(&mut self, vcpu: u8) {
        let block = self.vcpus[vcpu].control;
        let cpl = (block.word(at::CPL) >> 24) as u32 & 3;
        let (code, base) = (block.word(at::SEGMENTS + 0x10), block.word(at::SEGMENTS + 0x18));
        block.set_word(at::RFLAGS, check::settled(block.word(at::RFLAGS), cpl, code as u16, base));
    }

    /// Take the groups that the service marked dirty: check all, then write all.
    pub fn commit(&mut self, vcpu: u8) -> Result<(), Misuse> {
        let page = self.vcpus[vcpu].page;
        let dirty = page.word(DIRTY) as u32;
        if dirty & !group::ALL != 0 {
            return Err(Misuse(misuse::ARGUMENT));
        }
        let flow = page.read::<[u64; 2], FLOW>();
        let event_word = page.word(EVENT);
        let flags = page.word(EVENT + 8);
        let [rip, rflags] = flow;
        let placed = check::instruction_pointer(rip, self.machine.linear_bits);
        if dirty & group::FLOW != 0 && !(check::rflags(rflags) && placed) {
            return Err(Misuse(misuse::STATE));
        }
        let (shadows, windows) = (flags as u32, (flags >> 32) as u32);
        let known = shadows & !(shadow::INTERRUPT | shadow::NMI) == 0 && windows & !WINDOWS == 0;
        if dirty & group::EVENT != 0 && !(known && check::event(event_word)) {
            return Err(Misuse(misuse::STATE));
        }
        if dirty & !(group::GENERAL | group::FLOW | group::EVENT) != 0 {
            self.commit_rest(vcpu, dirty)?;
        }
        let state = &mut self.vcpus[vcpu];
        let block = state.control;
        state.stale &= !dirty;
        state.changed |= dirty & !group::EXTENDED;
        if block.word(at::SHADOW) != 0 {
            state.changed |= group::EVENT;
        }
        if dirty & group::GENERAL != 0 {
            state.registers = page.read::<[u64; 16], REGISTERS>();
            let [rax, _, _, _, rsp, ..] = state.registers;
            block.set_word(at::RAX, rax);
            block.set_word(at::RSP, rsp);
        }
        if dirty & group::FLOW != 0 {
            block.set_word(at::RIP, rip);
            block.set_word(at::RFLAGS, rflags);
        }
        if dirty & group::EVENT != 0 {
            state.event = event_word;
            state.nmi_held = shadows & shadow::NMI != 0;
            state.windows = windows;
            block.set_word(at::SHADOW, u64::from(shadows & shadow::INTERRUPT));
            self.set_windows(vcpu);
        }
        page.set_word(DIRTY, page.word(DIRTY) & !0xffff_ffff);
        Ok(())
    }

    #[inline(never)]
    fn commit_rest(&mut self, vcpu: u8, dirty: u32) -> Result<(), Misuse> {
        // One copy: what is checked is what is taken, whatever the page says later.
        let page = self.vcpus[vcpu].page;
        let words = page.read::<[u64; REST], CONTROL>();
        let Rest { control, debug, segments, syscall, .. } = transmute!(words);
        let header = page.read::<[u64; 8], { EXTENDED + 512 }>();
        let mxcsr = page.word(EXTENDED + 24) & 0xffff_ffff;
        let vm = &self.vms[self.vcpus[vcpu].vm];
        let Machine { cr3, cr4, linear_bits, mxcsr: mask, .. } = self.machine;
        let allowed = Allowed { cr3, cr4, xcr0: vm.xcr0 };
        let [.., dr7, dr6] = debug;
        let [_, lstar, cstar, _, gs, _, esp, eip, pat, _] = syscall;
        let addresses = [lstar, cstar, gs, esp, eip];
        let checks = [
            (group::CONTROL, check::control(&control, &allowed)),
            (group::DEBUG, check::debug(dr6, dr7)),
            (group::SEGMENTS, segments.iter().all(|one| check::segment(one, linear_bits))),
            (group::SYSCALL, addresses.into_iter().all(|one| check::canonical(one, linear_bits)) && check::pat(pat)),
            (group::EXTENDED, check::extended(mxcsr, mask, &header, extended::supported())),
        ];
        if checks.iter().any(|(group, holds)| dirty & group != 0 && !holds) {
            return Err(Misuse(misuse::STATE));
        }
        self.keep_xcr0(vcpu);
        let state = &self.vcpus[vcpu];
        let block = state.control;
        for (_, from, place, to, count) in RUNS.iter().filter(|run| dirty & run.0 != 0) {
            let target = if *place == Block { block } else { state.extended };
            let first = from.wrapping_sub(CONTROL) >> 3;
            for (index, word) in words.iter().skip(first).take(*count).enumerate() {
                target.set_word(to.wrapping_add(index << 3), *word);
            }
        }
        if dirty & group::CONTROL != 0 {
            block.set_word(at::EFER, control.efer | EFER_SVME);
            // Translations of the old roots and modes must not survive.
            block.set_word(at::ASID, block.word(at::ASID) & 0xffff_ffff | self.machine.flush << 32);
        }
        if dirty & group::SEGMENTS != 0 {
            let [_, _, stack, ..] = segments;
            let level = u64::from(stack.attributes >> 5 & 3) << 24;
            block.set_word(at::CPL, block.word(at::CPL) & !(0xff << 24) | level);
        }
        if dirty & group::EXTENDED != 0 {
            page.copy_words(EXTENDED, state.extended, 0, XSAVE_BYTES / 8);
            // Only what was checked: the words between are the service's to choose, the header is not.
            for (index, word) in header.into_iter().enumerate() {
                state.extended.set_word(index.wrapping_shl(3).wrapping_add(512), word);
            }
            state.extended.set_word(24, mxcsr);
        }
        if self.loaded == Index::of(vcpu) {
            if dirty & group::EXTENDED != 0 {
                extended::load(state.extended);
            }
            extended::load_small(state.extended);
        }
        Ok(())
    }

    /// Make SVM's intercepts follow the windows asked for and the NMI in progress; VMX follows at the next entry. An
    /// interrupt window waits for the end of a shadow: one emulated processor forgets it at VMRUN.
    pub fn set_windows(&mut self, vcpu: u8) {
        let state = &mut self.vcpus[vcpu];
        state.changed |= group::EVENT;
        let block = state.control;
        let interrupt = state.windows & window::INTERRUPT != 0 && block.word(at::SHADOW) & 1 == 0;
        let nmi = state.nmi_held && state.step == 0;
        let mut intercepts = block.word(at::EXCEPTIONS) & !(INTERCEPT_VINTR | INTERCEPT_IRET);
        if interrupt {
            intercepts |= INTERCEPT_VINTR;
        }
        if nmi {
            intercepts |= INTERCEPT_IRET;
        }
        block.set_word(at::EXCEPTIONS, intercepts);
        block.set_word(at::VIRTUAL_INTERRUPT, if interrupt { MASKING | WINDOW } else { MASKING });
    }

    /// The event to deliver at this entry, 0 for none.
    #[inline(always)]
    pub fn take_event(&mut self, vcpu: u8) -> u64 {
        let word = self.vcpus[vcpu].event;
        if word != 0 {
            self.vcpus[vcpu].event = 0;
            self.hold_after(vcpu, word);
        }
        word
    }

    /// The delivery of an NMI holds the next ones.
    #[inline(never)]
    fn hold_after(&mut self, vcpu: u8, word: u64) {
        if word >> event::TYPE_SHIFT & event::TYPE == event::NMI {
            self.vcpus[vcpu].nmi_held = true;
            self.set_windows(vcpu);
        }
    }

    /// Make the vCPU's own extended registers the ones that are loaded.
    #[inline(always)]
    pub fn load_extended(&mut self, vcpu: u8) {
        if self.loaded != Index::of(vcpu) {
            self.exchange_extended(vcpu);
        }
    }

    #[inline(never)]
    fn exchange_extended(&mut self, vcpu: u8) {
        if let Some(other) = self.loaded.get() {
            self.unload_extended(other);
        }
        let state = &self.vcpus[vcpu];
        extended::load(state.extended);
        extended::load_small(state.extended);
        self.loaded = Index::of(vcpu);
    }

    /// Save the vCPU's extended registers if they are the ones that are loaded. Of DR0 to DR3 and TSC_AUX the
    /// core has the values: a guest's writes are intercepted.
    pub fn unload_extended(&mut self, vcpu: u8) {
        if self.loaded == Index::of(vcpu) {
            self.keep_xcr0(vcpu);
            extended::save(self.vcpus[vcpu].extended);
            self.clear_extended();
        }
    }

    /// The extended registers are nobody's any more.
    pub fn clear_extended(&mut self) {
        self.loaded = Index::NONE;
        extended::clear();
    }

    /// Read back the XCR0 of the vCPU whose extended registers are loaded: a processor that ignores the XSETBV
    /// intercept lets the guest change it.
    fn keep_xcr0(&mut self, vcpu: u8) {
        if self.loaded == Index::of(vcpu) {
            let limit = self.vms[self.vcpus[vcpu].vm].xcr0 | 1;
            let value = extended::xcr0() & limit;
            let value = if check::xcr0(value, limit) { value } else { 1 };
            self.vcpus[vcpu].extended.set_word(extended::XCR0, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::page::CorePage;
    use crate::object::vm::Exit;
    use portcullis_ipc::exit::Reason;
    use proptest::prelude::*;
    use zerocopy::FromZeros;

    #[repr(align(4096))]
    struct Page([u64; 512]);

    fn page() -> CorePage {
        // SAFETY: INV-CORE-PAGE: the page is never given back.
        unsafe { CorePage::new(std::ptr::from_mut(Box::leak(Box::new(Page([0; 512])))).addr() as u64) }
    }

    /// One vCPU of SVM with an exit that is served.
    fn core() -> Box<Core> {
        let mut core = Box::new(Core::new_zeroed());
        core.machine = Machine {
            cr4: 0x7f,
            cr3: ((1 << 40) - 1) | 3 << 61,
            linear_bits: 64,
            mxcsr: 0x2_ffff,
            flush: 1,
            ..Machine::new_zeroed()
        };
        core.vms[0].xcr0 = 7;
        let vcpu = &mut core.vcpus[0];
        vcpu.state = VcpuState::Exited;
        (vcpu.control, vcpu.extended, vcpu.page) = (page(), page(), page());
        vcpu.exit = Exit { reason: Reason::Cpuid, qualification: [0; 3], next_rip: 0 };
        core
    }

    /// EFER whose LMA is that of the mode: SCE, LME, NXE as in `bits`.
    fn efer(bits: u64, cr0: u64) -> u64 {
        let chosen = bits & 0x901;
        chosen | (chosen >> 8 & cr0 >> 31 & 1) << 10
    }

    /// Put what a guest can have at an exit into the control block, made from any words: what no guest sets without an exit
    /// is as `vmexit` sets it, all else is anything.
    fn arrive(core: &mut Core, any: &[u64; 64]) {
        let (block, area) = (core.vcpus[0].control, core.vcpus[0].extended);
        let [cr0, cr3, cr4, bits, dr6, dr7, rest @ ..] = *any;
        // MOV to CR0 refuses the upper half, PG without PE and NW without CD.
        let cr0 = cr0 & 0xffff_ffff;
        let cr0 = if cr0 >> 29 & 3 == 1 { cr0 | 1 << 30 } else { cr0 };
        let cr0 = if cr0 >> 31 != 0 { cr0 | 1 } else { cr0 };
        for (offset, value) in [
            (at::CR0, cr0),
            (at::CR3, cr3 & core.machine.cr3),
            (at::CR4, cr4 & core.machine.cr4),
            (at::EFER, efer(bits, cr0) | EFER_SVME),
            (at::DR6, dr6 & 0xffff_ffff),
            (at::DR7, dr7 & 0xffff_ffff),
            (at::PAT, 0x0007_0406_0007_0406),
        ] {
            block.set_word(offset, value);
        }
        let open = [at::RFLAGS, at::RIP, at::RSP, at::RAX, at::CR2, at::SHADOW, at::TSC_OFFSET];
        let open = open.into_iter().chain((at::SYSCALL..at::CR2).step_by(8));
        let segments = (0..10).flat_map(|index| [at::SEGMENTS + index * 16, at::SEGMENTS + index * 16 + 8]);
        for (offset, value) in open.chain(segments).zip(rest) {
            let defined = if (at::SEGMENTS..at::CPL).contains(&offset) && offset & 8 == 0 { !0xf000_0000 } else { !0 };
            block.set_word(offset, value & defined);
        }
        // The privilege level is that of SS.
        block.set_word(at::CPL, (block.word(at::SEGMENTS + 0x20) >> 21 & 3) << 24);
        let [.., first, second, event, held] = *any;
        for offset in (0..1024).step_by(8) {
            area.set_word(offset, first ^ (offset as u64) << 17);
        }
        area.set_word(24, second & core.machine.mxcsr);
        for offset in (512..576).step_by(8) {
            area.set_word(offset, 0);
        }
        area.set_word(512, first & extended::supported());
        area.set_word(extended::XCR0, [1, 3, 7][second as usize % 3] & (extended::supported() | 1));
        let events =
            [0, event::interrupt(event as u8), event::exception(14, Some(event as u32)), event::exception(1, None)];
        core.vcpus[0].event = events[held as usize & 3];
        core.vcpus[0].nmi_held = held & 4 != 0;
        core.vcpus[0].registers = *rest.first_chunk().unwrap();
        core.settle_flags(0);
    }

    fn told(core: &mut Core) -> [u64; 512] {
        core.fill_exit(0);
        core.fill_groups(0, group::ALL);
        core.vcpus[0].page.read::<[u64; 512], 0>()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn whatever_an_exit_brings_back_is_taken_unchanged(any: [[u64; 32]; 2]) {
            let mut core = core();
            arrive(&mut core, any.as_flattened().first_chunk().unwrap());
            let before = told(&mut core);
            let page = core.vcpus[0].page;
            page.set_word(DIRTY, page.word(DIRTY) | u64::from(group::ALL));
            prop_assert_eq!(core.commit(0), Ok(()));
            let after = told(&mut core);
            let differs = (0..512).find(|index| before[*index] != after[*index]);
            prop_assert_eq!(differs, None, "word of the exit page");
        }
    }
}
