//! Multiboot 1: an ELF kernel, or a flat file whose header says where it goes. Source: the Multiboot
//! Specification 0.6.96. There is no screen: a kernel that asks for a video mode is told of none.

use super::boot_data::{BOOT_DATA, COMMAND_LINE, MEMORY_MAP, claim, write_command_line};
use super::bytes::{slice, u32_at};
use super::elf::{Elf, is_elf};
use super::error::Error;
use super::map::{HIGH, LOW_END};
use super::segments::{Segment, Segments};
use super::space::{Space, put};
use super::start::Start;
use super::{Guest, LIMIT_32};
use crate::memory::GuestMemory;

/// Bytes in which the header must lie.
const SEARCHED: usize = 8192;
const MAGIC: u32 = 0x1bad_b002;
/// What EAX holds at the entry.
const LOADED: u64 = 0x2bad_b002;
/// Flags: demands that are met (pages aligned, memory information, video mode), address fields.
const MET: u32 = 7;
const DEMANDS: u32 = 0xffff;
const ADDRESSES: u32 = 1 << 16;
/// Flags of the information: memory sizes, command line, modules, memory map, loader name.
const INFORMATION: u32 = 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
/// Places after the information.
const MODULES: u64 = BOOT_DATA + 0x80;
const NAME: u64 = BOOT_DATA + 0xc0;
/// The command line begins with the kernel's name, as boot loaders give it.
const KERNEL_NAME: &str = "kernel ";
const MOST_COMMAND_LINE: usize = 4095;

/// Where the header stands in the file.
fn header(file: &[u8]) -> Option<usize> {
    let searched = file.get(..file.len().min(SEARCHED)).unwrap_or_default();
    let words = searched.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
    let mut triples = words.clone().zip(words.clone().skip(1)).zip(words.skip(2));
    let found = triples.position(|((magic, flags), checksum)| {
        magic == MAGIC && magic.wrapping_add(flags).wrapping_add(checksum) == 0
    })?;
    Some(found * 4)
}

/// Whether the file has a header.
pub fn has_header(file: &[u8]) -> bool {
    header(file).is_some()
}

struct Image<'a> {
    segments: Segments<'a>,
    entry: u64,
}

impl<'a> Image<'a> {
    fn read(file: &'a [u8]) -> Result<Self, Error> {
        const NO_HEADER: Error = Error::Unusable("it has no multiboot 1 header; give another guest.entry");
        const SHORT: Error = Error::Corrupt("its multiboot addresses reach beyond the file");
        let at = header(file).ok_or(NO_HEADER)? as u64;
        let word = |index: u64| u32_at(file, at + 4 * index).map(u64::from);
        let flags = u32_at(file, at + 4).unwrap_or(0);
        if flags & DEMANDS & !MET != 0 {
            return Err(Error::Unusable("its multiboot header demands what nobody knows; give another kernel"));
        }
        if flags & ADDRESSES == 0 {
            if !is_elf(file) {
                return Err(Error::Unusable(
                    "its multiboot header has no addresses and it is not an ELF file; give one",
                ));
            }
            let elf = Elf::read(file)?;
            return Ok(Self { entry: elf.physical_entry(), segments: elf.segments });
        }
        let [header, address, end, bss_end, entry] = [3, 4, 5, 6, 7].map(word);
        let (header, address, entry) = (header.ok_or(SHORT)?, address.ok_or(SHORT)?, entry.ok_or(SHORT)?);
        let (end, bss_end) = (end.ok_or(SHORT)?, bss_end.ok_or(SHORT)?);
        // The header lies as far after the first byte in the file as in memory.
        let first = header.checked_sub(address).and_then(|inside| at.checked_sub(inside)).ok_or(SHORT)?;
        let rest = (file.len() as u64).saturating_sub(first);
        let bytes = if end == 0 { rest } else { end.checked_sub(address).ok_or(SHORT)? };
        let bytes = slice(file, first, bytes).ok_or(SHORT)?;
        let length = bss_end.saturating_sub(address).max(bytes.len() as u64);
        let mut segments = Segments::default();
        segments.0.push(Segment { bytes, physical: address, linked: address, length, align: 1 });
        Ok(Self { segments, entry })
    }
}

