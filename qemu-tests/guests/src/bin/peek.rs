//! Marks all its memory with a pattern and looks for the pattern of the other VM, again and again. Two copies run
//! side by side; an odd number of 2 MiB units of memory makes a VM the second of the two.
#![no_std]
#![no_main]

use guests::{
    memory::{peek, poke},
    report::Report,
};

guests::entry!(long64, main);

const MINE: [u64; 2] = [0x5043_554c_4c49_5341, 0x4153_494c_4c55_4350];
/// First address that is marked; image and stack lie below.
const FIRST: u64 = 0x20_0000;
const ROUNDS: u64 = 8;
const STEP: u64 = 64;

extern "C" fn main(memory: u64) -> ! {
    let second = (memory >> 21) & 1 == 1;
    let (mine, other) = if second { (MINE[1], MINE[0]) } else { (MINE[0], MINE[1]) };
    let mut report = Report::new(if second { "peek-b" } else { "peek-a" });
    // The patterns stand inverted in the image, so that the scan cannot find itself.
    let (mine, other) = (!mine, !other);
    let (mut foreign, mut lost) = (0u64, 0u64);
    for round in 0..ROUNDS {
        let mut address = FIRST;
        while address < memory {
            poke(address, mine ^ round);
            address += STEP;
        }
        let mut address = FIRST;
        while address < memory {
            let value = peek::<u64>(address);
            lost += u64::from(value != mine ^ round);
            foreign += u64::from(value ^ other < ROUNDS);
            address += STEP;
        }
    }
    let bytes = memory - FIRST;
    report.check(foreign == 0, "no word of the other VM", format_args!("{foreign} found in {bytes} bytes"));
    report.check(lost == 0, "no word of this VM changed", format_args!("{lost} lost in {ROUNDS} rounds"));
    report.done()
}
