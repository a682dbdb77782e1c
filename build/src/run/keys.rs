//! What is typed: everything goes to the guest, but for what follows Ctrl-A.

/// Ctrl-A.
const ESCAPE: u8 = 0x01;

/// What a typed byte means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The guest gets this byte.
    Send(u8),
    /// End the run.
    End,
    /// Show the keys.
    Help,
}

/// The keys, for the help and the documentation.
pub const HELP: &str =
    "Ctrl-A x ends the run, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h shows this; all else goes to the guest";

/// Tells keys from bytes.
#[derive(Default)]
pub struct Keys {
    escaped: bool,
}

impl Keys {
    /// Takes a typed byte.
    pub fn push(&mut self, byte: u8) -> Option<Key> {
        if !self.escaped {
            self.escaped = byte == ESCAPE;
            return (byte != ESCAPE).then_some(Key::Send(byte));
        }
        self.escaped = false;
        Some(match byte {
            ESCAPE => Key::Send(ESCAPE),
            b'x' | b'X' => Key::End,
            _ => Key::Help,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> Vec<Key> {
        let mut keys = Keys::default();
        bytes.iter().filter_map(|byte| keys.push(*byte)).collect()
    }

    #[test]
    fn every_byte_but_the_escape_goes_to_the_guest() {
        for byte in (0..=255).filter(|byte| *byte != ESCAPE) {
            assert_eq!(typed(&[byte]), [Key::Send(byte)]);
        }
        assert_eq!(typed(&[ESCAPE]), []);
    }

    #[test]
    fn the_byte_after_the_escape_is_a_command() {
        assert_eq!(typed(b"a\x01xb"), [Key::Send(b'a'), Key::End, Key::Send(b'b')]);
        assert_eq!(typed(b"\x01\x01\x03"), [Key::Send(1), Key::Send(3)]);
        assert_eq!(typed(b"\x01h\x01?\x01q"), [Key::Help; 3]);
    }
}
