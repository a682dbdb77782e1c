//! The demonstration's verdict, from what its guest says on the console. A small guest of ours says `guest
//! NAME: ok TEXT` or `guest NAME: FAIL TEXT` for each check and at the end `guest NAME: done N ok M failed`;
//! the scripts of the Debian guest say `ok TEXT`, `FAIL TEXT` and `portcullis-guest: done: N ok, M failed`.

/// One check of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was checked and what came of it.
    pub text: String,
    /// It came out as it should.
    pub ok: bool,
}

/// What a line of the console says about the demonstration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A check.
    Check(Check),
    /// The end: all well or not.
    Done(bool),
}

/// Reads a line; `None` when it says nothing about the demonstration.
pub fn mark(line: &str) -> Option<Mark> {
    let line = line.trim_end();
    if let Some(counts) = line.strip_prefix("portcullis-guest: done: ") {
        return Some(Mark::Done(none_failed(counts)));
    }
    let said = match line.split_once("guest ").and_then(|(_, rest)| rest.split_once(": ")) {
        Some((name, said)) if !name.contains(' ') => said,
        _ => line,
    };
    let (word, text) = said.split_once(' ').unwrap_or((said, ""));
    match word {
        "ok" => Some(Mark::Check(Check { text: text.to_owned(), ok: true })),
        "FAIL" => Some(Mark::Check(Check { text: text.to_owned(), ok: false })),
        "done" if said.len() < line.len() => Some(Mark::Done(none_failed(text))),
        _ => None,
    }
}

/// `N ok M failed`, with something that is well and nothing that is not.
fn none_failed(counts: &str) -> bool {
    let words: Vec<&str> = counts.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let [well, "ok", failed, "failed"] = words[..] else {
        return false;
    };
    well.parse().is_ok_and(|count: u32| count > 0) && failed.parse() == Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_and_the_end_are_read_and_other_lines_are_not() {
        let check = |text: &str, ok| Some(Mark::Check(Check { text: text.into(), ok }));
        for (line, expected) in [
            ("guest demo: ok GETVERSION: version 6", check("GETVERSION: version 6", true)),
            ("[    1.2] guest debian: FAIL info-get: no", check("info-get: no", false)),
            ("guest demo: done 4 ok 0 failed\r", Some(Mark::Done(true))),
            ("guest demo: done 3 ok 1 failed", Some(Mark::Done(false))),
            ("guest demo: done 0 ok 0 failed", Some(Mark::Done(false))),
            ("guest demo: done", Some(Mark::Done(false))),
            ("guest demo: note long mode", None),
            ("ok info-get", check("info-get", true)),
            ("FAIL date: found '1970'\r", check("date: found '1970'", false)),
            ("portcullis-guest: done: 4 ok, 0 failed\r", Some(Mark::Done(true))),
            ("portcullis-guest: done: 3 ok, 1 failed", Some(Mark::Done(false))),
            ("done 4 ok 0 failed", None),
            ("the guest is here: ok", None),
            ("Linux version 6.1", None),
        ] {
            assert_eq!(mark(line), expected, "{line}");
        }
    }
}
