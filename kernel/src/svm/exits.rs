//! Run a guest until its next exit, and say what the exit was in the terms of the exit page.

use super::world;
use crate::epitaph;
use crate::object::vm::{Access, Exit};
use crate::state::Core;
use crate::vcpu::block::at;
use crate::vcpu::{TRAP, UNSETTLED};
use portcullis_ipc::exit::{Reason, event, exception, io, window};
use portcullis_ipc::port::PORT;

/// Exit codes (APM volume 2, appendix C); compared in 32 bits, because one emulator stores no more.
mod code {
    pub const DEBUG: u32 = 0x41;
    pub const INTR: u32 = 0x60;
    pub const NMI: u32 = 0x61;
    pub const VINTR: u32 = 0x64;
    pub const IRET: u32 = 0x74;
    pub const IOIO: u32 = 0x7b;
    pub const INT1: u32 = 0x88;
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
        0x40..=0x5f => (Reason::Exception, [(number & 0x1f).into(), error, if number == 0x4e { info2 } else { 0 }]),
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
        0x7a | 0x80 | 0x82..=0x86 | 0x8e => plain(Reason::Virtualization),
        0x87 => plain(Reason::Rdtscp),
        code::INT1 => (Reason::Exception, [1, 0, exception::INT1]),
        0x8a => plain(Reason::Monitor),
        0x8b | 0x8c => plain(Reason::Mwait),
        0x8d => plain(Reason::Xsetbv),
        code::NESTED_FAULT => (Reason::NestedFault, [info2, info1, 0]),
        _ => plain(Reason::Other),
    }
}

impl Core {
    /// Enter the guest and deal with its next exit. `true` if it was answered here and the guest goes on.
    #[inline(always)]
    pub fn enter_svm(&mut self, vcpu: u8) -> bool {
        let injected = self.take_event(vcpu);
        let host = self.machine.host;
        let state = &mut self.vcpus[vcpu];
        let block = state.control;
        block.set_word(at::EVENT, injected);
        // SAFETY: INV-WORLD: the block was built by `svm::control` and changed only through `commit`.
        unsafe { world::enter(block, &mut state.registers, host) };
        block.set_word(at::ASID, block.word(at::ASID) & 0xffff_ffff);
        let interrupted = block.word(at::EXIT_EVENT);
        if interrupted & event::VALID != 0 {
            self.keep_event(vcpu, interrupted, injected);
        }
        if block.word(at::RFLAGS) & UNSETTLED != 0 {
            self.settle_flags(vcpu);
        }
        let number = block.word(at::EXIT_CODE) as u32;
        if number == code::IOIO {
            return self.io_exit(vcpu);
        }
        self.other_exit(vcpu, number);
        false
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
                self.window_opened(vcpu, window::INTERRUPT);
            }
            code::IRET => self.step(vcpu),
            code::DEBUG if self.stepped(vcpu) => {}
            code::MACHINE_CHECK => epitaph::stop(format_args!("machine check in a guest")),
            code::INVALID => self.refused(vcpu),
            _ => {
                let (info1, info2) = (block.word(at::EXIT_INFO_1), block.word(at::EXIT_INFO_2));
                let (reason, qualification) = translate(number, info1, info2, info1);
                let faults = matches!(reason, Reason::Exception | Reason::NestedFault | Reason::Shutdown);
                let gives = self.machine.next_rip && (!faults || number == code::INT1);
                let next_rip = if gives { block.word(at::NEXT_RIP) } else { 0 };
                self.exit(vcpu, Exit { reason, qualification, next_rip });
            }
        }
    }

    /// The IRET that ends an NMI handler is about to run. NMIs are open after it, so it is stepped over; where the guest
    /// does that itself, they are open at once.
    fn step(&mut self, vcpu: u8) {
        let state = &mut self.vcpus[vcpu];
        let block = state.control;
        let flags = block.word(at::RFLAGS);
        if flags & TRAP != 0 {
            return self.open_nmis(vcpu);
        }
        state.step = block.word(at::DR6);
        block.set_word(at::RFLAGS, flags | TRAP);
        self.set_windows(vcpu);
    }

    /// A debug exception: whether it is the core's own, the end of that step, and no breakpoint of the guest's.
    fn stepped(&mut self, vcpu: u8) -> bool {
        let state = &mut self.vcpus[vcpu];
        let (step, status) = (state.step, state.control.word(at::DR6));
        let own = step != 0 && status & !step & 0xf == 0;
        if own {
            state.step = 0;
            state.control.set_word(at::DR6, step);
            self.open_nmis(vcpu);
        }
        own
    }

    fn open_nmis(&mut self, vcpu: u8) {
        self.vcpus[vcpu].nmi_held = false;
        if self.vcpus[vcpu].windows & window::NMI != 0 {
            self.window_opened(vcpu, window::NMI);
        } else {
            self.set_windows(vcpu);
        }
    }

    /// Another exit than its own ends the step: NMIs stay held up to the next IRET.
    pub fn end_step(&mut self, vcpu: u8) {
        let state = &mut self.vcpus[vcpu];
        state.step = 0;
        state.control.set_word(at::RFLAGS, state.control.word(at::RFLAGS) & !TRAP);
        self.set_windows(vcpu);
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
            (0x4d, Reason::Exception, [13, 5, 0]),
            (0x4e, Reason::Exception, [14, 5, 6]),
            (0x72, Reason::Cpuid, [0x72, 0, 0]),
            (0x7c, Reason::Msr, [1, 0, 0]),
            (0x400, Reason::NestedFault, [6, 5, 0]),
            (0x7f, Reason::Shutdown, [0x7f, 0, 0]),
            (0x83, Reason::Virtualization, [0x83, 0, 0]),
            (0x88, Reason::Exception, [1, 0, exception::INT1]),
            (0x8e, Reason::Virtualization, [0x8e, 0, 0]),
            (0x3ff, Reason::Other, [0x3ff, 0, 0]),
        ];
        for (number, reason, qualification) in table {
            assert_eq!(translate(number, 5, 6, 5), (reason, qualification), "{number:#x}");
        }
    }

    #[test]
    fn the_port_word_is_read_from_exitinfo1() {
        assert_eq!(io_word(0x5658_0041), 0x5658 | 4 << 16 | io::INPUT);
        assert_eq!(io_word(0x03f8_0010), 0x3f8 | 1 << 16);
        assert_eq!(io_word(0x5659_001d), 0x5659 | 1 << 16 | io::INPUT | io::STRING | io::REPEAT);
        assert_eq!(io_word(0x0080_0020), 0x80 | 2 << 16);
    }
}
