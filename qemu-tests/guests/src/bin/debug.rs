//! Debug exceptions, the flags that exceptions push, the end of an NMI handler, and states that only some processors let a
//! guest have: none of them ends the machine.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};
use guests::{
    apic::{self, msr},
    code::{Code, Place, RESUME_FLAG, ended},
    machine::{self, CODE, DATA},
    memory::{cpuid, poke},
    paging,
    report::Report,
    run::{Mode, reg},
};

guests::entry!(long64, main);

const DEBUG: u64 = 1;
const UNDEFINED: u64 = 6;
const PROTECTION: u64 = 13;
const TRAP_FLAG: u64 = 1 << 8;
/// DR6 with nothing set, its BD and BS, and DR7 with nothing enabled.
const DR6: u64 = 0xffff_0ff0;
const DETECTED: u64 = 1 << 13;
const STEPPED: u64 = 1 << 14;
const DR7: u64 = 0x400;
const MAGIC: u64 = 0x564d_5868;
const PORT: u64 = 0x5658;
/// The port's command for the rates of TSC and local APIC.
const RATES: u64 = 45;
const PAT: u64 = 0x277;

// The handler of NMIs counts them; in the first it sends the second. It counts those that found the IRET not done.
global_asm!(
    ".section .text.debug_nmi, \"ax\"",
    "debug_nmi:",
    "push rax",
    "push rcx",
    "push rdx",
    "lea rax, [rip + debug_iret]",
    "cmp [rsp + 24], rax",
    "jne 1f",
    "inc qword ptr [rip + {early}]",
    "1: inc qword ptr [rip + {count}]",
    "cmp qword ptr [rip + {count}], 1",
    "jne 2f",
    "mov ecx, 0x830",
    "mov eax, 0x400",
    "xor edx, edx",
    "wrmsr",
    "2: pop rdx",
    "pop rcx",
    "pop rax",
    "debug_iret: iretq",
    early = sym EARLY,
    count = sym COUNT,
);

static EARLY: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);

/// How often the guest looks for the second NMI.
const LOOKS: u32 = 1_000_000;

fn status() -> u64 {
    let value;
    // SAFETY: reading a debug register changes nothing.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nomem, nostack)) };
    value
}

fn set_debug(status: u64, control: u64) {
    // SAFETY: no breakpoint is enabled.
    unsafe { asm!("mov dr6, {}", "mov dr7, {}", in(reg) status, in(reg) control, options(nomem, nostack)) };
}

/// One emulator of AMD's processors has no INT1; all of Intel's have it.
fn exceptions(report: &mut Report) {
    let amd = cpuid(0)[1] == u32::from_le_bytes(*b"Auth");
    for mode in [Mode::Long, Mode::Compatibility, Mode::Protected, Mode::PagedPae] {
        let place = Place::ring0(mode);
        let after = Code::new(mode).raw(&[0xf1]).run(place, |_| {});
        if (after.vector, after.rip) == (UNDEFINED, CODE) && amd {
            report.note(format_args!("{place}: the processor does not know INT1"));
        } else {
            report.check(
                (after.vector, after.rip, after.rflags & RESUME_FLAG) == (DEBUG, CODE + 1, 0),
                "int1",
                format_args!("{place} vector {} rip {:x} rflags {:x}", after.vector, after.rip, after.rflags),
            );
        }
        let after = Code::new(mode).raw(&[0x0f, 0x22, 0xe0]).run(place, |state| state.registers[reg::RAX] = 1 << 31);
        report.check(
            (after.vector, after.rip, after.rflags & RESUME_FLAG) == (PROTECTION, CODE, RESUME_FLAG),
            "the flags that a fault pushes",
            format_args!("{place} vector {} rip {:x} rflags {:x}", after.vector, after.rip, after.rflags),
        );
    }
}

