//! What the person who starts the guest chose, as guestinfo.

use crate::code::Place;
use crate::memory::peek;
use crate::rpc::{ANSWER, BUFFER, Channel, RPCI, Way};
use crate::run::Mode;

/// The number that guestinfo holds under `key`, which stands with its prefix; `None` when it holds none.
pub fn number(key: &[u8]) -> Option<u64> {
    let channel = Channel::open(Place::ring0(Mode::Long), false, RPCI)?;
    let command = b"info-get ";
    crate::memory::place(BUFFER, command);
    crate::memory::place(BUFFER + command.len() as u64, key);
    let length = (command.len() + key.len()) as u64;
    let answer = channel.send(Way::Low, BUFFER, length).then(|| channel.receive(Way::Low, ANSWER)).flatten();
    channel.result(crate::rpc::operation::CLOSE, 0);
    // "1 " and the digits; a key that is not there is answered with "0 " and a reason.
    let digits = (2..answer?).map(|index| peek::<u8>(ANSWER + index));
    let found = peek::<u8>(ANSWER) == b'1';
    found.then(|| digits.fold(0u64, |value, digit| value.wrapping_mul(10).wrapping_add(u64::from(digit & 0xf))))
}
