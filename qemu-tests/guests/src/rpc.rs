//! Message channels of the VMware port seen from the guest: a client for both ports that works from any
//! ring, and the checks of what it must see. What the host knows of it is in VMware's public clients:
//! command 30, operation in the high half of ECX, channel in the high half of EDX, cookie in ESI and EDI.

use crate::code::{Code, Place};
use crate::memory::{peek, place as put};
use crate::paging::{WINDOW, map_window};
use crate::port::{MAGIC, PORT};
use crate::report::Report;
use crate::run::{END, State, reg};

/// The high-bandwidth port.
pub const PORT_HIGH: u16 = 0x5659;
/// Command of the channels.
pub const MESSAGE: u64 = 30;
/// The guest asks.
pub const RPCI: u64 = 0x4943_5052;
/// The host commands.
pub const TCLO: u64 = 0x4f4c_4354;
/// The channel gets a cookie.
pub const WITH_COOKIE: u64 = 0x8000_0000;
/// ECX of a success.
pub const SUCCESS: u64 = 0x1_0000;
/// ECX of a message that is announced.
pub const SENDING: u64 = 0x81_0000;
/// ECX of a message that waits.
pub const WAITING: u64 = 0x83_0000;
/// Memory for messages, open to ring 3, above every guest's image.
pub const BUFFER: u64 = 0x40_0000;
/// More of it, for what comes back.
pub const ANSWER: u64 = 0x42_0000;

/// What stands in the upper halves of registers, and must stay there.
const UPPER: u64 = 0xa5a5_5a5a_0000_0000;
const LOW: u64 = 0xffff_ffff;

/// Operations.
pub mod operation {
    /// Opens a channel.
    pub const OPEN: u64 = 0;
    /// Announces a message.
    pub const SEND_SIZE: u64 = 1;
    /// Sends four bytes of it.
    pub const SEND_PAYLOAD: u64 = 2;
    /// Asks for the size of the waiting message.
    pub const RECEIVE_SIZE: u64 = 3;
    /// Takes four bytes of it.
    pub const RECEIVE_PAYLOAD: u64 = 4;
    /// Acknowledges it.
    pub const RECEIVE_STATUS: u64 = 5;
    /// Closes the channel.
    pub const CLOSE: u64 = 6;
}

/// How the bytes of a message travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Four bytes a call, by IN.
    Low,
    /// Four bytes a call, by OUT.
    LowOut,
    /// One string.
    High,
}

/// An open channel.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    /// Where its client runs.
    pub place: Place,
    /// Its number.
    pub id: u64,
    /// High half of the cookie.
    pub high: u64,
    /// Low half of the cookie.
    pub low: u64,
}

/// One operation: the state after it. `output` makes it an OUT.
pub fn operate(place: Place, output: bool, operation: u64, ebx: u64, edx: u64, esi: u64, edi: u64) -> State {
    let code = Code::new(place.mode).op32(&[if output { 0xef } else { 0xed }]);
    code.run(place, |state| {
        state.registers[reg::RAX] = UPPER | u64::from(MAGIC);
        state.registers[reg::RBX] = UPPER | ebx;
        state.registers[reg::RCX] = UPPER | operation << 16 | MESSAGE;
        state.registers[reg::RDX] = UPPER | edx << 16 | u64::from(PORT);
        state.registers[reg::RSI] = UPPER | esi;
        state.registers[reg::RDI] = UPPER | edi;
    })
}

/// Low half of a register after an operation; all ones if the upper half was touched.
pub fn low(state: &State, register: usize) -> u64 {
    let value = state.registers[register];
    if value & !LOW == UPPER { value & LOW } else { u64::MAX }
}

impl Channel {
    /// Opens a channel.
    pub fn open(place: Place, output: bool, protocol: u64) -> Option<Self> {
        let state = operate(place, output, operation::OPEN, protocol, 0, 1, 2);
        let edx = low(&state, reg::RDX);
        let opened = low(&state, reg::RCX) == SUCCESS && edx & 0xffff == 0;
        let (high, low) = (low(&state, reg::RSI), low(&state, reg::RDI));
        opened.then_some(Self { place, id: edx >> 16, high, low })
    }

