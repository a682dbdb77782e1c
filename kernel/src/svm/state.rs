//! State groups between control block and exit page: out on demand, back after every check passed (R5).

use super::check::{self, Allowed, Control};
use super::control::{EFER_SVME, INTERCEPT_IRET, INTERCEPT_VINTR, MASKING, WINDOW, at};
use crate::arch::extended;
use crate::fault::Misuse;
use crate::mem::page::CorePage;
use crate::state::Core;
use core::mem::offset_of;
use portcullis_ipc::exit::{ExitPage, Segment, XSAVE_BYTES, event, group, shadow, window};
use portcullis_ipc::record::misuse;

/// Order of the page's eight segments and two tables in the control block.
const SEGMENT_PLACES: [usize; 10] = [0, 0x10, 0x20, 0x30, 0x40, 0x50, 0x70, 0x90, 0x60, 0x80];
/// Bits 0-1 of [`window`].
const WINDOWS: u32 = window::INTERRUPT | window::NMI;

const REGISTERS: usize = offset_of!(ExitPage, registers);
const FLOW: usize = offset_of!(ExitPage, rip);
const CONTROL: usize = offset_of!(ExitPage, cr0);
const DEBUG: usize = offset_of!(ExitPage, dr);
const SEGMENTS: usize = offset_of!(ExitPage, segments);
const SYSCALL: usize = offset_of!(ExitPage, star);
const TIME: usize = offset_of!(ExitPage, tsc_offset);
const EVENT: usize = offset_of!(ExitPage, event);
const EXTENDED: usize = offset_of!(ExitPage, xsave);
const DIRTY: usize = offset_of!(ExitPage, dirty);
const REASON: usize = offset_of!(ExitPage, reason);
static_assertions::const_assert_eq!(offset_of!(ExitPage, valid), REASON + 4);
static_assertions::const_assert!(REASON & 7 == 0 && DIRTY & 7 == 0);

impl Core {
    /// RAX of a vCPU.
    #[inline]
    pub fn rax(&self, vcpu: u8) -> u64 {
        self.vcpus[vcpu].control.word(at::RAX)
    }

    /// Privilege level of a vCPU.
    #[inline]
    pub fn cpl(&self, vcpu: u8) -> u32 {
        (self.vcpus[vcpu].control.word(at::CPL) >> 24) as u32 & 3
    }

    /// Address of the instruction that follows the one of `length` bytes at RIP.
    pub fn instruction_after(&self, vcpu: u8, length: u8) -> u64 {
        let block = self.vcpus[vcpu].control;
        let next = block.word(at::RIP).wrapping_add(length.into());
        let code = block.word(at::SEGMENTS + 0x10) >> 16;
        let long = block.word(at::EFER) >> 10 & 1 != 0 && code >> 9 & 1 != 0;
        match (long, code >> 10 & 1 != 0) {
            (true, _) => next,
            (false, true) => next & 0xffff_ffff,
            (false, false) => next & 0xffff,
        }
    }

    /// End a port access: RAX, the next instruction, no interrupt shadow any more.
    #[inline]
    pub fn finish_port(&mut self, vcpu: u8, rax: u64, next_rip: u64) {
        let block = self.vcpus[vcpu].control;
        block.set_word(at::RAX, rax);
        block.set_word(at::RIP, next_rip);
        block.set_word(at::SHADOW, 0);
    }

