//! Run a guest until its next exit, and say what the exit was in the terms of the exit page.

use super::control::{Machine, at};
use super::world;
use crate::arch::mitigation;
use crate::epitaph;
use crate::object::Work;
use crate::object::account::of_vcpu;
use crate::object::partition::queue;
use crate::object::vm::{Access, Exit};
use crate::state::{Core, Index};
use portcullis_ipc::exit::{Reason, event, io, window};
use portcullis_ipc::port::PORT;
use portcullis_ipc::record::cause;

/// Exit codes (APM volume 2, appendix C); compared in 32 bits, because one emulator stores no more.
mod code {
    pub const INTR: u32 = 0x60;
    pub const NMI: u32 = 0x61;
    pub const VINTR: u32 = 0x64;
    pub const IRET: u32 = 0x74;
    pub const IOIO: u32 = 0x7b;
    pub const MACHINE_CHECK: u32 = 0x52;
    pub const NESTED_FAULT: u32 = 0x400;
    pub const INVALID: u32 = u32::MAX;
}

/// The port I/O word of EXITINFO1.
fn io_word(info: u64) -> u64 {
    let flag = |bit: u32, out: u64| if info >> bit & 1 != 0 { out } else { 0 };
    let width = info >> 4 & 7;
    info >> 16 & io::PORT | width << io::WIDTH_SHIFT | flag(0, io::INPUT) | flag(2, io::STRING) | flag(3, io::REPEAT)
}

