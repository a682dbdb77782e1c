//! Registers, modes, and what is refused.

use super::{CLOCK, at, enabled, x2apic};
use crate::apic::lapic::{Effect, Lapic, Refused, WORDS};
use crate::apic::message::{Destination, Message, Mode};
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

#[test]
fn registers_after_reset() {
    let table = [
        (0x20, 2 << 24),
        (0x30, 0x0005_0014),
        (0x80, 0),
        (0xa0, 0),
        (0xd0, 0),
        (0xe0, 0xffff_ffff),
        (0xf0, 0xff),
        (0x280, 0),
        (0x300, 0),
        (0x310, 0),
        (0x320, 0x1_0000),
        (0x350, 0x1_0000),
        (0x370, 0x1_0000),
        (0x380, 0),
        (0x390, 0),
        (0x3e0, 0),
    ];
    let mut lapic = Lapic::reset(2, true);
    for (offset, value) in table {
        assert_eq!(lapic.read(offset, &CLOCK), value, "{offset:#x}");
    }
    assert_eq!(lapic.base(), 0xfee0_0900);
    assert_eq!(Lapic::reset(2, false).base(), 0xfee0_0800);
    assert_eq!((lapic.page(), lapic.software_enabled()), (Some(0xfee0_0000), false));
}

#[test]
fn registers_keep_the_bits_that_can_be_written() {
    let table = [
        (0x20, 2 << 24),
        (0x30, 0x0005_0014),
        (0x80, 0xff),
        (0xa0, 0),
        (0xb0, 0),
        (0xd0, 0xff00_0000),
        (0xe0, 0xffff_ffff),
        (0xf0, 0x3ff),
        (0x100, 0),
        (0x310, 0xff00_0000),
        (0x320, 0x7_00ff),
        (0x330, 0x1_07ff),
        (0x340, 0x1_07ff),
        (0x350, 0x1_a7ff),
        (0x360, 0x1_a7ff),
        (0x370, 0x1_00ff),
        (0x380, 0xffff_ffff),
        (0x3e0, 0xb),
        (0x324, 0),
    ];
    for (offset, value) in table {
        let mut lapic = enabled();
        lapic.write(offset, u32::MAX, &CLOCK);
        assert_eq!(lapic.read(offset, &CLOCK), value, "{offset:#x}");
        assert_eq!(lapic.read(0x280, &CLOCK), 0, "{offset:#x}");
    }
    let mut lapic = enabled();
    lapic.write(0xe0, 0, &CLOCK);
    assert_eq!(lapic.read(0xe0, &CLOCK), 0x0fff_ffff);
}

#[test]
fn a_register_that_does_not_exist_is_an_error_in_the_page_and_a_fault_as_an_msr() {
    for offset in [0x00, 0x40, 0x70, 0x2f0, 0x3a0, 0x3d0, 0x3f0, 0x400, 0xff0] {
        let mut lapic = enabled();
        assert_eq!(lapic.read(offset, &CLOCK), 0);
        lapic.write(0x280, 0, &CLOCK);
        assert_eq!(lapic.read(0x280, &CLOCK), 0x80, "read of {offset:#x}");
        lapic.write(0x280, 0, &CLOCK);
        assert_eq!(lapic.read(0x280, &CLOCK), 0);
        lapic.write(offset, 0, &CLOCK);
        lapic.write(0x280, 0, &CLOCK);
        assert_eq!(lapic.read(0x280, &CLOCK), 0x80, "write of {offset:#x}");
    }
    for msr in [0x800, 0x801, 0x804, 0x809, 0x80c, 0x80e, 0x82f, 0x831, 0x83a, 0x840, 0x8ff] {
        assert_eq!(x2apic().read_msr(msr, &CLOCK), Err(Refused), "{msr:#x}");
        assert_eq!(x2apic().write_msr(msr, 0, &CLOCK), Err(Refused), "{msr:#x}");
    }
}