    /// An operation on it.
    pub fn on(&self, output: bool, operation: u64, ebx: u64) -> State {
        operate(self.place, output, operation, ebx, self.id, self.high, self.low)
    }

    /// ECX of an operation on it.
    pub fn result(&self, operation: u64, ebx: u64) -> u64 {
        low(&self.on(false, operation, ebx), reg::RCX)
    }

    /// A string of `length` bytes at `address`: the state after it.
    pub fn string(&self, input: bool, address: u64, length: u64, backwards: bool) -> State {
        let code = Code::new(self.place.mode).raw(&[0xf3, if input { 0x6c } else { 0x6e }]);
        code.run(self.place, |state| self.load_string(state, input, address, length, backwards))
    }

    /// The registers of a string.
    pub fn load_string(&self, state: &mut State, input: bool, address: u64, length: u64, backwards: bool) {
        state.registers[reg::RAX] = u64::from(MAGIC);
        state.registers[reg::RBX] = UPPER | 0x1_0000;
        state.registers[reg::RCX] = length;
        state.registers[reg::RDX] = self.id << 16 | u64::from(PORT_HIGH);
        let (string, other, cookie) = if input {
            (reg::RDI, reg::RSI, (self.high, self.low))
        } else {
            (reg::RSI, reg::RDI, (self.low, self.high))
        };
        state.registers[string] = if backwards { address + length - 1 } else { address };
        state.registers[other] = cookie.0;
        state.registers[reg::RBP] = cookie.1;
        if backwards {
            state.rflags |= 1 << 10;
        }
    }

    /// Sends the `length` bytes at `address`; `false` when an answer is not what it must be.
    pub fn send(&self, way: Way, address: u64, length: u64) -> bool {
        let output = way == Way::LowOut;
        if low(&self.on(output, operation::SEND_SIZE, length), reg::RCX) != SENDING {
            return false;
        }
        if way == Way::High {
            return length == 0 || string_done(&self.string(false, address, length, false), false, address, length);
        }
        (0..length.div_ceil(4)).all(|piece| {
            let at = address + piece * 4;
            let rest = (length - piece * 4).min(4);
            let word = (0..rest).fold(0, |word, byte| word | u64::from(peek::<u8>(at + byte)) << (8 * byte));
            low(&self.on(output, operation::SEND_PAYLOAD, word), reg::RCX) == SUCCESS
        })
    }

    /// Takes the waiting message to `address`; its length. `None` when there is none or an answer is not what
    /// it must be.
    pub fn receive(&self, way: Way, address: u64) -> Option<u64> {
        let output = way == Way::LowOut;
        let state = self.on(output, operation::RECEIVE_SIZE, 0);
        if low(&state, reg::RCX) != WAITING || low(&state, reg::RDX) != 1 << 16 {
            return None;
        }
        let length = low(&state, reg::RBX);
        if way == Way::High {
            if !string_done(&self.string(true, address, length, false), true, address, length) {
                return None;
            }
        } else {
            for piece in 0..length.div_ceil(4) {
                let state = self.on(output, operation::RECEIVE_PAYLOAD, 1);
                if low(&state, reg::RCX) != SUCCESS || low(&state, reg::RDX) != 2 << 16 {
                    return None;
                }
                let rest = (length - piece * 4).min(4) as usize;
                put(address + piece * 4, low(&state, reg::RBX).to_le_bytes().get(..rest)?);
            }
        }
        (self.result(operation::RECEIVE_STATUS, 1) == SUCCESS).then_some(length)
    }

    /// Asks `request` and compares the answer.
    pub fn ask(&self, way: Way, request: &[u8], answer: &[u8]) -> bool {
        put(BUFFER, request);
        self.send(way, BUFFER, request.len() as u64)
            && self.receive(way, ANSWER) == Some(answer.len() as u64)
            && is(ANSWER, answer)
    }
}

/// Whether a string went to its end, with the registers that the architecture leaves.
pub fn string_done(state: &State, input: bool, address: u64, length: u64) -> bool {
    let index = if input { reg::RDI } else { reg::RSI };
    state.vector == END
        && state.registers[reg::RBX] == UPPER | 0x1_0000
        && state.registers[reg::RCX] == 0
        && state.registers[index] == address + length
}

