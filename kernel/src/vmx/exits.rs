//! Run a guest until its next exit, and say what the exit was in the terms of the exit page.

use super::capability::REFUSED;
use super::instruction::{read, write};
use super::world;
use crate::arch::{cpu, entry};
use crate::epitaph;
use crate::mem::page::CorePage;
use crate::object::vm::{Access, Exit};
use crate::state::Core;
use crate::vcpu::block::at;
use portcullis_ipc::exit::{Reason, access, event, exception, group, io, window};
use portcullis_ipc::port::PORT;
use x86::vmx::vmcs::{guest, host, ro};

/// Basic exit reasons (SDM volume 3, appendix C).
mod code {
    pub const EXCEPTION: u32 = 0;
    pub const INTERRUPT: u32 = 1;
    pub const INTERRUPT_WINDOW: u32 = 7;
    pub const NMI_WINDOW: u32 = 8;
    pub const IO: u32 = 30;
    /// During an entry.
    pub const MACHINE_CHECK: u16 = 41;
    pub const NESTED_FAULT: u32 = 48;
    pub const TIMER: u32 = 52;
    pub const NOTIFY: u32 = 75;
}

const DEBUG_EXCEPTION: u64 = 1;
const PAGE_FAULT: u64 = 14;
const MACHINE_CHECK: u64 = 18;
/// Bit of an interruption information and of a nested fault's qualification: an IRET had opened NMIs and did not end.
const IRET_UNDONE: u64 = 1 << 12;
/// DR6 bits that the qualification of a #DB carries, and those of them that a #DB clears: the others stay set until the
/// guest clears them.
const DR6_CAUSES: u64 = 0x600f;
const DR6_CLEARED: u64 = 0xf;
/// Type of the event that INT1 raises.
const PRIVILEGED_SOFTWARE: u64 = 5;
/// Groups that an exit leaves in the VMCS alone.
const LEFT: u32 = group::ALL & !(group::EVENT | group::EXTENDED);

/// The port I/O word of a qualification.
fn io_word(qualification: u64) -> u64 {
    let flag = |bit: u32, out: u64| if qualification >> bit & 1 != 0 { out } else { 0 };
    let width = (qualification & 7).wrapping_add(1);
    let flags = flag(3, io::INPUT) | flag(4, io::STRING) | flag(5, io::REPEAT);
    qualification >> 16 & io::PORT | width << io::WIDTH_SHIFT | flags
}

/// The access word of a nested fault's qualification.
fn access_word(qualification: u64) -> u64 {
    let when = |condition, word| if condition { word } else { 0 };
    when(qualification & 0x38 != 0, access::PRESENT)
        | when(qualification & 2 != 0, access::WRITE)
        | when(qualification & 4 != 0, access::FETCH)
        | when(qualification & 0x180 == 0x80, access::GUEST_WALK)
}

/// Reason and qualification of an exit that `vmexit` serves, but exceptions and nested faults.
fn translate(number: u32, qualification: u64) -> (Reason, [u64; 3]) {
    let plain = |reason| (reason, [u64::from(number), 0, 0]);
    match number {
        2 => plain(Reason::Shutdown),
        3..=6 => plain(Reason::SystemSignal),
        9 => (Reason::TaskSwitch, [qualification & 0xffff, qualification, 0]),
        10 => plain(Reason::Cpuid),
        12 => plain(Reason::Hlt),
        13 | 54 => plain(Reason::Wbinvd),
        14 => plain(Reason::Invlpg),
        15 => plain(Reason::Rdpmc),
        16 => plain(Reason::Rdtsc),
        18 => plain(Reason::Hypercall),
        11 | 19..=27 | 50 | 53 | 60 => plain(Reason::Virtualization),
        // MOV to and from; CLTS and LMSW write CR0.
        28 => (Reason::ControlRegister, [qualification & 0xf, u64::from(qualification & 0x30 != 0x10), 0]),
        29 => (Reason::DebugRegister, [qualification & 7, u64::from(qualification & 0x10 == 0), 0]),
        code::IO => (Reason::Io, [io_word(qualification), 0, 0]),
        31 | 32 => (Reason::Msr, [u64::from(number & 1 == 0), 0, 0]),
        36 => plain(Reason::Mwait),
        39 => plain(Reason::Monitor),
        40 => plain(Reason::Pause),
        51 => plain(Reason::Rdtscp),
        55 => plain(Reason::Xsetbv),
        _ => plain(Reason::Other),
    }
}

/// The event word of an IDT-vectoring information: what privileged and software exceptions raise, their instruction
/// raises anew.
fn vectored(info: u64, error: u64) -> u64 {
    match info >> event::TYPE_SHIFT & event::TYPE {
        5 | 6 => 0,
        _ => info | error << 32,
    }
}

