//! How long a guest stands still when the service behind its message channels is killed while that holds 1 MiB of
//! guestinfo.
#![no_std]
#![no_main]

use guests::{
    code::Place,
    gap, machine,
    memory::{peek, place as put},
    report::Report,
    rpc::{self, ANSWER, BUFFER, Channel, RPCI, Way, operation, pattern},
    run::Mode,
};

guests::entry!(long64, main);

/// Values of this length and, with their keys, just below 1 MiB in all.
const LENGTH: u64 = 65_000;
const VALUES: u8 = 16;
const REQUEST: &[u8] = b"info-set guestinfo.A ";

/// Sets value `number`; `false` when the answer is not that it is set.
fn set(channel: &Channel, number: u8) -> bool {
    put(BUFFER, REQUEST);
    put(BUFFER + REQUEST.len() as u64 - 2, &[b'A' + number]);
    for index in 0..LENGTH {
        put(BUFFER + REQUEST.len() as u64 + index, &[pattern(index, number.into())]);
    }
    channel.send(Way::High, BUFFER, REQUEST.len() as u64 + LENGTH)
        && channel.receive(Way::Low, ANSWER) == Some(2)
        && peek::<u8>(ANSWER) == b'1'
}

extern "C" fn main(_memory: u64) -> ! {
    machine::init();
    let mut report = Report::new("bench");
    let Some(channel) = Channel::open(Place::ring0(Mode::Long), false, RPCI) else {
        report.check(false, "OPEN", format_args!("no channel"));
        report.done();
    };
    let filled = (0..VALUES).filter(|number| set(&channel, *number)).count();
    report.check(filled == VALUES.into(), "values of 65,000 bytes", format_args!("{filled} of {VALUES}"));
    gap::measure(&mut report, "restart-rpc", 15_000, || {
        rpc::operate(channel.place, false, operation::RECEIVE_SIZE, 0, channel.id, 0, 0);
    });
    let kept = (0..VALUES).filter(|number| {
        put(BUFFER, b"info-get guestinfo.A");
        put(BUFFER + 19, &[b'A' + number]);
        channel.send(Way::High, BUFFER, 20)
            && channel.receive(Way::High, ANSWER) == Some(LENGTH + 2)
            && (0..LENGTH).all(|index| peek::<u8>(ANSWER + 2 + index) == pattern(index, u64::from(*number)))
    });
    let kept = kept.count();
    report.check(kept == VALUES.into(), "values that are still there", format_args!("{kept} of {VALUES}"));
    report.done()
}
