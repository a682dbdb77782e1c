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

/// The Rust files of a crate as text without comments, literals and tests.
pub struct Sources(Vec<(PathBuf, String)>);

impl Sources {
    /// Reads all Rust files below a directory, tests apart; a directory that is not there has none.
    pub fn read(directory: &Path) -> Self {
        let mut files = Vec::new();
        collect(directory, &mut files);
        let read = |file: PathBuf| std::fs::read_to_string(&file).ok().map(|text| (file, blank(&text)));
        let mut texts = Vec::new();
        let mut tests = Vec::new();
        for (file, text) in files.into_iter().filter_map(read) {
            let (text, names) = strip_tests(&text);
            // `mod tests;` in a/b.rs is a/b/tests.rs; in a/mod.rs, a/lib.rs and a/main.rs it is a/tests.rs.
            let parent = file.parent().unwrap_or(Path::new(""));
            let stem = stem(&file);
            let base = if ["mod", "lib", "main"].contains(&stem) { parent.to_owned() } else { parent.join(stem) };
            tests.extend(names.iter().flat_map(|name| [base.join(format!("{name}.rs")), base.join(name)]));
            texts.push((file, text));
        }
        texts.retain(|(file, _)| !tests.iter().any(|test| file.starts_with(test)));
        Self(texts)
    }

    /// Counts each file.
    pub fn by_file(&self) -> impl Iterator<Item = (&Path, Count)> {
        self.0.iter().map(|(file, text)| (file.as_path(), lines(text)))
    }

    /// Counts everything.
    pub fn count(&self) -> Count {
        let mut count = Count::default();
        for (_, text) in &self.0 {
            count += lines(text);
        }
        count
    }

    /// Counts what `user` reaches of this crate, which it knows as `name`: the root and the top-level
    /// modules that its paths name, and those that they name in turn.
    pub fn count_reached(&self, name: &str, user: &Self) -> Count {
        let mut reached: Vec<&str> = vec!["lib"];
        let mut waiting = Vec::new();
        for (_, text) in &user.0 {
            waiting.extend(heads(text, name));
        }
        while let Some(module) = waiting.pop() {
            let Some((file, text)) = self.0.iter().find(|(file, _)| stem(file) == module) else {
                continue;
            };
            if !reached.contains(&stem(file)) {
                reached.push(stem(file));
                waiting.extend(heads(text, "crate"));
            }
        }
        let mut count = Count::default();
        for (_, text) in self.0.iter().filter(|(file, _)| reached.contains(&stem(file))) {
            count += lines(text);
        }
        count
    }
}

fn stem(file: &Path) -> &str {
    file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
}

/// First segments of all paths below `root::`, of each member of a group too.
fn heads(text: &str, root: &str) -> Vec<String> {
    let mut heads = Vec::new();
    for (index, _) in text.match_indices(&format!("{root}::")) {
        let rest = text.get(index + root.len() + 2..).unwrap_or_default();
        let word = |text: &str| text.trim_start().chars().take_while(|c| is_word(*c)).collect::<String>();
        let Some(group) = rest.strip_prefix('{') else {
            heads.push(word(rest));
            continue;
        };
        let (mut depth, mut start) = (0usize, 0);
        for (at, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    heads.push(word(group.get(start..at).unwrap_or_default()));
                    start = at + 1;
                    if character == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    heads
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

/// Lines of code. Attributes such as `#[unsafe(no_mangle)]` do not count as unsafe: the peers' figures
/// come from editions in which they lack the word.
fn lines(text: &str) -> Count {
    let code = text.lines().filter(|line| !line.trim().is_empty());
    let is_unsafe = |line: &&str| {
        let mut words = line.split(|c: char| !is_word(c));
        !line.trim_start().starts_with("#[unsafe(") && words.any(|word| word == "unsafe")
    };
    Count { code: code.clone().count() as u64, with_unsafe: code.filter(is_unsafe).count() as u64 }
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
            ('r', '"' | '#') if !is_word(at(index.wrapping_sub(1))) || at(index.wrapping_sub(1)) == 'b' => {
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
        let skipped = characters.get(index..end.min(characters.len())).unwrap_or_default();
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
    (from..characters.len()).find(|index| is_end(*index)).unwrap_or(characters.len())
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
    let hashes = characters.iter().skip(from + 1).take_while(|character| **character == '#').count();
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
        let mut words = item.split(|c: char| !is_word(c)).filter(|word| !word.is_empty());
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
        assert_eq!(count(text), Count { code: 2, with_unsafe: 0 });
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
        assert_eq!(count(text), Count { code: 4, with_unsafe: 2 });
    }

    #[test]
    fn only_the_modules_that_a_user_names_are_reached_and_what_they_name() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("lib.rs", "pub mod a;\npub mod b;\npub mod c;\n");
        write("a.rs", "use crate::{b::B};\n");
        write("b.rs", "pub struct B;\n");
        write("c.rs", "pub struct C;\n");
        let user = Sources(vec![("main.rs".into(), "use shared::{a::{x, c}, a};\n".to_owned())]);
        assert_eq!(Sources::read(directory.path()).count_reached("shared", &user).code, 5);
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("lib.rs", "mod a;\n#[cfg(test)]\nmod tests;\n");
        write("a.rs", "fn a() {}\n");
        write("tests.rs", "fn t() {}\nfn u() {}\n");
        assert_eq!(Sources::read(directory.path()).count().code, 2);
    }
}