/// Whether `bytes` stand at `address`.
pub fn is(address: u64, bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(offset, byte)| peek::<u8>(address + offset as u64) == *byte)
}

/// A byte of the long values that the checks use.
pub fn pattern(index: u64, seed: u64) -> u8 {
    1 + ((index.wrapping_mul(31) ^ index >> 8).wrapping_add(seed) % 255) as u8
}

/// Opening, closing, sizes and cookies.
pub fn operations(report: &mut Report, place: Place) {
    for output in [false, true] {
        let state = operate(place, output, operation::OPEN, RPCI | WITH_COOKIE, 0, 1, 2);
        let rax = state.registers[reg::RAX];
        let kept = if output { UPPER | u64::from(MAGIC) } else { u64::from(MAGIC) };
        let edx = low(&state, reg::RDX);
        let right = rax == kept
            && low(&state, reg::RCX) == SUCCESS
            && edx & 0xffff == 0
            && low(&state, reg::RBX) == RPCI | WITH_COOKIE;
        report.check(right, "OPEN", format_args!("{place} out {output} rax {rax:x} edx {edx:x}"));
        let channel = Channel { place, id: edx >> 16, high: low(&state, reg::RSI), low: low(&state, reg::RDI) };
        for (what, wrong) in [
            ("wrong cookie", Channel { low: channel.low ^ 1, ..channel }),
            ("wrong channel", Channel { id: 77, ..channel }),
            ("channel that does not exist", Channel { id: 0xffff, ..channel }),
        ] {
            let state = wrong.on(output, operation::SEND_SIZE, 4);
            report.check(low(&state, reg::RCX) == 0, what, format_args!("{place} rcx {:x}", state.registers[reg::RCX]));
        }
        let too_long = channel.result(operation::SEND_SIZE, 65_537);
        report.check(too_long == 0, "65,537 bytes", format_args!("{place} ecx {too_long:x}"));
        let nothing = channel.result(operation::RECEIVE_SIZE, 0);
        report.check(nothing == SUCCESS, "RECVSIZE, nothing there", format_args!("{place} ecx {nothing:x}"));
        let closed = [channel.result(operation::CLOSE, 0), channel.result(operation::CLOSE, 0)];
        report.check(closed == [SUCCESS, 0], "CLOSE, and again", format_args!("{place} ecx {closed:x?}"));
    }
    let mut count = 0;
    let mut open = [None; 130];
    while let Some(slot) = open.get_mut(count)
        && let Some(channel) = Channel::open(place, false, RPCI)
    {
        *slot = Some(channel);
        count += 1;
    }
    report.check(count == 128, "channels there are", format_args!("{place} {count}"));
    let closed = open.iter().flatten().filter(|channel| channel.result(operation::CLOSE, 0) == SUCCESS).count();
    report.check(closed == count, "all of them close", format_args!("{place} {closed}"));
}

/// Requests and replies, and values of every length class.
pub fn requests(report: &mut Report, place: Place, way: Way) {
    let Some(channel) = Channel::open(place, way == Way::LowOut, RPCI | WITH_COOKIE) else {
        report.check(false, "OPEN", format_args!("{place}"));
        return;
    };
    let table: [(&[u8], &[u8]); 7] = [
        (b"info-get guestinfo.missing", b"0 No value found"),
        (b"info-set guestinfo.a b c", b"1 "),
        (b"info-get guestinfo.A", b"1 b c"),
        (b"info-get guestinfo.ignition.config.data", b"0 No value found"),
        (b"SetGuestInfo  4 build-1\0", b"1 "),
        (b"log rpc: a line\n", b"1 "),
        (b"nonsense", b"0 Unknown command"),
    ];
    for (request, answer) in table {
        let right = channel.ask(way, request, answer);
        report.check(right, "request", format_args!("{place} {way:?} {}", request.escape_ascii()));
    }
    for length in [1u64, 3, 4, 64, 255, 256, 4_096, 64_000] {
        // Long values go by strings; four bytes a call would take minutes.
        if way != Way::High && length > 4_096 {
            continue;
        }
        let right = value(&channel, way, length);
        report.check(right, "value", format_args!("{place} {way:?} {length} bytes"));
    }
    channel.result(operation::CLOSE, 0);
}