#[test]
fn x2apic_registers_take_their_bits_and_refuse_the_others() {
    let table = [
        // Register, all that can be written, read only, write only.
        (0x802, 0, true, false),
        (0x803, 0, true, false),
        (0x808, 0xff, false, false),
        (0x80a, 0, true, false),
        (0x80b, 0, false, true),
        (0x80d, 0, true, false),
        (0x80f, 0x3ff, false, false),
        (0x810, 0, true, false),
        (0x81f, 0, true, false),
        (0x827, 0, true, false),
        (0x828, 0, false, false),
        (0x830, 0xffff_ffff_000c_cfff, false, false),
        (0x832, 0x7_00ff, false, false),
        (0x833, 0x1_07ff, false, false),
        (0x834, 0x1_07ff, false, false),
        (0x835, 0x1_a7ff, false, false),
        (0x836, 0x1_a7ff, false, false),
        (0x837, 0x1_00ff, false, false),
        (0x838, 0xffff_ffff, false, false),
        (0x839, 0, true, false),
        (0x83e, 0xb, false, false),
        (0x83f, 0xff, false, true),
    ];
    for (msr, most, read_only, write_only) in table {
        let written = x2apic().write_msr(msr, most, &CLOCK);
        assert_eq!(written.is_err(), read_only, "{msr:#x}");
        assert_eq!(x2apic().read_msr(msr, &CLOCK).is_err(), write_only, "{msr:#x}");
        for bit in (0..64).filter(|bit| most >> bit & 1 == 0 && (msr, *bit) != (0x830, 12)) {
            let mut lapic = x2apic();
            let before = lapic;
            assert_eq!(lapic.write_msr(msr, 1 << bit, &CLOCK), Err(Refused), "{msr:#x} bit {bit}");
            assert_eq!(lapic, before);
        }
        if !read_only && !write_only {
            let mut lapic = x2apic();
            lapic.write_msr(msr, most, &CLOCK).unwrap();
            assert_eq!(lapic.read_msr(msr, &CLOCK), Ok(most), "{msr:#x}");
        }
    }
}

#[test]
fn x2apic_ids_are_whole_and_the_logical_one_is_derived() {
    for (id, logical) in [(2, 0x4), (0x15, 0x1_0020), (0xf, 0x8000)] {
        let mut lapic = Lapic::reset(id, false);
        lapic.write_msr(0x1b, 0xfee0_0c00, &CLOCK).unwrap();
        assert_eq!(lapic.read_msr(0x802, &CLOCK), Ok(id.into()));
        assert_eq!(lapic.read_msr(0x80d, &CLOCK), Ok(logical));
    }
}

#[test]
fn modes_change_as_the_manual_allows() {
    let (off, xapic, x2, invalid) = (0xfee0_0000, 0xfee0_0800, 0xfee0_0c00, 0xfee0_0400);
    let table: [(&[u64], &[u64]); 3] =
        [(&[xapic], &[off, xapic, x2]), (&[xapic, x2], &[off, x2]), (&[xapic, off], &[off, xapic])];
    for (way, allowed) in table {
        for next in [off, xapic, x2, invalid] {
            let mut lapic = Lapic::reset(2, false);
            for step in way {
                lapic.write_msr(0x1b, *step, &CLOCK).unwrap();
            }
            let before = lapic;
            let result = lapic.write_msr(0x1b, next, &CLOCK);
            assert_eq!(result.is_ok(), allowed.contains(&next), "{way:x?} then {next:#x}");
            assert_eq!(lapic.read_msr(0x1b, &CLOCK), Ok(if result.is_ok() { next } else { before.base() }));
        }
    }
    for bit in (0..8).chain([9]).chain(52..64) {
        assert_eq!(enabled().write_msr(0x1b, xapic | 1 << bit, &CLOCK), Err(Refused), "bit {bit}");
    }
}

#[test]
fn the_page_moves_and_goes_with_the_mode_and_the_bootstrap_bit_stays() {
    let mut lapic = Lapic::reset(0, true);
    lapic.write_msr(0x1b, 0xfec1_0800, &CLOCK).unwrap();
    assert_eq!((lapic.page(), lapic.base()), (Some(0xfec1_0000), 0xfec1_0900));
    lapic.write_msr(0x1b, 0xfec1_0c00, &CLOCK).unwrap();
    assert_eq!(lapic.page(), None);
    lapic.write_msr(0x1b, 0xfec1_0000, &CLOCK).unwrap();
    assert_eq!((lapic.page(), lapic.enabled()), (None, false));
    for msr in [0x802, 0x80b, 0x830] {
        assert_eq!(lapic.read_msr(msr, &CLOCK), Err(Refused));
    }
}

