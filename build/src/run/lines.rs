//! Cutting what a console says into lines.

/// Bytes after which a line that has no end is taken as one, so that it does not fill the memory.
const LONGEST: usize = 64 << 10;

/// Cuts bytes into lines; what is not UTF-8 is replaced.
#[derive(Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// The lines that these bytes complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.0.extend_from_slice(bytes);
        // What stood here before holds no line end.
        let end = match self.0.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end,
            None if self.0.len() >= LONGEST => self.0.len() - 1,
            None => return Vec::new(),
        };
        let whole: Vec<u8> = self.0.drain(..=end).collect();
        let text = String::from_utf8_lossy(&whole);
        text.lines().map(str::to_owned).collect()
    }

    /// What stands after the last line end.
    pub fn rest(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_without_end_is_cut_and_nothing_of_it_is_lost() {
        let mut lines = Lines::default();
        let piece = [b'x'; 1000];
        let cut: Vec<String> = (0..200).flat_map(|_| lines.push(&piece)).collect();
        assert!(cut.len() > 1 && lines.rest().len() < LONGEST);
        assert_eq!(cut.iter().map(String::len).sum::<usize>() + lines.rest().len(), 200_000);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_bytes_are_cut(text in "[a-c\n]{0,40}", cut in 1usize..9) {
            let mut lines = Lines::default();
            let mut all: Vec<String> =
                text.as_bytes().chunks(cut).flat_map(|chunk| lines.push(chunk)).collect();
            all.push(lines.rest());
            let expected: Vec<&str> = text.split('\n').collect();
            prop_assert_eq!(all, expected);
        }
    }
}