/// Sets a value of `length` bytes and gets it back.
pub fn value(channel: &Channel, way: Way, length: u64) -> bool {
    let request = b"info-set guestinfo.value ";
    put(BUFFER + 1, request);
    let start = request.len() as u64;
    for index in 0..length {
        put(BUFFER + 1 + start + index, &[pattern(index, length)]);
    }
    if !channel.send(way, BUFFER + 1, start + length) || channel.receive(way, ANSWER) != Some(2) || !is(ANSWER, b"1 ") {
        return false;
    }
    put(BUFFER, b"info-get guestinfo.value");
    channel.send(way, BUFFER, 24)
        && channel.receive(way, ANSWER + 3) == Some(length + 2)
        && is(ANSWER + 3, b"1 ")
        && (0..length).all(|index| peek::<u8>(ANSWER + 5 + index) == pattern(index, length))
}

/// What a string must do beyond moving bytes.
pub fn strings(report: &mut Report, place: Place) {
    let Some(channel) = Channel::open(place, false, RPCI | WITH_COOKIE) else {
        report.check(false, "OPEN", format_args!("{place}"));
        return;
    };
    for (what, wrong, length) in [
        ("string with a wrong cookie", Channel { low: channel.low ^ 1, high: channel.high ^ 1, ..channel }, 8),
        ("string on a wrong channel", Channel { id: 99, ..channel }, 0x1_0000_0000),
        ("string longer than announced", channel, 9),
    ] {
        channel.result(operation::SEND_SIZE, 8);
        let state = wrong.string(false, BUFFER, length, false);
        let ended = (state.registers[reg::RBX], state.registers[reg::RCX], state.registers[reg::RSI]);
        let right = state.vector == END && ended == (UPPER, 0, BUFFER + length);
        report.check(right, what, format_args!("{place} rbx rcx rsi {ended:x?} vector {}", state.vector));
    }
    channel.result(operation::SEND_SIZE, 8);
    for (index, byte) in b"nonsense".iter().enumerate() {
        put(BUFFER + 7 - index as u64, &[*byte]);
    }
    let state = channel.string(false, BUFFER, 8, true);
    let backwards = state.vector == END && state.registers[reg::RSI] == BUFFER.wrapping_sub(1);
    let length = channel.on(false, operation::RECEIVE_SIZE, 0).registers[reg::RBX] & LOW;
    let state = channel.string(true, ANSWER, length, true);
    let mut answer = *b"0 Unknown command";
    answer.reverse();
    let right = backwards && state.registers[reg::RDI] == ANSWER - 1 && is(ANSWER, &answer);
    report.check(
        right,
        "strings backwards",
        format_args!("{place} {length} bytes back, rdi {:x}", state.registers[reg::RDI]),
    );
    across_an_absent_page(report, &channel);
    let state = Code::new(place.mode).op32(&[0xed]).run(place, |state| {
        state.registers[reg::RAX] = u64::from(MAGIC);
        state.registers[reg::RDX] = u64::from(PORT_HIGH);
    });
    let rax = state.registers[reg::RAX];
    report.check(rax == LOW && state.vector == END, "plain IN at the high port", format_args!("{place} rax {rax:x}"));
    channel.result(operation::CLOSE, 0);
}

