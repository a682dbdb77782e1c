//! Interrupts: timer modes, halts, interrupts between processors, NMIs, the serial port's, the clock, a reset
//! and the way off. The machine is reset once in the middle; what tells the second run is guestinfo, which a reset
//! keeps, where it clears memory.
#![no_std]
#![no_main]

use guests::{
    apic::{self, msr, timer},
    code::{Code, Place},
    machine,
    memory::{inb, outb, peek, poke, tsc},
    report::{Report, halt},
    rpc::{Channel, RPCI, SUCCESS, WITH_COOKIE, Way, operation},
    run::{END, Mode},
};

guests::entry!(long64, main);

/// Memory that the first run leaves a mark in, and the second finds cleared.
const MARKED: u64 = 0x7f00;
const MARK: u64 = 0x5274_6573_6552_2121;
/// Ticks of the APIC timer and of the TSC that are long against an exit.
const WHILE: u64 = 2_000_000;
/// How often the guest looks for what another processor does.
const LOOKS: u32 = 20_000_000;

/// Whether a request by VMware's port is answered so.
fn asked(request: &[u8], answer: &[u8]) -> bool {
    let channel = Channel::open(Place::ring0(Mode::Long), false, RPCI | WITH_COOKIE);
    channel.is_some_and(|channel| {
        let right = channel.ask(Way::Low, request, answer);
        right && channel.result(operation::CLOSE, 0) == SUCCESS
    })
}

fn timers(report: &mut Report) {
    apic::write(msr::DIVIDE, 0xb);
    let cases = [("one-shot", timer::ONE_SHOT, 0x40u64), ("periodic", timer::PERIODIC, 0x41)];
    for (name, mode, vector) in cases {
        apic::write(msr::TIMER, mode | vector);
        let before = tsc();
        apic::write(msr::INITIAL, WHILE);
        let first = apic::wait();
        let again = mode == timer::PERIODIC;
        let second = if again { apic::wait() } else { vector };
        let passed = tsc() - before;
        apic::write(msr::INITIAL, 0);
        // A period that ended before the timer stopped.
        while again && apic::open(&[0x90]).vector == vector {
            apic::write(msr::END, 0);
        }
        let left = apic::read(msr::CURRENT);
        report.check(
            (first, second, left) == (vector, vector, 0) && passed >= WHILE / 2,
            name,
            format_args!("vectors {first:#x} {second:#x} after {passed} ticks, {left} left"),
        );
    }
    apic::write(msr::TIMER, timer::DEADLINE | 0x42);
    let deadline = tsc() + WHILE;
    apic::write(msr::DEADLINE, deadline);
    let armed = apic::read(msr::DEADLINE);
    let vector = apic::wait();
    let (now, left) = (tsc(), apic::read(msr::DEADLINE));
    report.check(
        vector == 0x42 && armed == deadline && now >= deadline && left == 0,
        "deadline",
        format_args!("vector {vector:#x}, {} ticks late", now.wrapping_sub(deadline)),
    );
    apic::write(msr::TIMER, timer::MASKED);
}

fn itself(report: &mut Report) {
    apic::write(msr::SELF, 0x50);
    apic::write(msr::SELF, 0x61);
    let (high, low) = (apic::wait(), apic::wait());
    report.check((high, low) == (0x61, 0x50), "priority", format_args!("vectors {high:#x} {low:#x}"));
    // nop; sti; nop; nop: the interrupt waits for the shadow's end.
    apic::write(msr::SELF, 0x51);
    let after = Code::new(Mode::Long).raw(&[0x90, 0xfb, 0x90, 0x90]).run(Place::ring0(Mode::Long), |_| {});
    apic::write(msr::END, 0);
    let offset = after.rip - machine::CODE;
    report.check((after.vector, offset) == (0x51, 3), "shadow", format_args!("vector {:#x} at {offset}", after.vector));
    // mov ecx, 0x830; mov eax, 0x400; xor edx, edx; wrmsr; nop: interrupts are off, which an NMI does not mind.
    let send = [0xb9, 0x30, 0x08, 0, 0, 0xb8, 0, 0x04, 0, 0, 0x31, 0xd2, 0x0f, 0x30, 0x90];
    let after = Code::new(Mode::Long).raw(&send).run(Place::ring0(Mode::Long), |_| {});
    report.check(after.vector == 2, "NMI", format_args!("vector {:#x}", after.vector));
    let quiet = apic::open(&[0x90]);
    report.check(quiet.vector == END, "quiet", format_args!("vector {:#x}", quiet.vector));
}

fn others(report: &mut Report, processors: u64) {
    apic::prepare();
    for id in 1..processors {
        apic::start(id);
    }
    let all = (processors - 1) as u16;
    let mut looks = LOOKS;
    while apic::counts().0 < all && looks > 0 {
        looks -= 1;
        core::hint::spin_loop();
    }
    for id in 1..processors {
        apic::send(id, 0x31);
    }
    // And once more to all others, by shorthand, when the first are taken.
    while apic::counts().1 < all && looks > 0 {
        looks -= 1;
        core::hint::spin_loop();
    }
    apic::write(msr::COMMAND, 0xc_0031);
    while apic::counts().1 < 2 * all && looks > 0 {
        looks -= 1;
        core::hint::spin_loop();
    }
    let (starts, interrupts) = apic::counts();
    report.check(
        (starts, interrupts) == (all, 2 * all),
        "processors",
        format_args!("{starts} of {all} started, {interrupts} interrupts"),
    );
}

fn serial(report: &mut Report) {
    apic::route(4, 0x70);
    outb(0x3fc, 0x0b);
    outb(0x3f9, 2);
    let vector = apic::wait();
    let (cause, after) = (inb(0x3fa), inb(0x3fa));
    outb(0x3f9, 0);
    report.check(
        (vector, cause & 0xf, after & 0xf) == (0x70, 2, 1),
        "serial interrupt",
        format_args!("vector {vector:#x}, identification {cause:#x} then {after:#x}"),
    );
}

fn clock(report: &mut Report) {
    let cell = |index| {
        outb(0x70, index);
        inb(0x71)
    };
    let [century, year, month, day] = [0x32, 9, 8, 7].map(cell);
    let status = [0xa, 0xb, 0xd].map(cell);
    let sane = (0x20..=0x21).contains(&century) && (1..=0x12).contains(&month) && (1..=0x31).contains(&day);
    report.check(
        sane && status == [0x26, 2, 0x80],
        "clock",
        format_args!("{century:02x}{year:02x}-{month:02x}-{day:02x}, status {status:x?}"),
    );
}

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("interrupts");
    apic::enable();
    if !asked(b"info-get guestinfo.run", b"1 first") {
        report.check(asked(b"info-set guestinfo.run first", b"1 "), "guestinfo", format_args!("this is the first run"));
        poke(MARKED, MARK);
        timers(&mut report);
        itself(&mut report);
        serial(&mut report);
        clock(&mut report);
        others(&mut report, 3);
        report.check(true, "reset", format_args!("follows"));
        outb(0xcf9, 6);
        halt()
    }
    // After the reset everything works as before.
    let mark = peek::<u64>(MARKED);
    report.check(mark == 0, "memory", format_args!("{mark:#x} where the first run left a mark"));
    timers(&mut report);
    others(&mut report, 3);
    report.note(format_args!("done; the machine goes off"));
    outb(0x600, 0x34);
    halt()
}
