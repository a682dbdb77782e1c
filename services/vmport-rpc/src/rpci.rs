//! Requests of the guest: what a message asks for. Pure: a request is read from the beginning of its message
//! and from the message's length.
//!
//! The first word, up to a blank, a zero or the end, is the command. A text command ends at its first zero;
//! a command with binary content keeps every byte, but none of those is looked into here.

use portcullis_ipc::guestinfo::{KEY_BYTES, check_key, strip_prefix};

/// Bytes from the beginning of a message that are enough to read any request: the longest is `info-set` with
/// the longest key.
pub const HEAD: usize = 9 + 10 + KEY_BYTES + 2;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// The value of a key, prefix left out.
    Get(&'a [u8]),
    /// A new value: the key, where it starts, and where the value starts.
    Set(&'a [u8], usize, usize),
    /// A line for the log, which starts here.
    Log(usize),
    /// The guest follows the host's clock, or does not.
    Synchronize(bool),
    /// What the guest's tools know about it: kept.
    Info {
        /// Which knowledge, below [`INFO`].
        number: u8,
        /// Where it starts; everything before names it.
        value: usize,
    },
    /// Taken note of: the guest reports something.
    Report,
    /// A key of another name space, which a guest may not set.
    Denied,
    /// A key or a value is missing.
    Incomplete,
    /// The key is longer than a key may be.
    KeyTooLong,
    /// Anything else.
    Unknown,
}

/// Commands by which a guest reports something, and the reply says no more than that it arrived.
const REPORTS: [&[u8]; 8] = [
    b"SetGuestDiskInfo",
    b"tools.set.version",
    b"tools.set.versiontype",
    b"tools.os.statechange.status",
    b"update.tools.health",
    b"deployPkg.update.state",
    b"vmbackup.eventSet",
    b"vmx.capability.unified_loop",
];
/// Numbers of `SetGuestInfo` that are kept are below this.
pub const INFO: u8 = 16;
/// What the commands start with by which a guest says what it can do.
const CAPABILITY: &[u8] = b"tools.capability.";

/// Reads the request whose message has `length` bytes and begins with `head`, which holds [`HEAD`] of them or
/// all.
pub fn parse(head: &[u8], length: usize) -> Request<'_> {
    let end = head.iter().position(|byte| matches!(byte, b' ' | 0)).unwrap_or(head.len());
    let (command, rest) = head.split_at_checked(end).unwrap_or_default();
    let argument = match rest.split_first() {
        Some((b' ', argument)) => argument,
        _ => &[],
    };
    let after = (end + 1).min(length);
    match command {
        b"info-get" => get(text(argument)),
        b"info-set" => set(text(argument), after),
        b"log" => Request::Log(after),
        b"vmx.set_option" => option(text(argument)),
        b"SetGuestInfo" => info(argument, after),
        _ if REPORTS.contains(&command) || command.starts_with(CAPABILITY) => Request::Report,
        _ => Request::Unknown,
    }
}

/// Up to the first zero.
fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn get(name: &[u8]) -> Request<'_> {
    match strip_prefix(name) {
        _ if name.is_empty() => Request::Incomplete,
        Some(key) if key.len() > KEY_BYTES => Request::KeyTooLong,
        // No entry has an empty key, so it has no value; nor has one that no guest can set.
        Some(key) if key.contains(&b' ') => Request::Get(&[]),
        Some(key) => Request::Get(key),
        None => Request::Get(&[]),
    }
}

fn set(argument: &[u8], start: usize) -> Request<'_> {
    let Some(blank) = argument.iter().position(|byte| *byte == b' ') else {
        return if argument.len() > KEY_BYTES + 10 { Request::KeyTooLong } else { Request::Incomplete };
    };
    let name = argument.get(..blank).unwrap_or_default();
    match strip_prefix(name) {
        None => Request::Denied,
        Some([]) => Request::Incomplete,
        Some(key) if key.len() > KEY_BYTES => Request::KeyTooLong,
        Some(key) if check_key(key).is_err() => Request::Denied,
        Some(key) => Request::Set(key, start + blank - key.len(), start + blank + 1),
    }
}

/// Two blanks, a number, a blank, and the value, which may be binary. A number has one spelling, so that what is told
/// under it has one key.
fn info(argument: &[u8], start: usize) -> Request<'_> {
    let digits = argument.strip_prefix(b" ").unwrap_or_default();
    let Some(end) = digits.iter().position(|byte| *byte == b' ') else { return Request::Report };
    let number = match digits.get(..end) {
        Some(&[one @ b'0'..=b'9']) => one - b'0',
        Some(&[ten @ b'1'..=b'9', one @ b'0'..=b'9']) => (ten - b'0') * 10 + (one - b'0'),
        _ => return Request::Report,
    };
    if number >= INFO {
        return Request::Report;
    }
    Request::Info { number, value: start + 1 + end + 1 }
}