impl Core {
    /// Run the guest of `vcpu` until an exit that the core does not answer at once. The preemption timer bounds the
    /// guest's time, whatever becomes of the local APIC's interrupt; it goes on from exit to entry.
    pub fn run_vmx(&mut self, vcpu: u8) {
        self.select(vcpu);
        let left = self.clock.armed.saturating_sub(cpu::tsc()) >> (self.machine.vmx.timer_shift & 31);
        write(guest::VMX_PREEMPTION_TIMER_VALUE, left.saturating_add(1).min(u64::from(u32::MAX)));
        write(host::CR3, cpu::cr3());
        let state = &mut self.vcpus[vcpu];
        let block = state.control;
        // SAFETY: the core reads it only after a page fault of its own, which sets it.
        unsafe { cpu::set_cr2(block.word(at::CR2)) };
        while self.enter_vmx(vcpu) {}
        // After a refused state the control block is made anew.
        if self.vcpus[vcpu].launched {
            block.set_word(at::CR2, cpu::cr2());
        }
    }

    /// Enter the guest and deal with its next exit. `true` if it was answered here and the guest goes on.
    #[inline(always)]
    fn enter_vmx(&mut self, vcpu: u8) -> bool {
        let state = &self.vcpus[vcpu];
        let mut injected = 0;
        if state.event != 0 || state.changed != 0 {
            injected = self.take_event(vcpu);
            self.push(vcpu, injected);
        }
        let block = self.vcpus[vcpu].control;
        write(guest::RIP, block.word(at::RIP));
        let state = &mut self.vcpus[vcpu];
        let launched = core::mem::replace(&mut state.launched, true);
        // SAFETY: INV-WORLD: the VMCS was selected above and is changed only through `carry`.
        let (rax, number) = unsafe { world::enter(&mut state.registers, block.word(at::RAX), launched) };
        block.set_word(at::RAX, rax);
        if number & REFUSED != 0 {
            if number as u16 == code::MACHINE_CHECK {
                epitaph::stop(format_args!("machine check at a VM entry"));
            }
            self.refused(vcpu);
            return false;
        }
        let rip = self.take_back(vcpu, block, injected);
        if number == code::IO { self.vmx_io(vcpu, rip) } else { self.vmx_exit(vcpu, number, rip) }
    }

    /// Carry back what every exit needs; returns RIP.
    #[inline(always)]
    fn take_back(&mut self, vcpu: u8, block: CorePage, injected: u64) -> u64 {
        let state = &mut self.vcpus[vcpu];
        state.stale = LEFT;
        let rip = read(guest::RIP);
        block.set_word(at::RIP, rip);
        let held = read(guest::INTERRUPTIBILITY_STATE);
        block.set_word(at::SHADOW, 0);
        state.nmi_held = false;
        if held != 0 {
            block.set_word(at::SHADOW, u64::from(held & 3 != 0));
            state.nmi_held = held >> 3 & 1 != 0;
        }
        let vectoring = read(ro::IDT_VECTORING_INFO);
        if vectoring & event::VALID != 0 {
            let error = if vectoring & event::ERROR_VALID != 0 { read(ro::IDT_VECTORING_ERR_CODE) } else { 0 };
            self.keep_event(vcpu, vectored(vectoring, error), injected);
        }
        rip
    }

    /// The address after the instruction at `rip`, which exited.
    #[inline(always)]
    fn next_instruction(&mut self, vcpu: u8, rip: u64) -> u64 {
        self.instruction_after(vcpu, rip, read(ro::VMEXIT_INSTRUCTION_LEN) as u8)
    }

    #[inline(always)]
    fn vmx_io(&mut self, vcpu: u8, rip: u64) -> bool {
        let qualification = read(ro::EXIT_QUALIFICATION);
        let next_rip = self.next_instruction(vcpu, rip);
        self.vcpus[vcpu].control.set_word(at::RFLAGS, read(guest::RFLAGS));
        // Exact port, neither string nor REP; then the magic decides.
        if qualification & 0xffff_0030 == u64::from(PORT) << 16 && self.is_backdoor(vcpu, PORT) {
            let width = (qualification & 7).wrapping_add(1) as u8;
            return self.port_exit(vcpu, Access { width, input: qualification & 8 != 0, next_rip });
        }
        self.exit(vcpu, Exit { reason: Reason::Io, qualification: [io_word(qualification), 0, 0], next_rip });
        false
    }

