//! `bench`: measures the figures that have a budget and prints them beside those of others. A figure
//! over its budget is a failure.
//!
//! The systems `systems/tests/bench*.toml` measure themselves from inside and print `bench NAME VALUE`;
//! they run under an instruction clock: in QEMU on AMD-V, in Bochs on VT-x, so each figure repeats exactly.
//! Sizes are the matter of `sizes`.

pub mod figures;
mod guest;

use crate::emulator::Event;
use crate::emulator::machine::{Boot, Kind, MEMORY_MIB, Machine, Target};
use crate::image::Image;
use crate::run::EXIT_PASS;
use crate::run::session::{self, Said, Session};
use crate::{build, image, manifest, setup, workspace};
use anyhow::{Context, bail};
use figures::Measured;
use guest::Console;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// Measure these systems, and nothing else.
    manifests: Vec<PathBuf>,
    /// Wall time for each system, seconds; in Bochs three times as much.
    #[arg(long, default_value_t = 240)]
    seconds: u64,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The systems that were named: what else has a budget is not asked for.
    Named,
    /// All that does not take minutes.
    Quick,
    /// The boot of the Debian guest on VT-x, too.
    Whole,
}

/// Runs the verb.
pub fn command(args: &Args) -> anyhow::Result<()> {
    let limit = Duration::from_secs(args.seconds);
    if args.manifests.is_empty() {
        return check(&manifests()?, limit, Extent::Whole);
    }
    check(&args.manifests, limit, Extent::Named)
}

/// Measures, prints the table, and fails for a figure over its budget.
pub fn check(systems: &[PathBuf], limit: Duration, extent: Extent) -> anyhow::Result<()> {
    let measured = measure(systems, limit, extent)?;
    let (text, over) = figures::table(&measured, extent);
    print!("{text}{}", figures::reasons(&measured));
    if over.is_empty() {
        return Ok(());
    }
    bail!("over budget: {}", over.join("; "))
}

/// The systems that measure.
pub fn manifests() -> anyhow::Result<Vec<PathBuf>> {
    let directory = workspace::root().join("systems/tests");
    let entries =
        std::fs::read_dir(&directory).with_context(|| format!("{} cannot be read", workspace::display(&directory)))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    paths.retain(|path| name(path).starts_with("bench") && name(path).ends_with(".toml"));
    if paths.is_empty() {
        bail!("{} holds no bench*.toml, so there is nothing to measure", workspace::display(&directory));
    }
    paths.sort();
    Ok(paths)
}

/// Boots each system and collects its figures, on AMD-V and on VT-x.
fn measure(manifests: &[PathBuf], limit: Duration, extent: Extent) -> anyhow::Result<Measured> {
    setup::ensure(&[setup::Need::Toolchain, setup::Need::Qemu, setup::Need::Bochs, setup::Need::Grub])?;
    build::compile("info", |_| true)?;
    let mut measured = Measured::default();
    for path in manifests {
        let name = path.file_stem().unwrap_or_default();
        let out = workspace::out_dir().join("bench").join(name);
        let image = image::assemble(path, manifest::load(path)?, Some(&out))?;
        let on = |kind| one(&image, kind, limit).with_context(|| format!("{} in {kind:?}", workspace::display(path)));
        measured.svm.extend(on(Kind::Qemu)?);
        measured.vmx.extend(on(Kind::Bochs)?);
    }
    if extent == Extent::Named {
        return Ok(measured);
    }
    let demo = workspace::demo_manifest();
    let out = workspace::out_dir().join("bench").join("boot");
    let image = image::assemble(&demo, manifest::load(&demo)?, Some(&out))?;
    measured.svm.insert(figures::BOOT.to_owned(), boot(&image, limit)?);
    measured.svm.insert(figures::FIRST_BYTE.to_owned(), guest::first_byte(limit)?);
    measured.svm.extend(guest::measure(Kind::Qemu, Console::Full, limit)?.figures);
    let quiet = guest::measure(Kind::Qemu, Console::Quiet, limit)?;
    measured.svm.extend(quiet.figures);
    measured.svm_exits = quiet.reasons;
    if extent == Extent::Whole {
        let quiet = guest::measure(Kind::Bochs, Console::Quiet, limit)?;
        measured.vmx.extend(quiet.figures);
        measured.vmx_exits = quiet.reasons;
    }
    Ok(measured)
}

