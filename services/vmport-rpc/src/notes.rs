//! What a guest says for the log: bounded in number, and made of characters that no terminal obeys.

/// Lines that a guest may log at once; then it is one a second.
pub const BURST: u32 = 32;
/// Bytes of a line after escaping: three dots follow a line that is cut.
const TEXT: usize = 240;

/// A line with everything but printable ASCII escaped, cut where it gets too long.
pub fn escaped(line: &[u8]) -> arrayvec::ArrayString<{ TEXT + 3 }> {
    let mut text = arrayvec::ArrayString::new();
    for byte in line {
        let escape = byte.escape_ascii();
        if text.len() + escape.len() > TEXT {
            // Three more bytes are left for this.
            let _ = text.try_push_str("...");
            break;
        }
        for byte in escape {
            let _ = text.try_push(byte.into());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_only_printable_characters_and_ends() {
        assert_eq!(&escaped(b"a b\n\x1b[2J\xc3\xa9\\"), "a b\\n\\x1b[2J\\xc3\\xa9\\\\");
        let long = escaped(&[0; 500]);
        assert!(long.len() <= TEXT + 3 && long.ends_with("\\x00..."));
        assert_eq!(escaped(&[b'x'; TEXT]).len(), TEXT);
    }
}
