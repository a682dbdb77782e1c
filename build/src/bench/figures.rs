//! The figures that have a budget (design, section 9), what others need for the same, and the table of
//! both. What was measured comes in by name; nothing is booted here.

use super::Extent;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// One figure, in instructions counted under an emulator's instruction clock.
pub struct Figure {
    /// Name in a `bench NAME VALUE` line.
    pub name: &'static str,
    /// What is counted.
    pub what: &'static str,
    /// Most that is allowed; `None` for a figure that is only printed beside another.
    pub budget: Option<u64>,
    /// Xen 4.17, the best of PVH and HVM that serves the case.
    pub xen: Option<u64>,
    /// KVM of Linux 6.1, answered in the kernel.
    pub kvm: Option<u64>,
    /// KVM with a VMM of 100 lines in user space.
    pub kvm_vmm: Option<u64>,
}

const fn figure(name: &'static str, what: &'static str, budget: Option<u64>) -> Figure {
    Figure { name, what, budget, xen: None, kvm: None, kvm_vmm: None }
}

/// Name of the figure that the log tells, not the system itself.
pub const BOOT: &str = "boot";
/// Instructions until the Debian guest says its first word.
pub const FIRST_BYTE: &str = "guest-first-byte";
/// Instructions of the Debian guest's boot, and exits of the same.
pub const GUEST_BOOT: [&str; 2] = ["guest-boot", "guest-boot-exits"];
/// The same with a kernel that says nothing on its console.
pub const GUEST_QUIET: [&str; 2] = ["guest-quiet", "guest-quiet-exits"];

/// All figures, in the order of the table.
pub const FIGURES: [Figure; 21] = [
    figure("ipc-64", "call and reply, 64 bytes each way, empty server", Some(450)),
    figure("ipc-256", "call and reply, 256 bytes each way", None),
    Figure {
        xen: Some(43_637),
        kvm_vmm: Some(3_564),
        ..figure("io-unclaimed", "exit served by vmexit: 1-byte IN, ring 0", Some(1_100))
    },
    Figure {
        xen: Some(5_358),
        kvm: Some(3_055),
        ..figure("cpuid", "exit served by vmexit: CPUID, length decoded", None)
    },
    figure("rdmsr-pat", "exit served by vmexit: RDMSR", None),
    Figure { kvm_vmm: Some(4_039), ..figure("port-getversion", "0x5658 answered by the core", Some(180)) },
    figure("port-getversion-ring3", "0x5658 from ring 3, by way of #GP", None),
    figure("port-unknown", "0x5658 answered by vmport-rpc", None),
    figure("rpc-word", "four bytes of a message, ring 0", Some(3_100)),
    figure("rpc-get-16", "info-get of 16 bytes, ring 3: open to close, strings for request and reply", Some(42_500)),
    figure("rpc-get-4096", "info-get of 4,096 bytes, likewise", Some(60_000)),
    figure("floor", "the measurement itself", None),
    figure(BOOT, "start of the machine, firmware included, to all services ready", Some(100_000_000)),
    figure(
        FIRST_BYTE,
        "Debian, 384 MiB: entry of the core to the first byte that the kernel prints",
        Some(120_000_000),
    ),
    figure(
        GUEST_BOOT[0],
        "Debian, 1 vCPU: start of vmexit to the first program, which switches off",
        Some(3_050_000_000),
    ),
    figure(GUEST_BOOT[1], "exits on that way", Some(82_000)),
    figure(GUEST_QUIET[0], "the same while the kernel keeps its console quiet", Some(2_050_000_000)),
    figure(GUEST_QUIET[1], "exits on that way", Some(5_000)),
    figure("restart-p99", "kill of a service to the guest's next instruction", Some(1_000_000)),
    figure("restart-rpc-p99", "the same for vmport-rpc with 1 MiB of guestinfo", Some(1_000_000)),
    figure("upgrade-p99", "switch to a new service to the guest's next instruction", Some(1_000_000)),
];

