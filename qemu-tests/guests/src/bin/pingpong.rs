//! Two processors that send each other interrupts in turn; each spins with PAUSE while it waits.
#![no_std]
#![no_main]

use guests::{
    apic::{self, msr},
    machine,
    memory::tsc,
    report::Report,
};

guests::entry!(long64, main);

const ROUNDS: u16 = 40;
/// A millisecond, where the clock counts instructions.
const MOST: u64 = 1_000_000;
/// pause; jmp back.
const SPIN: [u8; 4] = [0xf3, 0x90, 0xeb, 0xfc];
/// How often the guest looks for what another processor does.
const LOOKS: u32 = 20_000_000;

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("pingpong");
    apic::enable();
    apic::prepare_answers();
    apic::start(1);
    let mut looks = LOOKS;
    while apic::counts().0 < 1 && looks > 0 {
        looks -= 1;
        core::hint::spin_loop();
    }
    let (mut longest, mut all) = (0, 0);
    for round in 1..=ROUNDS {
        let begin = tsc();
        apic::send(1, 0x31);
        let vector = apic::open(&SPIN).vector;
        apic::write(msr::END, 0);
        let took = tsc() - begin;
        (longest, all) = (took.max(longest), all + took);
        let taken = apic::counts().1;
        if (vector, taken) != (0x32, round) {
            report.check(false, "answer", format_args!("round {round}: vector {vector:#x}, {taken} interrupts taken"));
        }
    }
    let mean = all / u64::from(ROUNDS);
    report.check(longest <= MOST, "turns", format_args!("{mean} ticks there and back, at most {longest} of {MOST}"));
    report.note(format_args!("{mean} ticks there and back, at most {longest}"));
    report.done()
}
