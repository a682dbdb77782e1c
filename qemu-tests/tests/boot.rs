//! The demonstration system booted in each way that is supported, and refused with one clear line for
//! each way in which its image can be bad and each processor that will not do; and its audit, which must be able to fail.

use anyhow::Context;
use libtest_mimic::{Failed, Trial};
use portcullis_build::image::{self, Image};
use portcullis_build::manifest::Blob;
use portcullis_build::{setup, workspace};
use portcullis_qemu_tests::chosen::Chosen;
use portcullis_qemu_tests::directives::{By, Directives};
use portcullis_qemu_tests::judge::Verdict;
use portcullis_qemu_tests::place::{self, Place};
use portcullis_qemu_tests::spoil::{self, Spoiled};
use portcullis_qemu_tests::{plant, trial};
use std::process::ExitCode;
use std::time::Duration;

/// Trials that run at once when the command line does not say.
const THREADS: usize = 2;
/// What the demonstration's guest says last.
const DEMO_DONE: &str = "guest demo: done";

fn main() -> ExitCode {
    let chosen = Chosen::from_args(THREADS);
    chosen.run(prepare(&chosen))
}

/// What is done with the demonstration's image.
type Run = Box<dyn Fn(&Image) -> anyhow::Result<()> + Send>;

fn prepare(chosen: &Chosen) -> anyhow::Result<Vec<Trial>> {
    let ways = [("pvh", By::Pvh), ("multiboot2-bios", By::Bios), ("multiboot2-uefi", By::Uefi)];
    let boot = |(name, by)| -> (String, Run) { (format!("boot::{name}"), Box::new(move |image| boots(image, by))) };
    let refusal = |one: &'static Spoiled| -> (String, Run) {
        (format!("refuse::{}", one.name), Box::new(move |image| refuses(image, one)))
    };
    let planted: (String, Run) = ("audit::notices-every-planted-breach".into(), Box::new(notices));
    let last_words: (String, Run) =
        ("stop::leaves-an-epitaph-and-the-last-records".into(), Box::new(leaves_last_words));
    let processor = |one: &'static Refusal| -> (String, Run) {
        (format!("refuse::{}", one.name), Box::new(move |image| refuses_processor(image, one)))
    };
    let opened: (String, Run) = ("boot::bochs-with-vt-x-left-open".into(), Box::new(boots_with_vtx_left_open));
    let large: (String, Run) = ("boot::a-large-file-and-a-large-guest".into(), Box::new(boots_large));
    let busy: (String, Run) = ("boot::on-a-host-that-stands-still".into(), Box::new(boots_between_stalls));
    let silent: (String, Run) = ("stop::a-trial-without-an-end-says-where-the-machine-is".into(), Box::new(is_located));
    let others = [planted, last_words, large, busy, silent];
    let all = ways.into_iter().map(boot).chain(spoil::ALL.iter().map(refusal)).chain(others);
    let damaged: (String, Run) = ("refuse::a-guest-file-that-is-damaged".into(), Box::new(refuses_file));
    let all = all.chain(REFUSALS.iter().map(processor)).chain([opened, damaged]);
    let all: Vec<(String, Run)> = all.filter(|(name, _)| chosen.wants(name)).collect();
    let image = if chosen.only_lists() || all.is_empty() { None } else { Some(demo()?) };
    // By wall clock, so only on demand.
    let by_wall_clock = |trial: Trial| {
        let ignored = trial.name() == "boot::on-a-host-that-stands-still";
        trial.with_ignored_flag(ignored)
    };
    Ok(all.into_iter().map(|(name, run)| by_wall_clock(trial(name, image.clone(), run))).collect())
}

/// A processor, or a firmware, with which the core does not start.
struct Refusal {
    name: &'static str,
    place: Place,
    /// Commands for GRUB.
    grub: &'static [&'static str],
    line: &'static str,
}

const REFUSALS: [Refusal; 5] = [
    Refusal {
        name: "no-virtualization",
        place: place::QEMU_BARE,
        grub: &[],
        line: "vm: this processor has neither SVM (CPUID 0x80000001 ECX bit 2) nor VMX",
    },
    // Every processor of Bochs 2.7 that has SMEP has VT-x or AMD-V, too.
    Refusal {
        name: "no-vt-x",
        place: place::QEMU_INTEL,
        grub: &[],
        line: "vm: this processor has neither SVM (CPUID 0x80000001 ECX bit 2) nor VMX",
    },
    Refusal {
        name: "no-long-mode",
        place: place::ATOM,
        grub: &[],
        line: "portcullis: boot: this processor has no long mode",
    },
    Refusal {
        name: "vt-x-locked-off",
        place: place::HASWELL_SEABIOS,
        grub: &["insmod wrmsr", "wrmsr 0x3a 1"],
        line: "vm: VMX is locked off by the firmware",
    },
    Refusal {
        name: "no-smep",
        place: place::SANDY_BRIDGE,
        grub: &[],
        line: "boot: this processor lacks what the core needs: SMEP",
    },
];