/// Takes a line's figure: `bench NAME VALUE`, wherever in the line it stands.
pub fn parse(line: &str) -> Option<(String, u64)> {
    let mut words = line.split_whitespace().skip_while(|word| *word != "bench").skip(1);
    let (name, value) = (words.next()?, words.next()?);
    Some((name.to_owned(), value.parse().ok()?))
}

/// What was measured, by name.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// On AMD-V, in QEMU.
    pub svm: BTreeMap<String, u64>,
    /// On VT-x, in Bochs.
    pub vmx: BTreeMap<String, u64>,
    /// Exits of the quiet boot by reason, the most frequent first, on AMD-V.
    pub svm_exits: Vec<(String, u64)>,
    /// The same on VT-x; empty where that was not measured.
    pub vmx_exits: Vec<(String, u64)>,
}

impl Measured {
    fn vendors(&self) -> [(&'static str, &BTreeMap<String, u64>); 2] {
        [(SVM, &self.svm), (VMX, &self.vmx)]
    }
}

/// Heads of the columns with what was measured.
const SVM: &str = "AMD-V";
const VMX: &str = "VT-x";

/// The table, and a line for each figure over its budget.
pub fn table(measured: &Measured, extent: Extent) -> (String, Vec<String>) {
    let mut text = String::new();
    let mut over = Vec::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:<20} {SVM:>11} {VMX:>11} {:>11} {:>7} {:>7} {:>7}  what is counted",
        "instructions", "budget", "Xen", "KVM", "KVM+VMM"
    );
    for figure in &FIGURES {
        let [svm, vmx] = measured.vendors().map(|(_, values)| values.get(figure.name).copied());
        let _ = writeln!(
            text,
            "{:<20} {:>11} {:>11} {:>11} {:>7} {:>7} {:>7}  {}",
            figure.name,
            cell(svm),
            cell(vmx),
            cell(figure.budget),
            cell(figure.xen),
            cell(figure.kvm),
            cell(figure.kvm_vmm),
            figure.what
        );
        let Some(budget) = figure.budget else { continue };
        for (vendor, values) in measured.vendors() {
            match values.get(figure.name) {
                Some(value) if *value > budget => {
                    over.push(format!("{} on {vendor}: {value} instructions, the budget is {budget}", figure.name));
                }
                None if is_expected(figure.name, vendor, extent) => over.push(format!(
                    "{} on {vendor}: not measured, so its budget is not kept: see what the system said",
                    figure.name
                )),
                _ => {}
            }
        }
    }
    let others = measured.svm.keys().chain(measured.vmx.keys()).collect::<BTreeSet<_>>();
    for name in others.into_iter().filter(|name| FIGURES.iter().all(|figure| figure.name != name.as_str())) {
        let [svm, vmx] = measured.vendors().map(|(_, values)| cell(values.get(name).copied()));
        let _ = writeln!(text, "{name:<20} {svm:>11} {vmx:>11}");
    }
    (text, over)
}

/// The exits of the Debian guest's quiet boot by reason, on both vendors, in the order of AMD-V; nothing where no such
/// boot was measured.
pub fn reasons(measured: &Measured) -> String {
    if measured.svm_exits.is_empty() && measured.vmx_exits.is_empty() {
        return String::new();
    }
    let mut text = format!("{:<20} {SVM:>11} {VMX:>11}  of the quiet boot\n", "exits by reason");
    let names = |exits: &[(String, u64)]| exits.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let mut rows = names(&measured.svm_exits);
    rows.extend(names(&measured.vmx_exits).into_iter().filter(|name| !rows.contains(name)).collect::<Vec<_>>());
    for name in rows {
        let count = |exits: &[(String, u64)]| exits.iter().find(|(one, _)| *one == name).map(|(_, count)| *count);
        let [svm, vmx] = [&measured.svm_exits, &measured.vmx_exits].map(|exits| cell(count(exits)));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<20} {svm:>11} {vmx:>11}");
    }
    text
}

