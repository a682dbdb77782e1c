//! `cargo xtask`: one verb a module. Here live only the command line and the one line that a failed
//! verb ends with.

use clap::{Parser, Subcommand};
use portcullis_build as tool;
use portcullis_build::emulator::qemu::program;
use std::path::PathBuf;
use std::process::ExitCode;

/// Builds, images, runs, tests and audits Portcullis systems.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    /// Another QEMU than the one on PATH; so does the variable PORTCULLIS_QEMU.
    #[arg(long, global = true, value_name = "PROGRAM")]
    qemu: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what the other verbs need, after saying what.
    Setup(tool::setup::Args),
    /// Compile core and services for bare metal.
    Build(tool::build::Args),
    /// Check a system manifest and write its image (PVH ELF + bundle, GRUB ISO).
    Image(tool::image::Args),
    /// Build a system and boot it in an emulator.
    Run(Box<tool::run::Args>),
    /// Run every check: format, lints, unit tests, emulator tests, audits, budgets.
    Test(tool::test::Args),
    /// Boot a system and check its page tables and control registers from outside.
    Audit(tool::audit::Args),
    /// Measure the figures that have a budget.
    Bench(tool::bench::Args),
    /// Draw a system manifest.
    Graph(tool::graph::Args),
    /// Count code, text, unsafe and memory against their budgets.
    Sizes(tool::sizes::Args),
    /// Decode a captured log.
    Log(tool::logs::Args),
}

fn main() -> ExitCode {
    // Defaults of the command line are places in the checkout.
    match tool::workspace::locate() {
        Ok(_) => ended(run(Arguments::parse())),
        Err(error) => ended(Err(error.into())),
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    if let Some(program) = arguments.qemu.clone().or_else(program::chosen) {
        program::choose(&program)?;
    }
    match arguments.verb {
        Verb::Setup(args) => tool::setup::command(&args),
        Verb::Build(args) => tool::build::command(&args),
        Verb::Image(args) => tool::image::command(&args),
        Verb::Run(args) => tool::run::command(&args),
        Verb::Test(args) => tool::test::command(&args),
        Verb::Audit(args) => tool::audit::command(&args),
        Verb::Bench(args) => tool::bench::command(&args),
        Verb::Graph(args) => tool::graph::command(&args),
        Verb::Sizes(args) => tool::sizes::command(&args),
        Verb::Log(args) => tool::logs::command(&args),
    }
}

fn ended(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis: {}", tool::one_line::one_line(&error));
            ExitCode::FAILURE
        }
    }
}
