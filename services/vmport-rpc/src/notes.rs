//! What a guest says for the log: bounded in number, and made of characters that no terminal obeys.

/// Lines that a guest may log at once.
const BURST: u32 = 32;
/// Bytes of a line after escaping: three dots follow a line that is cut.
const TEXT: usize = 240;

/// How many lines a guest may still log: one more each second, up to [`BURST`].
pub struct Allowance {
    left: u32,
    second: u32,
    omitted: u32,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { left: BURST, second: 0, omitted: 0 }
    }
}

impl Allowance {
    /// Whether a line may be logged at `second`: how many were left out before it.
    pub fn take(&mut self, second: u32) -> Option<u32> {
        let earned = second.saturating_sub(self.second);
        self.left = self.left.saturating_add(earned).min(BURST);
        self.second = second;
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(core::mem::take(&mut self.omitted))
            }
            None => {
                self.omitted = self.omitted.saturating_add(1);
                None
            }
        }
    }
}

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
    fn a_guest_that_logs_without_end_is_heard_once_a_second() {
        let mut allowance = Allowance::default();
        let heard = (0..1000).filter(|_| allowance.take(5).is_some()).count();
        assert_eq!(heard, BURST as usize);
        assert_eq!(allowance.take(6), Some(1000 - BURST));
        assert_eq!(allowance.take(6), None);
        assert_eq!(allowance.take(5), None);
    }

    #[test]
    fn a_line_holds_only_printable_characters_and_ends() {
        assert_eq!(&escaped(b"a b\n\x1b[2J\xc3\xa9\\"), "a b\\n\\x1b[2J\\xc3\\xa9\\\\");
        let long = escaped(&[0; 500]);
        assert!(long.len() <= TEXT + 3 && long.ends_with("\\x00..."));
        assert_eq!(escaped(&[b'x'; TEXT]).len(), TEXT);
    }
}
