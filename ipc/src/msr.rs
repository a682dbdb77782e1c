//! Model-specific registers that no partition gets: by each of them a holder would take over the machine or another
//! domain's secrets. The builder refuses a manifest that names one, and the core an image.

/// First and last number of each range.
pub const CORE: [(u32, u32); 20] = [
    // Time-stamp counter.
    (0x10, 0x10),
    // Local APIC base.
    (0x1b, 0x1b),
    // Feature control and TSC adjust.
    (0x3a, 0x3b),
    // Speculation control.
    (0x48, 0x49),
    // Microcode update.
    (0x79, 0x79),
    // Speculation control.
    (0x10a, 0x10b),
    // TSX control.
    (0x122, 0x122),
    // System-call entry.
    (0x174, 0x176),
    // Miscellaneous features, execute-disable among them.
    (0x1a0, 0x1a0),
    // Debug control.
    (0x1d9, 0x1d9),
    // Memory types.
    (0x200, 0x2ff),
    // Machine checks, VMX and processor trace.
    (0x400, 0x5ff),
    // Debug store.
    (0x600, 0x600),
    // Control-flow enforcement.
    (0x6a0, 0x6a8),
    // TSC deadline.
    (0x6e0, 0x6e0),
    // Local APIC.
    (0x800, 0x8ff),
    // Extended supervisor state.
    (0xda0, 0xda0),
    // EFER and system-call entry.
    (0xc000_0080, 0xc000_0084),
    // Segment bases and TSC.
    (0xc000_0100, 0xc000_0104),
    // AMD system configuration and SVM.
    (0xc001_0000, 0xc001_ffff),
];

/// The range that has a register from `first` to `last`, by its place in [`CORE`].
pub fn of_the_core(first: u64, last: u64) -> Option<usize> {
    CORE.iter().position(|range| first <= range.1.into() && u64::from(range.0) <= last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_of_the_core_are_recognised_at_both_ends() {
        for (first, last) in [(0xc000_0080, 0xc000_0080), (0, 0x1b), (0x8ff, 0x8ff), (0x1a0, u64::MAX), (0x10, 0x10)] {
            assert!(of_the_core(first, last).is_some(), "{first:#x}");
        }
        for (first, last) in [(0, 0xf), (0xe7, 0xe8), (0x900, 0x90f), (0xc002_0000, u64::MAX)] {
            assert_eq!(of_the_core(first, last), None, "{first:#x}");
        }
    }

    #[test]
    fn ranges_stand_in_order() {
        assert!(CORE.is_sorted_by(|one, next| one.0 <= one.1 && one.1 < next.0));
    }
}