/// A single step over the port stops after it, whoever answers: the core, or `vmport-rpc`.
fn steps(report: &mut Report) {
    let places = [Place::ring0(Mode::Long), Place::ring3(Mode::Long, 3), Place::ring3(Mode::Long, 0)];
    for place in places.into_iter().chain([Place::ring3(Mode::Compatibility, 0)]) {
        for command in [10, 0x1234] {
            set_debug(DR6, DR7);
            let after = Code::new(place.mode).raw(&[0xed, 0x90]).run(place, |state| {
                state.rflags |= TRAP_FLAG | RESUME_FLAG;
                (state.registers[reg::RAX], state.registers[reg::RCX]) = (MAGIC, command);
                state.registers[reg::RDX] = PORT;
            });
            let flags = after.rflags & (TRAP_FLAG | RESUME_FLAG);
            report.check(
                (after.vector, after.rip, flags, status()) == (DEBUG, CODE + 1, TRAP_FLAG, DR6 | STEPPED),
                "a step over the port",
                format_args!(
                    "{place} command {command} vector {} rip {:x} rflags {:x} dr6 {:x}",
                    after.vector,
                    after.rip,
                    after.rflags,
                    status()
                ),
            );
        }
    }
    set_debug(DR6, DR7);
}

/// Who asks for the rates of the clocks, ring 0 or ring 3, is seen anew at each access.
fn privilege(report: &mut Report) {
    for place in [Place::ring0(Mode::Long), Place::ring3(Mode::Long, 3), Place::ring0(Mode::Protected)]
        .into_iter()
        .chain([Place::ring3(Mode::Protected, 3), Place::ring3(Mode::Long, 0)])
    {
        let after = Code::new(place.mode).raw(&[0xed]).run(place, |state| {
            (state.registers[reg::RAX], state.registers[reg::RCX]) = (MAGIC, RATES);
            state.registers[reg::RDX] = PORT;
        });
        let refused = after.registers[reg::RAX] as u32 == u32::MAX;
        report.check(refused == (place.ring == 3), "the port's privilege", format_args!("{place} refused {refused}"));
    }
}

/// What software set in DR6 stays when a breakpoint comes.
fn breakpoint(report: &mut Report) {
    // mov dr6, rax; mov dr0, rbx; mov dr7, rcx; nop.
    let code = [0x0f, 0x23, 0xf0, 0x0f, 0x23, 0xc3, 0x0f, 0x23, 0xf9, 0x90];
    let after = Code::new(Mode::Long).raw(&code).run(Place::ring0(Mode::Long), |state| {
        state.registers[reg::RAX] = DR6 | DETECTED | STEPPED;
        state.registers[reg::RBX] = CODE + 9;
        state.registers[reg::RCX] = DR7 | 2;
    });
    let found = status();
    set_debug(DR6, DR7);
    report.check(
        (after.vector, after.rip, found) == (DEBUG, CODE + 9, DR6 | DETECTED | STEPPED | 1),
        "DR6 after a breakpoint",
        format_args!("vector {} rip {:x} dr6 {found:x}", after.vector, after.rip),
    );
}

/// An NMI that comes while another is handled waits for the end of its IRET.
fn nmi(report: &mut Report) {
    let mut pointer = [0u8; 10];
    // SAFETY: the instruction stores ten bytes.
    unsafe { asm!("sidt [{}]", in(reg) &mut pointer, options(nostack)) };
    let [_, _, base @ ..] = pointer;
    let handler: u64;
    // SAFETY: an address is computed.
    unsafe { asm!("lea {}, [rip + debug_nmi]", out(reg) handler, options(nomem, nostack)) };
    let gate = u64::from_le_bytes(base) + 2 * 16;
    poke(gate, handler & 0xffff | 8 << 16 | 0x8e << 40 | (handler & 0xffff_0000) << 32);
    poke(gate + 8, handler >> 32);
    apic::write(msr::COMMAND, 0x400);
    let mut looks = LOOKS;
    while COUNT.load(Ordering::Relaxed) < 2 && looks > 0 {
        looks -= 1;
        core::hint::spin_loop();
    }
    machine::set_gate(2, machine::GATE);
    let (count, early) = (COUNT.load(Ordering::Relaxed), EARLY.load(Ordering::Relaxed));
    report.check((count, early) == (2, 0), "NMIs", format_args!("{count}, {early} before the IRET of the last"));
}

