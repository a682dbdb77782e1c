//! The PVH boot ABI: an ELF kernel with the Xen note PHYS32_ENTRY is entered in flat protected mode with
//! a start-info structure, version 1. Source: Xen's `docs/misc/pvh.pandoc` and `public/arch-x86/hvm/start_info.h`.

use super::boot_data::{BOOT_DATA, COMMAND_LINE, MEMORY_MAP, MODULES, claim, write_command_line};
use super::elf::Elf;
use super::error::Error;
use super::map::HIGH;
use super::space::{Space, put};
use super::start::Start;
use super::{Guest, LIMIT_32};
use crate::memory::GuestMemory;

const XEN: &[u8] = b"Xen";
const PHYS32_ENTRY: u32 = 18;
const PHYS32_RELOC: u32 = 19;
const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
/// Command line at most; Linux takes 2047 bytes of it.
const MOST_COMMAND_LINE: usize = 4095;
/// Alignment of a kernel that may be moved and says none.
const ALIGN: u64 = 2 << 20;

/// Whether the file has the note.
pub fn has_entry(elf: &Elf<'_>) -> bool {
    elf.note(XEN, PHYS32_ENTRY).is_some()
}

/// A number of 4 or 8 bytes.
fn number(descriptor: &[u8]) -> Option<u64> {
    match descriptor.len() {
        4 => descriptor.try_into().ok().map(|bytes| u32::from_le_bytes(bytes).into()),
        8 => descriptor.try_into().ok().map(u64::from_le_bytes),
        _ => None,
    }
}

/// How far a kernel is moved: not at all where its own place is free, else to the lowest place that its
/// PHYS32_RELOC note allows.
fn offset(elf: &Elf<'_>, space: &Space) -> u64 {
    let (start, end) = elf.segments.extent();
    let Some(note) = elf.note(XEN, PHYS32_RELOC) else { return 0 };
    if space.is_free(start, end) {
        return 0;
    }
    // Up to three u32: alignment, lowest and highest address.
    let mut words = note.as_chunks::<4>().0.iter().map(|bytes| u64::from(u32::from_le_bytes(*bytes)));
    let largest = elf.segments.0.iter().map(|segment| segment.align).max();
    let sane = |align: &u64| *align >= 0x1000 && align.is_power_of_two();
    let align = words.next().or(largest).filter(sane).unwrap_or(ALIGN);
    let lowest = words.next().unwrap_or(0).max(HIGH);
    let highest = words.next().unwrap_or(u32::MAX.into()).min(space.ram_end(LIMIT_32).saturating_sub(1));
    let inside = start % align;
    let mut to = lowest.next_multiple_of(align).saturating_add(inside);
    while let Some(last) = to.checked_add(end - start).map(|end| end.saturating_sub(1))
        && last <= highest
    {
        if space.is_free(to, last + 1) {
            return to.wrapping_sub(start);
        }
        to = to.saturating_add(align);
    }
    0
}

/// Loads the kernel and what it is told.
#[inline(never)]
pub fn load(
    memory: &mut impl GuestMemory,
    space: &mut Space,
    elf: &Elf<'_>,
    guest: &Guest<'_>,
) -> Result<Start, Error> {
    const NO_NOTE: Error =
        Error::Unusable("it has no Xen note PHYS32_ENTRY; give a kernel with CONFIG_PVH=y, or another guest.entry");
    let note = elf.note(XEN, PHYS32_ENTRY).ok_or(NO_NOTE)?;
    let entry = number(note).ok_or(Error::Corrupt("its note PHYS32_ENTRY has neither 4 nor 8 bytes"))?;
    claim(space, "", guest.append, MOST_COMMAND_LINE)?;
    let offset = offset(elf, space);
    elf.segments.claim(space, offset)?;
    let entry = entry.wrapping_add(offset);
    if !elf.segments.contain(entry, offset) {
        return Err(Error::Corrupt("its entry lies in no segment"));
    }
    let initrd = guest.initrd(space, LIMIT_32)?;
    elf.segments.contents(offset)?.with(initrd, guest.initrd)?.write(memory)?;
    write_command_line(memory, "", guest.append)?;
    start_info(memory, space, guest, initrd)?;
    Ok(Start { rbx: BOOT_DATA, ..Start::flat(entry) })
}