/// Loads the kernel and what it is told.
#[inline(never)]
pub fn load(memory: &mut impl GuestMemory, space: &mut Space, guest: &Guest<'_>) -> Result<Start, Error> {
    let image = Image::read(guest.kernel)?;
    claim(space, KERNEL_NAME, guest.append, MOST_COMMAND_LINE)?;
    image.segments.claim(space, 0)?;
    let initrd = guest.initrd(space, LIMIT_32)?;
    if !image.segments.contain(image.entry, 0) || image.entry >= LIMIT_32 {
        return Err(Error::Corrupt("its entry lies in no segment below 4 GiB"));
    }
    image.segments.contents(0)?.with(initrd, guest.initrd)?.write(memory)?;
    write_command_line(memory, KERNEL_NAME, guest.append)?;
    information(memory, space, guest, initrd)?;
    Ok(Start { rax: LOADED, rbx: BOOT_DATA, ..Start::flat(image.entry) })
}

fn information(memory: &mut impl GuestMemory, space: &Space, guest: &Guest<'_>, initrd: u64) -> Result<(), Error> {
    let entries = space.map().len() as u32;
    let low_end = space.ram_end(LIMIT_32);
    let upper = low_end.saturating_sub(HIGH) >> 10;
    let mut info = [0_u32; 22];
    let mut field = |at: usize, value: u32| {
        if let Some(place) = info.get_mut(at / 4) {
            *place = value;
        }
    };
    field(0, INFORMATION);
    field(4, (LOW_END.min(low_end) >> 10) as u32);
    field(8, u32::try_from(upper).unwrap_or(u32::MAX));
    field(16, COMMAND_LINE as u32);
    field(20, u32::from(!guest.initrd.is_empty()));
    field(24, MODULES as u32);
    field(44, entries * 24);
    field(48, MEMORY_MAP as u32);
    field(64, NAME as u32);
    put(memory, BOOT_DATA, info.map(u32::to_le_bytes).as_flattened())?;
    let end = initrd + guest.initrd.len() as u64;
    // Start, end, string (the empty one after the loader's name), reserved.
    let module = [initrd as u32, end as u32, NAME as u32 + 15, 0].map(u32::to_le_bytes);
    put(memory, MODULES, module.as_flattened())?;
    put(memory, NAME, b"Portcullis")?;
    let mut at = MEMORY_MAP;
    for range in space.map() {
        // The size of an entry does not count itself.
        put(memory, at, &20_u32.to_le_bytes())?;
        let words = [range.start, range.end - range.start].map(u64::to_le_bytes);
        put(memory, at + 4, words.as_flattened())?;
        put(memory, at + 20, &(range.kind as u32).to_le_bytes())?;
        at += 24;
    }
    Ok(())
}

#[cfg(test)]
pub mod tests {
    use super::super::elf::tests::file;
    use super::super::map::map;
    use super::*;
    use crate::memory::tests::Plain;

    const MEMORY: u64 = 8 << 20;

