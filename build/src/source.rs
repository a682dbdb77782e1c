//! Counting Rust source: lines that hold code, lines that hold `unsafe`; comments, blank lines and
//! tests apart. No judgement about budgets lives here (`sizes`).

use std::path::{Path, PathBuf};

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Lines with code.
    pub code: u64,
    /// Lines of code with the word `unsafe`.
    pub with_unsafe: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.code += other.code;
        self.with_unsafe += other.with_unsafe;
    }
}

/// Counts all Rust files below a directory, tests apart; a directory that is not there counts nothing.
pub fn count_directory(directory: &Path) -> Count {
    let mut files = Vec::new();
    collect(directory, &mut files);
    let texts: Vec<(PathBuf, String)> = files
        .into_iter()
        .filter_map(|file| {
            std::fs::read_to_string(&file)
                .ok()
                .map(|text| (file, blank(&text)))
        })
        .collect();
    let mut tests = Vec::new();
    for (file, text) in &texts {
        for name in strip_tests(text).1 {
            // `mod tests;` in a/b.rs is a/b/tests.rs; in a/mod.rs, a/lib.rs and a/main.rs it is a/tests.rs.
            let parent = file.parent().unwrap_or(Path::new(""));
            let stem = file
                .file_stem()
                .and_then(|stem| stem.to_str())
                .unwrap_or_default();
            let base = if ["mod", "lib", "main"].contains(&stem) {
                parent.to_owned()
            } else {
                parent.join(stem)
            };
            tests.push(base.join(format!("{name}.rs")));
            tests.push(base.join(name));
        }
    }
    let mut count = Count::default();
    for (file, text) in &texts {
        if !tests.iter().any(|test| file.starts_with(test)) {
            count += lines(&strip_tests(text).0);
        }
    }
    count
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
}

fn lines(text: &str) -> Count {
    let code = text.lines().filter(|line| !line.trim().is_empty());
    let word = |line: &&str| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| word == "unsafe")
    };
    Count {
        code: code.clone().count() as u64,
        with_unsafe: code.filter(word).count() as u64,
    }
}

