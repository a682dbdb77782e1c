//! The figures that have a budget (design, section 9), what others need for the same, and the table of
//! both. What was measured comes in by name; nothing is booted here.

use std::collections::BTreeMap;
use std::fmt::Write;

/// One figure, in instructions counted under the emulator's instruction clock.
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
/// Instructions of the Debian guest's boot.
pub const GUEST_BOOT: &str = "guest-boot";
/// Exits of the same.
pub const GUEST_EXITS: &str = "guest-boot-exits";

/// All figures, in the order of the table.
pub const FIGURES: [Figure; 18] = [
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
    Figure { kvm_vmm: Some(4_039), ..figure("port-getversion", "0x5658 answered by the core", Some(200)) },
    figure("port-getversion-ring3", "0x5658 from ring 3, by way of #GP", None),
    figure("port-unknown", "0x5658 answered by vmport-rpc", None),
    figure("rpc-word", "four bytes of a message, ring 0", Some(3_100)),
    figure("rpc-get-16", "info-get of 16 bytes, ring 3: open to close, strings for request and reply", Some(42_500)),
    figure("rpc-get-4096", "info-get of 4,096 bytes, likewise", Some(60_000)),
    figure("floor", "the measurement itself", None),
    figure(BOOT, "start of the machine, firmware included, to all services ready", Some(100_000_000)),
    figure(GUEST_BOOT, "Debian, 1 vCPU: start of vmexit to the first program, which switches off", Some(3_050_000_000)),
    figure(GUEST_EXITS, "exits on that way", Some(82_000)),
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

/// The table, and a line for each figure over its budget.
pub fn table(measured: &BTreeMap<String, u64>) -> (String, Vec<String>) {
    let mut text = String::new();
    let mut over = Vec::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:<23} {:>11} {:>11} {:>8} {:>8} {:>8}  what is counted",
        "instructions", "measured", "budget", "Xen", "KVM", "KVM+VMM"
    );
    for figure in &FIGURES {
        let value = measured.get(figure.name).copied();
        let _ = writeln!(
            text,
            "{:<23} {:>11} {:>11} {:>8} {:>8} {:>8}  {}",
            figure.name,
            cell(value),
            cell(figure.budget),
            cell(figure.xen),
            cell(figure.kvm),
            cell(figure.kvm_vmm),
            figure.what
        );
        match (value, figure.budget) {
            (Some(value), Some(budget)) if value > budget => {
                over.push(format!("{}: {value} instructions, the budget is {budget}", figure.name));
            }
            (None, Some(_)) if !NOT_YET.contains(&figure.name) => {
                over.push(format!(
                    "{}: not measured, so its budget is not kept: see what the system said",
                    figure.name
                ));
            }
            _ => {}
        }
    }
    for (name, value) in measured.iter().filter(|(name, _)| FIGURES.iter().all(|f| f.name != *name)) {
        let _ = writeln!(text, "{name:<23} {value:>11}");
    }
    (text, over)
}

/// Budgeted figures that nothing measures yet: there is no upgrade of a running service.
const NOT_YET: [&str; 1] = ["upgrade-p99"];

fn cell(value: Option<u64>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_found_in_a_plain_line_and_in_a_log_line() {
        assert_eq!(parse("bench ipc-64 321"), Some(("ipc-64".into(), 321)));
        let line = "    0.125000 INFO  client         bench boot 1234  (a.rs:7)";
        assert_eq!(parse(line), Some(("boot".into(), 1234)));
        assert_eq!(parse("guest bench: done 1 ok"), None);
        assert_eq!(parse("bench"), None);
    }

    #[test]
    fn a_figure_over_its_budget_and_a_budgeted_one_that_is_missing_are_named() {
        let at_budget = FIGURES.iter().filter(|figure| figure.name != BOOT);
        let mut measured: BTreeMap<String, u64> =
            at_budget.filter_map(|figure| Some((figure.name.to_owned(), figure.budget?))).collect();
        measured.extend([("port-getversion", 201), ("cpuid", 999_999), ("else", 5)].map(|(n, v)| (n.to_owned(), v)));
        let (text, over) = table(&measured);
        let [port, boot] = &over[..] else { panic!("{over:?}") };
        assert_eq!(port, "port-getversion: 201 instructions, the budget is 200");
        assert!(boot.starts_with("boot: not measured"), "{boot}");
        assert!(text.lines().any(|line| line.starts_with("else") && line.ends_with('5')), "{text}");
        let unmeasured = text.lines().find(|line| line.starts_with("boot")).unwrap();
        assert!(unmeasured.contains(" -   100000000"), "{unmeasured}");
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = FIGURES.iter().map(|figure| figure.name).collect();
        assert_eq!(names.len(), FIGURES.len());
    }
}
