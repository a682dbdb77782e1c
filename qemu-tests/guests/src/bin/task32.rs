//! Hardware task switches: by jump, by call and IRET, and through task gates of the IDT. AMD processors carry them out
//! in a guest, Intel's leave them to the hypervisor.
#![no_std]
#![no_main]

use guests::{
    code::{Code, Place},
    machine::{self, CODE, DATA, GATE, own_tss, selector},
    memory::{peek, poke},
    paging,
    report::Report,
    run::{END, Mode, State, reg},
    task::{self, AVAILABLE, BUSY, FULL, absolute, far, field, prepare},
};

guests::entry!(protected32, main);

const JUMP: u8 = 0xea;
const CALL: u8 = 0x9a;
const IRET: &[u8] = &[0xcf];
const PUSH_FLAGS: &[u8] = &[0x9c];
const POP_EAX: &[u8] = &[0x58];
const LOAD_EAX: &[u8] = &[0xa1];
const STORE_EAX: &[u8] = &[0xa3];
const INCREMENT: &[u8] = &[0xff, 0x05];
const QUIET_END: &[u8] = &[0xcd, END as u8];
const NESTED: u32 = 1 << 14;
const VIRTUAL_8086: u64 = 1 << 17;

// What the other task leaves in the data page.
const FIRST: u64 = DATA;
const SECOND: u64 = DATA + 4;
const COUNT: u64 = DATA + 8;

/// Code of 32 bits.
fn code() -> Code {
    Code::new(Mode::Protected)
}

fn run(mode: Mode, code: &Code, set: impl FnOnce(&mut State)) -> State {
    [FIRST, SECOND, COUNT].into_iter().for_each(|at| poke(at, 0u32));
    code.run(Place::ring0(mode), set)
}

fn own(offset: u64) -> u32 {
    peek(own_tss() + offset)
}

fn other(offset: u64) -> u32 {
    peek(machine::other_tss() + offset)
}

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("task32");
    jump(&mut report);
    jump_outwards(&mut report);
    jump_to_virtual_8086(&mut report);
    for mode in [Mode::Protected, Mode::Paged, Mode::PagedPae] {
        call_and_return(&mut report, mode);
        gates(&mut report, mode);
    }
    narrow(&mut report);
    refused(&mut report);
    trapped(&mut report);
    report.done()
}

fn jump(report: &mut Report) {
    prepare(Mode::Protected, &code().raw(QUIET_END));
    let after = run(Mode::Protected, &code().raw(&far(JUMP)), |state| state.registers[reg::RBX] = 0xb0b0);
    let rax = after.registers[reg::RAX] as u32;
    report.check(
        after.vector == END && after.rip == task::CODE + 2 && rax == 0x7a5c && task::switched(),
        "jump to a task",
        format_args!("vector {} error {:#x} rip {:x} eax {rax:x}", after.vector, after.error, after.rip),
    );
    let (access, saved, link) = (task::access(), (own(field::EIP), own(field::EAX + 12)), other(field::LINK));
    report.check(
        access == (AVAILABLE, BUSY) && saved == (CODE as u32 + 7, 0xb0b0) && link == 0,
        "what a jump leaves behind",
        format_args!("access {access:x?} eip and ebx {saved:x?} link {link:x}"),
    );
}

fn jump_outwards(report: &mut Report) {
    prepare(Mode::Protected, &code().raw(QUIET_END));
    task::set_segments(selector::USER_CODE32, selector::USER_DATA);
    let after = run(Mode::Protected, &code().raw(&far(JUMP)), |_| {});
    report.check(
        after.vector == END && after.rip == task::CODE + 2 && after.cs == selector::USER_CODE32,
        "jump to a task of ring 3",
        format_args!("vector {} error {:#x} rip {:x} cs {:x}", after.vector, after.error, after.rip, after.cs),
    );
}

