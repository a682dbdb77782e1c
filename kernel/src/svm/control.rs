//! What a guest's control block says about when it exits.

use crate::object::{Vcpu, Vm};
use crate::state::Index;
use crate::vcpu::Machine;
use crate::vcpu::block::at;
use portcullis_ipc::image::feature;

/// EFER.SVME: set for every guest, never shown.
pub const EFER_SVME: u64 = 1 << 12;
/// VINTR among the intercepts at [`at::EXCEPTIONS`].
pub const INTERCEPT_VINTR: u64 = 1 << 36;
/// IRET among the intercepts at [`at::EXCEPTIONS`].
pub const INTERCEPT_IRET: u64 = 1 << 52;
/// V_INTR_MASKING, always.
pub const MASKING: u64 = 1 << 24;
/// V_IRQ with highest priority, TPR ignored: an interrupt window.
pub const WINDOW: u64 = 1 << 8 | 0xf << 16 | 1 << 20;

/// CR8 reads; CR4 and CR8 writes; writes of all debug registers: an emulator that keeps a guest's breakpoints
/// over the exit would raise them in the core.
const CR: u64 = 1 << 8 | 1 << 20 | 1 << 24 | 0xff << 48;
/// INTR, NMI, INIT, RDPMC, CPUID, INVD, HLT, INVLPGA, IOIO, MSR, SHUTDOWN.
const MISC_1: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 15 | 1 << 18 | 1 << 22 | 1 << 24 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 31;
/// VMRUN, VMMCALL, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, INT1, WBINVD, MONITOR, MWAIT, XSETBV, RDPRU.
const MISC_2: u64 = 0x7f | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 14;
/// #DB and #AC (a guest could loop in their delivery for ever) and #MC, which is the host's.
const EXCEPTIONS: u64 = 1 << 1 | 1 << 17 | 1 << 18;
const GP: u64 = 1 << 13;

/// Complete the control block of `vcpu` of `vm`, which is in its reset state.
pub fn complete(machine: &Machine, vcpu: &Vcpu, vm: &Vm) {
    let mut misc = MISC_1;
    if vm.features & feature::INTERCEPT_RDTSC != 0 {
        misc |= 1 << 14;
    }
    if vm.features & feature::INTERCEPT_PAUSE != 0 {
        misc |= 1 << 23;
    }
    let more = if vm.features & feature::INTERCEPT_RDTSC != 0 { MISC_2 | 1 << 7 } else { MISC_2 };
    let exceptions = if vm.vmport != Index::NONE { EXCEPTIONS | GP } else { EXCEPTIONS };
    let words = [
        (at::CR_INTERCEPTS, CR),
        (at::EXCEPTIONS, exceptions | misc << 32),
        (at::MORE_INTERCEPTS, more),
        (at::IO_BITMAP, machine.io_bitmap),
        (at::MSR_BITMAP, machine.msr_bitmap),
        (at::VIRTUAL_INTERRUPT, MASKING),
        (at::NESTED, 1),
        (at::NESTED_ROOT, vm.nested),
        (at::EFER, EFER_SVME),
    ];
    for (offset, value) in words {
        vcpu.control.set_word(offset, value);
    }
}
