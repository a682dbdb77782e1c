//! Turning VMX on at boot, and the VMCS of a vCPU.

use super::capability::{self, Extension};
use super::carry::{SWAPPED, UNTOUCHED};
use super::instruction::{clear, load, vmxon, write};
use super::world;
use crate::arch::{cpu, gdt, idt};
use crate::mem::page::CorePage;
use crate::state::{Core, Index};
use crate::vcpu::Machine;
use crate::vcpu::block::at;
use crate::vcpu::machine::OPEN_MSRS;
use x86::vmx::vmcs::{control, guest, host};

const CR4_VMXE: u64 = 1 << 13;
const PAT: u32 = 0x277;
const RDTSCP: u32 = 27;
/// A field (SDM volume 3, appendix B) that the library lacks; to its value the processor adds what its own instructions take.
const NOTIFY_WINDOW: u32 = 0x4024;
/// #DB and #AC (a guest could loop in their delivery for ever) and #MC, which is the host's.
const EXCEPTIONS: u64 = 1 << 1 | 1 << 17 | 1 << 18;
const GP: u64 = 1 << 13;

/// Fields that are 0 for good.
const ZEROS: [u32; 14] = [
    control::PAGE_FAULT_ERR_CODE_MASK,
    control::PAGE_FAULT_ERR_CODE_MATCH,
    control::CR3_TARGET_COUNT,
    control::VMENTRY_INTERRUPTION_INFO_FIELD,
    guest::IA32_DEBUGCTL_FULL,
    guest::ACTIVITY_STATE,
    host::DS_SELECTOR,
    host::ES_SELECTOR,
    host::FS_SELECTOR,
    host::GS_SELECTOR,
    host::FS_BASE,
    host::IA32_SYSENTER_CS,
    host::IA32_SYSENTER_ESP,
    host::IA32_SYSENTER_EIP,
];

/// Byte and bit of `number` in the part of the MSR bitmap for reads (SDM volume 3, section 24.6.9).
fn map_place(number: u32) -> Option<(usize, u32)> {
    let base = match number {
        0..=0x1fff => 0usize,
        0xc000_0000..=0xc000_1fff => 0x400,
        _ => return None,
    };
    let offset = number & 0x1fff;
    Some((base.wrapping_add((offset >> 3) as usize), offset & 7))
}

/// Turn VMX on: open the guests' own registers in the bitmap `msr`, and give `own` to the processor.
pub fn enable(machine: &mut Machine, msr: CorePage, own: CorePage) {
    const WRITES: usize = 0x800;
    for (byte, bit) in OPEN_MSRS.into_iter().filter_map(map_place) {
        for byte in [byte, byte | WRITES] {
            let shift = (byte as u32 & 7) << 3 | bit;
            msr.set_word(byte, msr.word(byte) & !(1u64.wrapping_shl(shift)));
        }
    }
    let secondary = match cpu::cpuid(0x8000_0001, 0).edx >> RDTSCP & 1 {
        0 => capability::SECONDARY_BITS,
        _ => capability::SECONDARY_BITS | capability::RDTSCP,
    } | capability::ENCLS
        | capability::NOTIFY;
    let words = [
        (capability::PIN, capability::PIN_BITS),
        (capability::PRIMARY, capability::PRIMARY_BITS),
        (capability::SECONDARY, secondary),
        (capability::EXIT, capability::EXIT_BITS),
        (capability::ENTRY, capability::ENTRY_BITS),
    ];
    // With unrestricted guest PE and PG may be clear.
    let free = x86::controlregs::Cr0::CR0_PROTECTED_MODE.bits() | x86::controlregs::Cr0::CR0_ENABLE_PAGING.bits();
    let dirty = if cpu::msr(capability::EPT_VPID) & capability::EPT_DIRTY != 0 { 1 << 6 } else { 0 };
    machine.flush = 1;
    machine.vmx = Extension {
        revision: cpu::msr(capability::BASIC) & 0x7fff_ffff,
        words: words.map(|(number, bits)| capability::word(cpu::msr(number), bits)),
        cr0: cpu::msr(capability::CR0_FIXED0) & !(free as u64),
        // A machine check in a guest is an exit, whatever the guest's CR4 says.
        cr4: cpu::msr(capability::CR4_FIXED0) | 1 << 6,
        eptp: 6 | 3 << 3 | dirty,
        timer_shift: cpu::msr(capability::MISC) as u32 & 31,
        current: Index::NONE,
    };
    if let Some(value) = capability::unlock(cpu::msr(capability::FEATURE_CONTROL)) {
        // SAFETY: the register is not locked; it only allows VMXON.
        unsafe { cpu::set_msr(capability::FEATURE_CONTROL, value) };
    }
    // SAFETY: the bit only allows VMXON.
    unsafe { cpu::set_cr4(cpu::cr4() | CR4_VMXE) };
    own.set_word(0, machine.vmx.revision);
    // SAFETY: the page was taken for this, and the lines above prepared it.
    unsafe { vmxon(own) };
}

