//! Cutting what a console says into lines.

/// Cuts bytes into lines; what is not UTF-8 is replaced.
#[derive(Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// The lines that these bytes complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.0.extend_from_slice(bytes);
        let Some(end) = self.0.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
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
