//! One trial a manifest in `systems/tests` and place; those in Bochs and the long ones run with `--include-ignored`,
//! few of those in Bochs always. The binaries are built once, before the first trial; images are put together by each.

use anyhow::Context;
use libtest_mimic::{Failed, Trial};
use portcullis_build::run::options::Options;
use portcullis_build::{build, image, manifest, setup, workspace};
use portcullis_qemu_tests::chosen::Chosen;
use portcullis_qemu_tests::directives::{self, Directives};
use portcullis_qemu_tests::place::{self, Place};
use portcullis_qemu_tests::table::Table;
use portcullis_qemu_tests::trial;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

/// Trials that run at once when the command line does not say: each keeps one CPU busy.
const THREADS: usize = 2;
/// How much longer a long trial may take.
const LONG: u32 = 6;

fn main() -> ExitCode {
    let chosen = Chosen::from_args(THREADS);
    let table = Arc::new(Table::default());
    let code = chosen.run(prepare(&chosen, &table));
    if !chosen.only_lists() {
        print!("{table}");
    }
    code
}

fn prepare(chosen: &Chosen, table: &Arc<Table>) -> anyhow::Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for path in manifests()? {
        let text = std::fs::read_to_string(&path)?;
        let directives = directives::read(&text).with_context(|| workspace::display(&path))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for place in place::ALL {
            if let Some(why) = place.refusal(&directives) {
                table.refused(&name, place, why);
                continue;
            }
            let quick = place.is_quick(&directives);
            if quick && place != place::QEMU {
                table.quick(&name, place);
            }
            let plan = Plan {
                name: name.clone(),
                path: path.clone(),
                directives: place.adapt(directives.clone()),
                place,
                guestinfo: Vec::new(),
            };
            trials.push(plan.trial(table).with_ignored_flag(!quick));
        }
        if !directives.long.is_empty() {
            let guestinfo = directives.long.clone();
            let directives = Directives { limit: directives.limit * LONG, ..directives };
            let plan = Plan { name: format!("{name}-long"), path, directives, place: place::QEMU, guestinfo };
            trials.push(plan.trial(table).with_ignored_flag(true));
        }
    }
    trials.retain(|trial: &Trial| chosen.wants(trial.name()));
    if !chosen.only_lists() && !trials.is_empty() {
        setup::ensure(&[setup::Need::Toolchain, setup::Need::Qemu, setup::Need::Bochs, setup::Need::Grub])?;
        build::compile("info", |_| true)?;
    }
    Ok(trials)
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

/// One trial.
struct Plan {
    name: String,
    path: PathBuf,
    directives: Directives,
    place: Place,
    /// What the guest finds there.
    guestinfo: Vec<String>,
}

impl Plan {
    fn trial(self, table: &Arc<Table>) -> Trial {
        let table = Arc::clone(table);
        Trial::test(self.place.trial(&self.name), move || self.run(&table))
    }

    fn run(&self, table: &Table) -> Result<(), Failed> {
        let begun = Instant::now();
        let outcome = self.outcome();
        table.ran(&self.name, self.place, outcome.is_ok(), begun.elapsed());
        outcome.map_err(|error| Failed::from(format!("{error:#}")))
    }

    fn outcome(&self) -> anyhow::Result<()> {
        let mut system = manifest::load(&self.path)?;
        // Two manifests may give the same name to their system.
        let out = workspace::out_dir().join("tests").join(self.place.name).join(&self.name);
        if !self.guestinfo.is_empty() {
            Options::with_guestinfo(&self.guestinfo).apply(&mut system, &out)?;
        }
        let image = image::assemble(&self.path, system, Some(&out))?;
        trial::run_at(&image, &self.directives, self.place)?.outcome(&image)
    }
}
