//! `test`: every check of the project, cheapest first. Each step prints its name and time; the first
//! that fails ends the run, unless asked otherwise, with one line that says how to repeat it alone. [`trials`] knows
//! the emulator trials by their names.

pub mod trials;

use crate::build::{self, Binary};
use crate::one_line::one_line;
use crate::toolchain::Toolchain;
use crate::{bench, dependencies, image, manifest, process, setup, sizes, workspace};
use anyhow::{Context, bail};
use clap::ValueEnum;
use std::process::Command;
use std::time::{Duration, Instant};

/// Arguments of the verb.
#[derive(clap::Args)]
#[command(after_help = help())]
pub struct Args {
    /// Run only these steps, in their own order; default: all. Beside `emulator`, any other word is the name of an
    /// emulator trial, and only the named ones run.
    #[arg(value_name = "STEP|TRIAL")]
    words: Vec<String>,
    /// Show the names of the emulator trials, and run nothing.
    #[arg(long)]
    list: bool,
    /// Run the steps after a failed one too.
    #[arg(long)]
    keep_going: bool,
    /// Run what is left out otherwise because it takes minutes: the long trials of the Debian guest.
    #[arg(long)]
    all: bool,
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Step {
    /// rustfmt finds nothing to change.
    Format,
    /// Licences and duplicates of the dependencies are on the lists.
    Dependencies,
    /// All manifests in systems/ are accepted.
    Manifests,
    /// Clippy finds nothing in the host's crates.
    Clippy,
    /// Clippy finds nothing in core, services and the tests' programs.
    ClippyMetal,
    /// Unit and property tests pass.
    Unit,
    /// Code, text, unsafe and memory are within their budgets.
    Sizes,
    /// The emulator tests pass, each followed by its audit.
    Emulator,
    /// The instruction budgets are kept.
    Bench,
}

impl Step {
    const ALL: [Self; 9] = [
        Self::Format,
        Self::Dependencies,
        Self::Manifests,
        Self::Clippy,
        Self::ClippyMetal,
        Self::Unit,
        Self::Sizes,
        Self::Emulator,
        Self::Bench,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Dependencies => "dependencies",
            Self::Manifests => "manifests",
            Self::Clippy => "clippy",
            Self::ClippyMetal => "clippy-metal",
            Self::Unit => "unit",
            Self::Sizes => "sizes",
            Self::Emulator => "emulator",
            Self::Bench => "bench",
        }
    }

    fn run(self, all: bool, names: &[String]) -> anyhow::Result<()> {
        match self {
            Self::Format => Ok(limited(cargo("fmt").args(["--all", "--check"]), "rustfmt", 2)?),
            Self::Dependencies => check_dependencies(),
            Self::Manifests => check_manifests(),
            Self::Clippy => clippy(),
            Self::ClippyMetal => clippy_metal(),
            Self::Unit => unit(all),
            Self::Sizes => check_sizes(),
            Self::Emulator => emulator(all, names),
            Self::Bench => check_bench(all),
        }
    }
}

/// The steps for the help.
fn help() -> String {
    let line = |step: &Step| {
        let value = step.to_possible_value()?;
        Some(format!("  {:<13} {}", value.get_name(), value.get_help()?))
    };
    let lines: Vec<String> = Step::ALL.iter().filter_map(line).collect();
    format!("Steps:\n{}", lines.join("\n"))
}

/// What the words mean: steps in their own order, and names of trials.
fn chosen(words: &[String]) -> anyhow::Result<(Vec<Step>, Vec<String>)> {
    let step = |word: &String| Step::ALL.into_iter().find(|step| step.name() == word);
    let names: Vec<String> = words.iter().filter(|word| step(word).is_none()).cloned().collect();
    let named: Vec<Step> = words.iter().filter_map(step).collect();
    if let Some(name) = names.first()
        && !named.contains(&Step::Emulator)
    {
        let steps = Step::ALL.map(Step::name).join(", ");
        bail!("`{name}` is not a step ({steps}); a trial is run by `cargo xtask test emulator {name}`");
    }
    let steps = Step::ALL.into_iter().filter(|step| named.is_empty() || named.contains(step)).collect();
    Ok((steps, names))
}

/// Runs the verb.
pub fn command(args: &Args) -> anyhow::Result<()> {
    use setup::Need;
    let (steps, names) = chosen(&args.words)?;
    if args.list {
        for trial in trials::list()? {
            println!("{}{}", trial.name, if trial.long { "  (with --all, or by its name)" } else { "" });
        }
        return Ok(());
    }
    setup::ensure(&Need::ALL)?;
    if !names.is_empty() {
        trials::check(&names, &trials::list()?)?;
    }
    let start = Instant::now();
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    for (index, step) in steps.iter().enumerate() {
        let name = step.name();
        let place = format!("[{}/{}] {name}", index + 1, steps.len());
        println!("test: {place}");
        let begin = Instant::now();
        let outcome = step.run(args.all, &names);
        let seconds = begin.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                println!("test: {place}: passed in {seconds:.1} s");
                passed.push(format!("{name} {seconds:.1} s"));
            }
            Err(error) => {
                println!("test: {place}: FAILED after {seconds:.1} s: {}", one_line(&error));
                failed.push(name);
                if !args.keep_going {
                    break;
                }
            }
        }
    }
    println!("test: {:.1} s; passed: {}", start.elapsed().as_secs_f64(), or_none(&passed.join(", ")));
    if failed.is_empty() {
        println!("test: PASSED");
        return Ok(());
    }
    let all = if args.all { " --all" } else { "" };
    let again = [failed.clone(), names.iter().map(String::as_str).filter(|_| failed.contains(&"emulator")).collect()];
    bail!("the tests FAILED in {}; repeat with `cargo xtask test{all} {}`", failed.join(", "), again.concat().join(" "))
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "nothing" } else { text }
}