/// A session that counts instructions: in QEMU on AMD-V, in Bochs on VT-x.
fn session(image: &Image, kind: Kind, limit: Duration) -> anyhow::Result<Session> {
    let (boot, limit) = match kind {
        Kind::Qemu => (session::pvh(image, None), limit),
        Kind::Bochs => (Boot::IsoBios(image::iso(image, &image.system.command_line, &[])?), limit * 3),
    };
    let target = Target::new(kind, None);
    let machine = Machine { icount: true, target, ..Machine::new(boot, image.memory_mib(MEMORY_MIB)) };
    Session::start(&machine, image, limit)
}

/// The machine's time when the last service of the system says in the log that it is ready.
fn boot(image: &Image, limit: Duration) -> anyhow::Result<u64> {
    let mut session = session(image, Kind::Qemu, limit)?;
    let mut missing: BTreeSet<&str> = image.system.partitions.iter().map(|one| one.name.as_str()).collect();
    loop {
        for said in session.next(Duration::from_secs(1)) {
            match said {
                Said::Log(line) if line.text.contains(READY) => {
                    missing.remove(line.origin.as_str());
                    if missing.is_empty() {
                        return Ok(line.tsc);
                    }
                }
                Said::Event(event) if event != Event::Quiet => {
                    let missing: Vec<&str> = missing.into_iter().collect();
                    bail!("{event:?} before {} said that they are ready", missing.join(", "));
                }
                _ => {}
            }
        }
    }
}

/// What every service logs when it can be called.
const READY: &str = " ready, generation 1";

fn one(image: &Image, kind: Kind, limit: Duration) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut session = session(image, kind, limit)?;
    let mut figures = BTreeMap::new();
    let mut com1 = Vec::new();
    loop {
        for said in session.next(Duration::from_secs(1)) {
            match said {
                Said::Com1(bytes) => com1.extend_from_slice(&bytes),
                Said::Log(line) => figures.extend(figures::parse(&line.text)),
                Said::Event(Event::Exit(EXIT_PASS)) => return Ok(all(figures, &com1)),
                Said::Event(event @ (Event::Exit(_) | Event::Stopped(_) | Event::Gone | Event::Deadline)) => {
                    bail!("{event:?} before the measurement was done:\n{}", String::from_utf8_lossy(&com1));
                }
                _ => {}
            }
        }
        if ended(&String::from_utf8_lossy(&com1))? {
            return Ok(all(figures, &com1));
        }
    }
}

fn all(mut figures: BTreeMap<String, u64>, com1: &[u8]) -> BTreeMap<String, u64> {
    figures.extend(String::from_utf8_lossy(com1).lines().filter_map(figures::parse));
    figures
}

/// True when the system says that it has measured everything.
fn ended(com1: &str) -> anyhow::Result<bool> {
    let whole = com1.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for line in whole.lines() {
        if line.contains("FAIL") {
            bail!("{line}");
        }
        if line.contains("TEST PASS") || line.starts_with("guest bench: done") {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_ends_with_a_whole_line_that_says_so() {
        assert!(!ended("bench cpuid 5\nTEST PA").unwrap());
        assert!(!ended("TEST PASS").unwrap());
        assert!(ended("bench cpuid 5\nTEST PASS\n").unwrap());
        assert!(ended("guest bench: done 7 ok 0 failed\n").unwrap());
        assert!(ended("guest bench: FAIL cpuid: vector 6\n").is_err());
    }
}
