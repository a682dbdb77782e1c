//! Messages of the host that are always the same: replies of RPCI and commands of TCLO. They take no memory
//! of the pool, so an error can be told when the pool is empty.

/// A text. The numbers stand in saved state: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Text {
    /// No text.
    Empty = 0,
    /// Done; also the beginning of a value.
    Done = 1,
    /// No such command.
    UnknownCommand = 2,
    /// The key has no value.
    NoValue = 3,
    /// Key or value is missing.
    TwoArguments = 4,
    /// The key is longer than a key may be.
    KeyTooLong = 5,
    /// Keys and values together would be longer than they may be.
    Full = 6,
    /// There is no place for another key.
    TooManyKeys = 7,
    /// The guest may not set this.
    Denied = 8,
    /// TCLO: start anew.
    Reset = 9,
    /// TCLO: say what you can.
    Capabilities = 10,
    /// TCLO: are you there?
    Ping = 11,
    /// TCLO: follow the host's clock.
    SyncOn = 12,
    /// TCLO: do not.
    SyncOff = 13,
}

/// All of them, each at its number.
const ALL: [(Text, &[u8]); 14] = [
    (Text::Empty, b""),
    (Text::Done, b"1 "),
    (Text::UnknownCommand, b"0 Unknown command"),
    (Text::NoValue, b"0 No value found"),
    (Text::TwoArguments, b"0 Two and exactly two arguments expected"),
    (Text::KeyTooLong, b"0 Key is too long"),
    (Text::Full, b"0 Value too long"),
    (Text::TooManyKeys, b"0 Too many keys"),
    (Text::Denied, b"0 Permission denied"),
    (Text::Reset, b"reset"),
    (Text::Capabilities, b"Capabilities_Register"),
    (Text::Ping, b"ping"),
    (Text::SyncOn, b"Set_Option synctime 1"),
    (Text::SyncOff, b"Set_Option synctime 0"),
];

impl Text {
    /// The bytes.
    pub fn bytes(self) -> &'static [u8] {
        bytes(self as u8)
    }
}

/// The bytes of a text by its number; empty for a number that is none.
pub fn bytes(number: u8) -> &'static [u8] {
    ALL.get(usize::from(number)).map_or(&[], |(_, bytes)| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_stands_at_its_number() {
        for (index, (text, bytes)) in ALL.iter().enumerate() {
            assert_eq!(*text as usize, index);
            assert_eq!(text.bytes(), *bytes);
        }
        assert!(bytes(ALL.len() as u8).is_empty());
    }

    #[test]
    fn every_reply_says_at_once_whether_it_is_an_error() {
        for (text, bytes) in &ALL[1..9] {
            let expected: &[u8] = if *text == Text::Done { b"1 " } else { b"0 " };
            assert_eq!(&bytes[..2], expected);
        }
    }
}
