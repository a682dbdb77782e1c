//! The VMware port seen from the guest: every form of the access and what it must do to the registers.
//! The vectors are those of public clients and of VMware's header: command in CX, magic in EAX, port in
//! DX.

use crate::code::{Code, FLAGS, Place, RESUME_FLAG};
use crate::machine::{CODE, GATE, GATE_ABSENT, GATE_BROKEN, selector, set_gate};
use crate::paging::WINDOW;
use crate::report::Report;
use crate::run::{END, Mode, State, reg};

/// The low-bandwidth port.
pub const PORT: u16 = 0x5658;
/// EAX of a call.
pub const MAGIC: u32 = 0x564d_5868;
/// Commands.
pub mod command {
    /// CPU speed in MHz.
    pub const GETMHZ: u16 = 1;
    /// Pointer position.
    pub const GETPTRLOCATION: u16 = 4;
    /// Version 6, magic, product type.
    pub const GETVERSION: u16 = 10;
    /// Device list.
    pub const GETDEVICELISTELEMENT: u16 = 11;
    /// User-interface options.
    pub const GETGUIOPTIONS: u16 = 13;
    /// Virtual hardware version, magic.
    pub const GETHWVERSION: u16 = 17;
    /// TSC and local APIC frequency.
    pub const GETHZ: u16 = 45;
    /// Full time.
    pub const GETTIMEFULL: u16 = 46;
    /// vCPU information.
    pub const GET_VCPU_INFO: u16 = 68;
    /// No such command.
    pub const UNKNOWN: u16 = 0x4000;
}

/// What a register must become.
#[derive(Clone, Copy)]
pub enum Want {
    /// This value.
    Is(u32),
    /// A value from the range, both ends included.
    Between(u32, u32),
    /// Anything.
    Any,
}

impl Want {
    fn accepts(self, value: u32) -> bool {
        match self {
            Self::Is(wanted) => value == wanted,
            Self::Between(low, high) => (low..=high).contains(&value),
            Self::Any => true,
        }
    }
}

/// What an access must do.
#[derive(Clone, Copy)]
pub enum Expect {
    /// Answered: these registers take these values, all others stay.
    Answer(&'static [(usize, Want)]),
    /// Nobody there: IN reads all ones, nothing else changes.
    Unclaimed,
    /// #GP with error code 0, nothing changed.
    Fault,
}

/// One access.
#[derive(Clone, Copy)]
pub struct Access {
    /// Bytes: 1, 2 or 4.
    pub width: u8,
    /// IN, else OUT.
    pub input: bool,
    /// Port.
    pub port: u16,
    /// EAX.
    pub magic: u32,
    /// Command.
    pub command: u16,
}

impl Access {
    /// `IN EAX, DX` at the port with the magic.
    pub const fn input(command: u16) -> Self {
        Self { width: 4, input: true, port: PORT, magic: MAGIC, command }
    }

    fn code(self, mode: Mode) -> Code {
        let opcode = 0xec | u8::from(!self.input) << 1 | u8::from(self.width != 1);
        let code = Code::new(mode);
        match self.width {
            1 => code.raw(&[opcode]),
            2 => code.op16(&[opcode]),
            _ => code.op32(&[opcode]),
        }
    }

    fn load(self, state: &mut State) {
        let upper = 0xa5a5_5a5a_0000_0000;
        for (index, register) in state.registers.iter_mut().enumerate() {
            if index != reg::RSP {
                *register = upper | 0x1111_0000 | index as u64;
            }
        }
        state.registers[reg::RAX] = upper | u64::from(self.magic);
        state.registers[reg::RCX] = upper | 0xffff_0000 | u64::from(self.command);
        state.registers[reg::RDX] = upper | 0x1234_0000 | u64::from(self.port);
        state.registers[reg::RBX] = upper | u64::from(!MAGIC);
        state.rflags |= FLAGS;
    }

    /// Makes the access in `place` and checks every register, the flags and where it ended.
    pub fn check(self, report: &mut Report, place: Place, what: &str, expect: Expect) -> State {
        let code = self.code(place.mode);
        let after = code.run(place, |state| self.load(state));
        self.judge(report, place, what, expect, &code, CODE, after);
        after
    }