fn jump_to_virtual_8086(report: &mut Report) {
    prepare(Mode::Protected, &Code::new(Mode::Virtual86).raw(&[0x8c, 0xd8]).raw(QUIET_END));
    task::set_segments(task::CODE >> 4, 0x1234);
    let tss = machine::other_tss();
    poke(tss + field::EIP, 0u32);
    poke(tss + field::SS, 0u32);
    poke(tss + field::EFLAGS, VIRTUAL_8086 as u32 | 0x3002);
    let after = run(Mode::Protected, &code().raw(&far(JUMP)), |_| {});
    let ax = after.registers[reg::RAX] as u16;
    report.check(
        after.vector == END && (after.cs, after.rip) == (task::CODE >> 4, 4) && ax == 0x1234,
        "jump to a task of virtual-8086 mode",
        format_args!("vector {} error {:#x} at {:x}:{:x} ds {ax:x}", after.vector, after.error, after.cs, after.rip),
    );
    report.check(
        after.rflags & VIRTUAL_8086 != 0,
        "flags of a task of virtual-8086 mode",
        format_args!("{:x}", after.rflags),
    );
}

/// The task is called twice: it goes on where it has returned.
fn call_and_return(report: &mut Report, mode: Mode) {
    let body = absolute(code().raw(PUSH_FLAGS).raw(POP_EAX), STORE_EAX, FIRST);
    let body = absolute(body.raw(&[0x0f, 0x20, 0xd8]), STORE_EAX, SECOND);
    let body = absolute(body, INCREMENT, COUNT).raw(IRET);
    let back = (body.length() as u8 + 2).wrapping_neg();
    prepare(mode, &body.raw(&[0xeb, back]));
    let after = run(mode, &code().raw(&far(CALL)).raw(&far(CALL)), |state| state.registers[reg::RAX] = 0xa0a0);
    let rax = after.registers[reg::RAX] as u32;
    let place = Place::ring0(mode);
    report.check(
        after.vector == END && after.rip == CODE + 16 && rax == 0xa0a0 && task::switched(),
        "calls to a task come back",
        format_args!("{place} vector {} error {:#x} rip {:x} eax {rax:x}", after.vector, after.error, after.rip),
    );
    let (flags, cr3, count) = (peek::<u32>(FIRST), peek::<u32>(SECOND), peek::<u32>(COUNT));
    report.check(
        flags & NESTED != 0 && u64::from(cr3) == task::other_root(mode) && count == 2,
        "what a called task sees",
        format_args!("{place} flags {flags:x} cr3 {cr3:x} calls {count}"),
    );
    let (access, link, eip) = (task::access(), other(field::LINK), other(field::EIP));
    let flags = (other(field::EFLAGS), after.rflags as u32);
    report.check(
        access == (BUSY, AVAILABLE)
            && u64::from(link) == selector::OWN_TSS
            && u64::from(eip) == task::CODE + body.length()
            && (flags.0 | flags.1) & NESTED == 0,
        "what a return leaves behind",
        format_args!("{place} access {access:x?} link {link:x} eip {eip:x} flags {flags:x?}"),
    );
}

/// What comes to the other task through a task gate.
struct Gated {
    what: &'static str,
    vector: u64,
    code: Code,
    /// Bytes of the instruction that the exception found, to be passed over by the other task.
    skips: u8,
    error: Option<u32>,
}

fn gates(report: &mut Report, mode: Mode) {
    let code = code();
    let load = absolute(code, LOAD_EAX, paging::WINDOW);
    let paged = mode != Mode::Protected;
    let table = [
        Gated { what: "#UD", vector: 6, code: code.raw(&[0x0f, 0x0b]), skips: 2, error: None },
        Gated {
            what: "#GP",
            vector: 13,
            code: code.raw(&[0x8e, 0xdb]),
            skips: 2,
            error: Some(selector::BEYOND as u32),
        },
        Gated { what: "#PF", vector: 14, code: load, skips: 5, error: Some(0) },
        Gated { what: "INT", vector: 0x41, code: code.raw(&[0xcd, 0x41]), skips: 0, error: None },
        Gated { what: "INT3", vector: 3, code: code.raw(&[0xcc]), skips: 0, error: None },
    ];
    paging::map_window(0, None);
    table.iter().filter(|gated| paged || gated.vector != 14).for_each(|gated| gate(report, mode, gated));
}