/// Reason and qualification of an exit that `vmexit` serves.
fn translate(number: u32, info1: u64, info2: u64, error: u64) -> (Reason, [u64; 3]) {
    let plain = |reason| (reason, [u64::from(number), 0, 0]);
    match number {
        0x00..=0x0f => (Reason::ControlRegister, [number.into(), 0, 0]),
        0x10..=0x1f => (Reason::ControlRegister, [u64::from(number & 0xf), 1, 0]),
        0x20..=0x2f => (Reason::DebugRegister, [u64::from(number & 0xf), 0, 0]),
        0x30..=0x3f => (Reason::DebugRegister, [u64::from(number & 0xf), 1, 0]),
        0x40..=0x5f => (Reason::Exception, [u64::from(number & 0x1f), error, info2]),
        0x62 | 0x63 => plain(Reason::SystemSignal),
        0x6e => plain(Reason::Rdtsc),
        0x6f => plain(Reason::Rdpmc),
        0x72 => plain(Reason::Cpuid),
        0x76 | 0x89 => plain(Reason::Wbinvd),
        0x77 => plain(Reason::Pause),
        0x78 => plain(Reason::Hlt),
        0x79 => plain(Reason::Invlpg),
        code::IOIO => (Reason::Io, [io_word(info1), 0, 0]),
        0x7c => (Reason::Msr, [info1 & 1, 0, 0]),
        0x7d => (Reason::TaskSwitch, [info1 & 0xffff, info2, 0]),
        0x7f => plain(Reason::Shutdown),
        0x81 => plain(Reason::Hypercall),
        0x7a | 0x80 | 0x82..=0x86 => plain(Reason::Virtualization),
        0x87 => plain(Reason::Rdtscp),
        0x8a => plain(Reason::Monitor),
        0x8b | 0x8c => plain(Reason::Mwait),
        0x8d => plain(Reason::Xsetbv),
        code::NESTED_FAULT => (Reason::NestedFault, [info2, info1, 0]),
        _ => plain(Reason::Other),
    }
}

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
        self.load_extended(vcpu);
        self.cross(of_vcpu(vcpu));
        while self.enter_guest(vcpu) {}
    }

    /// Enter the guest and deal with its next exit. `true` if it was answered here and the guest goes on.
    #[inline(always)]
    fn enter_guest(&mut self, vcpu: u8) -> bool {
        let injected = self.load_event(vcpu);
        let host = self.machine.host;
        let state = &mut self.vcpus[vcpu];
        let block = state.control;
        // SAFETY: INV-WORLD: the block was built by `Machine::reset` and changed only through `commit`.
        unsafe { world::enter(block, &mut state.registers, host) };
        block.set_word(at::ASID, block.word(at::ASID) & 0xffff_ffff);
        let interrupted = block.word(at::EXIT_EVENT);
        if interrupted & event::VALID != 0 {
            self.keep_event(vcpu, defined(interrupted), injected);
        }
        let number = block.word(at::EXIT_CODE) as u32;
        if number == code::IOIO {
            return self.io_exit(vcpu);
        }
        self.other_exit(vcpu, number);
        false
    }

    #[inline(never)]
    fn keep_event(&mut self, vcpu: u8, interrupted: u64, injected: u64) {
        if must_redeliver(interrupted, injected) {
            self.vcpus[vcpu].event = interrupted;
        }
    }

    #[inline(always)]
    fn io_exit(&mut self, vcpu: u8) -> bool {
        let block = self.vcpus[vcpu].control;
        let info = block.word(at::EXIT_INFO_1);
        let next_rip = block.word(at::EXIT_INFO_2);
        // Exact port, neither string nor REP; then the magic decides.
        if info & 0xffff_000c == u64::from(PORT) << 16 && self.is_backdoor(vcpu, PORT) {
            return self.port_exit(vcpu, Access { width: (info >> 4 & 7) as u8, input: info & 1 != 0, next_rip });
        }
        self.exit(vcpu, Exit { reason: Reason::Io, qualification: [io_word(info), 0, 0], next_rip });
        false
    }

    #[inline(never)]
    fn other_exit(&mut self, vcpu: u8, number: u32) {
        let block = self.vcpus[vcpu].control;
        match number {
            code::INTR => {
                let vector = crate::arch::entry::interrupt_window(false);
                self.interrupt(vector);
            }
            code::NMI => {}
            code::VINTR => {
                self.vcpus[vcpu].windows &= !window::INTERRUPT;
                self.set_windows(vcpu);
                self.window_opened(vcpu, window::INTERRUPT);
            }
            code::IRET => self.iret(vcpu),
            code::MACHINE_CHECK => epitaph::stop(format_args!("machine check in a guest")),
            code::INVALID => self.refused(vcpu),
            _ => {
                let (info1, info2) = (block.word(at::EXIT_INFO_1), block.word(at::EXIT_INFO_2));
                let (reason, qualification) = translate(number, info1, info2, info1);
                let gives = self.machine.next_rip
                    && !matches!(reason, Reason::Exception | Reason::NestedFault | Reason::Shutdown);
                let next_rip = if gives { block.word(at::NEXT_RIP) } else { 0 };
                self.exit(vcpu, Exit { reason, qualification, next_rip });
            }
        }
    }

    /// The IRET that ends an NMI handler is about to run: NMIs are open again, and so is their window.
    fn iret(&mut self, vcpu: u8) {
        let wanted = self.vcpus[vcpu].windows & window::NMI != 0;
        self.vcpus[vcpu].nmi_held = false;
        self.set_windows(vcpu);
        if wanted {
            self.window_opened(vcpu, window::NMI);
        }
    }

    /// The processor refused the state: the service that wrote it is to blame, and its VM stops. The
    /// control block may hold anything now, the host's state among it, so it is made anew.
    fn refused(&mut self, vcpu: u8) {
        let vm = self.vcpus[vcpu].vm;
        let vmexit = self.vms[vm].vmexit;
        for index in self.vms[vm].vcpus() {
            self.stop(index);
            if self.loaded == Index::of(index) {
                self.loaded = Index::NONE;
            }
            let state = &mut self.vcpus[index];
            state.exit = Exit { reason: Reason::BadState, qualification: [0; 3], next_rip: 0 };
            (state.registers, state.event, state.windows, state.nmi_held) = ([0; 16], 0, 0, false);
            let machine: Machine = self.machine;
            machine.reset(&self.vcpus[index], &self.vms[vm], index);
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
            if self.mitigations != 0 {
                mitigation::cross(self.mitigations);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_has_its_reason() {
        let table = [
            (0x00, Reason::ControlRegister, [0, 0, 0]),
            (0x14, Reason::ControlRegister, [4, 1, 0]),
            (0x27, Reason::DebugRegister, [7, 0, 0]),
            (0x4d, Reason::Exception, [13, 5, 6]),
            (0x72, Reason::Cpuid, [0x72, 0, 0]),
            (0x7c, Reason::Msr, [1, 0, 0]),
            (0x400, Reason::NestedFault, [6, 5, 0]),
            (0x7f, Reason::Shutdown, [0x7f, 0, 0]),
            (0x83, Reason::Virtualization, [0x83, 0, 0]),
            (0x3ff, Reason::Other, [0x3ff, 0, 0]),
        ];
        for (number, reason, qualification) in table {
            assert_eq!(translate(number, 5, 6, 5), (reason, qualification), "{number:#x}");
        }
    }

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

    #[test]
    fn the_port_word_is_read_from_exitinfo1() {
        assert_eq!(io_word(0x5658_0041), 0x5658 | 4 << 16 | io::INPUT);
        assert_eq!(io_word(0x03f8_0010), 0x3f8 | 1 << 16);
        assert_eq!(io_word(0x5659_001d), 0x5659 | 1 << 16 | io::INPUT | io::STRING | io::REPEAT);
        assert_eq!(io_word(0x0080_0020), 0x80 | 2 << 16);
    }
}
