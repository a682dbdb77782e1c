//! Entropy from the processor.

use core::arch::x86_64::{__cpuid, __cpuid_count, _rdrand64_step, _rdseed64_step};

/// Times that the source is asked before it counts as dry.
const TRIES: u32 = 16;

#[target_feature(enable = "rdseed")]
fn seed() -> Option<u64> {
    let mut value = 0;
    (0..TRIES).any(|_| _rdseed64_step(&mut value) == 1).then_some(value)
}

#[target_feature(enable = "rdrand")]
fn number() -> Option<u64> {
    let mut value = 0;
    (0..TRIES).any(|_| _rdrand64_step(&mut value) == 1).then_some(value)
}

/// 64 random bits from RDSEED, or from RDRAND, as CPUID shows them; `None` on a processor without either, or
/// while its source is dry.
pub fn random() -> Option<u64> {
    let most = __cpuid(0).eax;
    let seeds = most >= 7 && __cpuid_count(7, 0).ebx & 1 << 18 != 0;
    let numbers = __cpuid(1).ecx & 1 << 30 != 0;
    // SAFETY: CPUID shows the instruction.
    let seeded = if seeds { unsafe { seed() } } else { None };
    // SAFETY: CPUID shows the instruction.
    seeded.or_else(|| if numbers { unsafe { number() } } else { None })
}
