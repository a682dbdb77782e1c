//! Time: the TSC and what its ticks are worth.

use super::pages::platform;

/// The time-stamp counter.
#[inline(always)]
pub fn tsc() -> u64 {
    // SAFETY: RDTSC has no effect but its result, and the core leaves it allowed in ring 3.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// TSC ticks in `microseconds`.
pub fn ticks(microseconds: u64) -> u64 {
    let ticks = u128::from(microseconds) * u128::from(platform().tsc_hz) / 1_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}
