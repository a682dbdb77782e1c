//! Sets and gets guestinfo for ever, by both ports: what was set must be there, whole, on the next tick. For tests
//! that end services under a running guest.
#![no_std]
#![no_main]

use guests::{
    code::Place,
    machine,
    memory::{peek, place as put},
    report::Report,
    rpc::{self, ANSWER, BUFFER, Channel, RPCI, WITH_COOKIE, Way, operation},
    run::Mode,
};

guests::entry!(long64, main);

/// Ticks from one line to the next: a real line is slow, and while the guest waits for it nothing else is hit.
const NOTED: u64 = 4;

/// Decimal digits of a tick, as many for each.
fn digits(tick: u64) -> [u8; 8] {
    let mut rest = tick;
    let mut text = [b'0'; 8];
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    text
}

/// Sets the tick; `Err` says what went wrong.
fn set(channel: &Channel, way: Way, tick: u64) -> Result<(), &'static str> {
    put(BUFFER, b"info-set guestinfo.tick ");
    put(BUFFER + 24, &digits(tick));
    let sent = channel.send(way, BUFFER, 32);
    let done = channel.receive(way, ANSWER) == Some(2) && rpc::is(ANSWER, b"1 ");
    if sent && done { Ok(()) } else { Err("set") }
}

fn get(channel: &Channel, way: Way, tick: u64) -> Result<(), &'static str> {
    put(BUFFER, b"info-get guestinfo.tick");
    let sent = channel.send(way, BUFFER, 23);
    let length = channel.receive(way, ANSWER);
    let right = length == Some(10) && rpc::is(ANSWER, b"1 ") && rpc::is(ANSWER + 2, &digits(tick));
    if sent && right { Ok(()) } else { Err("get") }
}

fn tick(place: Place, tick: u64) -> Result<(), &'static str> {
    let channel = Channel::open(place, tick.is_multiple_of(2), RPCI | WITH_COOKIE).ok_or("open")?;
    let (first, second) = if tick.is_multiple_of(3) { (Way::Low, Way::High) } else { (Way::High, Way::Low) };
    if tick > 0 {
        get(&channel, first, tick - 1)?;
    }
    set(&channel, second, tick)?;
    get(&channel, first, tick)?;
    if !rpc::value(&channel, Way::High, 1 + tick * 97 % 9_000) {
        return Err("long value");
    }
    if channel.result(operation::CLOSE, 0) != rpc::SUCCESS {
        return Err("close");
    }
    // The next one may open the same channel; with this cookie it must be closed.
    if channel.result(operation::SEND_SIZE, 4) == 0 { Ok(()) } else { Err("closed channel") }
}

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("rpcloop");
    let places = [Place::ring0(Mode::Long), Place::ring3(Mode::Long, 0)];
    for number in 0u64.. {
        let place = places[(number % 2) as usize];
        match tick(place, number) {
            Ok(()) if number % NOTED == 0 => report.note(format_args!("tick {number}")),
            Ok(()) => {}
            Err(what) => {
                let (first, second) = (peek::<u64>(ANSWER), peek::<u64>(ANSWER + 8));
                report.check(false, what, format_args!("{place} tick {number}, answer {first:x} {second:x}"));
            }
        }
    }
    report.done()
}