    /// The groups that every exit carries.
    pub fn fill_always(&self, vcpu: u8) {
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
        if groups & (group::EXTENDED | group::DEBUG | group::CONTROL | group::SYSCALL) != 0 {
            self.unload_extended(vcpu);
        }
        self.fill_always(vcpu);
        let state = &self.vcpus[vcpu];
        let (block, page) = (state.control, state.page);
        if groups & group::CONTROL != 0 {
            page.write::<Control, CONTROL>(&Control {
                cr0: block.word(at::CR0),
                cr2: block.word(at::CR2),
                cr3: block.word(at::CR3),
                cr4: block.word(at::CR4),
                efer: block.word(at::EFER) & !EFER_SVME,
                xcr0: state.xcr0,
            });
        }
        if groups & group::DEBUG != 0 {
            page.write::<[u64; 4], DEBUG>(&state.debug);
            page.set_word(DEBUG + 32, block.word(at::DR6));
            page.set_word(DEBUG + 40, block.word(at::DR7));
        }
        if groups & group::SEGMENTS != 0 {
            for (index, place) in SEGMENT_PLACES.iter().enumerate() {
                block.copy_words(at::SEGMENTS.wrapping_add(*place), page, SEGMENTS.wrapping_add(index << 4), 2);
            }
        }
        if groups & group::SYSCALL != 0 {
            block.copy_words(at::SYSCALL, page, SYSCALL, 8);
            page.set_word(SYSCALL + 64, block.word(at::PAT));
            page.set_word(SYSCALL + 72, state.tsc_aux);
        }
        if groups & group::TIME != 0 {
            page.set_word(TIME, block.word(at::TSC_OFFSET));
        }
        if groups & group::EXTENDED != 0 {
            state.extended.copy_words(0, page, EXTENDED, XSAVE_BYTES / 8);
        }
        // `valid` is the high half of the word that starts with `reason`.
        page.set_word(REASON, page.word(REASON) | u64::from(groups) << 32);
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
        if dirty & group::FLOW != 0 && !(check::rflags(rflags) && check::instruction_pointer(rip)) {
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
        let page = self.vcpus[vcpu].page;
        let control = page.read::<Control, CONTROL>();
        let debug = page.read::<[u64; 6], DEBUG>();
        let segments = page.read::<[Segment; 10], SEGMENTS>();
        let syscall = page.read::<[u64; 10], SYSCALL>();
        let header = page.read::<[u64; 8], { EXTENDED + 512 }>();
        let mxcsr = page.word(EXTENDED + 24) & 0xffff_ffff;
        let vm = &self.vms[self.vcpus[vcpu].vm];
        let allowed = Allowed { cr4: self.machine.cr4, xcr0: vm.xcr0, physical_bits: self.machine.physical_bits };
        let [dr0, dr1, dr2, dr3, dr6, dr7] = debug;
        let [_, lstar, cstar, _, gs, _, esp, eip, pat, _] = syscall;
        let holds = (dirty & group::CONTROL == 0 || check::control(&control, &allowed))
            && (dirty & group::DEBUG == 0 || check::debug(dr6, dr7))
            && (dirty & group::SEGMENTS == 0 || segments.iter().all(|segment| check::canonical(segment.base)))
            && (dirty & group::SYSCALL == 0
                || [lstar, cstar, gs, esp, eip].into_iter().all(check::canonical) && check::pat(pat))
            && (dirty & group::EXTENDED == 0 || check::extended(mxcsr, &header, extended::supported()));
        if !holds {
            return Err(Misuse(misuse::STATE));
        }
        self.unload_extended(vcpu);
        let state = &mut self.vcpus[vcpu];
        let block = state.control;
        if dirty & group::CONTROL != 0 {
            for (offset, value) in [
                (at::CR0, control.cr0),
                (at::CR2, control.cr2),
                (at::CR3, control.cr3),
                (at::CR4, control.cr4),
                (at::EFER, control.efer | EFER_SVME),
            ] {
                block.set_word(offset, value);
            }
            state.xcr0 = control.xcr0;
            // Translations of the old roots and modes must not survive.
            block.set_word(at::ASID, block.word(at::ASID) & 0xffff_ffff | self.machine.flush << 32);
        }
        if dirty & group::DEBUG != 0 {
            state.debug = [dr0, dr1, dr2, dr3];
            block.set_word(at::DR6, dr6);
            block.set_word(at::DR7, dr7);
        }
        if dirty & group::SEGMENTS != 0 {
            for (segment, place) in segments.iter().zip(SEGMENT_PLACES) {
                set_segment(block, place, segment);
            }
            let [_, _, stack, ..] = segments;
            let level = u64::from(stack.attributes >> 5 & 3) << 24;
            block.set_word(at::CPL, block.word(at::CPL) & !(0xff << 24) | level);
        }
        if dirty & group::SYSCALL != 0 {
            let [registers @ .., pat, tsc_aux] = syscall;
            for (index, value) in registers.into_iter().enumerate() {
                block.set_word(at::SYSCALL.wrapping_add(index << 3), value);
            }
            block.set_word(at::PAT, pat);
            state.tsc_aux = tsc_aux & 0xffff_ffff;
        }
        if dirty & group::TIME != 0 {
            block.set_word(at::TSC_OFFSET, page.word(TIME));
        }
        if dirty & group::EXTENDED != 0 {
            page.copy_words(EXTENDED, state.extended, 0, XSAVE_BYTES / 8);
            // Only what was checked: the words between are the service's to choose, the header is not.
            for (index, word) in header.into_iter().enumerate() {
                state.extended.set_word(index.wrapping_shl(3).wrapping_add(512), word);
            }
            state.extended.set_word(24, mxcsr);
        }
        Ok(())
    }

    /// Make the intercepts follow the windows asked for and the NMI in progress.
    pub fn set_windows(&mut self, vcpu: u8) {
        let state = &self.vcpus[vcpu];
        let block = state.control;
        let interrupt = state.windows & window::INTERRUPT != 0;
        let nmi = state.nmi_held;
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

    /// Put the event to deliver into the control block, and return it.
    #[inline]
    pub fn load_event(&mut self, vcpu: u8) -> u64 {
        let word = core::mem::take(&mut self.vcpus[vcpu].event);
        self.vcpus[vcpu].control.set_word(at::EVENT, word);
        if word & event::VALID != 0 && word >> event::TYPE_SHIFT & event::TYPE == event::NMI {
            self.vcpus[vcpu].nmi_held = true;
            self.set_windows(vcpu);
        }
        word
    }

    /// Make the vCPU's own extended registers the ones that are loaded.
    #[inline(always)]
    pub fn load_extended(&mut self, vcpu: u8) {
        if self.loaded != Some(vcpu) {
            self.exchange_extended(vcpu);
        }
    }

    #[inline(never)]
    fn exchange_extended(&mut self, vcpu: u8) {
        if let Some(other) = self.loaded {
            self.unload_extended(other);
        }
        let state = &self.vcpus[vcpu];
        extended::load(state.extended);
        extended::load_debug(state.debug);
        extended::set_xcr0(state.xcr0);
        if extended::has_tsc_aux() {
            extended::set_tsc_aux(state.tsc_aux);
        }
        self.loaded = Some(vcpu);
    }

    /// Save the vCPU's extended registers if they are the ones that are loaded. XCR0 is read back: a
    /// processor that ignores the XSETBV intercept lets the guest change it.
    pub fn unload_extended(&mut self, vcpu: u8) {
        if self.loaded != Some(vcpu) {
            return;
        }
        self.loaded = None;
        let limit = self.vms[self.vcpus[vcpu].vm].xcr0 | 1;
        let state = &mut self.vcpus[vcpu];
        let value = extended::xcr0() & limit;
        state.xcr0 = if check::xcr0(value, limit) { value } else { 1 };
        state.debug = extended::debug();
        extended::save(state.extended);
        if extended::has_tsc_aux() {
            state.tsc_aux = extended::tsc_aux();
            extended::set_tsc_aux(0);
        }
    }
}

fn set_segment(block: CorePage, place: usize, segment: &Segment) {
    let first =
        u64::from(segment.selector) | u64::from(segment.attributes & 0xfff) << 16 | u64::from(segment.limit) << 32;
    block.set_word(at::SEGMENTS.wrapping_add(place), first);
    block.set_word(at::SEGMENTS.wrapping_add(place).wrapping_add(8), segment.base);
}
