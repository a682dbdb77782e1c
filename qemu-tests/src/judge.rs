//! Decides from lines and the exit value alone whether a trial passed. Nothing is booted here.
//!
//! A system without expectations ends itself: with the line `TEST PASS` or `TEST FAIL reason`, or with
//! a byte to the exit port (0x10 for success). A system with expectations has passed when all their texts
//! have come and, if it says `TEST PASS` at all, no text is missing then. A failed guest (`FAIL`), a
//! core's last words and every forbidden text fail a trial at once. A Debian guest says at its end how many of its
//! checks failed. A check that is known to fail where the trial runs must do so.

use crate::directives::Directives;
use portcullis_build::run::EXIT_PASS;
use portcullis_build::run::demo::{Check, Mark, mark};

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Passed.
    Pass,
    /// Failed, and why.
    Fail(String),
}

/// The judge of one trial.
pub struct Judge {
    missing: Vec<String>,
    forbid: Vec<String>,
    expects: bool,
    said_pass: bool,
    /// Checks inside the Debian guest that failed; it goes on after them.
    failed: Vec<String>,
    /// Checks that must fail, and have not yet.
    known: Vec<String>,
    all_known: Vec<String>,
    slow_lines: bool,
}

/// Texts that no test may bring about without being asked for: what the core says when it stops.
const LAST_WORDS: &str = "portcullis: stop:";

impl Judge {
    /// The judge for a system with these directives.
    pub fn new(directives: &Directives) -> Self {
        let mut forbid = directives.forbid.clone();
        if !directives.expect.iter().any(|text| text.contains(LAST_WORDS)) {
            forbid.push(LAST_WORDS.to_owned());
        }
        let (missing, expects) = (directives.expect.clone(), !directives.expect.is_empty());
        let known = directives.known.clone();
        let all_known = known.clone();
        let slow_lines = directives.slow_lines;
        Self { missing, forbid, expects, said_pass: false, failed: Vec::new(), known, all_known, slow_lines }
    }

    /// Takes a line of COM1 or of the log; `Some` ends the trial.
    pub fn line(&mut self, line: &str) -> Option<Verdict> {
        if let Some(text) = self.forbid.iter().find(|text| line.contains(text.as_str())) {
            return Some(Verdict::Fail(format!("forbidden text `{text}` in: {line}")));
        }
        self.missing.retain(|text| !line.contains(text.as_str()));
        if let Some((_, reason)) = line.split_once("TEST FAIL") {
            return Some(Verdict::Fail(format!("the system says: FAIL{reason}")));
        }
        let is_check = line.contains("guest ") || line.starts_with("guest:");
        if is_check && line.contains(": FAIL ") {
            let known = |text: &String| line.contains(text.as_str());
            if self.all_known.iter().any(known) {
                self.known.retain(|text| !known(text));
                return self.passed();
            }
            return Some(Verdict::Fail(format!("a check inside failed: {line}")));
        }
        match mark(line) {
            Some(Mark::Check(Check { text, ok: false })) => self.failed.push(text),
            // A known one that failed is among those that the guest counts.
            Some(Mark::Done(false)) if self.known == self.all_known => {
                return Some(Verdict::Fail(format!("checks inside failed: {}", self.failed.join("; "))));
            }
            _ => {}
        }
        if line.contains("TEST PASS") {
            self.said_pass = true;
        }
        self.passed()
    }

    /// Takes the value that the system wrote to the exit port; `Some` ends the trial. What is missing then may still be
    /// on its way, on slow lines.
    pub fn exit(&mut self, value: u8) -> Option<Verdict> {
        if value != EXIT_PASS {
            return Some(Verdict::Fail(format!("the system ended itself with value {value:#x}")));
        }
        self.said_pass = true;
        let unfinished = || (!self.slow_lines).then(|| self.unfinished("the system ended itself"));
        self.passed().or_else(unfinished)
    }

    /// The trial is over without a verdict; `why` says how.
    pub fn unfinished(&self, why: &str) -> Verdict {
        let missing: Vec<String> = self.missing.iter().map(|text| format!("`{text}`")).collect();
        let what = if missing.is_empty() { "`TEST PASS`".to_owned() } else { missing.join(", ") };
        Verdict::Fail(format!("{why} before {what} came"))
    }