/// States that the architecture does not know, where a processor lets them stand.
fn states(report: &mut Report) {
    // pushf; popf; cmp r9, r8; cmpxchg of 8 or 16 bytes at rdi; cpuid.
    let swaps: [(&str, bool, &[u8]); 2] = [
        ("cmpxchg8b after a comparison", true, &[0x0f, 0xc7, 0x0f]),
        ("cmpxchg16b after a comparison", cpuid(1)[2] >> 13 & 1 != 0, &[0x48, 0x0f, 0xc7, 0x0f]),
    ];
    for (what, offered, swap) in swaps.into_iter().filter(|swap| swap.1) {
        for place in [Place::ring0(Mode::Long), Place::ring3(Mode::Long, 0)] {
            let code = Code::new(Mode::Long).raw(&[0x9c, 0x9d, 0x4d, 0x39, 0xc1]).raw(swap).raw(&[0x0f, 0xa2]);
            let after = code.run(place, |state| {
                (state.registers[8], state.registers[reg::RDI]) = (0xffff_8880_0522_9046, DATA);
            });
            report.check(
                ended(&after, &code) && offered,
                what,
                format_args!("{place} vector {} rip {:x} rflags {:x}", after.vector, after.rip, after.rflags),
            );
        }
    }
    let place = Place::ring0(Mode::Long);
    let write = Code::new(Mode::Long).raw(&[0x0f, 0x30]);
    for number in [0xc000_0082, 0xc000_0083, 0xc000_0102, 0x175, 0x176] {
        let values =
            [(number, 0, 0x8000), (PAT, 0x0007_0406, 0x0007_0406), (number, 0, 0)].map(|(number, low, high)| {
                let set = write.run(place, |state| {
                    (state.registers[reg::RCX], state.registers[reg::RAX]) = (number, low);
                    state.registers[reg::RDX] = high;
                });
                (ended(&set, &write), set.vector)
            });
        report.check(
            (values[0].0 || values[0].1 == PROTECTION) && values[1].0 && values[2].0,
            "an address that is not canonical",
            format_args!("MSR {number:#x} {values:?}"),
        );
    }
    // mov rax, cr0; bts rax, 28; mov cr0, rax; mov rbx, cr4; mov cr4, rbx.
    let code = Code::new(Mode::Long)
        .raw(&[0x0f, 0x20, 0xc0, 0x48, 0x0f, 0xba, 0xe8, 28, 0x0f, 0x22, 0xc0])
        .raw(&[0x0f, 0x20, 0xe3, 0x48, 0x0f, 0xba, 0xfb, 7, 0x0f, 0x22, 0xe3]);
    for _ in 0..2 {
        let after = code.run(place, |_| {});
        report.check(
            ended(&after, &code),
            "a reserved bit of CR0",
            format_args!("vector {} rip {:x}", after.vector, after.rip),
        );
    }
    let far = 0x1234_5678_9abc_def0;
    let after = Code::new(Mode::Long).raw(&[0xff, 0xe0]).run(place, |state| state.registers[reg::RAX] = far);
    report.check(after.vector == PROTECTION, "a jump to nowhere", format_args!("vector {}", after.vector));
}

/// The first table of PAE paging counts from the load of CR3 on, not when the guest writes to it.
fn first_table(report: &mut Report) {
    if cpuid(1)[2] & 1 << 26 == 0 {
        return;
    }
    let entry = (paging::root_pae() as u32 + 24).to_le_bytes();
    // or dword [entry], 2; mov esi, cr4; bts esi, 18; mov cr4, esi; xsetbv; and dword [entry], ~2.
    let code = Code::new(Mode::PagedPae)
        .raw(&[0x83, 0x0d])
        .raw(&entry)
        .raw(&[2, 0x0f, 0x20, 0xe6, 0x0f, 0xba, 0xee, 18, 0x0f, 0x22, 0xe6, 0x0f, 0x01, 0xd1, 0x83, 0x25])
        .raw(&entry)
        .raw(&[0xfd]);
    let after = code.run(Place::ring0(Mode::PagedPae), |state| state.registers[reg::RAX] = 1);
    report.check(
        ended(&after, &code),
        "a table of PAE paging that was written and not loaded",
        format_args!("vector {} rip {:x}", after.vector, after.rip),
    );
}

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("debug");
    apic::enable();
    exceptions(&mut report);
    steps(&mut report);
    privilege(&mut report);
    breakpoint(&mut report);
    nmi(&mut report);
    states(&mut report);
    first_table(&mut report);
    report.done()
}