    #[inline(never)]
    fn vmx_exit(&mut self, vcpu: u8, number: u32, rip: u64) -> bool {
        let qualification = read(ro::EXIT_QUALIFICATION);
        match number {
            code::EXCEPTION => self.vmx_exception(vcpu, qualification, rip),
            code::INTERRUPT | code::TIMER => {
                let vector = entry::interrupt_window(false);
                self.interrupt(vector);
            }
            code::INTERRUPT_WINDOW => self.window_opened(vcpu, window::INTERRUPT),
            code::NMI_WINDOW => self.window_opened(vcpu, window::NMI),
            // The guest's state is whole: it goes on when its turn comes.
            code::NOTIFY if qualification & 1 == 0 => self.hold_nmis(vcpu, qualification),
            code::NESTED_FAULT => {
                self.hold_nmis(vcpu, qualification);
                let words = [read(ro::GUEST_PHYSICAL_ADDR_FULL), access_word(qualification), 0];
                self.exit(vcpu, Exit { reason: Reason::NestedFault, qualification: words, next_rip: 0 });
            }
            _ => {
                let (reason, words) = translate(number, qualification);
                let gives =
                    !matches!(reason, Reason::Shutdown | Reason::SystemSignal | Reason::TaskSwitch | Reason::Other);
                let next_rip = if gives { self.next_instruction(vcpu, rip) } else { 0 };
                self.exit(vcpu, Exit { reason, qualification: words, next_rip });
            }
        }
        false
    }

    fn vmx_exception(&mut self, vcpu: u8, qualification: u64, rip: u64) {
        let info = read(ro::VMEXIT_INTERRUPTION_INFO);
        let kind = info >> event::TYPE_SHIFT & event::TYPE;
        if kind == event::NMI {
            // It is the host's, and held until an IRET.
            entry::nmi();
            return;
        }
        self.hold_nmis(vcpu, info);
        let vector = info & event::VECTOR;
        match vector {
            MACHINE_CHECK => epitaph::stop(format_args!("machine check in a guest")),
            DEBUG_EXCEPTION if kind != PRIVILEGED_SOFTWARE => {
                let block = self.vcpus[vcpu].control;
                block.set_word(at::DR6, block.word(at::DR6) & !DR6_CLEARED | qualification & DR6_CAUSES);
            }
            _ => {}
        }
        let error = if info & event::ERROR_VALID != 0 { read(ro::VMEXIT_INTERRUPTION_ERR_CODE) } else { 0 };
        let (more, next_rip) = match (vector, kind) {
            (PAGE_FAULT, _) => (qualification, 0),
            (_, PRIVILEGED_SOFTWARE) => (exception::INT1, self.next_instruction(vcpu, rip)),
            _ => (0, 0),
        };
        self.exit(vcpu, Exit { reason: Reason::Exception, qualification: [vector, error, more], next_rip });
    }

    /// An IRET that faulted has opened NMIs already: hold them again.
    fn hold_nmis(&mut self, vcpu: u8, word: u64) {
        if word & IRET_UNDONE != 0 && self.vcpus[vcpu].event == 0 {
            self.vcpus[vcpu].nmi_held = true;
            self.vcpus[vcpu].changed |= group::EVENT;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_reason_has_its_reason() {
        let table = [
            (2, 0, Reason::Shutdown, [2, 0, 0]),
            (9, 0x8000_0028, Reason::TaskSwitch, [0x28, 0x8000_0028, 0]),
            (10, 0, Reason::Cpuid, [10, 0, 0]),
            (18, 0, Reason::Hypercall, [18, 0, 0]),
            (20, 0, Reason::Virtualization, [20, 0, 0]),
            (28, 0x304, Reason::ControlRegister, [4, 1, 0]),
            (28, 0x18, Reason::ControlRegister, [8, 0, 0]),
            (28, 0x20, Reason::ControlRegister, [0, 1, 0]),
            (29, 0x17, Reason::DebugRegister, [7, 0, 0]),
            (29, 0x306, Reason::DebugRegister, [6, 1, 0]),
            (31, 0, Reason::Msr, [0, 0, 0]),
            (32, 0, Reason::Msr, [1, 0, 0]),
            (49, 0, Reason::Other, [49, 0, 0]),
        ];
        for (number, qualification, reason, words) in table {
            assert_eq!(translate(number, qualification), (reason, words), "{number}");
        }
    }

    #[test]
    fn the_port_word_is_read_from_the_qualification() {
        assert_eq!(io_word(0x5658_000b), 0x5658 | 4 << 16 | io::INPUT);
        assert_eq!(io_word(0x03f8_0000), 0x3f8 | 1 << 16);
        assert_eq!(io_word(0x5659_0038), 0x5659 | 1 << 16 | io::INPUT | io::STRING | io::REPEAT);
    }

    #[test]
    fn the_access_word_tells_what_was_refused_to_whom() {
        assert_eq!(access_word(0x181), 0);
        assert_eq!(access_word(0x18a), access::PRESENT | access::WRITE);
        assert_eq!(access_word(0x18c), access::PRESENT | access::FETCH);
        assert_eq!(access_word(0x081), access::GUEST_WALK);
        assert_eq!(access_word(0x001), 0, "without a linear address it is not a walk of one");
    }

    #[test]
    fn an_event_that_its_instruction_raises_anew_is_not_kept() {
        assert_eq!(vectored(0x8000_0b0e, 2), event::exception(14, Some(2)));
        assert_eq!(vectored(0x8000_0603, 0), 0);
        assert_eq!(vectored(0x8000_0501, 0), 0);
    }
}