impl Core {
    /// Build the VMCS of `vcpu` anew: all but what the first entry carries in.
    pub fn build_vmcs(&mut self, vcpu: u8) {
        let (machine, state) = (&mut self.machine, &mut self.vcpus[vcpu]);
        let (vmcs, block, vm) = (state.vmcs, state.control, &self.vms[state.vm]);
        state.launched = false;
        machine.vmx.current = Index::of(vcpu);
        // After a refused state it is active: stores into it come after VMCLEAR only.
        clear(vmcs);
        vmcs.clear();
        vmcs.set_word(0, machine.vmx.revision);
        clear(vmcs);
        load(vmcs);
        let (guest_list, core_list) = (at::GUEST_MSRS, at::CORE_MSRS);
        for (number, msr) in SWAPPED.into_iter().enumerate() {
            let place = number << 4;
            block.set_word(guest_list.wrapping_add(place), msr.into());
            block.set_word(core_list.wrapping_add(place), msr.into());
            block.set_word(core_list.wrapping_add(place).wrapping_add(8), cpu::msr(msr));
        }
        let list = |offset: usize| block.physical().wrapping_add(offset as u64);
        let count = SWAPPED.len() as u64;
        let exceptions = if vm.vmport != Index::NONE { EXCEPTIONS | GP } else { EXCEPTIONS };
        let [pin, _, secondary, exit, _] = machine.vmx.words.map(u64::from);
        let code = u64::from(gdt::KERNEL_CODE);
        let data = u64::from(gdt::KERNEL_DATA);
        let [gdt_base, task_base] = gdt::bases();
        let fields = [
            (control::VPID, block.word(at::ASID) & 0xffff),
            (control::PINBASED_EXEC_CONTROLS, pin),
            (control::SECONDARY_PROCBASED_EXEC_CONTROLS, secondary),
            (control::VMEXIT_CONTROLS, exit),
            (control::EXCEPTION_BITMAP, exceptions),
            (control::IO_BITMAP_A_ADDR_FULL, machine.io_bitmap),
            (control::IO_BITMAP_B_ADDR_FULL, machine.io_bitmap.wrapping_add(4096)),
            (control::MSR_BITMAPS_ADDR_FULL, machine.msr_bitmap),
            (control::VMEXIT_MSR_STORE_ADDR_FULL, list(guest_list)),
            (control::VMEXIT_MSR_STORE_COUNT, count),
            (control::VMENTRY_MSR_LOAD_ADDR_FULL, list(guest_list)),
            (control::VMENTRY_MSR_LOAD_COUNT, count),
            (control::VMEXIT_MSR_LOAD_ADDR_FULL, list(core_list)),
            (control::VMEXIT_MSR_LOAD_COUNT, count),
            (control::EPTP_FULL, vm.nested | machine.vmx.eptp),
            (control::CR0_GUEST_HOST_MASK, machine.vmx.cr0 | UNTOUCHED),
            (control::CR4_GUEST_HOST_MASK, machine.vmx.cr4 | !machine.cr4),
            (guest::LINK_PTR_FULL, u64::MAX),
            (host::CR0, cpu::cr0()),
            (host::CR4, cpu::cr4()),
            (host::IA32_PAT_FULL, cpu::msr(PAT)),
            (host::IA32_EFER_FULL, cpu::msr(x86::msr::IA32_EFER)),
            (host::CS_SELECTOR, code),
            (host::SS_SELECTOR, data),
            (host::TR_SELECTOR, gdt::TASK.into()),
            (host::GS_BASE, cpu::msr(x86::msr::IA32_GS_BASE)),
            (host::TR_BASE, task_base),
            (host::GDTR_BASE, gdt_base),
            (host::IDTR_BASE, idt::base()),
            (host::RIP, world::exit_point()),
        ];
        fields.into_iter().for_each(|(field, value)| write(field, value));
        ZEROS.iter().for_each(|field| write(*field, 0));
        let rest =
            [(capability::ENCLS, control::ENCLS_EXITING_BITMAP_FULL, u64::MAX), (capability::NOTIFY, NOTIFY_WINDOW, 0)];
        for (_, field, value) in rest.into_iter().filter(|row| secondary & u64::from(row.0) != 0) {
            write(field, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_open_registers_stand_where_the_manual_says() {
        assert_eq!(map_place(0x174), Some((0x2e, 4)));
        assert_eq!(map_place(0xc000_0081), Some((0x410, 1)));
        assert_eq!(map_place(0x4000_0000), None);
    }
}
