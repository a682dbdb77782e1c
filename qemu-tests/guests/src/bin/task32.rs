//! A hardware task switch: a jump to a TSS, which AMD processors let a hypervisor intercept.
#![no_std]
#![no_main]

use guests::{
    code::{Code, Place},
    machine::{self, CODE, STACK, selector},
    memory::{place, poke},
    report::Report,
    run::{END, Mode, reg},
};

guests::entry!(protected32, main);

// Offsets in a 32-bit TSS.
const EIP: u64 = 32;
const EFLAGS: u64 = 36;
const EAX: u64 = 40;
const ESP: u64 = 56;
const SEGMENTS: [(u64, u64); 6] = [
    (72, selector::DATA),
    (76, selector::CODE32),
    (80, selector::DATA),
    (84, selector::DATA),
    (88, selector::DATA),
    (92, selector::DATA),
];

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("task32");
    let tss = machine::other_tss();
    let task = CODE + 0x80;
    place(task, &[0xcd, END as u8]);
    poke(tss + EIP, task as u32);
    poke(tss + EFLAGS, 2u32);
    poke(tss + EAX, 0x7a5cu32);
    poke(tss + ESP, STACK as u32);
    for (offset, segment) in SEGMENTS {
        poke(tss + offset, segment as u32);
    }
    let [low, high] = (selector::OTHER_TSS as u16).to_le_bytes();
    let code = Code::new(Mode::Protected).raw(&[0xea, 0, 0, 0, 0, low, high]);
    let after = code.run(Place::ring0(Mode::Protected), |_| {});
    let switched = after.vector == END && after.rip == task + 2 && after.registers[reg::RAX] as u32 == 0x7a5c;
    // A hypervisor that does not carry out task switches must say so by a fault of the jump.
    let refused = matches!(after.vector, 6 | 13) && after.rip == CODE;
    report.check(
        switched || refused,
        "jump to a task",
        format_args!(
            "vector {} error {:#x} rip {:x} eax {:x}",
            after.vector,
            after.error,
            after.rip,
            after.registers[reg::RAX]
        ),
    );
    report.done()
}
