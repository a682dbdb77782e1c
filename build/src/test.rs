//! `test`: every check of the project, cheapest first. Each step prints its name and time; the first
//! that fails ends the run, unless asked otherwise, with one line that says how to repeat it alone.

use crate::build::{self, Binary};
use crate::toolchain::Toolchain;
use crate::{bench, dependencies, image, manifest, process, setup, sizes, workspace};
use anyhow::{Context, bail};
use std::process::Command;
use std::time::{Duration, Instant};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// Run only these steps, in their own order; default: all.
    #[arg(value_enum)]
    steps: Vec<Step>,
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

    fn run(self, all: bool) -> anyhow::Result<()> {
        match self {
            Self::Format => Ok(limited(cargo("fmt").args(["--all", "--check"]), "rustfmt", 2)?),
            Self::Dependencies => check_dependencies(),
            Self::Manifests => check_manifests(),
            Self::Clippy => clippy(),
            Self::ClippyMetal => clippy_metal(),
            Self::Unit => unit(),
            Self::Sizes => check_sizes(),
            Self::Emulator => emulator(all),
            Self::Bench => check_bench(all),
        }
    }
}

/// Runs the verb.
pub fn command(args: &Args) -> anyhow::Result<()> {
    use setup::Need;
    setup::ensure(&Need::ALL)?;
    let wanted = |step: &Step| args.steps.is_empty() || args.steps.contains(step);
    let steps: Vec<Step> = Step::ALL.into_iter().filter(wanted).collect();
    let start = Instant::now();
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    for (index, step) in steps.iter().enumerate() {
        let name = step.name();
        let place = format!("[{}/{}] {name}", index + 1, steps.len());
        println!("test: {place}");
        let begin = Instant::now();
        let outcome = step.run(args.all);
        let seconds = begin.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                println!("test: {place}: passed in {seconds:.1} s");
                passed.push(format!("{name} {seconds:.1} s"));
            }
            Err(error) => {
                println!("test: {place}: FAILED after {seconds:.1} s: {error:#}");
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
    bail!("the tests FAILED in {}; repeat with `cargo xtask test{all} {}`", failed.join(", "), failed.join(" "))
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

/// The core's package: its program is no host program, only its tests are.
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

/// The emulator tests' package: not a unit test.
const EMULATOR_TESTS: &str = "portcullis-qemu-tests";

fn unit() -> anyhow::Result<()> {
    limited(on_host("test", &[EMULATOR_TESTS])?.args(["--no-fail-fast", "--quiet"]), "the unit tests", 60)?;
    let mut judge = cargo("test");
    judge.args(["--package", EMULATOR_TESTS, "--lib", "--quiet"]);
    Ok(limited(&mut judge, "the unit tests of the emulator tests", 40)?)
}

fn check_sizes() -> anyhow::Result<()> {
    build::compile("info", |_| true)?;
    let figures = sizes::measure(&workspace::demo_manifest())?;
    sizes::print(&figures);
    Ok(sizes::check(&figures)?)
}

fn emulator(all: bool) -> anyhow::Result<()> {
    image::make(&workspace::demo_manifest(), None, "info").context("the demonstration")?;
    // Each trial has a limit of its own; this one only ends what is stuck outside a trial.
    Ok(limited(&mut trials(all), "the emulator tests", if all { 240 } else { 120 })?)
}

/// Runs the trials: each says its name and how it ended when it ends, since they take long.
fn trials(all: bool) -> Command {
    let mut command = cargo("test");
    command.args(["--package", EMULATOR_TESTS, "--tests"]);
    if all {
        command.args(["--", "--include-ignored"]);
    }
    command
}

fn check_bench(all: bool) -> anyhow::Result<()> {
    let extent = if all { bench::Extent::Whole } else { bench::Extent::Quick };
    bench::check(&bench::manifests()?, Duration::from_secs(240), extent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn arguments(line: &[&str]) -> Vec<String> {
        let all = Line::parse_from([&["test"], line].concat()).args.all;
        trials(all).get_args().map(|one| one.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn trials_that_take_minutes_run_when_all_is_wanted_and_none_is_quiet() {
        let plain = arguments(&["emulator"]);
        assert!(!plain.iter().any(|one| one == "--include-ignored" || one == "--quiet"), "{plain:?}");
        assert!(arguments(&["emulator", "--all"]).ends_with(&["--".to_owned(), "--include-ignored".to_owned()]));
    }
}