/// `synctime OLD NEW`.
fn option(argument: &[u8]) -> Request<'_> {
    let mut words = argument.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(b"synctime"), Some(_), Some(b"1"), None) => Request::Synchronize(true),
        (Some(b"synctime"), Some(_), Some(b"0"), None) => Request::Synchronize(false),
        _ => Request::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_request_is_told_from_the_others() {
        let table: &[(&[u8], Request<'_>)] = &[
            (b"info-get guestinfo.a", Request::Get(b"a")),
            (b"info-get guestinfo.ovfEnv\0", Request::Get(b"ovfEnv")),
            (b"info-get GUESTINFO.a\0\0\0rest", Request::Get(b"a")),
            (b"info-get guestinfo.", Request::Get(b"")),
            (b"info-get machine.id", Request::Get(b"")),
            (b"info-get", Request::Incomplete),
            (b"info-get ", Request::Incomplete),
            (b"info-set guestinfo.a b c", Request::Set(b"a", 19, 21)),
            (b"info-set guestinfo.a ", Request::Set(b"a", 19, 21)),
            (b"info-set guestinfo.a  b", Request::Set(b"a", 19, 21)),
            (b"info-set guestinfo.a", Request::Incomplete),
            (b"info-set guestinfo. b", Request::Incomplete),
            (b"info-set", Request::Incomplete),
            (b"info-set machine.id b", Request::Denied),
            (b"info-set guestinfo.a\nb c", Request::Denied),
            (b"info-set guestinfo.\x1b[2J c", Request::Denied),
            (b"info-set guestinfo.a\x7f c", Request::Denied),
            (b"info-set guestinfo.\xc3\xa9 c", Request::Set(b"\xc3\xa9", 19, 22)),
            (b"log toolbox: hello", Request::Log(4)),
            (b"log", Request::Log(3)),
            (b"SetGuestInfo  4 build-1\0", Request::Info { number: 4, value: 16 }),
            (b"SetGuestInfo  11 a", Request::Info { number: 11, value: 17 }),
            (b"SetGuestInfo  8 \0\x01\x02", Request::Info { number: 8, value: 16 }),
            (b"SetGuestInfo  8 ", Request::Info { number: 8, value: 16 }),
            (b"SetGuestInfo  0 a", Request::Info { number: 0, value: 16 }),
            (b"SetGuestInfo  15 a", Request::Info { number: 15, value: 17 }),
            (b"SetGuestInfo  16 a", Request::Report),
            (b"SetGuestInfo  99 a", Request::Report),
            (b"SetGuestInfo  100 a", Request::Report),
            (b"SetGuestInfo  07 a", Request::Report),
            (b"SetGuestInfo  +7 a", Request::Report),
            (b"SetGuestInfo  00000007 a", Request::Report),
            (b"SetGuestInfo   a", Request::Report),
            (b"SetGuestInfo  -1 a", Request::Report),
            (b"SetGuestInfo 4 a", Request::Report),
            (b"SetGuestInfo", Request::Report),
            (b"info-get guestinfo.SetGuestInfo  4", Request::Get(b"")),
            (b"SetGuestDiskInfo {}", Request::Report),
            (b"tools.capability.statechange ", Request::Report),
            (b"tools.set.version 2147483647", Request::Report),
            (b"tools.set.versiontype 12352 4", Request::Report),
            (b"update.tools.health normal\0", Request::Report),
            (b"vmx.capability.unified_loop toolbox", Request::Report),
            (b"vmx.capability.dnd_version", Request::Unknown),
            (b"tools.vmsupport.status 1", Request::Unknown),
            (b"vmx.set_option synctime 0 1", Request::Synchronize(true)),
            (b"vmx.set_option synctime 1 0\0", Request::Synchronize(false)),
            (b"vmx.set_option synctime 1", Request::Unknown),
            (b"vmx.set_option other 0 1", Request::Unknown),
            (b"guest.log.state", Request::Unknown),
            (b"info-getx guestinfo.a", Request::Unknown),
            (b"INFO-GET guestinfo.a", Request::Unknown),
            (b" info-get guestinfo.a", Request::Unknown),
            (b"", Request::Unknown),
        ];
        for (message, expected) in table {
            assert_eq!(parse(message, message.len()), *expected, "{}", message.escape_ascii());
        }
    }

    #[test]
    fn the_longest_key_is_seen_whole_and_a_longer_one_as_too_long() {
        for (command, more) in [("info-get", ""), ("info-set", " v")] {
            let longest = format!("{command} guestinfo.{}{more}", "k".repeat(KEY_BYTES));
            let head = &longest.as_bytes()[..longest.len().min(HEAD)];
            let parsed = parse(head, longest.len());
            assert!(
                matches!(parsed, Request::Get(key) | Request::Set(key, ..) if key.len() == KEY_BYTES),
                "{parsed:?}"
            );
            for longer in [1, 2, 500] {
                let message = format!("{command} guestinfo.{}{more}", "k".repeat(KEY_BYTES + longer));
                let head = &message.as_bytes()[..message.len().min(HEAD)];
                assert_eq!(parse(head, message.len()), Request::KeyTooLong, "{command} {longer}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm_and_places_lie_in_the_message(
            start in prop::sample::select(vec![
                "info-set guestinfo.",
                "info-get ",
                "log",
                "vmx.set_option ",
                "SetGuestInfo  ",
                "SetGuestInfo  8 ",
                "",
            ]),
            bytes in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let message = [start.as_bytes(), &bytes].concat();
            let head = &message[..message.len().min(HEAD)];
            match parse(head, message.len()) {
                Request::Set(key, at, value) => {
                    prop_assert_eq!(&message[at..at + key.len()], key);
                    prop_assert_eq!(message[value - 1], b' ');
                    prop_assert!(value <= message.len());
                }
                Request::Log(at) | Request::Info { value: at, .. } => prop_assert!(at <= message.len()),
                _ => {}
            }
        }
    }
}