    #[allow(clippy::too_many_arguments)]
    fn judge(
        self,
        report: &mut Report,
        place: Place,
        what: &str,
        expect: Expect,
        code: &Code,
        start: u64,
        after: State,
    ) {
        let mut before = place.state();
        self.load(&mut before);
        let mut wrong: Option<usize> = None;
        for index in 0..16 {
            let (Some(&old), Some(&new)) = (before.registers.get(index), after.registers.get(index)) else {
                continue;
            };
            if !self.register_is_right(place.mode, expect, index, old, new) && wrong.is_none() {
                wrong = Some(index);
            }
        }
        let (vector, rip) = match expect {
            Expect::Fault => (13, start),
            // In virtual-8086 mode with IOPL 0 the end, INT 0x80, is a #GP of its own.
            _ if place.mode == Mode::Virtual86 && place.iopl < 3 => (13, start + code.length()),
            _ => (END, start + code.length() + 2),
        };
        let flow =
            after.vector == vector && after.rip == rip && (vector != 13 || after.error & 0xfffd == 0 || start != rip);
        let flags = (before.rflags ^ after.rflags) & !RESUME_FLAG & 0xffff_ffff == 0;
        let direction = if self.input { "in" } else { "out" };
        let [rax, rcx, rdx, rbx, ..] = after.registers;
        report.check(
            wrong.is_none() && flow && flags,
            what,
            format_args!(
                "{place} {direction}{} port {:#x} cmd {:#x} -> rax {rax:x} rbx {rbx:x} rcx {rcx:x} rdx {rdx:x} vector {} error {:#x}{}",
                self.width * 8,
                self.port,
                self.command,
                after.vector,
                after.error,
                Complaint { wrong, flow, flags, rip: after.rip, rflags: after.rflags },
            ),
        );
    }

    fn register_is_right(self, mode: Mode, expect: Expect, index: usize, old: u64, new: u64) -> bool {
        if index == reg::RSP {
            return true;
        }
        let wanted = match expect {
            Expect::Fault => None,
            Expect::Unclaimed if index == reg::RAX => Some(Want::Is(u32::MAX)),
            Expect::Unclaimed => None,
            Expect::Answer(answers) => answers.iter().find(|(register, _)| *register == index).map(|(_, want)| *want),
        };
        let Some(want) = wanted else {
            return new == old;
        };
        if index == reg::RAX && !self.input {
            return new == old;
        }
        if index == reg::RAX {
            let kept: u64 = match self.width {
                1 => !0xff,
                2 => !0xffff,
                _ if mode == Mode::Long => 0,
                _ => 0xffff_ffff_0000_0000,
            };
            let low = new & !kept & 0xffff_ffff;
            let value_is_right = match (want, self.width) {
                (Want::Is(value), 1) => low == u64::from(value & 0xff),
                (Want::Is(value), 2) => low == u64::from(value & 0xffff),
                (_, 1 | 2) => true,
                (want, _) => want.accepts(new as u32),
            };
            // In compatibility mode the upper half is not the program's to see.
            let upper_is_right = new & kept == old & kept || (mode == Mode::Compatibility && new >> 32 == 0);
            return value_is_right && upper_is_right;
        }
        want.accepts(new as u32) && new >> 32 == old >> 32
    }
}

struct Complaint {
    wrong: Option<usize>,
    flow: bool,
    flags: bool,
    rip: u64,
    rflags: u64,
}

impl core::fmt::Display for Complaint {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if let Some(index) = self.wrong {
            write!(out, " (register {index} is wrong)")?;
        }
        if !self.flow {
            write!(out, " (ended at {:#x})", self.rip)?;
        }
        if !self.flags {
            write!(out, " (flags {:#x})", self.rflags)?;
        }
        Ok(())
    }
}

const VERSION: Expect =
    Expect::Answer(&[(reg::RAX, Want::Is(6)), (reg::RBX, Want::Is(MAGIC)), (reg::RCX, Want::Between(1, 5))]);
const ALL_ONES: Expect = Expect::Answer(&[(reg::RAX, Want::Is(u32::MAX))]);
const ZERO: Expect = Expect::Answer(&[(reg::RAX, Want::Is(0))]);

