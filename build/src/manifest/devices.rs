//! Ports and model-specific registers that nobody but the core may hold, and those of devices that
//! reach memory by DMA (R15).

use super::Problem;
use portcullis_ipc::msr;

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

/// What the ranges of [`msr::CORE`] are.
const CORE_MSRS: [&str; msr::CORE.len()] = [
    "time-stamp counter",
    "local APIC base",
    "feature control and TSC adjust",
    "speculation control",
    "microcode update",
    "speculation control",
    "TSX control",
    "system-call entry",
    "miscellaneous features, execute-disable among them",
    "debug control",
    "memory types",
    "machine checks, VMX and processor trace",
    "debug store",
    "control-flow enforcement",
    "TSC deadline",
    "local APIC",
    "extended supervisor state",
    "EFER and system-call entry",
    "segment bases and TSC",
    "AMD system configuration and SVM",
];

fn hit(table: &'static [Kept], first: u64, last: u64) -> Option<&'static Kept> {
    table.iter().find(|kept| first <= kept.last && kept.first <= last)
}

fn name(what: &str, first: u64, last: u64) -> String {
    if first == last { format!("{what} {first:#x}") } else { format!("{what}s {first:#x}-{last:#x}") }
}

/// What is wrong with giving ports away; `None` when they may be.
pub fn check_ports(first: u64, count: u64) -> Option<Problem> {
    let last = first.saturating_add(count.max(1) - 1);
    if let Some(kept) = hit(CORE_PORTS, first, last) {
        let what = name("port", first.max(kept.first), last.min(kept.last));
        return Some(Problem::Protected { what, reason: kept.reason });
    }
    let kept = hit(DMA_PORTS, first, last)?;
    Some(Problem::Dma { what: name("port", first.max(kept.first), last.min(kept.last)), device: kept.reason })
}

/// What is wrong with giving registers away; `None` when they may be.
pub fn check_msrs(first: u64, count: u64) -> Option<Problem> {
    let last = first.saturating_add(count.max(1) - 1);
    let place = msr::of_the_core(first, last)?;
    let (range, reason) = (msr::CORE.get(place)?, CORE_MSRS.get(place)?);
    let what = name("MSR", first.max(range.0.into()), last.min(range.1.into()));
    Some(Problem::Protected { what, reason })
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
        assert!(matches!(check_msrs(0xc000_007f, 2), Some(Problem::Protected { .. })));
        assert!(check_msrs(0xe7, 2).is_none());
    }
}
