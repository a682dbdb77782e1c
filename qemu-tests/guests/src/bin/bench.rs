//! What an exit costs, from guest to guest: the median of 10,000 RDTSC differences for each kind, with the cost
//! of the measurement itself beside it. Under QEMU's `-icount shift=0` a tick is an instruction.
#![no_std]
#![no_main]

use guests::{
    code::{Code, Place},
    machine,
    memory::{peek, poke},
    port::{MAGIC, PORT, command},
    report::{Report, line},
    run::{END, Mode, State, reg},
};

guests::entry!(long64, main);

const ROUNDS: u64 = 10_000;
/// Where the differences are stored, four bytes each; above every guest's image.
const SAMPLES: u64 = 0x80_0000;
/// Where they are counted, four bytes for each value below [`MOST`] and one more for all others.
const COUNTS: u64 = 0x90_0000;
/// Greatest difference that is told apart, ticks.
const MOST: u64 = 1 << 16;

/// The loop around the instruction: R8 counts, RDI stores, R12 to R15 hold EAX to EDX of the call.
fn measured(instruction: &[u8]) -> Code {
    Code::new(Mode::Long)
        .raw(&[0x0f, 0x31]) // rdtsc
        .raw(&[0x41, 0x89, 0xc1]) // mov r9d, eax
        .raw(&[0x4c, 0x89, 0xe0]) // mov rax, r12
        .raw(&[0x4c, 0x89, 0xe9]) // mov rcx, r13
        .raw(&[0x4c, 0x89, 0xf2]) // mov rdx, r14
        .raw(instruction)
        .raw(&[0x0f, 0x31]) // rdtsc
        .raw(&[0x44, 0x29, 0xc8]) // sub eax, r9d
        .raw(&[0xab]) // stosd
        .raw(&[0x49, 0xff, 0xc8]) // dec r8
}

fn run(report: &mut Report, name: &str, place: Place, instruction: &[u8], set: impl Fn(&mut State)) {
    let body = measured(instruction);
    // jnz back to the first byte
    let code = body.raw(&[0x75, (256 - (body.length() + 2)) as u8]);
    let after = code.run(place, |state| {
        state.registers[8] = ROUNDS;
        state.registers[reg::RDI] = SAMPLES;
        set(state);
    });
    if after.vector != END {
        report.check(false, name, format_args!("vector {} rip {:x}", after.vector, after.rip));
        return;
    }
    for value in 0..=MOST {
        poke(COUNTS + value * 4, 0u32);
    }
    for sample in 0..ROUNDS {
        let value = u64::from(peek::<u32>(SAMPLES + sample * 4)).min(MOST);
        poke(COUNTS + value * 4, peek::<u32>(COUNTS + value * 4) + 1);
    }
    line(format_args!("bench {name} {}", quantile(ROUNDS / 2)));
    let (p99, beyond) = (quantile(ROUNDS * 99 / 100), peek::<u32>(COUNTS + MOST * 4));
    report.note(format_args!("{name}: p99 {p99}, {beyond} of {ROUNDS} at {MOST} or more"));
}

fn quantile(rank: u64) -> u64 {
    let mut below = 0;
    for value in 0..MOST {
        below += u64::from(peek::<u32>(COUNTS + value * 4));
        if below > rank {
            return value;
        }
    }
    MOST
}

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("bench");
    let ring0 = Place::ring0(Mode::Long);
    let call = |state: &mut State| {
        state.registers[12] = u64::from(MAGIC);
        state.registers[13] = u64::from(command::GETVERSION);
        state.registers[14] = u64::from(PORT);
    };
    run(&mut report, "floor", ring0, &[], |_| {});
    run(&mut report, "io-unclaimed", ring0, &[0xec], |state| state.registers[14] = 0x1234);
    run(&mut report, "cpuid", ring0, &[0x0f, 0xa2], |_| {});
    run(&mut report, "port-getversion", ring0, &[0xed], call);
    run(&mut report, "port-unknown", ring0, &[0xed], |state| {
        call(state);
        state.registers[13] = u64::from(command::UNKNOWN);
    });
    run(&mut report, "port-getversion-ring3", Place::ring3(Mode::Long, 0), &[0xed], call);
    run(&mut report, "rdmsr-pat", ring0, &[0x0f, 0x32], |state| state.registers[13] = 0x277);
    report.check(true, "measured", format_args!("{ROUNDS} rounds each"));
    report.done()
}