/// All vectors for one place in which accesses reach the port.
pub fn vectors(report: &mut Report, place: Place) {
    // Ring 3 without IOPL reaches the port by #GP only; everything that is not the call keeps its fault.
    let gated = place.ring == 3 && (place.iopl < 3 || place.mode == Mode::Virtual86);
    let elsewhere = if gated { Expect::Fault } else { Expect::Unclaimed };
    let call = Access::input(command::GETVERSION);
    for input in [true, false] {
        for width in [4, 2, 1] {
            Access { width, input, ..call }.check(report, place, "GETVERSION", VERSION);
        }
    }
    for width in [4, 2, 1] {
        Access { width, magic: 0, ..call }.check(report, place, "wrong magic", elsewhere);
    }
    Access { input: false, magic: 0, ..call }.check(report, place, "wrong magic", elsewhere);
    for port in [0x5656, 0x5657, 0x565c, 0x5670] {
        Access { port, ..call }.check(report, place, "other port", elsewhere);
        Access { port, input: false, ..call }.check(report, place, "other port", elsewhere);
    }
    Access { width: 2, port: 0x5657, ..call }.check(report, place, "other port", elsewhere);
    // The high-bandwidth port is there for strings, from every ring.
    for width in [4, 2, 1] {
        let high = Access { width, port: 0x5659, ..call };
        high.check(report, place, "high-bandwidth port", Expect::Unclaimed);
        Access { input: false, ..high }.check(report, place, "high-bandwidth port", Expect::Unclaimed);
        Access { magic: 0, ..high }.check(report, place, "high-bandwidth port, wrong magic", elsewhere);
    }
    Access::input(command::UNKNOWN).check(report, place, "unknown command", ALL_ONES);
    Access { input: false, ..Access::input(command::UNKNOWN) }.check(report, place, "unknown command", ALL_ONES);
    Access::input(0).check(report, place, "command 0", ALL_ONES);
    commands(report, place);
}

/// A VM without the port: what is unclaimed reads all ones, and ring 3 gets its own faults.
pub fn absent(report: &mut Report, place: Place) {
    let expect = if place.ring == 3 && place.iopl < 3 { Expect::Fault } else { Expect::Unclaimed };
    for width in [4, 2, 1] {
        for input in [true, false] {
            let access = Access { width, input, ..Access::input(command::GETVERSION) };
            access.check(report, place, "absent port", expect);
        }
    }
}

fn commands(report: &mut Report, place: Place) {
    let hz = if place.ring == 3 {
        ALL_ONES
    } else {
        Expect::Answer(&[(reg::RAX, Want::Any), (reg::RBX, Want::Any), (reg::RCX, Want::Between(1, u32::MAX - 1))])
    };
    let state = Access::input(command::GETHZ).check(report, place, "GETHZ", hz);
    if place.ring == 0 {
        let hertz = state.registers[reg::RAX] & 0xffff_ffff | state.registers[reg::RBX] << 32;
        report.check((10_000_000..20_000_000_000).contains(&hertz), "GETHZ is a frequency", format_args!("{hertz} Hz"));
    }
    let mhz = Expect::Answer(&[(reg::RAX, Want::Between(1, 100_000))]);
    Access::input(command::GETMHZ).check(report, place, "GETMHZ", mhz);
    let hardware = Expect::Answer(&[(reg::RAX, Want::Between(4, 40)), (reg::RBX, Want::Is(MAGIC))]);
    Access::input(command::GETHWVERSION).check(report, place, "GETHWVERSION", hardware);
    let info = Expect::Answer(&[(reg::RAX, Want::Between(0, 0x7fff_ffff))]);
    Access::input(command::GET_VCPU_INFO).check(report, place, "GET_VCPU_INFO", info);
    Access::input(command::GETGUIOPTIONS).check(report, place, "GETGUIOPTIONS", ZERO);
    Access::input(command::GETDEVICELISTELEMENT).check(report, place, "GETDEVICELISTELEMENT", ZERO);
    let pointer = Expect::Answer(&[(reg::RAX, Want::Is(0xff9c_ff9c))]);
    Access::input(command::GETPTRLOCATION).check(report, place, "GETPTRLOCATION", pointer);
    Access::input(command::GETTIMEFULL).check(report, place, "GETTIMEFULL", ALL_ONES);
}

