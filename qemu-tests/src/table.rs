//! Which trial ran where and how it ended, as a table; and what could not run, with the reason.

use crate::place::{self, Place};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a trial ended at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Passed(Duration),
    Failed(Duration),
    /// It cannot run there, and why.
    Refused(String),
}

/// All outcomes; trials add theirs from threads of their own.
#[derive(Default)]
pub struct Table(Mutex<Content>);

#[derive(Default)]
struct Content {
    outcomes: BTreeMap<String, BTreeMap<&'static str, Outcome>>,
    /// Trials and their places in Bochs that are part of every run.
    quick: BTreeSet<(String, &'static str)>,
}

impl Table {
    /// A trial ended.
    pub fn ran(&self, trial: &str, place: Place, passed: bool, time: Duration) {
        self.add(trial, place, if passed { Outcome::Passed(time) } else { Outcome::Failed(time) });
    }

    /// A trial cannot run at that place.
    pub fn refused(&self, trial: &str, place: Place, why: &str) {
        self.add(trial, place, Outcome::Refused(why.to_owned()));
    }

    /// The trial is part of every run at that place, where most are not.
    pub fn quick(&self, trial: &str, place: Place) {
        self.content().quick.insert((trial.to_owned(), place.name));
    }

    fn add(&self, trial: &str, place: Place, outcome: Outcome) {
        self.content().outcomes.entry(trial.to_owned()).or_default().insert(place.name, outcome);
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Table {
    /// Seconds where a trial passed, `-` where it was not asked for, a number in brackets for a reason below; a star
    /// where Bochs is part of every run.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let content = self.content();
        let table = &content.outcomes;
        let ran = |outcomes: &&BTreeMap<_, _>| outcomes.values().any(|one| !matches!(one, Outcome::Refused(_)));
        if table.values().filter(ran).count() == 0 {
            return Ok(());
        }
        let mut reasons: Vec<&str> = Vec::new();
        write!(f, "{:20}", "seconds at")?;
        for place in place::ALL {
            write!(f, "{:>10}", place.name)?;
        }
        writeln!(f)?;
        for (trial, outcomes) in table.iter().filter(|(_, outcomes)| ran(outcomes)) {
            let mut line = format!("{trial:20}");
            for place in place::ALL {
                let cell = match outcomes.get(place.name) {
                    None => "-".to_owned(),
                    Some(Outcome::Passed(time)) => format!("{:.1}", time.as_secs_f64()),
                    Some(Outcome::Failed(_)) => "FAILED".to_owned(),
                    Some(Outcome::Refused(why)) => {
                        let number = reasons.iter().position(|one| one == why).unwrap_or(reasons.len());
                        if number == reasons.len() {
                            reasons.push(why);
                        }
                        format!("[{}]", number + 1)
                    }
                };
                let star = if content.quick.contains(&(trial.clone(), place.name)) { "*" } else { "" };
                write!(line, "{:>10}", cell + star)?;
            }
            writeln!(f, "{line}")?;
        }
        if !content.quick.is_empty() {
            writeln!(f, "* part of every run; all others in Bochs with `--all` only")?;
        }
        for (number, why) in reasons.iter().enumerate() {
            writeln!(f, "[{}] cannot run: {why}", number + 1)?;
        }
        let all = |of: fn(&Outcome) -> bool| table.values().flat_map(BTreeMap::values).filter(|one| of(one)).count();
        let passed = all(|one| matches!(one, Outcome::Passed(_)));
        let failed = all(|one| matches!(one, Outcome::Failed(_)));
        writeln!(f, "{passed} passed, {failed} failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_ran_what_did_not_and_why() {
        let [qemu, ryzen, haswell, skylake] = place::ALL;
        let table = Table::default();
        table.refused("idle", ryzen, "nobody asked");
        assert_eq!(table.to_string(), "");
        table.ran("a", qemu, true, Duration::from_millis(1250));
        table.ran("a", haswell, false, Duration::from_secs(3));
        table.refused("a", ryzen, "no bits");
        table.refused("b", ryzen, "no bits");
        table.ran("b", skylake, true, Duration::from_secs(40));
        table.quick("b", haswell);
        table.quick("b", skylake);
        let expected = "\
            seconds at                qemu     ryzen   haswell   skylake\n\
            a                          1.2       [1]    FAILED         -\n\
            b                            -       [1]        -*     40.0*\n\
            * part of every run; all others in Bochs with `--all` only\n\
            [1] cannot run: no bits\n\
            2 passed, 1 failed\n";
        assert_eq!(table.to_string(), expected);
    }
}