/// Whether a figure with a budget has to be there.
fn is_expected(name: &str, vendor: &str, extent: Extent) -> bool {
    let long = GUEST_QUIET.contains(&name) && extent == Extent::Quick;
    extent != Extent::Named && !NOT_YET.contains(&name) && (vendor == SVM || !(SVM_ONLY.contains(&name) || long))
}

/// Figures that Bochs, which is where VT-x is measured, cannot tell: it boots by a BIOS and GRUB, which are most of
/// the way to the services there, and its COM1 takes as long for a byte as a line of 115,200 baud does.
const SVM_ONLY: [&str; 4] = [BOOT, FIRST_BYTE, GUEST_BOOT[0], GUEST_BOOT[1]];

/// Budgeted figures that nothing measures yet: there is no upgrade of a running service.
const NOT_YET: [&str; 1] = ["upgrade-p99"];

fn cell(value: Option<u64>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_stand_beside_each_other_by_reason() {
        let exits = |list: &[(&str, u64)]| list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let measured = Measured {
            svm_exits: exits(&[("MSR", 20), ("HLT", 3)]),
            vmx_exits: exits(&[("RDTSC", 30), ("MSR", 7)]),
            ..Measured::default()
        };
        let rows: Vec<Vec<String>> =
            reasons(&measured).lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect();
        assert_eq!(rows[1..], [["MSR", "20", "7"], ["HLT", "3", "-"], ["RDTSC", "-", "30"]]);
    }

    #[test]
    fn a_figure_is_found_in_a_plain_line_and_in_a_log_line() {
        assert_eq!(parse("bench ipc-64 321"), Some(("ipc-64".into(), 321)));
        let line = "    0.125000 INFO  client         bench boot 1234  (a.rs:7)";
        assert_eq!(parse(line), Some(("boot".into(), 1234)));
        assert_eq!(parse("guest bench: done 1 ok"), None);
        assert_eq!(parse("bench"), None);
    }

    /// Every figure but `without` at its budget.
    fn at_budget(without: &[&str]) -> BTreeMap<String, u64> {
        let figures = FIGURES.iter().filter(|figure| !without.contains(&figure.name));
        figures.filter_map(|figure| Some((figure.name.to_owned(), figure.budget?))).collect()
    }

    #[test]
    fn a_figure_over_its_budget_and_a_budgeted_one_that_is_missing_are_named_with_the_vendor() {
        let mut measured =
            Measured { svm: at_budget(&[BOOT]), vmx: at_budget(&["ipc-64", BOOT]), ..Measured::default() };
        measured
            .svm
            .extend([("port-getversion", 181), ("cpuid", 999_999), ("else", 5)].map(|(n, v)| (n.to_owned(), v)));
        measured.vmx.insert("port-getversion".to_owned(), 182);
        let (text, over) = table(&measured, Extent::Whole);
        let [ipc, svm, vmx, boot] = &over[..] else { panic!("{over:?}") };
        assert_eq!(svm, "port-getversion on AMD-V: 181 instructions, the budget is 180");
        assert_eq!(vmx, "port-getversion on VT-x: 182 instructions, the budget is 180");
        assert!(ipc.starts_with("ipc-64 on VT-x: not measured"), "{ipc}");
        assert!(boot.starts_with("boot on AMD-V: not measured"), "{boot}");
        let row = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(row("else"), ["else", "5", "-"]);
        assert_eq!(row("port-getversion ")[1..4], ["181", "182", "180"]);
        assert_eq!(row("boot")[1..4], ["-", "-", "100000000"]);
    }

    #[test]
    fn what_takes_minutes_may_be_missing_in_a_quick_run() {
        let measured = Measured { svm: at_budget(&[]), vmx: at_budget(&GUEST_QUIET), ..Measured::default() };
        assert!(table(&measured, Extent::Quick).1.is_empty());
        assert_eq!(table(&measured, Extent::Whole).1.len(), 2);
        assert!(table(&Measured::default(), Extent::Named).1.is_empty(), "only what was named is asked for");
    }

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = FIGURES.iter().map(|figure| figure.name).collect();
        assert_eq!(names.len(), FIGURES.len());
    }
}
