//! Calibration of the TSC and of the local APIC's timer against the 8254's channel 2, once at boot.
//!
//! All three are read at a begin and at an end, between two readings of the TSC each time: when exactly is then known
//! within half of that bracket, and the narrowest of several is kept. What holds the processor up between begin and
//! end, an SMI or an emulator's host that stands still, does no harm, because all three clocks go on; how often the
//! 8254's 16 bits ran over meanwhile is told by a short measurement in which they did not.
//! A machine that gates its 8254 has the rates that its processor states.
//! The error is at most half of both brackets and one count of the 8254 in [`LONG`]: 0.02 % with brackets of 2 us.

use super::cpu::{CpuidResult, cpuid};
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
/// Counts of the 8254 in the short measurement, at least: 1.7 ms. Within 0.3 % it tells which lap of 55 ms it is for
/// 8 s; the local APIC's timer runs out before.
const SHORT: u16 = 1 << 11;
/// Counts between begin and end, at least: 13.7 ms.
const LONG: u16 = 1 << 14;

fn port(number: u16) -> u8 {
    // SAFETY: 8254 and its gate belong to the core during boot.
    unsafe { cpu::port_in(number, 1) as u8 }
}

fn set_port(number: u16, value: u8) {
    // SAFETY: 8254 and its gate belong to the core during boot.
    unsafe { cpu::port_out(number, 1, value.into()) };
}

/// Width of the bracket, TSC in the middle of it, counts of the local APIC's timer (up) and of the 8254 (down).
type Reading = (u64, u64, u32, u16);

fn read() -> Reading {
    let before = cpu::tsc();
    // Latches the count, to be fetched at leisure.
    set_port(0x43, 0x80);
    let lapic = apic::counted();
    let bracket = cpu::tsc().wrapping_sub(before);
    (bracket, before.wrapping_add(bracket / 2), lapic, u16::from_le_bytes([port(0x42), port(0x42)]))
}

/// The narrowest of eight readings, after a while in which an emulator is not asked for its devices.
fn narrowest(read: impl FnMut() -> Reading) -> Option<Reading> {
    (0..4096u32).map(core::hint::black_box).for_each(drop);
    core::iter::repeat_with(read).take(8).min_by_key(|reading| reading.0)
}

/// The rates between `begin` and `end`, whose lap of the 8254 is told by the rate up to `soon`; `None` if a clock stood
/// still or the local APIC's timer ran out.
fn rates(begin: Reading, soon: Reading, end: Reading) -> Option<Rates> {
    let (ticks, counts) = (|to: Reading| to.1.wrapping_sub(begin.1), |to: Reading| begin.3.wrapping_sub(to.3));
    let about = scale(ticks(end), counts(soon).into(), ticks(soon));
    let exact = about.wrapping_add_signed((counts(end).wrapping_sub(about as u16) as i16).into());
    let lapic = scale(end.2.wrapping_sub(begin.2).into(), PIT_HZ, exact);
    let rates = Rates { tsc: scale(ticks(end), PIT_HZ, exact), lapic };
    (rates.tsc != 0 && rates.lapic != 0 && end.2 != u32::MAX).then_some(rates)
}

/// The rates that leaf 0x15 and the base frequency of leaf 0x16, MHz, state: the local APIC's timer counts the crystal, whose
/// rate is `clock.ecx`, or follows from the TSC's where that is 0 (SDM volume 3, "Determining the Processor Base Frequency").
fn stated(clock: CpuidResult, base: u32) -> Option<Rates> {
    let (numerator, denominator) = (clock.ebx.into(), clock.eax.into());
    let crystal = scale(u64::from(base).wrapping_mul(1_000_000), denominator, numerator);
    let lapic = if clock.ecx != 0 { clock.ecx.into() } else { crystal };
    let rates = Rates { tsc: scale(lapic, numerator, denominator), lapic };
    (denominator != 0 && rates.tsc != 0 && lapic != 0).then_some(rates)
}

/// Measure both clocks, and again where the 8254 ran out before the short measurement was over. `None` if it does so
/// each time, or one of the three stands still and the processor states no rates.
pub fn calibrate() -> Option<Rates> {
    (0..64).find_map(|_| {
        set_port(0x61, port(0x61) & !2 | 1);
        [(0x43, 0xb0), (0x42, 0xff), (0x42, 0xff)].into_iter().for_each(|(number, value)| set_port(number, value));
        apic::count_down();
        let begin = narrowest(read)?;
        let after = |counts| (0..8192).filter_map(|_| narrowest(read)).find(|to| begin.3.wrapping_sub(to.3) >= counts);
        let Some(soon) = after(SHORT) else {
            // The 8254 stands still. What a leaf beyond the last one answers means nothing.
            let leaf = |number| Some(cpuid(number, 0)).filter(|_| cpuid(0, 0).eax >= number);
            return stated(leaf(0x15)?, leaf(0x16).map_or(0, |base| base.eax & 0xffff));
        };
        if port(0x61) & 0x20 != 0 {
            return None;
        }
        rates(begin, soon, after(LONG)?)
    })
}