#[test]
fn disabling_loses_everything_but_the_id() {
    let mut lapic = enabled();
    lapic.write(0x320, 0x31, &CLOCK);
    lapic.write(0x380, 100, &CLOCK);
    lapic.accept(0x50, true);
    lapic.write_msr(0x1b, 0xfee0_0000, &CLOCK).unwrap();
    assert_eq!((lapic.pending(), lapic.deadline(&CLOCK), lapic.accept(0x50, false)), (None, None, false));
    lapic.write_msr(0x1b, 0xfee0_0800, &CLOCK).unwrap();
    assert_eq!(lapic, Lapic::reset(2, false));
}

#[test]
fn an_init_keeps_mode_and_id() {
    let mut lapic = x2apic();
    lapic.accept(0x50, false);
    lapic.init();
    assert!(lapic.x2apic() && !lapic.software_enabled());
    assert_eq!((lapic.pending(), lapic.id()), (None, 2));
}

#[test]
fn a_software_disabled_apic_masks_its_table_and_sends_still() {
    let mut lapic = enabled();
    lapic.write(0x360, 0x400, &CLOCK);
    lapic.accept(0x50, false);
    lapic.write(0xf0, 0xff, &CLOCK);
    assert_eq!(lapic.read(0x360, &CLOCK), 0x1_0400);
    lapic.write(0x360, 0x400, &CLOCK);
    assert_eq!(lapic.read(0x360, &CLOCK), 0x1_0400);
    assert!(!lapic.accept(0x60, false));
    assert_eq!(lapic.pending(), Some(0x50));
    lapic.write(0x310, 0x0100_0000, &CLOCK);
    let message = Message { destination: Destination::Physical(1), mode: Mode::Init, vector: 0, level: false };
    assert_eq!(lapic.write(0x300, 0x500, &CLOCK), Effect::Send(message));
}

#[test]
fn a_command_of_x2apic_mode_is_one_write() {
    let message = Message { destination: Destination::Physical(7), mode: Mode::Fixed, vector: 0x41, level: false };
    assert_eq!(x2apic().write_msr(0x830, 0x7_0000_1041, &CLOCK), Ok(Effect::Send(message)));
}

proptest! {
    /// Whatever a guest does, and whatever words an instance before left: no access is out of bounds, an
    /// interrupt in service is above 15, and the state survives as words.
    #[test]
    fn any_accesses_leave_a_state_that_works(
        words in prop::array::uniform32(any::<u64>()),
        from_reset: bool,
        steps in prop::collection::vec((0u8..9, any::<u16>(), any::<u64>(), any::<u64>()), 0..100)
    ) {
        let mut lapic = if from_reset { enabled() } else { Lapic::read_from_bytes(words.as_bytes()).unwrap() };
        for (what, place, value, now) in steps {
            let clock = at(now);
            match what {
                0 => { lapic.read(place % 0x1000, &clock); }
                1 => { lapic.write(place % 0x1000, value as u32, &clock); }
                2 => { let _ = lapic.read_msr(0x800 + u32::from(place) % 0x100, &clock); }
                3 => { let _ = lapic.write_msr(0x800 + u32::from(place) % 0x100, value, &clock); }
                4 => { let _ = lapic.write_msr(0x1b, 0xfee0_0000 | value & 0xd00, &clock); }
                5 => { let _ = lapic.write_msr(0x6e0, value, &clock); }
                6 => { lapic.accept(value as u8, value & 256 != 0); }
                7 => { lapic.expire(&clock); }
                _ => {
                    lapic.deadline(&clock);
                    if let Some(vector) = lapic.pending() {
                        lapic.take(vector);
                        prop_assert!(lapic.pending().is_none_or(|next| next >> 4 > vector >> 4));
                    }
                }
            }
            prop_assert_eq!(lapic.as_bytes().len(), WORDS * 8);
        }
    }
}
