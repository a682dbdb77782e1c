//! Counts exits by reason since this instance started, so that the log tells at the end of a guest which
//! ones were frequent. A restart begins anew: nothing depends on it.

use portcullis_ipc::exit::{Reason, io};

/// Reasons, and three kinds of port apart.
const KINDS: usize = Reason::Other as usize + 3;
/// The serial port's registers.
const CONSOLE: usize = Reason::Other as usize + 1;
/// The CMOS clock's.
const CLOCK: usize = Reason::Other as usize + 2;

/// The counts.
pub struct Tally([u64; KINDS]);

/// Names, by kind; those of reasons that this service never sees are empty.
const NAMES: [&str; KINDS] = [
    "",
    "exception",
    "interrupt window",
    "NMI window",
    "CPUID",
    "HLT",
    "other port",
    "MSR",
    "RDTSC",
    "RDTSCP",
    "RDPMC",
    "INVLPG",
    "control register",
    "debug register",
    "device memory",
    "triple fault",
    "hypercall",
    "PAUSE",
    "WBINVD",
    "XSETBV",
    "MONITOR",
    "MWAIT",
    "virtualization",
    "task switch",
    "IRET",
    "recall",
    "system signal",
    "bad state",
    "other",
    "serial port",
    "CMOS clock",
];

impl Tally {
    /// What the log calls exits of this reason.
    pub fn name(reason: u32) -> &'static str {
        NAMES.get(reason as usize).copied().unwrap_or("other")
    }

    /// Nothing counted.
    pub const fn new() -> Self {
        Self([0; KINDS])
    }

    /// Counts an exit.
    #[inline(always)]
    pub fn count(&mut self, reason: u32, access: u64) {
        let kind = match (reason == Reason::Io as u32, access & io::PORT) {
            (true, 0x3f8..=0x3ff) => CONSOLE,
            (true, 0x70..=0x71) => CLOCK,
            _ => (reason as usize).min(Reason::Other as usize),
        };
        if let Some(count) = self.0.get_mut(kind) {
            *count += 1;
        }
    }

    /// Kinds that were met, the most frequent first, with their counts.
    pub fn most_frequent_first(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let mut last = (u64::MAX, 0);
        core::iter::from_fn(move || {
            let counts = self.0.iter().copied().enumerate().map(|(kind, count)| (count, KINDS - kind));
            let next = counts.filter(|&next| next < last && next.0 > 0).max()?;
            last = next;
            Some((NAMES.get(KINDS - next.1).copied().unwrap_or_default(), next.0))
        })
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_come_out_by_how_often_they_were_counted() {
        let mut tally = Tally::new();
        for (reason, access, times) in [
            (Reason::Cpuid, 0x3f8, 2),
            (Reason::Io, 0x3fd | io::INPUT | 1 << io::WIDTH_SHIFT, 5),
            (Reason::Io, 0x80, 2),
            (Reason::Io, 0x71, 1),
        ] {
            (0..times).for_each(|_| tally.count(reason as u32, access));
        }
        tally.count(u32::MAX, 0);
        let table: Vec<_> = tally.most_frequent_first().collect();
        let expected = [("serial port", 5), ("CPUID", 2), ("other port", 2), ("other", 1), ("CMOS clock", 1)];
        assert_eq!(table, expected);
        assert_eq!(tally.total(), 11);
    }
}