    fn passed(&self) -> Option<Verdict> {
        let done = self.missing.is_empty() && (self.expects || self.said_pass);
        done.then(|| match self.known.first() {
            None => Verdict::Pass,
            Some(text) => Verdict::Fail(format!("`{text}` is known to fail here and did not: remove the directive")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(expect: &[&str], forbid: &[&str]) -> Judge {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Judge::new(&Directives { expect: texts(expect), forbid: texts(forbid), ..Directives::default() })
    }

    fn fails(verdict: Option<Verdict>, part: &str) {
        match verdict {
            Some(Verdict::Fail(why)) => assert!(why.contains(part), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_expectations_the_system_says_itself_how_it_ended() {
        assert_eq!(judge(&[], &[]).line("hello"), None);
        assert_eq!(judge(&[], &[]).line("[kill] TEST PASS"), Some(Verdict::Pass));
        fails(judge(&[], &[]).line("TEST FAIL the callee is deaf"), "FAIL the callee is deaf");
        assert_eq!(judge(&[], &[]).exit(0x10), Some(Verdict::Pass));
        fails(judge(&[], &[]).exit(0x11), "0x11");
        fails(Some(judge(&[], &[]).unfinished("the time was over")), "before `TEST PASS` came");
    }

    #[test]
    fn all_expected_texts_must_come_in_any_order() {
        let mut judge = judge(&["one", "two"], &[]);
        assert_eq!(judge.line("here is two"), None);
        assert_eq!(judge.line("TEST PASS"), None);
        fails(Some(judge.unfinished("the time was over")), "before `one` came");
        assert_eq!(judge.line("and one"), Some(Verdict::Pass));
    }

    #[test]
    fn an_exit_before_an_expected_text_is_a_failure() {
        fails(judge(&["one"], &[]).exit(0x10), "before `one` came");
    }

    #[test]
    fn on_slow_lines_an_expected_text_may_come_after_the_exit() {
        let directives = Directives { expect: vec!["one".into()], slow_lines: true, ..Directives::default() };
        let mut judge = Judge::new(&directives);
        assert_eq!(judge.exit(0x10), None);
        assert_eq!(judge.line("one"), Some(Verdict::Pass));
        fails(Judge::new(&directives).exit(0x11), "0x11");
    }

    #[test]
    fn a_debian_guest_goes_on_after_a_failed_check_and_fails_at_its_end() {
        let mut judge = judge(&["portcullis-guest: done: "], &[]);
        assert_eq!(judge.line("ok get"), None);
        assert_eq!(judge.line("FAIL date: 1970"), None);
        fails(judge.line("portcullis-guest: done: 1 ok, 1 failed"), "date: 1970");
        let mut judge = self::judge(&["portcullis-guest: done: "], &[]);
        assert_eq!(judge.line("portcullis-guest: done: 2 ok, 0 failed"), Some(Verdict::Pass));
    }

    #[test]
    fn a_check_that_is_known_to_fail_must_fail() {
        let directives =
            Directives { expect: vec!["done".into()], known: vec!["gate".into()], ..Directives::default() };
        let mut judge = Judge::new(&directives);
        assert_eq!(judge.line("guest port64: FAIL int to a closed gate: vector 8"), None);
        assert_eq!(judge.line("guest port64: FAIL int to a closed gate: vector 9"), None);
        assert_eq!(judge.line("guest port64: done 9 ok 2 failed"), Some(Verdict::Pass));
        let mut judge = Judge::new(&directives);
        fails(judge.line("guest port64: done 9 ok 0 failed"), "known to fail here and did not");
        fails(Judge::new(&directives).line("guest port64: FAIL other: 1"), "a check inside failed");
    }

    #[test]
    fn forbidden_texts_failed_checks_and_last_words_fail_at_once() {
        fails(judge(&["x"], &["oops"]).line("x oops"), "forbidden text `oops`");
        fails(judge(&["x"], &[]).line("guest port64: FAIL mask: 3"), "a check inside failed");
        fails(judge(&[], &[]).line("portcullis: stop: pool"), "forbidden");
        let asked_for = judge(&["portcullis: stop: pool"], &[]).line("portcullis: stop: pool");
        assert_eq!(asked_for, Some(Verdict::Pass));
    }
}