/// `image` is `None` where trials are only listed.
fn trial(name: String, image: Option<Image>, run: Run) -> Trial {
    Trial::test(name, move || match &image {
        Some(image) => run(image).map_err(|error| Failed::from(format!("{error:#}"))),
        None => Ok(()),
    })
}

fn demo() -> anyhow::Result<Image> {
    use setup::Need::{Bochs, Grub, Ovmf, Qemu, Toolchain};
    setup::ensure(&[Toolchain, Qemu, Bochs, Ovmf, Grub])?;
    let out = workspace::out_dir().join("tests").join("boot");
    image::make(&workspace::demo_manifest(), Some(&out), "info")
}

/// Expectations of the demonstration.
fn directives() -> Directives {
    // The log of a service comes with its name, its text and the place in the source.
    let texts = [DEMO_DONE, "supervisor ready, generation 1", "(services/link/src/", "(kernel/src/"];
    let (icount, expect) = (true, texts.map(str::to_owned).to_vec());
    Directives { icount, expect, ..Directives::default() }
}

/// The audit of the system as it runs finds nothing, and each planted breach.
fn notices(image: &Image) -> anyhow::Result<()> {
    notices_at(image, "planted", place::QEMU, &plant::ALL)
}

/// The same for some breaches, at a place.
fn notices_at(image: &Image, name: &str, place: Place, plants: &[plant::Plant]) -> anyhow::Result<()> {
    let mut scene = trial::capture(&copy(image, name, |_| ())?, &place.adapt(directives()), place)?;
    let found = scene.judge().breaches;
    anyhow::ensure!(found.is_empty(), "the system is not sound to begin with: {}", found[0]);
    let missed: Vec<String> = plants.iter().filter_map(|one| plant::notice(&mut scene, one).err()).collect();
    anyhow::ensure!(missed.is_empty(), "{}", missed.join("\n"));
    Ok(())
}

fn boots(image: &Image, boot: By) -> anyhow::Result<()> {
    // Firmware and GRUB wait for devices that are done when the host is, whatever time it is in there.
    let icount = boot == By::Pvh;
    let directives = Directives { boot, icount, memory_mib: 512, ..directives() };
    // The two ISO trials write the same tree, so each has a copy of the image of its own.
    judged(&copy(image, &format!("boot-{boot:?}"), |_| ())?, &directives)
}

/// A file of 70 MiB and a guest of 3 GiB, which fits only above 4 GiB: the machine grows with them, and the boot
/// does not take longer than any other, because the core checks no file.
fn boots_large(image: &Image) -> anyhow::Result<()> {
    let directory = workspace::out_dir().join("tests").join("large");
    let file = directory.join("file");
    image::write_file(&file, &vec![0xa5; 70 << 20])?;
    let mut system = image.system.clone();
    for vm in &mut system.vms {
        vm.memory_pages = 3 << 18;
    }
    for partition in system.partitions.iter_mut().filter(|one| !one.blobs.is_empty()) {
        let blob = Blob { name: "large".into(), file: file.display().to_string(), line: partition.line };
        partition.blobs.push(blob);
    }
    let image = image::assemble(&workspace::demo_manifest(), system, Some(&directory))?;
    let mut directives = directives();
    directives.expect.push("3072 MiB of memory".into());
    judged(&image, &directives)
}

/// Boots on a busy host.
const BUSY_BOOTS: usize = 3;
/// What the core says of its clocks.
const RATE: (&str, &str) = ("tsc ", " Hz, lapic ");

/// A host that stands still does so at any time: the core finds the same rate of the TSC each time, within 0.05 %.
fn boots_between_stalls(image: &Image) -> anyhow::Result<()> {
    let image = copy(image, "stalls", |_| ())?;
    let directives = Directives { icount: false, stalls: true, audit: false, ..directives() };
    let mut rates = Vec::new();
    for _ in 0..BUSY_BOOTS {
        let report = trial::run(&image, &directives)?;
        report.outcome(&image)?;
        let text = report.text();
        let number = text.split_once(RATE.0).and_then(|(_, rest)| Some(rest.split_once(RATE.1)?.0));
        rates.push(number.context("the core does not say the TSC's rate")?.parse::<u64>()?);
    }
    let (least, most) = (rates.iter().min().unwrap_or(&0), rates.iter().max().unwrap_or(&0));
    anyhow::ensure!((most - least) * 2000 <= *most, "the TSC's rate differs by more than 0.05 %: {rates:?} Hz");
    Ok(())
}

