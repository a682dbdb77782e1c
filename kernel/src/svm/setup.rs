//! Turning the extension on, once a CPU at boot.

use super::control::EFER_SVME;
use super::world;
use crate::arch::cpu::{self, CpuidResult};
use crate::mem::page::CorePage;
use crate::vcpu::Machine;
use crate::vcpu::machine::OPEN_MSRS;

/// Lock and enable bits of SVM.
pub const VM_CR: u32 = 0xc001_0114;

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

/// Whether the processor can do what `vcpus` vCPUs need, by CPUID leaf 0x8000000A and VM_CR, which reads as `None` where
/// it raises #GP and counts as not locked then. `Some` names what is missing.
pub fn refusal(vcpus: usize, leaf: CpuidResult, vm_cr: Option<u64>) -> Option<&'static str> {
    if vm_cr.is_some_and(|value| value >> 4 & 1 != 0) {
        return Some("vm: SVM is disabled by the firmware (VM_CR.SVMDIS); enable it there");
    }
    if leaf.edx & 1 == 0 {
        return Some("vm: this processor has no nested paging (CPUID 0x8000000A EDX bit 0); VMs need it");
    }
    if leaf.ebx as usize <= vcpus {
        return Some(
            "vm: more vCPUs than this processor has address-space ids (CPUID 0x8000000A EBX, less one); use fewer",
        );
    }
    None
}

/// Turn SVM on: open the guests' own registers in the map of the two `msr` pages, keep the host's state in `host`, and
/// give `save` to the processor.
pub fn enable(machine: &mut Machine, msr: [CorePage; 2], host: CorePage, save: CorePage) {
    // SAFETY: SVM is there and not locked; the bit only enables its instructions.
    unsafe { cpu::set_msr(x86::msr::IA32_EFER, cpu::msr(x86::msr::IA32_EFER) | EFER_SVME) };
    let [msr_low, msr_high] = msr;
    for (byte, bit) in OPEN_MSRS.into_iter().filter_map(map_place) {
        let page = if byte < 4096 { msr_low } else { msr_high };
        let shift = (byte as u32 & 7) << 3 | bit;
        page.set_word(byte, page.word(byte) & !(3u64.wrapping_shl(shift)));
    }
    // SAFETY: descriptor tables and entry points were installed before; the pages are the processor's now.
    unsafe { world::install(host, save) };
    let features = cpu::cpuid(0x8000_000a, 0).edx;
    machine.host = host;
    machine.next_rip = features >> 3 & 1 != 0;
    machine.flush = if features >> 6 & 1 != 0 { 3 } else { 1 };
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