    fn header(flags: u32, addresses: &[u32]) -> Vec<u8> {
        let checksum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(flags);
        [&[MAGIC, flags, checksum][..], addresses].concat().iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// A multiboot kernel in ELF32.
    pub fn kernel() -> Vec<u8> {
        file(false, 0xc010_0004, &[(0x10_0000, 0xc010_0000, 0x2000, &header(3, &[]))], &[])
    }

    /// Linked high, as a 64-bit kernel is that starts in 32-bit code of its own.
    fn wide(entry: u64, physical: u64) -> Vec<u8> {
        file(true, entry, &[(physical, 0xffff_ffff_8010_0000, 0x2000, &header(3, &[]))], &[])
    }

    #[test]
    fn an_elf64_kernel_goes_to_its_physical_addresses_and_starts_in_32_bit_mode() {
        for entry in [0xffff_ffff_8010_000c, 0x10_000c] {
            let (memory, start) = loaded(&wide(entry, 0x10_0000), "", &[]).unwrap();
            assert_eq!(start, Start { rax: 0x2bad_b002, rbx: 0x6000, ..Start::flat(0x10_000c) });
            assert_eq!(u32_at(&memory, 0x10_0000), Some(MAGIC));
        }
        assert!(loaded(&wide(0xffff_ffff_8010_2000, 0x10_0000), "", &[]).is_err(), "an entry in no segment");
        assert!(loaded(&wide(0x1_0010_000c, 0x1_0010_0000), "", &[]).is_err(), "no RAM");
    }

    fn loaded(file: &[u8], append: &str, initrd: &[u8]) -> Result<(Vec<u8>, Start), Error> {
        let guest = Guest { kernel: file, initrd, append, rsdp: 0 };
        let mut plain = Plain::new(MEMORY as usize);
        let mut space = Space::new(map(MEMORY, false));
        load(&mut plain, &mut space, &guest).map(|start| (plain.0, start))
    }

    #[test]
    fn an_elf_kernel_finds_its_information_in_ebx() {
        let (memory, start) = loaded(&kernel(), "a=1", &[5; 3]).unwrap();
        assert_eq!(start, Start { rax: 0x2bad_b002, rbx: 0x6000, ..Start::flat(0x10_0004) });
        let half = |at: u64| u32_at(&memory, 0x6000 + at).unwrap();
        assert_eq!([0, 4, 8].map(half), [0x24d, 636, 7 * 1024]);
        assert_eq!([16, 20, 24, 44, 48].map(half), [0x2_0000, 1, 0x6080, 120, 0x7000]);
        assert_eq!(memory[0x2_0000..][..11], *b"kernel a=1\0");
        assert_eq!([0x80, 0x84].map(half), [0x7f_f000, 0x7f_f003]);
        assert_eq!(memory[half(0x88) as usize], 0, "an empty string");
        assert_eq!(memory[half(64) as usize..][..11], *b"Portcullis\0");
        assert_eq!(u32_at(&memory, 0x7000), Some(20));
        let last = [4, 12, 20].map(|at| u32_at(&memory, 0x7000 + 4 * 24 + at).unwrap());
        assert_eq!(last, [0x10_0000, 0x70_0000, 1]);
    }

    #[test]
    fn a_flat_kernel_goes_where_its_header_says() {
        let mut file = vec![0x11; 16];
        file.extend(header(ADDRESSES, &[0x20_0010, 0x20_0008, 0x20_0040, 0x20_0050, 0x20_0020]));
        file.resize(0x100, 0x22);
        let (memory, start) = loaded(&file, "", &[]).unwrap();
        assert_eq!(start.entry, 0x20_0020);
        assert_eq!(memory[0x20_0008..0x20_0040], file[8..0x40]);
        assert_eq!(memory[0x20_0040..0x20_0050], [0; 16]);
        assert_eq!(memory[0x20_0007], 0);
    }

    #[test]
    fn an_end_of_zero_means_the_whole_file() {
        let mut file = header(ADDRESSES, &[0x20_0000, 0x20_0000, 0, 0, 0x20_0000]);
        file.resize(0x100, 0x22);
        let (memory, _) = loaded(&file, "", &[]).unwrap();
        assert_eq!(memory[0x20_0000..0x20_0100], file);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let far = [vec![0; SEARCHED - 8], header(0, &[])].concat();
        let cases = [
            (vec![0; 64], "no header"),
            (far, "header beyond the first 8 KiB"),
            (header(8, &[]), "unknown demand"),
            (header(0, &[]), "neither addresses nor ELF"),
            (header(ADDRESSES, &[0x20_0000]), "addresses end too early"),
            (header(ADDRESSES, &[0x20_0010, 0x20_0000, 0, 0, 0]), "first byte before the file"),
            (header(ADDRESSES, &[0x20_0000, 0x20_0000, 0x20_1000, 0, 0]), "more than the file"),
            (header(ADDRESSES, &[0xa_0000, 0xa_0000, 0, 0, 0]), "no RAM"),
            (header(ADDRESSES, &[0x6000, 0x6000, 0, 0, 0]), "boot data"),
        ];
        for (file, name) in cases {
            assert!(loaded(&file, "", &[]).is_err(), "{name}");
        }
    }
}