/// `value * numerator / denominator` without overflow in between; `denominator` 0 counts as 1.
pub fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    let wide = u128::from(value).wrapping_mul(numerator.into());
    wide.checked_div(denominator.max(1).into()).map_or(u64::MAX, |result| u64::try_from(result).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUE: Rates = Rates { tsc: 2_494_100_000, lapic: 24_937_500 };

    /// Three clocks that show what passed, in nanoseconds, and a host that takes the processor away now and then.
    struct Machine {
        now: u64,
        /// Length of a stall inside of each reading but every eighth, from this one on.
        stall: u64,
        spared: u64,
    }

    impl Machine {
        fn ticks(&self, rate: u64) -> u64 {
            scale(self.now, rate, 1_000_000_000)
        }

        /// A reading whose latch is taken late or early in its bracket, as the stall has it.
        fn read(&mut self, number: u64) -> Reading {
            let stall = if number % 8 == self.spared { 0 } else { self.stall };
            let (before, after) = if number.is_multiple_of(2) { (0, stall) } else { (stall, 0) };
            let begin = self.ticks(TRUE.tsc);
            self.now += before + 700;
            let (pit, lapic) = (0u16.wrapping_sub(self.ticks(PIT_HZ) as u16), self.ticks(TRUE.lapic) as u32);
            self.now += after + 300;
            let bracket = self.ticks(TRUE.tsc) - begin;
            (bracket, begin + bracket / 2, lapic, pit)
        }

        fn narrowest(&mut self) -> Reading {
            let mut number = 0..;
            narrowest(|| self.read(number.next().unwrap())).unwrap()
        }
    }

    fn measured(start: u64, stall: u64, soon: u64, between: u64) -> Rates {
        let mut machine = Machine { now: start, stall, spared: start % 8 };
        let begin = machine.narrowest();
        machine.now += soon;
        let soon = machine.narrowest();
        machine.now += between;
        rates(begin, soon, machine.narrowest()).unwrap()
    }

    fn off(found: u64, expected: u64) -> f64 {
        (found as f64 / expected as f64 - 1.0).abs()
    }

    #[test]
    fn a_stall_inside_readings_or_between_them_does_not_change_the_rates() {
        for start in (0..1_000_000_000).step_by(7_654_321) {
            for (stall, soon) in [(0, 1_720_000), (5_000, 2_000_000), (1_000_000, 30_000_000)] {
                for between in [12_000_000, 25_000_000, 38_000_000, 55_000_000, 700_000_000, 4_000_000_000] {
                    let found = measured(start, stall, soon, between);
                    assert!(off(found.tsc, TRUE.tsc) < 2e-4, "{found:?}, {start} {stall} {soon} {between}");
                    assert!(off(found.lapic, TRUE.lapic) < 2e-4, "{found:?}, {start} {stall} {soon} {between}");
                }
            }
        }
    }

    #[test]
    fn a_clock_that_stands_still_or_ran_out_has_no_rate() {
        let (begin, soon) = ((9, 1000, 10, 60_000), (9, 1_000_000, 10_000, 57_952));
        assert!(rates(begin, soon, (9, 9_000_000, 90_000, 41_000)).is_some());
        assert!(rates(begin, soon, (9, 1000, 90_000, 41_000)).is_none());
        assert!(rates(begin, soon, (9, 9_000_000, 10, 41_000)).is_none());
        assert!(rates(begin, soon, (9, 9_000_000, u32::MAX, 41_000)).is_none());
        assert!(rates(begin, begin, begin).is_none());
    }

    #[test]
    fn what_the_processor_states_is_the_crystals_rate_and_the_tscs() {
        let clock = |eax, ebx, ecx| CpuidResult { eax, ebx, ecx, edx: 0 };
        let rates = |clock, base| stated(clock, base).map(|rates| (rates.tsc, rates.lapic));
        assert_eq!(rates(clock(2, 216, 24_000_000), 2600), Some((2_592_000_000, 24_000_000)));
        assert_eq!(rates(clock(2, 216, 0), 2592), Some((2_592_000_000, 24_000_000)), "Skylake and Kaby Lake");
        for (clock, base) in [(clock(0, 0, 0), 0), (clock(2, 216, 0), 0), (clock(0, 216, 0), 9), (clock(2, 0, 5), 9)] {
            assert_eq!(rates(clock, base), None, "{clock:?}");
        }
    }

    #[test]
    fn scaling_neither_overflows_nor_divides_by_zero() {
        assert_eq!(super::scale(u64::MAX, u64::MAX, 1), u64::MAX);
        assert_eq!(super::scale(5, 0, 0), 0);
        assert_eq!(super::scale(1_000_000, 3_000_000_000, 1_000_000), 3_000_000_000);
    }
}