/// The text with comments and the content of literals as blanks, lines kept.
fn blank(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let at = |index: usize| characters.get(index).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut index = 0;
    while index < characters.len() {
        let end = match (at(index), at(index + 1)) {
            ('/', '/') => find(&characters, index, |i| at(i) == '\n'),
            ('/', '*') => end_of_block(&characters, index),
            ('"', _) => {
                out.push('"');
                index += 1;
                end_of_string(&characters, index)
            }
            ('r', '"' | '#')
                if !is_word(at(index.wrapping_sub(1))) || at(index.wrapping_sub(1)) == 'b' =>
            {
                match end_of_raw(&characters, index) {
                    Some(end) => {
                        out.push('"');
                        end
                    }
                    None => {
                        out.push('r');
                        index += 1;
                        continue;
                    }
                }
            }
            ('\'', '\\') => find(&characters, index + 3, |i| at(i) == '\'') + 1,
            ('\'', _) if at(index + 2) == '\'' => index + 3,
            (other, _) => {
                out.push(other);
                index += 1;
                continue;
            }
        };
        let skipped = characters
            .get(index..end.min(characters.len()))
            .unwrap_or_default();
        // A literal that spans lines is code on each of them.
        let in_literal = out.ends_with('"');
        for character in skipped.iter().filter(|character| **character == '\n') {
            out.push(*character);
            if in_literal {
                out.push('"');
            }
        }
        index = end;
    }
    out
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn find(characters: &[char], from: usize, is_end: impl Fn(usize) -> bool) -> usize {
    (from..characters.len())
        .find(|index| is_end(*index))
        .unwrap_or(characters.len())
}

fn end_of_block(characters: &[char], from: usize) -> usize {
    let mut depth = 0;
    let mut index = from;
    while index < characters.len() {
        match (characters.get(index), characters.get(index + 1)) {
            (Some('/'), Some('*')) => (depth, index) = (depth + 1, index + 2),
            (Some('*'), Some('/')) => {
                (depth, index) = (depth - 1, index + 2);
                if depth == 0 {
                    break;
                }
            }
            _ => index += 1,
        }
    }
    index
}

/// End of a string whose opening quote stands before `from`.
fn end_of_string(characters: &[char], from: usize) -> usize {
    let mut index = from;
    while let Some(character) = characters.get(index) {
        match character {
            '\\' => index += 2,
            '"' => return index + 1,
            _ => index += 1,
        }
    }
    characters.len()
}

/// End of a raw string that starts at `from`; `None` for an identifier such as `r#type`.
fn end_of_raw(characters: &[char], from: usize) -> Option<usize> {
    let hashes = characters
        .iter()
        .skip(from + 1)
        .take_while(|character| **character == '#')
        .count();
    if characters.get(from + 1 + hashes) != Some(&'"') {
        return None;
    }
    let mut index = from + 2 + hashes;
    while index < characters.len() {
        let closes = |offset: usize| characters.get(index + offset) == Some(&'#');
        if characters.get(index) == Some(&'"') && (1..=hashes).all(closes) {
            return Some(index + 1 + hashes);
        }
        index += 1;
    }
    Some(index)
}

/// The text without items under `#[cfg(test)]`, and the names of test modules in files of their own.
fn strip_tests(text: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::new();
    let mut names = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(MARK) {
        let (before, item) = rest.split_at(start);
        out.push_str(before);
        let length = end_of_item(item);
        let (item, after) = item.split_at(length);
        let mut words = item
            .split(|c: char| !is_word(c))
            .filter(|word| !word.is_empty());
        if item.ends_with(';') && words.any(|word| word == "mod") {
            names.extend(words.next().map(str::to_owned));
        }
        rest = after;
    }
    out.push_str(rest);
    (out, names)
}

/// End of an item that starts with attributes: its closing brace, or the semicolon before any brace.
fn end_of_item(item: &str) -> usize {
    let (mut depth, mut brackets) = (0usize, 0usize);
    for (index, character) in item.char_indices() {
        match character {
            '[' | '(' => brackets += 1,
            ']' | ')' => brackets = brackets.saturating_sub(1),
            '{' => depth += 1,
            '}' if depth <= 1 => return index + 1,
            '}' => depth -= 1,
            ';' if depth == 0 && brackets == 0 => return index + 1,
            _ => {}
        }
    }
    item.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> Count {
        lines(&strip_tests(&blank(text)).0)
    }

    #[test]
    fn comments_blank_lines_and_tests_do_not_count() {
        let text = "//! Docs.\n\nfn a() {} // tail\n/* b\n c */\n#[cfg(test)]\nmod tests {\n    fn b() { { } }\n}\nfn c() {}\n";
        assert_eq!(
            count(text),
            Count {
                code: 2,
                with_unsafe: 0
            }
        );
    }

    #[test]
    fn what_looks_like_a_comment_or_brace_in_a_literal_is_code() {
        let text = "let a = \"// no }\";\nlet b = '\"';\nlet c = r#\"/* \"#;\nlet d = b'{';\nfn e<'a>(x: &'a str) {}\n";
        assert_eq!(count(text).code, 5);
    }

    #[test]
    fn each_line_of_a_long_literal_is_code() {
        assert_eq!(count("asm!(r\"\n  mov a, b\n  ret\n\");\n").code, 4);
    }

    #[test]
    fn the_word_unsafe_counts_and_names_that_contain_it_do_not() {
        let text = "unsafe { a() }\n#![deny(unsafe_op_in_unsafe_fn)]\n// unsafe\n\"unsafe\"\nunsafe fn b() {}\n";
        assert_eq!(
            count(text),
            Count {
                code: 4,
                with_unsafe: 2
            }
        );
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("lib.rs", "mod a;\n#[cfg(test)]\nmod tests;\n");
        write("a.rs", "fn a() {}\n");
        write("tests.rs", "fn t() {}\nfn u() {}\n");
        assert_eq!(count_directory(directory.path()).code, 2);
    }
}
