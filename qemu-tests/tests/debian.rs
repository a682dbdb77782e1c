//! The Debian guest under the whole system: an unmodified kernel, the real programs of open-vm-tools, and tests
//! that run inside. Trials that take minutes run only with `--include-ignored`, which is what
//! `cargo xtask test --all` gives.

use libtest_mimic::{Failed, Trial};
use portcullis_build::guest::kernel::Entry;
use portcullis_build::guest::overrides::MOST_COMMAND_LINE;
use portcullis_build::{build, image, setup, workspace};
use portcullis_qemu_tests::chosen::Chosen;
use portcullis_qemu_tests::clock::{self, Rate};
use portcullis_qemu_tests::debian::{Kill, Scenario};
use portcullis_qemu_tests::directives::Directives;
use portcullis_qemu_tests::pace;
use portcullis_qemu_tests::place::{self, Place};
use portcullis_qemu_tests::trial;
use std::process::ExitCode;
use std::time::Duration;

/// Trials that run at once when the command line does not say.
const THREADS: usize = 2;

/// One trial.
struct Plan {
    name: &'static str,
    place: Place,
    scenario: Scenario,
    /// Wall time, seconds.
    seconds: u64,
    /// What must be said.
    expect: &'static [&'static str],
    /// What must not be said.
    forbid: &'static [&'static str],
    /// Whether the host gives the emulator a tenth of a CPU, which is what it has for the load of the guest.
    busy: bool,
    /// Whether the guest says its time, which must be right.
    clock: bool,
    /// Whether the guest says how long its work took, which is compared with the bare emulator.
    pace: bool,
    /// Only on demand.
    long: bool,
}

impl Plan {
    fn trial_name(&self) -> String {
        self.place.trial(&format!("debian::{}", self.name))
    }
}

/// How far a guest's clock may be off, parts of the host's time.
const CLOCK_ERROR: f64 = 0.001;
/// For how long it is compared at least, seconds.
const CLOCK_SECONDS: f64 = 60.0;

/// What the tests inside say at the end.
const DONE: &str = "portcullis-guest: done: ";
/// What is never said but where it is the point.
const NEVER: [&str; 3] = ["Kernel panic", "guest not loaded", "vCPU stopped"];

fn plans() -> Vec<Plan> {
    let plan = |name, scenario, seconds| Plan {
        name,
        place: place::QEMU,
        scenario,
        seconds,
        expect: &[DONE],
        forbid: &NEVER,
        busy: false,
        clock: false,
        pace: false,
        long: false,
    };
    let long = |plan| Plan { long: true, ..plan };
    let (base, two) = (Scenario::default, || Scenario { vcpus: 2, ..Scenario::default() });
    let memory = || Scenario { tests: &["memory"], ..Scenario::default() };
    let mut plans = vec![
        long(plan("demo", base(), 240)),
        long(Plan { place: place::SKYLAKE, ..plan("demo", base(), 900) }),
        plan("one-vcpu", Scenario { tests: &["machine", "tools", "hygiene"], ..base() }, 400),
        plan(
            "two-vcpus-sipi",
            Scenario {
                tests: &["machine", "processors", "hygiene"],
                platform: Some(1),
                line: Some(MOST_COMMAND_LINE),
                ..two()
            },
            400,
        ),
        plan("two-vcpus-mailbox", Scenario { tests: &["processors"], ap_start: "mailbox", ..two() }, 400),
        Plan { clock: true, ..plan("clock", Scenario { tests: &["clock"], ..base() }, 400) },
        long(Plan { pace: true, ..plan("pace", Scenario { tests: &["pace"], append: "quiet", ..base() }, 900) }),
        long(plan("linux32", Scenario { entry: Entry::Linux32, ..base() }, 400)),
        Plan {
            expect: &["about to restart", DONE],
            ..plan("restart", Scenario { tests: &["restart"], ..base() }, 400)
        },
        plan(
            "killed-services",
            Scenario {
                tests: &["work"],
                append: "portcullis.rounds=60 portcullis.soft=yes",
                // From the start, and more often than an instance could load the guest in.
                kills: &[
                    Kill { service: "vmexit0", after: 700, every: 701 },
                    Kill { service: "vmport-rpc", after: 1_000, every: 503 },
                    Kill { service: "acpi-mangler", after: 1_000, every: 307 },
                ],
                ..base()
            },
            500,
        ),
        long(Plan {
            busy: true,
            forbid: &["Kernel panic", "guest not loaded", "vCPU stopped", "vmexit ready, generation 2"],
            ..plan("large-disk-on-a-busy-host", large_disk(), 1_200)
        }),
        long(Plan {
            expect: &[DONE, "the guest's host name: debian", "a second program of the guest is \"toolbox\""],
            ..plan("daemon", Scenario { tests: &["daemon"], ..base() }, 900)
        }),
        long(Plan {
            expect: &["System halted", "it halts with interrupts off", "VM 0: Stopped"],
            forbid: &["Kernel panic", "FAIL"],
            ..plan("halt", Scenario { tests: &["halt"], ..two() }, 400)
        }),
        long(plan("memory-3584m", Scenario { memory_mib: Some(3584), ..memory() }, 900)),
        long(plan("memory-8192m", Scenario { memory_mib: Some(8192), ..memory() }, 900)),
        long(plan("memory-8192m-new", Scenario { memory_mib: Some(8192), kernel: NEW, ..memory() }, 900)),
        long(Plan {
            forbid: &["Kernel panic", "guest not loaded", "vCPU stopped", "Freezing execution"],
            ..plan("systemd-root", whole(), 900)
        }),
    ];
    plans.extend(
        BOOTS.into_iter().map(|boot| Plan { long: boot.long, ..plan(boot.name, boot.scenario(), boot.seconds) }),
    );
    plans
}

