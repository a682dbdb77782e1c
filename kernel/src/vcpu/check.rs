//! Checks of guest state that a service wrote: the allowed sets that the ABI names. Pure functions; what
//! is not checked here the processor checks at entry, and a refusal there faults the service.

use portcullis_ipc::exit::{Segment, event};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Group CONTROL as it lies in the exit page.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Control {
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub efer: u64,
    pub cr2: u64,
    pub xcr0: u64,
}

/// What a VM may have.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    pub cr4: u64,
    pub xcr0: u64,
    pub cr3: u64,
}

/// SCE, LME, LMA, NXE.
const EFER: u64 = 1 | 1 << 8 | 1 << 10 | 1 << 11;
/// PE, MP, EM, TS, ET, NE, WP, AM, NW, CD, PG.
pub const CR0: u64 = 0x3f | 1 << 16 | 1 << 18 | 1 << 29 | 1 << 30 | 1 << 31;
/// CF, PF, AF, ZF, SF, TF, IF, DF, OF, IOPL, NT, RF, VM, AC, VIF, VIP, ID, and the bit that is always 1.
const RFLAGS: u64 = 0x003f_7fd7;
/// RFLAGS.VM.
const VIRTUAL_8086: u64 = 1 << 17;
/// Bits of RFLAGS that no guest outside virtual-8086 mode can have.
pub const UNSETTLED: u64 = !RFLAGS | VIRTUAL_8086;

/// CR0, CR3, CR4, EFER, XCR0 lie in the allowed sets.
pub fn control(state: &Control, allowed: &Allowed) -> bool {
    let paging = state.cr0 >> 31 & 1 != 0;
    let protected = state.cr0 & 1 != 0;
    let write_through_only = state.cr0 >> 29 & 3 == 1;
    let long = state.efer >> 8 & 1 != 0 && paging;
    state.cr0 & !CR0 == 0
        && (!paging || protected)
        && !write_through_only
        && state.cr3 & !allowed.cr3 == 0
        && state.cr4 & !allowed.cr4 == 0
        && state.efer & !EFER == 0
        && (state.efer >> 10 & 1 != 0) == long
        && xcr0(state.xcr0, allowed.xcr0)
}

/// XCR0 is one that XSETBV takes: x87 always, AVX only with SSE, nothing outside `allowed`.
pub fn xcr0(value: u64, allowed: u64) -> bool {
    value & 1 != 0 && value & !(allowed | 1) == 0 && (value & 4 == 0 || value & 2 != 0)
}

/// RFLAGS holds no reserved bit.
pub fn rflags(value: u64) -> bool {
    value & !RFLAGS == 0 && value & 2 != 0
}

/// RFLAGS as a guest at privilege level `cpl` can have them, whose CS has this selector and base: no reserved bit, and VM
/// in virtual-8086 mode alone, where a segment begins where its selector says.
pub fn settled(value: u64, cpl: u32, selector: u16, base: u64) -> u64 {
    let virtual_8086 = cpl == 3 && base == u64::from(selector) << 4;
    value & if virtual_8086 { RFLAGS } else { RFLAGS & !VIRTUAL_8086 } | 2
}

/// DR6 and DR7 hold no upper half.
pub fn debug(dr6: u64, dr7: u64) -> bool {
    dr6 >> 32 == 0 && dr7 >> 32 == 0
}

/// `address` is canonical where linear addresses have `bits` bits.
pub fn canonical(address: u64, bits: u32) -> bool {
    let top = address.cast_signed().wrapping_shr(bits.wrapping_sub(1));
    top == 0 || top == -1
}

/// An instruction pointer that an entry takes: the guest may run off the end of the canonical addresses, and
/// gets its #GP at the fetch.
pub fn instruction_pointer(address: u64, bits: u32) -> bool {
    canonical(address, bits.wrapping_add(1).min(64))
}

/// A segment has a canonical base and no attribute bits but the 12 defined ones.
pub fn segment(segment: &Segment, bits: u32) -> bool {
    canonical(segment.base, bits) && segment.attributes >> 12 == 0
}

/// Every byte of a PAT value names a memory type.
pub fn pat(value: u64) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

/// The event word is one that an entry may deliver.
pub fn event(word: u64) -> bool {
    if word & event::VALID == 0 {
        return word == 0;
    }
    let vector = word & event::VECTOR;
    let known = match word >> event::TYPE_SHIFT & event::TYPE {
        event::INTERRUPT | event::SOFTWARE => true,
        event::NMI => vector == 2,
        event::EXCEPTION => vector < 32 && vector != 2,
        _ => false,
    };
    let defined = event::VECTOR | event::TYPE << event::TYPE_SHIFT | event::ERROR_VALID | event::VALID;
    let error = word >> 32 == 0 || word & event::ERROR_VALID != 0;
    known && error && word as u32 & !(defined as u32) == 0
}