/// The access at the end of a page whose next page is absent, and across two pages.
pub fn straddling(report: &mut Report, place: Place) {
    let call = Access::input(command::GETVERSION);
    let code = call.code(place.mode);
    let after = code.run_straddling(place, 1, false, |state| call.load(state));
    report.check(
        after.vector == 14
            && after.rip == WINDOW + 0x1000
            && after.cr2 == WINDOW + 0x1000
            && after.registers[reg::RAX] as u32 == 6,
        "last byte of a page",
        format_args!("{place} rax {:x} vector {} rip {:x}", after.registers[reg::RAX], after.vector, after.rip),
    );
    let narrow = Access { width: 2, ..call };
    let code = narrow.code(place.mode);
    let after = code.run_straddling(place, 1, true, |state| narrow.load(state));
    narrow.judge(report, place, "across two pages", VERSION, &code, WINDOW + 0xfff, after);
    let after = code.run_straddling(place, 1, false, |state| narrow.load(state));
    report.check(
        after.vector == 14 && after.rip == WINDOW + 0xfff && after.cr2 == WINDOW + 0x1000,
        "into an absent page",
        format_args!("{place} vector {} rip {:x} cr2 {:x}", after.vector, after.rip, after.cr2),
    );
    // Fourteen prefixes make the longest instruction there is.
    let code = Code::new(place.mode).raw(&[0x3e; 14]).raw(&[0xed]);
    let after = code.run_straddling(place, 7, true, |state| call.load(state));
    call.judge(report, place, "15 bytes across two pages", VERSION, &code, WINDOW + 0xff9, after);
}

/// #GP that has nothing to do with the port comes back to the guest as the processor raised it.
pub fn other_faults(report: &mut Report, place: Place) {
    let mut expect = |what: &str, code: Code, vector: u64, error: u64, set: &dyn Fn(&mut State)| {
        let after = code.run(place, set);
        let external = if what.contains("broken gate is #GP") { error | 1 } else { error };
        // QEMU counts a gate's error code in 16-byte steps in long mode, processors in 8-byte steps.
        let doubled = place.mode.is_long() && error & 2 != 0 && after.error == (error & !7) * 2 + 2;
        // Bit 0 tells that an exception was in delivery, on Intel's processors and not on QEMU's.
        let known = [error, external].contains(&after.error) || doubled;
        report.check(
            after.vector == vector && known && (vector == 8 || after.rip == CODE),
            what,
            format_args!("{place} vector {} error {:#x} rip {:x}", after.vector, after.error, after.rip),
        );
    };
    let code = || Code::new(place.mode);
    expect("hlt in ring 3", code().raw(&[0xf4]), 13, 0, &|_| {});
    expect("cli in ring 3", code().raw(&[0xfa]), 13, 0, &|_| {});
    expect("mov ds, bad selector", code().raw(&[0x8e, 0xd8]), 13, selector::BEYOND, &|state| {
        state.registers[reg::RAX] = selector::BEYOND;
    });
    expect("int to a closed gate", code().raw(&[0xcd, 0x30]), 13, 0x30 * 8 + 2, &|_| {});
    expect("string i/o at another port", code().raw(&[0x6c]), 13, 0, &|state| state.registers[reg::RDX] = 0x1234);
    set_gate(0, GATE_BROKEN);
    expect("#DE through a broken gate is #DF", code().raw(&[0xf7, 0xf1]), 8, 0, &|_| {});
    set_gate(0, GATE);
    set_gate(6, GATE_BROKEN);
    expect("#UD through a broken gate is #GP", code().raw(&[0x0f, 0x0b]), 13, 6 * 8 + 2, &|_| {});
    set_gate(6, GATE);
    through_an_absent_gate(report, place);
}

/// #GP whose gate is absent becomes #DF. QEMU does not merge the two when a hypervisor injected the #GP: there the
/// guest sees #NP of the gate.
fn through_an_absent_gate(report: &mut Report, place: Place) {
    set_gate(13, GATE_ABSENT);
    let after = Code::new(place.mode).raw(&[0xf4]).run(place, |_| {});
    set_gate(13, GATE);
    let merged = after.vector == 8 && after.error == 0;
    let not_merged = after.vector == 11 && matches!(after.error, 0x6a | 0xd2);
    report.check(
        merged || not_merged,
        "#GP through an absent gate is #DF",
        format_args!("{place} vector {} error {:#x} rip {:x}", after.vector, after.error, after.rip),
    );
}
