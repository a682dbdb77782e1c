//! What message channels cost, from guest to guest: one word of four bytes from ring 0, and a whole `info-get` from
//! ring 3 as VMware's tools make it: open, size, request by string, size, reply by string, status, close. Under QEMU's
//! `-icount shift=0` a tick is an instruction.
#![no_std]
#![no_main]

use guests::{
    code::{Code, Place},
    machine,
    memory::{peek, place as put, poke},
    port::{MAGIC, PORT},
    report::{Report, line},
    rpc::{self, ANSWER, BUFFER, Channel, MESSAGE, PORT_HIGH, RPCI, WITH_COOKIE, Way, operation},
    run::{END, Mode, State, reg},
};

guests::entry!(long64, main);

const ROUNDS: u64 = 1_001;
/// Where the sums are kept, eight bytes each, in rising order.
const KEPT: u64 = 0x60_0000;

/// Runs `instruction` between two time stamps: ticks, and RBX, RCX, RDX, RSI, RDI after it.
fn timed(place: Place, instruction: &[u8], set: impl FnOnce(&mut State)) -> (u64, State) {
    let code = Code::new(Mode::Long)
        .raw(&[0x49, 0x89, 0xd2]) // mov r10, rdx
        .raw(&[0x0f, 0x31]) // rdtsc
        .raw(&[0x41, 0x89, 0xc1]) // mov r9d, eax
        .raw(&[0x4c, 0x89, 0xe0]) // mov rax, r12
        .raw(&[0x4c, 0x89, 0xd2]) // mov rdx, r10
        .raw(instruction)
        .raw(&[0x49, 0x89, 0xd2]) // mov r10, rdx
        .raw(&[0x0f, 0x31]) // rdtsc
        .raw(&[0x44, 0x29, 0xc8]) // sub eax, r9d
        .raw(&[0x4c, 0x89, 0xd2]); // mov rdx, r10
    let after = code.run(place, |state| {
        state.registers[12] = u64::from(MAGIC);
        set(state);
    });
    (after.registers[reg::RAX], after)
}

/// Sorts a sample in.
fn keep(count: u64, value: u64) {
    let mut place = count;
    while place > 0 && peek::<u64>(KEPT + (place - 1) * 8) > value {
        poke(KEPT + place * 8, peek::<u64>(KEPT + (place - 1) * 8));
        place -= 1;
    }
    poke(KEPT + place * 8, value);
}

fn print(name: &str) {
    line(format_args!("bench {name} {}", peek::<u64>(KEPT + ROUNDS / 2 * 8)));
}

/// An operation at the low port: ticks, and the state after it.
fn low(place: Place, operation: u64, ebx: u64, edx: u64, cookie: (u64, u64)) -> (u64, State) {
    timed(place, &[0xed], |state| {
        state.registers[reg::RBX] = ebx;
        state.registers[reg::RCX] = operation << 16 | MESSAGE;
        state.registers[reg::RDX] = edx << 16 | u64::from(PORT);
        (state.registers[reg::RSI], state.registers[reg::RDI]) = cookie;
    })
}

/// One word of a message that never ends.
fn word(report: &mut Report) {
    let place = Place::ring0(Mode::Long);
    let Some(channel) = Channel::open(place, false, RPCI | WITH_COOKIE) else {
        return report.check(false, "OPEN", format_args!("no channel"));
    };
    channel.result(operation::SEND_SIZE, 65_536);
    let mut taken = 0;
    for round in 0..ROUNDS {
        let (ticks, state) = low(place, operation::SEND_PAYLOAD, round, channel.id, (channel.high, channel.low));
        taken += u64::from(state.registers[reg::RCX] == rpc::SUCCESS);
        keep(round, ticks);
    }
    report.check(taken == ROUNDS, "words", format_args!("{taken} of {ROUNDS}"));
    print("rpc-word");
    channel.result(operation::CLOSE, 0);
}

/// A whole `info-get` of `length` bytes.
fn get(report: &mut Report, name: &str, length: u64) {
    let place = Place::ring3(Mode::Long, 0);
    let Some(channel) = Channel::open(place, false, RPCI | WITH_COOKIE) else {
        return report.check(false, "OPEN", format_args!("no channel"));
    };
    let set = rpc::value(&channel, Way::High, length);
    channel.result(operation::CLOSE, 0);
    put(BUFFER, b"info-get guestinfo.value");
    let mut right = 0;
    for round in 0..ROUNDS {
        let (opening, opened) = low(place, operation::OPEN, RPCI | WITH_COOKIE, 0, (0, 0));
        let id = opened.registers[reg::RDX] >> 16;
        let (high, cookie) = (opened.registers[reg::RSI], opened.registers[reg::RDI]);
        let step = |operation: u64, ebx: u64| low(place, operation, ebx, id, (high, cookie));
        let (announcing, _) = step(operation::SEND_SIZE, 24);
        let sending = string(place, false, (id, high, cookie), 24);
        let (asking, asked) = step(operation::RECEIVE_SIZE, 0);
        let waiting = asked.registers[reg::RBX];
        let receiving = string(place, true, (id, high, cookie), waiting);
        let (acknowledging, _) = step(operation::RECEIVE_STATUS, 1);
        let (closing, closed) = step(operation::CLOSE, 0);
        let closed = closed.registers[reg::RCX] == rpc::SUCCESS;
        let sum = opening + announcing + sending + asking + receiving + acknowledging + closing;
        right += u64::from(closed && waiting == length + 2 && rpc::is(ANSWER, b"1 "));
        keep(round, sum);
    }
    report.check(set && right == ROUNDS, "info-get", format_args!("{length} bytes, {right} of {ROUNDS}"));
    print(name);
}

/// A string at the high port: its ticks; all ones when it does not end.
fn string(place: Place, input: bool, (id, high, cookie): (u64, u64, u64), length: u64) -> u64 {
    let (ticks, state) = timed(place, &[0xf3, if input { 0x6c } else { 0x6e }], |state| {
        state.registers[reg::RBX] = 0x1_0000;
        state.registers[reg::RCX] = length;
        state.registers[reg::RDX] = id << 16 | u64::from(PORT_HIGH);
        let (rsi, rdi, rbp) = if input { (high, ANSWER, cookie) } else { (BUFFER, cookie, high) };
        state.registers[reg::RSI] = rsi;
        state.registers[reg::RDI] = rdi;
        state.registers[reg::RBP] = rbp;
    });
    if state.vector == END && state.registers[reg::RBX] == 0x1_0000 { ticks } else { u64::MAX / ROUNDS }
}

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("bench");
    word(&mut report);
    get(&mut report, "rpc-get-16", 16);
    get(&mut report, "rpc-get-4096", 4_096);
    report.done()
}