fn gate(report: &mut Report, mode: Mode, gated: &Gated) {
    let mut body = code();
    if gated.error.is_some() {
        body = absolute(body.raw(POP_EAX), STORE_EAX, SECOND);
    }
    body = absolute(absolute(body, LOAD_EAX, own_tss() + field::EIP), STORE_EAX, FIRST);
    body = absolute(body, &[0x83, 0x05], own_tss() + field::EIP).raw(&[gated.skips]);
    prepare(mode, &absolute(body, INCREMENT, COUNT).raw(IRET));
    machine::set_task_gate(gated.vector, selector::OTHER_TSS);
    let after = run(mode, &gated.code, |state| state.registers[reg::RBX] = selector::BEYOND);
    machine::set_gate(gated.vector, GATE);
    let (eip, error, count) = (peek::<u32>(FIRST), peek::<u32>(SECOND), peek::<u32>(COUNT));
    let found = CODE + gated.code.length() - u64::from(gated.skips);
    let (access, esp) = (task::access(), u64::from(other(field::ESP)));
    report.check(
        after.vector == END
            && after.rip == CODE + gated.code.length() + 2
            && (u64::from(eip), error, count) == (found, gated.error.unwrap_or(0), 1)
            && (access, esp) == ((BUSY, AVAILABLE), task::TASK_STACK),
        "a task gate, and back",
        format_args!(
            "{} {} vector {} rip {:x} eip {eip:x} error {error:x} times {count} access {access:x?} esp {esp:x}",
            Place::ring0(mode),
            gated.what,
            after.vector,
            after.rip
        ),
    );
}

/// A task of 16 bits, whose general registers' upper halves are nobody's.
fn narrow(report: &mut Report) {
    let body = absolute(code(), INCREMENT, COUNT).raw(IRET);
    prepare(Mode::Protected, &body);
    task::narrow();
    let after = run(Mode::Protected, &code().raw(&far(CALL)), |state| state.registers[reg::RAX] = 0x1234_5678);
    let (rax, count) = (after.registers[reg::RAX] as u32, peek::<u32>(COUNT));
    let (access, link) = (task::access(), peek::<u16>(machine::other_tss()));
    report.check(
        after.vector == END
            && (after.rip, rax, count) == (CODE + 9, 0x1234_5678, 1)
            && (access, link.into()) == ((BUSY, AVAILABLE & !FULL), selector::OWN_TSS),
        "a call to a task of 16 bits comes back",
        format_args!(
            "vector {} error {:#x} rip {:x} eax {rax:x} calls {count} access {access:x?} link {link:x}",
            after.vector, after.error, after.rip
        ),
    );
}

/// Segments that the other task may not have: the exception is raised there, and names its first instruction.
fn refused(report: &mut Report) {
    for (what, at) in [("LDT", field::LDT), ("CS", field::CS), ("SS", field::SS), ("DS", field::DS)] {
        prepare(Mode::Protected, &code().raw(QUIET_END));
        poke(machine::other_tss() + at, selector::BEYOND as u32);
        let after = run(Mode::Protected, &code().raw(&far(JUMP)), |_| {});
        let access = task::access();
        report.check(
            (after.vector, after.error) == (10, selector::BEYOND) && access == (AVAILABLE, BUSY),
            "a segment that is not there",
            format_args!("{what} vector {} error {:#x} access {access:x?}", after.vector, after.error),
        );
        report.check(
            after.rip == task::CODE,
            "where a new task is refused a segment",
            format_args!("{what} rip {:x}", after.rip),
        );
    }
}

/// The trap flag of the other task: a debug exception before its first instruction.
fn trapped(report: &mut Report) {
    prepare(Mode::Protected, &code().raw(QUIET_END));
    poke(machine::other_tss() + field::TRAP, 1u32);
    let after = run(Mode::Protected, &code().raw(&far(JUMP)), |_| {});
    report.check(
        (after.vector, after.rip) == (1, task::CODE),
        "the trap flag of a task",
        format_args!("vector {} error {:#x} rip {:x}", after.vector, after.error, after.rip),
    );
    report.check(task::take_trap_cause(), "why DR6 says a task was trapped", format_args!("BT"));
}
