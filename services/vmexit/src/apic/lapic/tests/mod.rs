//! The local APIC by tables of register accesses.

mod interrupts;
mod modes;
mod timer;

use super::{Clock, Effect, Lapic};

/// A host of 1 GHz; the timer runs at a quarter of that.
const CLOCK: Clock = Clock { now: 1_000_000, offset: 5_000, tsc_hz: 1_000_000_000, lapic_hz: 250_000_000 };

fn at(now: u64) -> Clock {
    Clock { now, ..CLOCK }
}

/// vCPU 2, software-enabled, in xAPIC mode.
fn enabled() -> Lapic {
    let mut lapic = Lapic::reset(2, false);
    assert_eq!(lapic.write(0xf0, 0x1ff, &CLOCK), Effect::Timer);
    lapic
}

/// The same in x2APIC mode.
fn x2apic() -> Lapic {
    let mut lapic = enabled();
    assert_eq!(lapic.write_msr(0x1b, 0xfee0_0c00, &CLOCK), Ok(Effect::Timer));
    lapic
}