fn refuses(image: &Image, spoiled: &Spoiled) -> anyhow::Result<()> {
    let directives =
        Directives { icount: true, expect: vec![spoiled.refusal.into()], audit: false, ..Directives::default() };
    judged(&copy(image, &format!("refuse-{}", spoiled.name), spoiled.spoil)?, &directives)
}

fn refuses_processor(image: &Image, refusal: &Refusal) -> anyhow::Result<()> {
    let directives = Directives {
        icount: true,
        expect: vec![refusal.line.into()],
        audit: false,
        grub: refusal.grub.iter().map(|line| (*line).to_owned()).collect(),
        ..Directives::default()
    };
    let image = copy(image, &format!("refuse-{}", refusal.name), |_| ())?;
    let directives = refusal.place.adapt(directives);
    trial::run_at(&image, &directives, refusal.place)?.outcome(&image)
}

/// SeaBIOS leaves `IA32_FEATURE_CONTROL` open and VT-x off: the core turns it on. The audit of nested tables of VT-x
/// finds nothing there, and each planted breach.
fn boots_with_vtx_left_open(image: &Image) -> anyhow::Result<()> {
    notices_at(image, "boot-seabios", place::HASWELL_SEABIOS, &plant::EPT)
}

/// A guest's file that was damaged after the image was made: the core, which does not check it, boots; one line
/// says what is wrong with which file and what to do, the guest does not start, and the host is told.
fn refuses_file(image: &Image) -> anyhow::Result<()> {
    let line = "guest not loaded: blob \"guest\" is corrupt, its CRC-32C differs: build the image anew";
    let directives = Directives {
        expect: vec!["VM 0: Stopped".into(), line.into()],
        // The host's own reader refuses the damaged bundle, and the audit needs it.
        audit: false,
        forbid: vec!["guest demo:".into(), "ended".into()],
        ..Directives::default()
    };
    let report = trial::run(&copy(image, "damaged-file", |bundle| spoil::flip_first_file(bundle))?, &directives)?;
    report.outcome(image)?;
    let said = report.transcript.iter().filter(|one| one.text.contains("not loaded")).count();
    anyhow::ensure!(said == 1, "it is said {said} times: see said.txt beside the image");
    Ok(())
}

/// A trial waits for what never comes: the report says registers and local APIC, and the last lines of the log.
fn is_located(image: &Image) -> anyhow::Result<()> {
    let limit = Duration::from_secs(5);
    let never =
        Directives { expect: vec!["what nobody says".to_owned()], limit, audit: false, ..Directives::default() };
    let report = trial::run(image, &never)?;
    anyhow::ensure!(matches!(&report.verdict, Verdict::Fail(why) if why.contains("time was over")), "it has an end");
    let text = report.text();
    for part in ["the machine: RIP=", "the machine: CR0=", "the machine: IRR", "supervisor ready, generation 1"] {
        anyhow::ensure!(text.contains(part), "{part} is not in the report:\n{text}");
    }
    Ok(())
}

/// A supervisor that dies whenever it is started makes the core stop: with a line on COM1, the records
/// that nobody had fetched on COM2, and an epitaph in the memory that stays.
fn leaves_last_words(image: &Image) -> anyhow::Result<()> {
    let mut system = image.system.clone();
    for partition in system.partitions.iter_mut().filter(|one| one.name == "supervisor") {
        // Another service's program, which does not find its configuration.
        "portcullis-vmexit".clone_into(&mut partition.elf);
    }
    let out = workspace::out_dir().join("tests").join("last-words");
    let image = image::assemble(&workspace::demo_manifest(), system, Some(&out))?;
    let why = "the supervisor died more than 3 times";
    let directives = Directives {
        icount: true,
        expect: vec![format!("portcullis: stop: {why}"), "portcullis: stop: log written".into()],
        audit: false,
        ..Directives::default()
    };
    let report = trial::run(&image, &directives)?;
    report.outcome(&image)?;
    for text in [format!("the core stopped: {why}"), "partition 0 ended".into(), "generation 4, restart 3".into()] {
        let said = report.text();
        anyhow::ensure!(said.contains(&text), "`{text}` is not in:\n{said}");
    }
    Ok(())
}

/// A copy of the image in a directory of its own, changed.
fn copy(image: &Image, name: &str, change: impl Fn(&mut Vec<u8>)) -> anyhow::Result<Image> {
    let directory = workspace::out_dir().join("tests").join(name);
    std::fs::create_dir_all(&directory)?;
    let mut bundle = std::fs::read(&image.bundle)?;
    change(&mut bundle);
    let (core, path) = (directory.join("core.elf"), directory.join("bundle.img"));
    std::fs::copy(&image.core, &core)?;
    std::fs::write(&path, bundle)?;
    Ok(Image { core, bundle: path, ..image.clone() })
}

fn judged(image: &Image, directives: &Directives) -> anyhow::Result<()> {
    trial::run(image, directives)?.outcome(image)
}
