//! What the processor's VMX must be able to do, and the control words that follow from it (SDM volume 3, appendix A).

use zerocopy::FromZeros;

/// Lock bit and, above it, enable bit (outside SMX) of IA32_FEATURE_CONTROL.
pub const FEATURE_CONTROL: u32 = 0x3a;
const LOCKED: u64 = 1;
const ENABLED: u64 = 1 << 2;
/// IA32_VMX_BASIC; bit 55: the TRUE registers are there.
pub const BASIC: u32 = 0x480;
/// IA32_VMX_MISC; the preemption timer counts TSC ticks shifted by its low five bits.
pub const MISC: u32 = 0x485;
/// IA32_VMX_CR0_FIXED0 and CR4_FIXED0: bits that must be set.
pub const CR0_FIXED0: u32 = 0x486;
/// See [`CR0_FIXED0`].
pub const CR4_FIXED0: u32 = 0x488;
/// IA32_VMX_EPT_VPID_CAP.
pub const EPT_VPID: u32 = 0x48c;
/// The registers that say which controls may be 0 (low half: must be 1) and which may be 1 (high half).
pub const PIN: u32 = 0x48d;
/// See [`PIN`]: primary processor-based.
pub const PRIMARY: u32 = 0x48e;
/// See [`PIN`]: secondary processor-based.
pub const SECONDARY: u32 = 0x48b;
/// See [`PIN`]: exit.
pub const EXIT: u32 = 0x48f;
/// See [`PIN`]: entry.
pub const ENTRY: u32 = 0x490;

/// External-interrupt exiting, NMI exiting, virtual NMIs, preemption timer.
pub const PIN_BITS: u32 = 1 | 1 << 3 | 1 << 5 | 1 << 6;
/// TSC offset, exits of HLT, MWAIT, RDPMC, CR8 and debug registers, I/O and MSR bitmaps, MONITOR, secondary controls.
pub const PRIMARY_BITS: u32 =
    1 << 3 | 1 << 7 | 1 << 10 | 1 << 11 | 1 << 19 | 1 << 20 | 1 << 23 | 1 << 25 | 1 << 28 | 1 << 29 | 1 << 31;
/// Primary controls that are set only now and then: interrupt window, RDTSC, NMI window, PAUSE.
pub const INTERRUPT_WINDOW: u32 = 1 << 2;
/// See [`INTERRUPT_WINDOW`].
pub const RDTSC_EXITS: u32 = 1 << 12;
/// See [`INTERRUPT_WINDOW`].
pub const NMI_WINDOW: u32 = 1 << 22;
/// See [`INTERRUPT_WINDOW`].
pub const PAUSE_EXITS: u32 = 1 << 30;
const OCCASIONAL: u32 = INTERRUPT_WINDOW | RDTSC_EXITS | NMI_WINDOW | PAUSE_EXITS;
/// Primary controls that must be off: exits of CR3.
const UNWANTED: u32 = 1 << 15 | 1 << 16;
const EPT: u32 = 1 << 1;
const UNRESTRICTED: u32 = 1 << 7;
/// VPID, exits of WBINVD.
const OTHERS: u32 = 1 << 5 | 1 << 6;
/// EPT, unrestricted guest, and the others.
pub const SECONDARY_BITS: u32 = EPT | UNRESTRICTED | OTHERS;
/// RDTSCP does not raise #UD; only where the processor has it.
pub const RDTSCP: u32 = 1 << 3;
/// Every ENCLS exits, as SGX is not shown; an exit where no interrupt got in for too long. Only where the processor has them.
pub const ENCLS: u32 = 1 << 15;
/// See [`ENCLS`].
pub const NOTIFY: u32 = 1 << 31;
/// Debug controls saved; the core runs in 64-bit mode; PAT and EFER saved and loaded; preemption timer saved.
pub const EXIT_BITS: u32 = 1 << 2 | 1 << 9 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 21 | 1 << 22;
/// Debug controls, PAT and EFER loaded.
pub const ENTRY_BITS: u32 = 1 << 2 | 1 << 14 | 1 << 15;
/// The guest is in long mode.
pub const LONG_MODE: u32 = 1 << 9;
/// Bit of an exit reason: the entry failed.
pub const REFUSED: u32 = 1 << 31;
/// Four-level walk, write-back tables, 2 MiB pages, INVEPT and INVVPID of a single context.
const EPT_BITS: u64 = 1 << 6 | 1 << 14 | 1 << 16 | 1 << 20 | 1 << 25 | 1 << 32 | 1 << 41;
/// Accessed and dirty bits in nested tables.
pub const EPT_DIRTY: u64 = 1 << 21;

