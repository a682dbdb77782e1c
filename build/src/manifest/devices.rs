//! Ports and model-specific registers that nobody but the core may hold, and those of devices that
//! reach memory by DMA (R15).

use super::Problem;
use portcullis_ipc::allowed;

/// A range and why it is refused.
struct Kept {
    first: u64,
    last: u64,
    reason: &'static str,
}

const fn kept(first: u64, last: u64, reason: &'static str) -> Kept {
    Kept { first, last, reason }
}

/// Ports that the core owns, or by which a holder could stop the machine.
const CORE_PORTS: &[Kept] = &[
    kept(0x20, 0x21, "interrupt controller, owned by the core"),
    kept(0xa0, 0xa1, "interrupt controller, owned by the core"),
    kept(0x4d0, 0x4d1, "interrupt controller, owned by the core"),
    kept(0x40, 0x43, "interval timer, by which the core measures time"),
    kept(0x61, 0x61, "interval timer's gate, by which the core measures time"),
    kept(0x64, 0x64, "keyboard controller's reset line"),
    kept(0x92, 0x92, "fast reset"),
    kept(0xb2, 0xb3, "system-management interrupt"),
    kept(0x5658, 0x5659, "the port, decoded by the core"),
];

/// Ports of devices that can reach memory by themselves.
const DMA_PORTS: &[Kept] = &[
    kept(0x00, 0x0f, "ISA DMA controller"),
    kept(0x80, 0x8f, "ISA DMA page registers"),
    kept(0xc0, 0xdf, "ISA DMA controller"),
    kept(0x170, 0x177, "IDE"),
    kept(0x1f0, 0x1f7, "IDE"),
    kept(0x376, 0x376, "IDE"),
    kept(0x3f0, 0x3f5, "floppy disk"),
    kept(0x3f6, 0x3f6, "IDE"),
    kept(0x3f7, 0x3f7, "floppy disk"),
    kept(0x510, 0x51b, "firmware configuration device"),
    kept(0xcf8, 0xcff, "PCI configuration"),
    // Where firmware and QEMU place BARs: nothing there is free of DMA for sure.
    kept(0xc000, 0xffff, "PCI devices"),
];

/// Registers of the core, by which a message names what somebody wants; others are refused without.
const CORE_MSRS: &[Kept] = &[
    kept(0x10, 0x10, "time-stamp counter"),
    kept(0x1b, 0x1b, "local APIC base"),
    kept(0x48, 0x49, "speculation control"),
    kept(0x122, 0x123, "control of mitigations"),
    kept(0x174, 0x176, "system-call entry"),
    kept(0x200, 0x2ff, "memory types"),
    kept(0x400, 0x5ff, "machine checks, VMX and processor trace"),
    kept(0xc000_0080, 0xc000_0084, "EFER and system-call entry"),
    kept(0xc001_0000, 0xc001_0298, "AMD system configuration and SVM"),
    kept(0xc001_029c, 0xc001_ffff, "AMD system configuration and SVM"),
];
/// Of all others.
const NOT_LISTED: &str = "it is none of those that may be (ipc/src/allowed.rs)";
/// Of registers that are allowed, but not for this.
const READ_ONLY: &str = "registers are given for reading only";

fn hit(table: &'static [Kept], first: u64, last: u64) -> Option<&'static Kept> {
    table.iter().find(|kept| first <= kept.last && kept.first <= last)
}

fn name(what: &str, first: u64, last: u64) -> String {
    if first == last { format!("{what} {first:#x}") } else { format!("{what}s {first:#x}-{last:#x}") }
}

/// What is wrong with giving ports away; `None` when they may be.
pub fn check_ports(first: u64, count: u64) -> Option<Problem> {
    let last = first.saturating_add(count.max(1) - 1);
    if let Some(kept) = hit(DMA_PORTS, first, last) {
        let what = name("port", first.max(kept.first), last.min(kept.last));
        return Some(Problem::Dma { what, device: kept.reason });
    }
    protected("port", CORE_PORTS, &allowed::PORTS, first, count)
}

/// What is wrong with giving registers away; `None` when they may be.
pub fn check_msrs(first: u64, count: u64, writes: bool) -> Option<Problem> {
    let problem = protected("MSR", CORE_MSRS, &allowed::MSRS, first, count);
    let what = || name("MSR", first, first.saturating_add(count.max(1) - 1));
    problem.or_else(|| writes.then(|| Problem::Protected { what: what(), reason: READ_ONLY }))
}

fn protected(kind: &str, core: &'static [Kept], list: &[allowed::Range], first: u64, count: u64) -> Option<Problem> {
    let last = first.saturating_add(count.max(1) - 1);
    if let Some(kept) = hit(core, first, last) {
        let what = name(kind, first.max(kept.first), last.min(kept.last));
        return Some(Problem::Protected { what, reason: kept.reason });
    }
    (!allowed::within(list, first, count))
        .then(|| Problem::Protected { what: name(kind, first, last), reason: NOT_LISTED })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_lines_and_the_clock_are_free_and_their_neighbours_are_not() {
        assert!(check_ports(0x3f8, 8).is_none());
        assert!(check_ports(0x2f8, 8).is_none());
        assert!(check_ports(0x70, 2).is_none());
        assert!(matches!(check_ports(0x3f7, 8), Some(Problem::Dma { device: "floppy disk", .. })));
        assert!(matches!(check_ports(0x5659, 1), Some(Problem::Protected { .. })));
    }

    #[test]
    fn a_range_that_only_touches_a_kept_register_is_refused() {
        assert!(matches!(check_msrs(0xc000_007f, 2, false), Some(Problem::Protected { .. })));
        assert!(check_msrs(0xe7, 2, false).is_none());
    }

    #[test]
    fn what_is_not_listed_is_refused_and_so_is_writing() {
        for (first, count) in [(0x1808, 4), (0x60, 1), (0x3f8, 9), (0xf000, 1)] {
            assert!(check_ports(first, count).is_some(), "{first:#x}");
        }
        for (first, writes) in [(0x150, false), (0x123, true), (0x1c, false), (0xc001_0015, false), (0xe7, true)] {
            assert!(matches!(check_msrs(first, 1, writes), Some(Problem::Protected { .. })), "{first:#x}");
        }
    }
}
