//! Telling the system what time it is: once, when the machine starts.

use crate::rtc::{Cmos, seconds};
use portcullis_runtime::handle::{Clock, Ports};
use portcullis_runtime::pages::platform;
use portcullis_runtime::time::tsc;

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;

struct CmosPorts(Ports);

impl Cmos for CmosPorts {
    fn read(&self, index: u8) -> u8 {
        // Bit 7 would hold NMIs up.
        self.0.write(INDEX, index);
        self.0.read(DATA)
    }
}

/// Sets the wall clock from the host's CMOS clock, if the manifest grants both and nobody has set it.
pub fn set_clock() {
    let (Some(clock), Some(ports)) = (Clock::find("clock"), Ports::find("rtc")) else {
        return;
    };
    if platform().wall_ns != 0 {
        return;
    }
    match seconds(&CmosPorts(ports)) {
        Some(seconds) if clock.set(seconds * 1_000_000_000, tsc()) => {
            defmt::info!("wall clock set: {=u64} s since 1970", seconds);
        }
        Some(_) => {}
        None => defmt::warn!("the CMOS clock says no time: guests start in 1970; set it in the machine's firmware"),
    }
}
