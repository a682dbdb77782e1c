//! Turning the extension on, once a CPU at boot.

use super::control::Machine;
use super::world;
use crate::arch::{cpu, entry};
use crate::mem::page::CorePage;

const VM_CR: u32 = 0xc001_0114;
const EFER_SVME: u64 = 1 << 12;

/// MSRs that a guest reads and writes by itself: their values live in the control block.
const OPEN_MSRS: [u32; 10] =
    [0x174, 0x175, 0x176, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0100, 0xc000_0101, 0xc000_0102];

/// Byte and lowest bit of `number` in the MSR permission map (APM volume 2, section 15.11).
fn map_place(number: u32) -> Option<(usize, u32)> {
    let (base, offset) = match number {
        0..=0x1fff => (0usize, number),
        0xc000_0000..=0xc000_1fff => (0x800, number & 0x1fff),
        0xc001_0000..=0xc001_1fff => (0x1000, number & 0x1fff),
        _ => return None,
    };
    Some((base.wrapping_add((offset >> 2) as usize), (offset & 3) << 1))
}

/// Pages that [`enable`] needs: I/O map 3, MSR map 2, host block, save area.
pub const PAGES: u64 = 7;

/// Check the processor, turn SVM on for `vcpus` vCPUs and fill the maps in the [`PAGES`] pages.
///
/// # Errors
/// The line that names what is missing.
pub fn enable(pages: [CorePage; PAGES as usize], vcpus: usize) -> Result<Machine, &'static str> {
    let leaf = cpu::cpuid(0x8000_000a, 0);
    if let Some(text) = Machine::refusal(cpu::cpuid(0x8000_0001, 0).ecx, leaf.edx, entry::try_msr(VM_CR)) {
        return Err(text);
    }
    if leaf.ebx as usize <= vcpus {
        return Err(
            "vm: more vCPUs than this processor has address-space ids (CPUID 0x8000000A EBX, less one); use fewer",
        );
    }
    // SAFETY: SVM is there and not locked; the bit only enables its instructions.
    unsafe { cpu::set_msr(x86::msr::IA32_EFER, cpu::msr(x86::msr::IA32_EFER) | EFER_SVME) };
    let [io @ .., msr_low, msr_high, host, save] = pages;
    for page in io.iter().chain([&msr_low, &msr_high]) {
        for word in 0..512usize {
            page.set_word(word << 3, u64::MAX);
        }
    }
    for (byte, bit) in OPEN_MSRS.into_iter().filter_map(map_place) {
        let page = if byte < 4096 { msr_low } else { msr_high };
        let shift = (byte as u32 & 7) << 3 | bit;
        page.set_word(byte, page.word(byte) & !(3u64.wrapping_shl(shift)));
    }
    host.clear();
    save.clear();
    // SAFETY: descriptor tables and entry points were installed before; the pages are the processor's now.
    unsafe { world::install(host, save) };
    let [first_io, ..] = io;
    Ok(Machine {
        io_bitmap: first_io.physical(),
        msr_bitmap: msr_low.physical(),
        host,
        cr4: Machine::guest_cr4(),
        physical_bits: cpu::cpuid(0x8000_0008, 0).eax & 0xff,
        next_rip: leaf.edx >> 3 & 1 != 0,
        flush: if leaf.edx >> 6 & 1 != 0 { 3 } else { 1 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_open_registers_stand_where_the_manual_says() {
        assert_eq!(map_place(0x174), Some((0x5d, 0)));
        assert_eq!(map_place(0xc000_0081), Some((0x820, 2)));
        assert_eq!(map_place(0xc001_0114), Some((0x1045, 0)));
        assert_eq!(map_place(0x4000_0000), None);
    }
}