fn start_info(memory: &mut impl GuestMemory, space: &Space, guest: &Guest<'_>, initrd: u64) -> Result<(), Error> {
    let modules = u32::from(!guest.initrd.is_empty());
    let mut info = [0; 56];
    let mut field = |at: usize, bytes: &[u8]| {
        if let Some(place) = info.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    field(0, &MAGIC.to_le_bytes());
    field(4, &VERSION.to_le_bytes());
    field(12, &modules.to_le_bytes());
    field(16, &if modules == 0 { 0 } else { MODULES }.to_le_bytes());
    field(24, &COMMAND_LINE.to_le_bytes());
    field(32, &guest.rsdp.to_le_bytes());
    field(40, &MEMORY_MAP.to_le_bytes());
    field(48, &(space.map().len() as u32).to_le_bytes());
    put(memory, BOOT_DATA, &info)?;
    // Address, size, command line, reserved.
    let module = [initrd, guest.initrd.len() as u64, 0, 0].map(u64::to_le_bytes);
    put(memory, MODULES, module.as_flattened())?;
    let mut at = MEMORY_MAP;
    for range in space.map() {
        let entry = [range.start, range.end - range.start, range.kind as u64].map(u64::to_le_bytes);
        put(memory, at, entry.as_flattened())?;
        at += 24;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::elf::tests::{file, note};
    use super::super::map::map;
    use super::*;
    use crate::loader::bytes::{u32_at, u64_at};
    use crate::memory::tests::Plain;

    const MEMORY: u64 = 8 << 20;
    const ENTRY: u64 = 0x20_0010;

    fn kernel(notes: &[u8]) -> Vec<u8> {
        let pieces = [(0x20_0000, 0xffff_ffff_8100_0000, 0x3000, &[0x90; 0x20][..]), (0x20_4000, 0, 0x10, &[7; 8])];
        file(true, 0, &pieces, notes)
    }

    fn guest<'a>(append: &'a str, initrd: &'a [u8]) -> Guest<'a> {
        Guest { kernel: &[], initrd, append, rsdp: 0xe_0000 }
    }

    fn loaded(notes: &[u8], guest: &Guest<'_>, memory: u64) -> Result<(Plain, Start), Error> {
        let file = kernel(notes);
        let elf = Elf::read(&file).unwrap();
        let mut plain = Plain::new(memory as usize);
        plain.0.fill(0xcc);
        let mut space = Space::new(map(memory, true));
        load(&mut plain, &mut space, &elf, guest).map(|start| (plain, start))
    }

    fn entry(bytes: &[u8]) -> Vec<u8> {
        note("Xen", PHYS32_ENTRY, bytes)
    }

    #[test]
    fn the_guest_finds_start_info_version_1_and_its_kernel() {
        for note in [entry(&ENTRY.to_le_bytes()), entry(&(ENTRY as u32).to_le_bytes())] {
            let (Plain(memory), start) = loaded(&note, &guest("console=ttyS0", &[5; 0x1800]), MEMORY).unwrap();
            assert_eq!(start, Start { rbx: BOOT_DATA, ..Start::flat(ENTRY) });
            let word = |at: u64| u64_at(&memory, BOOT_DATA + at).unwrap();
            let half = |at: u64| u32_at(&memory, BOOT_DATA + at).unwrap();
            assert_eq!([0, 4, 8, 12].map(half), [0x336e_c578, 1, 0, 1]);
            assert_eq!([16, 24, 32, 40].map(word), [MODULES, COMMAND_LINE, 0xe_0000, MEMORY_MAP]);
            assert_eq!((half(48), half(52)), (5, 0));
            assert_eq!(memory[COMMAND_LINE as usize..][..14], *b"console=ttyS0\0");
            let initrd = u64_at(&memory, MODULES).unwrap();
            assert_eq!(initrd, MEMORY - 0x2000);
            assert_eq!([8, 16, 24].map(|at| u64_at(&memory, MODULES + at).unwrap()), [0x1800, 0, 0]);
            assert_eq!(memory[initrd as usize..][..0x1800], [5; 0x1800]);
            assert_eq!(memory[0x20_0000..][..0x20], [0x90; 0x20]);
            assert_eq!(memory[0x20_0020..0x20_3000], [0; 0x2fe0], "zero up to the end of the segment");
            assert_eq!(
                memory[0x20_4000..0x20_4018],
                [[7; 8], [0; 8], [0; 8]].concat()[..],
                "zero beyond the segment, too"
            );
        }
    }

    #[test]
    fn the_memory_map_has_low_ram_and_reserves_the_tables() {
        let (Plain(memory), _) = loaded(&entry(&ENTRY.to_le_bytes()), &guest("", &[]), MEMORY).unwrap();
        let ranges: Vec<_> =
            (0..5).map(|index| [0, 8, 16].map(|at| u64_at(&memory, MEMORY_MAP + 24 * index + at).unwrap())).collect();
        let expected = [
            [0, 0x9_f000, 1],
            [0x9_f000, 0x4_1000, 2],
            [0xe_0000, 0xf000, 3],
            [0xe_f000, 0x1_1000, 2],
            [0x10_0000, 0x70_0000, 1],
        ];
        assert_eq!(ranges, expected);
        assert_eq!(u64_at(&memory, BOOT_DATA + 16), Some(0), "no module list without a module");
    }

    #[test]
    fn a_kernel_without_its_place_is_refused_unless_it_may_be_moved() {
        let note = [entry(&ENTRY.to_le_bytes()), note("Xen", PHYS32_RELOC, &0x1000_u32.to_le_bytes())].concat();
        let small = 0x20_3000;
        let error = loaded(&entry(&ENTRY.to_le_bytes()), &guest("", &[]), small).err();
        assert_eq!(error, Some(Error::Memory { needed: 0x20_4010, have: 0x20_3000 }));
        let (Plain(memory), start) = loaded(&note, &guest("", &[]), small).unwrap();
        assert_eq!(start.entry, 0x10_0010);
        assert_eq!(memory[0x10_0000..0x10_0020], [0x90; 0x20]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_measure() {
        let good = entry(&ENTRY.to_le_bytes());
        let refused = |note: &[u8], append: &str, initrd: &[u8]| loaded(note, &guest(append, initrd), MEMORY).err();
        let long = "x".repeat(4096);
        assert_eq!(refused(&good, &long, &[]), Some(Error::CommandLine { bytes: 4096, most: 4095 }));
        let large = vec![0; 6 << 20];
        assert_eq!(refused(&good, "", &large), Some(Error::Initrd { bytes: 6 << 20, room: MEMORY - 0x20_5000 }));
        assert!(matches!(refused(&entry(&[1; 5]), "", &[]), Some(Error::Corrupt(_))));
        assert!(matches!(refused(&entry(&[0; 8]), "", &[]), Some(Error::Corrupt(_))));
        assert!(matches!(refused(&[], "", &[]), Some(Error::Unusable(_))));
    }
}
