//! Which trials a program of trials runs: libtest's options, and after a second `--` the names of trials, which then
//! run whether they are long or not.

use libtest_mimic::{Arguments, Trial};
use portcullis_build::one_line::one_line;
use std::process::ExitCode;

/// What the command line chose.
pub struct Chosen {
    arguments: Arguments,
    names: Vec<String>,
}

impl Chosen {
    /// Reads this program's command line. `threads`: trials that run at once when it does not say.
    pub fn from_args(threads: usize) -> Self {
        Self::read(std::env::args(), threads)
    }

    fn read(line: impl IntoIterator<Item = String>, threads: usize) -> Self {
        let mut words = line.into_iter();
        let options: Vec<String> = words.by_ref().take_while(|word| word != "--").collect();
        let mut arguments = Arguments::from_iter(options);
        arguments.test_threads.get_or_insert(threads);
        let names: Vec<String> = words.collect();
        arguments.include_ignored |= !names.is_empty();
        Self { arguments, names }
    }

    /// Whether the trial of that name is to run or to be listed.
    pub fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|one| one == name)
    }

    /// Trials are listed and not run: nothing need be built for them.
    pub fn only_lists(&self) -> bool {
        self.arguments.list
    }

    /// Runs the trials that are wanted; says nothing where names were given and none is here.
    pub fn run(&self, trials: anyhow::Result<Vec<Trial>>) -> ExitCode {
        match trials {
            Ok(mut trials) => {
                trials.retain(|trial| self.wants(trial.name()));
                if trials.is_empty() && !self.names.is_empty() {
                    return ExitCode::SUCCESS;
                }
                libtest_mimic::run(&self.arguments, trials).exit_code()
            }
            Err(error) => {
                eprintln!("portcullis: {}", one_line(&error));
                ExitCode::FAILURE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(line: &[&str]) -> Chosen {
        Chosen::read(["trials"].iter().chain(line).map(|word| (*word).to_owned()), 2)
    }

    #[test]
    fn without_names_every_trial_is_wanted_and_long_ones_only_on_demand() {
        let all = chosen(&[]);
        assert!(all.wants("a") && !all.arguments.include_ignored && !all.only_lists());
        assert_eq!(all.arguments.test_threads, Some(2));
        assert!(chosen(&["--list"]).only_lists());
        assert_eq!(chosen(&["--test-threads", "1"]).arguments.test_threads, Some(1));
    }

    #[test]
    fn names_are_whole_and_a_trial_that_is_named_runs_though_it_is_long() {
        let some = chosen(&["--", "vcpu", "haswell::vcpu"]);
        assert!(some.wants("vcpu") && some.wants("haswell::vcpu"));
        assert!(!some.wants("ryzen::vcpu") && !some.wants("vcpu-long"));
        assert!(some.arguments.include_ignored);
    }
}
