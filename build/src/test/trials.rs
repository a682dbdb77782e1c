//! The emulator trials as `test emulator` runs them: all, or those that are named.

use super::{cargo, limited};
use crate::emulator::qemu::program;
use crate::process;
use anyhow::bail;
use std::process::Command;

/// The emulator tests' package: not a unit test.
pub const PACKAGE: &str = "portcullis-qemu-tests";

/// A trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Its name.
    pub name: String,
    /// Runs only with `--all`, or when it is named.
    pub long: bool,
}

/// Runs the trials: each says its name and how it ended when it ends, since they take long. `names`: only these,
/// long or not; none: all, the long ones where `all` is wanted.
pub fn command(all: bool, names: &[String]) -> Command {
    let mut command = cargo("test");
    command.args(["--package", PACKAGE, "--test", "*"]);
    if let Some(qemu) = program::chosen() {
        command.env(program::VARIABLE, qemu);
    }
    if names.is_empty() {
        if all {
            command.args(["--", "--include-ignored"]);
        }
        return command;
    }
    // The second `--` ends libtest's options: the names follow it.
    command.args(["--", "--"]).args(names);
    command
}

/// All trials, in the order of their programs.
pub fn list() -> anyhow::Result<Vec<Trial>> {
    let mut compile = cargo("test");
    compile.args(["--package", PACKAGE, "--test", "*", "--no-run", "--quiet"]);
    limited(&mut compile, "compiling the emulator tests", 40)?;
    let listed = |options: &[&str]| -> Result<Vec<String>, process::Error> {
        let mut command = cargo("test");
        command.args(["--package", PACKAGE, "--test", "*", "--quiet", "--", "--list"]).args(options);
        let text = process::output(&mut command, "listing the trials")?;
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    };
    let long = listed(&["--ignored"])?;
    let trial = |name: String| Trial { long: long.contains(&name), name };
    Ok(listed(&[])?.into_iter().map(trial).collect())
}

/// Refuses a name that no trial has.
pub fn check(names: &[String], trials: &[Trial]) -> anyhow::Result<()> {
    for name in names {
        if trials.iter().any(|trial| trial.name == *name) {
            continue;
        }
        let near: Vec<&str> =
            trials.iter().map(|trial| trial.name.as_str()).filter(|one| one.contains(&**name)).collect();
        let hint = match near.as_slice() {
            [] => "`cargo xtask test emulator --list` shows all".to_owned(),
            some => format!("there are {}", some.join(", ")),
        };
        bail!("no emulator trial is named `{name}`: {hint}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(all: bool, names: &[&str]) -> Vec<String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        command(all, &names).get_args().map(|one| one.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn trials_that_take_minutes_run_when_all_is_wanted_or_they_are_named_and_none_is_quiet() {
        let plain = arguments(false, &[]);
        assert!(!plain.iter().any(|one| one == "--include-ignored" || one == "--quiet"), "{plain:?}");
        assert!(arguments(true, &[]).ends_with(&["--".to_owned(), "--include-ignored".to_owned()]));
        assert!(arguments(true, &["a", "b"]).ends_with(&["--", "--", "a", "b"].map(str::to_owned)));
    }

    #[test]
    fn a_name_that_no_trial_has_is_one_line_with_those_that_hold_it() {
        let trial = |name: &str| Trial { name: name.to_owned(), long: false };
        let trials = [trial("vcpu"), trial("haswell::vcpu"), trial("rpc")];
        let error = |name: &str| check(&[name.to_owned()], &trials).err().map(|error| error.to_string());
        assert_eq!(error("vcpu"), None);
        assert_eq!(error("vc").unwrap(), "no emulator trial is named `vc`: there are vcpu, haswell::vcpu");
        let text = "no emulator trial is named `x`: `cargo xtask test emulator --list` shows all";
        assert_eq!(error("x").unwrap(), text);
    }
}