/// What the core keeps of the extension.
#[derive(Clone, Copy, FromZeros)]
pub struct Extension {
    /// Revision that VMXON region and VMCS start with.
    pub revision: u64,
    /// Control words without what differs between guests: pin-based, primary, secondary, exit, entry.
    pub words: [u32; 5],
    /// CR0 bits that a guest's register has set whatever the guest sees.
    pub cr0: u64,
    /// The same of CR4.
    pub cr4: u64,
    /// Bits of the nested table's pointer.
    pub eptp: u64,
    /// Shift from TSC ticks to those of the preemption timer.
    pub timer_shift: u32,
    /// vCPU whose VMCS is current.
    pub current: crate::state::Index,
}

/// A control word: the wanted `bits` that the processor can set, and what it cannot clear.
pub fn word(capability: u64, bits: u32) -> u32 {
    (bits | capability as u32) & (capability >> 32) as u32
}

/// Whether the processor can do what the core needs, by MSR; one that raises #GP is `None`. `Some` names what is missing.
pub fn refusal(msr: impl Fn(u32) -> Option<u64>) -> Option<&'static str> {
    let value = |number| msr(number).unwrap_or(0);
    if value(FEATURE_CONTROL) & (LOCKED | ENABLED) == LOCKED {
        return Some("vm: VMX is locked off by the firmware (IA32_FEATURE_CONTROL bit 2); enable it there");
    }
    let lacks = |number, bits: u32| !(value(number) >> 32) as u32 & bits != 0;
    let rows = [
        (
            value(BASIC) >> 55 & 1 == 0,
            "vm: this processor has no TRUE VMX controls (IA32_VMX_BASIC bit 55); VMs need them",
        ),
        (lacks(PRIMARY, 1 << 31), "vm: this processor has no secondary VMX controls (MSR 0x48E bit 63); VMs need them"),
        (lacks(SECONDARY, EPT), "vm: this processor has no EPT (MSR 0x48B bit 33); VMs need it"),
        (
            lacks(SECONDARY, UNRESTRICTED),
            "vm: this processor has no unrestricted guest (MSR 0x48B bit 39); VMs need it",
        ),
        (
            lacks(SECONDARY, OTHERS),
            "vm: this processor lacks VPID or WBINVD exits (MSR 0x48B bits 37, 38); VMs need both",
        ),
        (lacks(PIN, PIN_BITS), "vm: this processor lacks a pin-based VMX control (MSR 0x48D: 0x69); VMs need them"),
        (
            lacks(PRIMARY, PRIMARY_BITS | OCCASIONAL),
            "vm: this processor lacks a primary VMX control (MSR 0x48E); VMs need them",
        ),
        (
            value(PRIMARY) as u32 & UNWANTED != 0,
            "vm: this processor cannot turn exits of CR3 off (MSR 0x48E bits 15, 16); VMs need it",
        ),
        (lacks(EXIT, EXIT_BITS), "vm: this processor lacks a VMX exit control (MSR 0x48F: 0x7C0204); VMs need them"),
        (
            lacks(ENTRY, ENTRY_BITS | LONG_MODE),
            "vm: this processor lacks a VMX entry control (MSR 0x490: 0xC204); VMs need them",
        ),
        (
            value(EPT_VPID) & EPT_BITS != EPT_BITS,
            "vm: this processor's EPT or VPID lacks a part (MSR 0x48C: 0x20102114040); VMs need it",
        ),
    ];
    rows.iter().find(|(missing, _)| *missing).map(|(_, line)| *line)
}

/// The value to write to IA32_FEATURE_CONTROL, where the firmware left it open.
pub fn unlock(value: u64) -> Option<u64> {
    (value & LOCKED == 0).then_some(value | LOCKED | ENABLED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_word_has_what_is_wanted_and_can_be_and_what_must_be() {
        assert_eq!(word(0x0000_00ff_0000_0016, 0x49), 0x5f);
        assert_eq!(word(0x0000_000f_0000_0000, 0x19), 0x09);
    }

    #[test]
    fn an_open_feature_control_is_locked_with_vmx_on_and_a_locked_one_is_left() {
        assert_eq!((unlock(0), unlock(5), unlock(1)), (Some(5), None, None));
    }
}