/// `cargo <verb>` of the machine, for the host.
fn cargo(verb: &str) -> Command {
    let mut command = Command::new("cargo");
    command.arg(verb).current_dir(workspace::root());
    command
}

/// Runs a program for at most so many minutes.
fn limited(command: &mut Command, what: &str, minutes: u64) -> Result<(), process::Error> {
    process::run_limited(command, what, Duration::from_secs(minutes * 60))
}

fn check_dependencies() -> anyhow::Result<()> {
    let binaries = build::binaries(&Toolchain::detect()?)?;
    let packages: Vec<&str> = binaries.iter().map(|binary| binary.package.as_str()).collect();
    let count = dependencies::check(&packages)?;
    println!("{count} packages");
    Ok(())
}

fn check_manifests() -> anyhow::Result<()> {
    for directory in [workspace::root().join("systems"), workspace::root().join("systems/tests")] {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "toml") {
                manifest::load(&path)?;
            }
        }
    }
    Ok(())
}

/// Packages that only build for bare metal.
fn metal_only(binaries: &[Binary]) -> Vec<&str> {
    let mut packages: Vec<&str> = binaries.iter().filter(|one| one.is_test()).map(|one| one.package.as_str()).collect();
    packages.dedup();
    packages
}

/// `cargo <verb> --workspace` without the packages that only build for bare metal.
fn on_host(verb: &str, without: &[&str]) -> anyhow::Result<Command> {
    let binaries = build::binaries(&Toolchain::detect()?)?;
    let mut command = cargo(verb);
    command.arg("--workspace");
    for package in metal_only(&binaries).iter().chain(without) {
        command.args(["--exclude", package]);
    }
    Ok(command)
}

/// The core's package: its program is not one of the host's, only its tests are.
const CORE: &str = "portcullis-kernel";

fn clippy() -> anyhow::Result<()> {
    let mut command = on_host("clippy", &[CORE])?;
    command.args(["--all-targets", "--quiet", "--keep-going", "--", "-D", "warnings"]);
    limited(&mut command, "clippy", 40)?;
    let mut command = cargo("clippy");
    command.args(["--package", CORE, "--tests", "--quiet", "--keep-going", "--", "-D", "warnings"]);
    // In the core itself the lint is denied; a test that overflows panics, which is what it is for.
    command.args(["-A", "clippy::arithmetic_side_effects"]);
    Ok(limited(&mut command, "clippy of the core's tests", 40)?)
}

fn clippy_metal() -> anyhow::Result<()> {
    let toolchain = Toolchain::detect()?;
    let mut command = toolchain.for_metal("clippy", "info");
    for binary in build::binaries(&toolchain)? {
        command.args(["--package", &binary.package]);
    }
    command.args(["--quiet", "--keep-going", "--", "-D", "warnings"]);
    Ok(limited(&mut command, "clippy for bare metal", 40)?)
}

fn unit(all: bool) -> anyhow::Result<()> {
    let mut tests = on_host("test", &[trials::PACKAGE])?;
    tests.args(["--no-fail-fast", "--quiet"]);
    if all {
        tests.args(["--", "--include-ignored"]);
    }
    limited(&mut tests, "the unit tests", 60)?;
    let mut judge = cargo("test");
    judge.args(["--package", trials::PACKAGE, "--lib", "--quiet"]);
    Ok(limited(&mut judge, "the unit tests of the emulator tests", 40)?)
}

fn check_sizes() -> anyhow::Result<()> {
    build::compile("info", |_| true)?;
    let figures = sizes::measure(&workspace::demo_manifest())?;
    sizes::print(&figures);
    Ok(sizes::check(&figures)?)
}

fn emulator(all: bool, names: &[String]) -> anyhow::Result<()> {
    if names.is_empty() {
        image::make(&workspace::demo_manifest(), None, "info").context("the demonstration")?;
    }
    // Each trial has a limit of its own; this one only ends what is stuck outside a trial.
    let minutes = if all || !names.is_empty() { 240 } else { 120 };
    Ok(limited(&mut trials::command(all, names), "the emulator tests", minutes)?)
}

fn check_bench(all: bool) -> anyhow::Result<()> {
    let extent = if all { bench::Extent::Whole } else { bench::Extent::Quick };
    bench::check(&bench::manifests()?, Duration::from_secs(240), extent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> anyhow::Result<(Vec<Step>, Vec<String>)> {
        chosen(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_steps_in_their_own_order_and_beside_emulator_names_of_trials() {
        assert_eq!(words("").unwrap(), (Step::ALL.to_vec(), Vec::new()));
        assert_eq!(words("bench unit").unwrap(), (vec![Step::Unit, Step::Bench], Vec::new()));
        let names = vec!["vcpu".to_owned(), "boot::pvh".to_owned()];
        assert_eq!(words("emulator vcpu boot::pvh").unwrap(), (vec![Step::Emulator], names));
    }

    #[test]
    fn a_word_that_is_no_step_is_one_line_that_says_what_it_could_be() {
        let text = words("unit vcpu").unwrap_err().to_string();
        assert!(text.starts_with("`vcpu` is not a step (format, dependencies, "), "{text}");
        assert!(text.ends_with("a trial is run by `cargo xtask test emulator vcpu`"), "{text}");
    }
}
