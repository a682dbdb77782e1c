//! One trial a manifest in `systems/tests`. The binaries are built once, before the first trial; images
//! are put together by each.

use anyhow::Context;
use libtest_mimic::{Arguments, Failed, Trial};
use portcullis_build::{build, image, manifest, setup, workspace};
use portcullis_qemu_tests::place::{self, Place};
use portcullis_qemu_tests::{directives, trial};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Trials that run at once when the command line does not say: each keeps one CPU busy.
const THREADS: usize = 2;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    match prepare(&arguments) {
        Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
        Err(error) => {
            eprintln!("portcullis: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn prepare(arguments: &Arguments) -> anyhow::Result<Vec<Trial>> {
    let trials = manifests()?;
    if !arguments.list && !trials.is_empty() {
        setup::ensure(&[setup::Need::Toolchain, setup::Need::Qemu])?;
        build::compile("info", |_| true)?;
    }
    let trial = |path: &PathBuf, place: Place| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let path = path.clone();
        let run = move || system(&path, place).map_err(|error| Failed::from(format!("{error:#}")));
        Trial::test(place.trial(&name), run).with_ignored_flag(place != place::QEMU)
    };
    Ok(place::ALL.into_iter().flat_map(|place| trials.iter().map(move |path| trial(path, place))).collect())
}

/// The manifests in `systems/tests`, by name.
fn manifests() -> anyhow::Result<Vec<PathBuf>> {
    let directory = workspace::root().join("systems/tests");
    let entries =
        std::fs::read_dir(&directory).with_context(|| format!("{} cannot be read", workspace::display(&directory)))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn system(path: &Path, place: Place) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path)?;
    let directives = place.adapt(directives::read(&text).with_context(|| workspace::display(path))?);
    let system = manifest::load(path)?;
    // Two manifests may give the same name to their system.
    let name = path.file_stem().unwrap_or_default();
    let out = workspace::out_dir().join("tests").join(place.name).join(name);
    let image = image::assemble(path, system, Some(&out))?;
    trial::run_at(&image, &directives, place)?.outcome(&image)
}