/// A string that reaches an absent page stops there with #PF, and goes on when the page is there.
fn across_an_absent_page(report: &mut Report, channel: &Channel) {
    let (place, start) = (channel.place, WINDOW + 0x1000 - 5);
    put(BUFFER + 0x1000 - 5, b"nonsen");
    put(BUFFER + 0x1001, b"se");
    let code = Code::new(place.mode).raw(&[0xf3, 0x6e]);
    map_window(0, Some(BUFFER));
    map_window(1, None);
    channel.result(operation::SEND_SIZE, 8);
    let stopped = code.run(place, |state| channel.load_string(state, false, start, 8, false));
    let [_, rcx, ..] = stopped.registers;
    let right = stopped.vector == 14
        && stopped.cr2 == WINDOW + 0x1000
        && (rcx, stopped.registers[reg::RSI]) == (3, WINDOW + 0x1000)
        && stopped.rip == crate::machine::CODE;
    report.check(
        right,
        "string into an absent page",
        format_args!("{place} vector {} cr2 {:x} rcx {rcx}", stopped.vector, stopped.cr2),
    );
    map_window(1, Some(BUFFER + 0x1000));
    let ended = code.run(place, |state| {
        let rip = state.rip;
        let kept = *state;
        *state = stopped;
        (state.rip, state.rflags, state.cs, state.ss) = (rip, kept.rflags, kept.cs, kept.ss);
    });
    let right = string_done(&ended, false, start, 8);
    report.check(
        right,
        "and on from there",
        format_args!("{place} vector {} rbx {:x}", ended.vector, ended.registers[reg::RBX]),
    );
    map_window(1, None);
    let length = channel.on(false, operation::RECEIVE_SIZE, 0).registers[reg::RBX] & LOW;
    let faulted = channel.string(true, WINDOW + 0x1000 - 2, length, false);
    let right = faulted.vector == 14 && faulted.cr2 == WINDOW + 0x1000 && faulted.registers[reg::RCX] == length - 2;
    report.check(
        right,
        "string from the host into an absent page",
        format_args!("{place} vector {} rcx {}", faulted.vector, faulted.registers[reg::RCX]),
    );
    let again = channel.receive(Way::Low, ANSWER);
    report.check(
        again == Some(17) && is(ANSWER, b"0 Unknown command"),
        "and the message is still there",
        format_args!("{place} {again:?}"),
    );
    map_window(0, None);
}

/// The host's commands.
pub fn commands(report: &mut Report, place: Place, way: Way) {
    let Some(channel) = Channel::open(place, false, TCLO | WITH_COOKIE) else {
        report.check(false, "OPEN", format_args!("{place}"));
        return;
    };
    let mut said = |what: &str, send: &[u8], expected: Option<&[u8]>| {
        put(BUFFER, send);
        let sent = channel.send(way, BUFFER, send.len() as u64);
        let got = channel.receive(way, ANSWER);
        let right = sent && got == expected.map(|text| text.len() as u64) && is(ANSWER, expected.unwrap_or_default());
        report.check(right, what, format_args!("{place} {way:?} sent {sent} got {got:?}"));
    };
    said("TCLO starts with a reset", b"", Some(b"reset"));
    said("then come the capabilities", b"OK ATR toolbox", Some(b"Capabilities_Register"));
    said("then nothing", b"OK ", None);
    said("nor after a sign of life", b"", None);
    if let Some(rpci) = Channel::open(place, false, RPCI) {
        let option = rpci.ask(way, b"vmx.set_option synctime 0 1", b"1 ");
        report.check(option, "synctime is set", format_args!("{place}"));
        let options = Code::new(place.mode).op32(&[0xed]).run(place, |state| {
            state.registers[reg::RAX] = u64::from(MAGIC);
            state.registers[reg::RCX] = 13;
            state.registers[reg::RDX] = u64::from(PORT);
        });
        report.check(options.registers[reg::RAX] == 0x400, "and GETGUIOPTIONS says so", format_args!("{place}"));
        let mut told = |what: &str, expected: &[u8]| {
            let sent = channel.send(way, BUFFER, 0);
            let got = channel.receive(way, ANSWER);
            report.check(sent && is(ANSWER, expected), what, format_args!("{place} {got:?}"));
            put(BUFFER, b"OK ");
            channel.send(way, BUFFER, 3);
        };
        told("and the tools are told", b"Set_Option synctime 1");
        let back = rpci.ask(way, b"vmx.set_option synctime 1 0", b"1 ");
        told("and of the end", b"Set_Option synctime 0");
        report.check(back, "synctime is cleared", format_args!("{place}"));
        rpci.result(operation::CLOSE, 0);
    }
    channel.result(operation::CLOSE, 0);
}