/// An XSAVE area that XRSTOR cannot fault on: `words` are MXCSR's word (offset 24) and the header
/// (offsets 512 to 575), `mask` the bits of MXCSR and `supported` the components that the processor knows.
pub fn extended(mxcsr: u64, mask: u64, header: &[u64; 8], supported: u64) -> bool {
    let [components, rest @ ..] = header;
    mxcsr & !mask == 0 && components & !supported == 0 && rest.iter().all(|word| *word == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Allowed = Allowed { cr4: 0x6f0, xcr0: 7, cr3: ((1 << 40) - 1) | 1 << 61 };
    const LONG: Control = Control { cr0: 0x8005_0033, cr2: 0, cr3: 0x1000, cr4: 0x6f0, efer: 0xd01, xcr0: 7 };

    #[test]
    fn control_registers_outside_the_allowed_sets_are_refused() {
        assert!(control(&LONG, &ALLOWED) && control(&Control { cr3: LONG.cr3 | 1 << 61, ..LONG }, &ALLOWED));
        let bad = [
            Control { cr0: 1 << 31, ..LONG },
            Control { cr0: LONG.cr0 | 1 << 29, ..LONG },
            Control { cr0: LONG.cr0 | 1 << 40, ..LONG },
            Control { cr3: 1 << 40, ..LONG },
            Control { cr3: 1 << 62, ..LONG },
            Control { cr4: 1 << 13, ..LONG },
            Control { efer: LONG.efer | 1 << 12, ..LONG },
            Control { efer: LONG.efer & !(1 << 10), ..LONG },
            Control { cr0: 0x33, ..LONG },
            Control { xcr0: 0, ..LONG },
            Control { xcr0: 5, ..LONG },
            Control { xcr0: 0x207, ..LONG },
        ];
        for state in bad {
            assert!(!control(&state, &ALLOWED), "{state:x?}");
        }
    }

    #[test]
    fn events_that_no_entry_may_deliver_are_refused() {
        let valid = event::VALID;
        let good =
            [0, event::exception(14, Some(7)), event::interrupt(0x30), valid | 2 << 8 | 2, valid | 4 << 8 | 0x80];
        let bad = [
            1,
            valid | 1 << 8,
            valid | 2 << 8 | 3,
            valid | 3 << 8 | 2,
            valid | 3 << 8 | 32,
            valid | 1 << 12,
            event::interrupt(3) | 1 << 32,
        ];
        assert!(good.into_iter().all(event));
        assert!(!bad.into_iter().any(event));
    }

    #[test]
    fn flags_addresses_pat_and_extended_state_are_checked() {
        assert!(rflags(2) && rflags(0x246) && !rflags(0) && !rflags(2 | 8) && !rflags(2 | 1 << 32));
        assert!(pat(0x0007_0406_0007_0406) && !pat(2) && !pat(0x0300_0000_0000_0000));
        assert!(debug(0xffff_0ff0, 0x400) && !debug(1 << 32, 0) && !debug(0, 1 << 63));
        assert!(extended(0x1f80, 0xffff, &[7, 0, 0, 0, 0, 0, 0, 0], 7) && extended(1 << 17, 0x2_ffff, &[0; 8], 7));
        assert!(
            !extended(1 << 17, 0xffff, &[0; 8], 7)
                && !extended(0, 0xffff, &[4, 0, 0, 0, 0, 0, 0, 0], 3)
                && !extended(0, 0xffff, &[0, 1, 0, 0, 0, 0, 0, 0], 7)
        );
    }

    #[test]
    fn an_address_is_canonical_by_the_width_that_the_processor_has() {
        const END: u64 = 0x7fff_ffff_ffff;
        for (bits, address, taken) in [
            (48, END, true),
            (48, !END, true),
            (48, END + 1, false),
            (57, END + 1, true),
            (57, 1 << 56, false),
            (64, 0x1234_0000_0000_5678, true),
        ] {
            assert_eq!(canonical(address, bits), taken, "{address:#x} of {bits} bits");
        }
        assert!(instruction_pointer(END + 1, 48) && !instruction_pointer(1 << 48, 48));
        assert!(instruction_pointer(1 << 56, 57) && !instruction_pointer(1 << 57, 57));
        assert!(instruction_pointer(0x1234 << 48, 64));
    }

    #[test]
    fn flags_settle_to_what_the_mode_of_the_guest_can_have() {
        // What QEMU's CMPXCHG16B leaves of a pointer, with VM among it.
        assert_eq!(settled(0x0522_9046, 3, 0x33, 0), 0x0020_1046);
        assert_eq!(settled(0x0522_9046, 3, 0x33, 0) & UNSETTLED, 0);
        assert_eq!(settled(1 << 17 | 0x3202, 3, 0x1234, 0x1_2340), 1 << 17 | 0x3202);
        assert_eq!(settled(1 << 17 | 0x3202, 0, 0x10, 0x100), 0x3202);
    }
}