/// Debian's systemd with open-vm-tools and cloud-init, which finds its wishes in guestinfo.
fn whole() -> Scenario {
    Scenario {
        disk: "debian-root",
        memory_mib: Some(1024),
        append: "systemd.show_status=yes",
        guestinfo: &[
            ("guestinfo.metadata", "build/guest/root/metadata"),
            ("guestinfo.userdata", "build/guest/root/userdata"),
        ],
        ..Scenario::default()
    }
}

/// A RAM disk of 1 GiB, and as many vCPUs as a VM can have.
fn large_disk() -> Scenario {
    Scenario { fill_mib: 1024, memory_mib: Some(2560), vcpus: 8, ..Scenario::default() }
}

/// A boot of one of Debian's kernels to the demonstration.
struct Boot {
    name: &'static str,
    kernel: &'static str,
    vcpus: usize,
    memory_mib: u64,
    /// Only on demand.
    long: bool,
    /// Wall time.
    seconds: u64,
}

const fn boot(name: &'static str, kernel: &'static str, vcpus: usize, memory_mib: u64) -> Boot {
    Boot { name, kernel, vcpus, memory_mib, long: true, seconds: 600 }
}

const fn always(boot: Boot) -> Boot {
    Boot { long: false, ..boot }
}

const AMD64: &str = "debian-kernel";
const CLOUD: &str = "debian-kernel-cloud";
const NEW: &str = "debian-kernel-6.12";
const NEW_CLOUD: &str = "debian-kernel-6.12-cloud";
const PAE: &str = "debian-kernel-686-pae";

/// Kernels over the corners of vCPUs and memory.
const BOOTS: [Boot; 10] = [
    boot("amd64-1-vcpu-128m", AMD64, 1, 128),
    boot("amd64-8-vcpus-384m", AMD64, 8, 384),
    boot("cloud-1-vcpu-128m", CLOUD, 1, 128),
    always(boot("cloud-2-vcpus-384m", CLOUD, 2, 384)),
    always(boot("new-1-vcpu-384m", NEW, 1, 384)),
    boot("new-2-vcpus-384m", NEW, 2, 384),
    boot("new-cloud-1-vcpu-384m", NEW_CLOUD, 1, 384),
    boot("new-cloud-2-vcpus-128m", NEW_CLOUD, 2, 128),
    always(boot("686-pae-1-vcpu-384m", PAE, 1, 384)),
    boot("686-pae-2-vcpus-128m", PAE, 2, 128),
];

impl Boot {
    fn scenario(&self) -> Scenario {
        let disk = if self.kernel == PAE { "debian-tests-i386" } else { "debian-tests" };
        let (kernel, vcpus, memory_mib) = (self.kernel, self.vcpus, Some(self.memory_mib));
        Scenario { kernel, disk, vcpus, memory_mib, ..Scenario::default() }
    }
}

fn main() -> ExitCode {
    let chosen = Chosen::from_args(THREADS);
    chosen.run(prepare(&chosen))
}

fn prepare(chosen: &Chosen) -> anyhow::Result<Vec<Trial>> {
    let mut plans = plans();
    plans.retain(|plan| chosen.wants(&plan.trial_name()));
    if !chosen.only_lists() && !plans.is_empty() {
        setup::ensure(&[setup::Need::Toolchain, setup::Need::Qemu, setup::Need::Bochs, setup::Need::Grub])?;
        build::compile("info", |binary| !binary.is_test() || binary.name == "test-killer")?;
    }
    let trial = |plan: Plan| {
        let long = plan.long;
        let name = plan.trial_name();
        Trial::test(name, move || run(&plan).map_err(|error| Failed::from(format!("{error:#}"))))
            .with_ignored_flag(long)
    };
    Ok(plans.into_iter().map(trial).collect())
}

fn run(plan: &Plan) -> anyhow::Result<()> {
    let out = workspace::out_dir().join("tests").join(plan.place.name).join(format!("debian-{}", plan.name));
    let manifest = workspace::root().join("systems/debian.toml");
    let image = image::assemble(&manifest, plan.scenario.system(&out)?, Some(&out))?;
    let directives = Directives {
        limit: Duration::from_secs(plan.seconds),
        expect: plan.expect.iter().map(|text| (*text).to_owned()).collect(),
        forbid: plan.forbid.iter().map(|text| (*text).to_owned()).collect(),
        // What the audit looks at does not depend on the guest; capturing this much memory takes long.
        audit: false,
        icount: plan.pace,
        stalls: plan.busy,
        ..Directives::default()
    };
    let report = trial::run_at(&image, &plan.place.adapt(directives), plan.place)?;
    report.outcome(&image)?;
    if plan.clock {
        let Rate { seconds, error } = clock::rate(&report.transcript)?;
        println!("the guest's clock was {:+.4} % off in {seconds:.1} s", error * 100.0);
        anyhow::ensure!(seconds >= CLOCK_SECONDS, "{seconds:.1} s are less than {CLOCK_SECONDS} s");
        anyhow::ensure!(error.abs() <= CLOCK_ERROR, "that is more than {} %", CLOCK_ERROR * 100.0);
    }
    if plan.pace {
        let bare = pace::bare(&plan.scenario, Duration::from_secs(plan.seconds))?;
        println!("{}", pace::compare(&pace::said(report.transcript.iter().map(|line| line.text.as_str())), &bare)?);
    }
    Ok(())
}
