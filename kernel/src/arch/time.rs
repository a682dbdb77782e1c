//! Calibration of the TSC and of the local APIC's timer against the 8254's channel 2, once at boot.

use super::{apic, cpu};
use zerocopy::FromZeros;

/// Frequencies found, in Hz.
#[derive(Clone, Copy, Debug, FromZeros)]
pub struct Rates {
    /// TSC.
    pub tsc: u64,
    /// Local APIC timer, divider 1.
    pub lapic: u64,
}

/// The 8254's input clock, Hz.
const PIT_HZ: u64 = 1_193_182;
/// Counts of one measurement: 5 ms.
const COUNTS: u64 = 5966;

fn port(number: u16) -> u8 {
    // SAFETY: 8254 and its gate belong to the core during boot.
    unsafe { cpu::port_in(number, 1) as u8 }
}

fn set_port(number: u16, value: u64) {
    // SAFETY: 8254 and its gate belong to the core during boot.
    unsafe { cpu::port_out(number, 1, value as u32 & 0xff) };
}

/// Polls after which the 8254 is given up.
const POLLS: u32 = 50_000_000;

/// Measure both clocks, three times: whatever holds the processor up makes a measurement longer, so the
/// shortest is the best. `None` if the 8254 never came to an end or a clock stood still.
pub fn calibrate() -> Option<Rates> {
    (0..3).filter_map(|_| measure()).min_by_key(|rates| rates.tsc)
}

/// Measure both clocks over 5 ms.
fn measure() -> Option<Rates> {
    set_port(0x61, u64::from(port(0x61)) & !2 | 1);
    set_port(0x43, 0xb0);
    set_port(0x42, COUNTS & 0xff);
    apic::count_down();
    set_port(0x42, COUNTS >> 8);
    let start = cpu::tsc();
    let first = apic::counted();
    let mut polls = 0u32;
    while port(0x61) & 0x20 == 0 && polls < POLLS {
        polls = polls.wrapping_add(1);
    }
    let ticks = cpu::tsc().wrapping_sub(start);
    let counts = u64::from(apic::counted().wrapping_sub(first));
    apic::one_shot(0);
    let rates = Rates { tsc: ticks.saturating_mul(PIT_HZ) / COUNTS, lapic: counts.saturating_mul(PIT_HZ) / COUNTS };
    (polls < POLLS && rates.tsc != 0 && rates.lapic != 0).then_some(rates)
}

/// `value * numerator / denominator` without overflow in between; `denominator` 0 counts as 1.
pub fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    let wide = u128::from(value).wrapping_mul(numerator.into());
    wide.checked_div(denominator.max(1).into()).map_or(u64::MAX, |result| u64::try_from(result).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #[test]
    fn scaling_neither_overflows_nor_divides_by_zero() {
        assert_eq!(super::scale(u64::MAX, u64::MAX, 1), u64::MAX);
        assert_eq!(super::scale(5, 0, 0), 0);
        assert_eq!(super::scale(1_000_000, 3_000_000_000, 1_000_000), 3_000_000_000);
    }
}
