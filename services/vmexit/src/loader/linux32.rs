//! The 32-bit boot protocol of Linux: a bzImage as it is, which unpacks itself. Source: Linux's
//! `Documentation/arch/x86/boot.rst`.

use super::boot_data::{BOOT_DATA, COMMAND_LINE, DESCRIPTORS, claim, write_command_line};
use super::bytes::{slice, u8_at, u16_at, u32_at, u64_at};
use super::error::Error;
use super::map::HIGH;
use super::space::{Contents, Space, What, put};
use super::start::Start;
use super::{Guest, LIMIT_32};
use crate::memory::GuestMemory;

/// Where the setup header begins, in the file and in the zero page.
const HEADER: usize = 0x1f1;
/// Where the zero page goes on after the longest header.
const HEADER_END: usize = 0x290;
const BOOT_FLAG: u16 = 0xaa55;
const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
const ZERO_PAGE: usize = 4096;
/// Command line at most, whatever the header says.
const MOST_COMMAND_LINE: u32 = 0xffff;
/// Loader without a number of its own.
const LOADER: u8 = 0xff;
const LOADED_HIGH: u8 = 1;
const SECTOR: u64 = 512;
const PARAGRAPH: u64 = 16;
/// Protocol versions and what came with them.
const COMMAND_LINE_POINTER: u16 = 0x202;
const INITRD_LIMIT: u16 = 0x203;
const RELOCATABLE: u16 = 0x205;
const COMMAND_LINE_SIZE: u16 = 0x206;
const PAYLOAD: u16 = 0x208;
const INIT_SIZE: u16 = 0x20a;
const RSDP: u16 = 0x20e;
/// Selectors that the protocol demands.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
/// First bytes of what a payload may be packed with: gzip, bzip2, LZMA, xz, lzop, LZ4 (old and new), zstd; and an ELF
/// file that is not packed.
const PACKINGS: [&[u8]; 9] = [
    &[0x1f, 0x8b],
    b"BZh",
    &[0x5d, 0, 0],
    &[0xfd, b'7', b'z', b'X', b'Z', 0],
    &[0x89, b'L', b'Z', b'O'],
    &[0x02, 0x21, 0x4c, 0x18],
    &[0x04, 0x22, 0x4d, 0x18],
    &[0x28, 0xb5, 0x2f, 0xfd],
    b"\x7fELF",
];

/// What the setup header says.
struct Header<'a> {
    file: &'a [u8],
    version: u16,
    /// The protected-mode part.
    code: &'a [u8],
}

/// Whether the file has a setup header.
pub fn is_bzimage(file: &[u8]) -> bool {
    u16_at(file, 0x1fe) == Some(BOOT_FLAG) && u32_at(file, 0x202) == Some(MAGIC)
}

/// Bytes of the protected-mode code, which begins at `start`. The header gives them in paragraphs, rounded up, and the
/// file may end within the last one; what follows the code, a signature, is not loaded.
fn code_bytes(file: &[u8], start: u64) -> Option<u64> {
    let rounded = u64::from(u32_at(file, 0x1f4)?) * PARAGRAPH;
    let there = (file.len() as u64).checked_sub(start)?;
    (there.next_multiple_of(PARAGRAPH) >= rounded).then_some(rounded.min(there))
}

impl<'a> Header<'a> {
    fn read(file: &'a [u8]) -> Result<Self, Error> {
        const SHORT: Error = Error::Corrupt("the bzImage ends too early");
        if !is_bzimage(file) {
            return Err(Error::Unusable("it is not a bzImage; give one, or another guest.entry"));
        }
        let version = u16_at(file, 0x206).ok_or(SHORT)?;
        if version < COMMAND_LINE_POINTER || u8_at(file, 0x211).ok_or(SHORT)? & LOADED_HIGH == 0 {
            return Err(Error::Unusable("it is a zImage or older than boot protocol 2.02; give a newer kernel"));
        }
        // 0 stands for 4.
        let sectors = match u8_at(file, 0x1f1).ok_or(SHORT)? {
            0 => 4,
            sectors => u64::from(sectors),
        };
        if u32_at(file, 0x214).ok_or(SHORT)? == 0 {
            return Err(Error::Unusable(
                "its setup header names no 32-bit entry (code32_start is 0, as in iPXE's), it starts in real mode only; \
                 give a Linux kernel, or an ELF or multiboot build of it",
            ));
        }
        let start = (sectors + 1) * SECTOR;
        let code = slice(file, start, code_bytes(file, start).ok_or(SHORT)?).ok_or(SHORT)?;
        let header = Self { file, version, code };
        header.check_payload()?;
        Ok(header)
    }

    fn check_payload(&self) -> Result<(), Error> {
        let [offset, length] = [0x248, 0x24c].map(|at| u64::from(self.half(PAYLOAD, at, 0)));
        if length == 0 {
            return Ok(());
        }
        let payload = slice(self.code, offset, length).ok_or(Error::Corrupt("its payload reaches beyond the file"))?;
        let known = PACKINGS.iter().any(|magic| payload.starts_with(magic));
        if known { Ok(()) } else { Err(Error::Corrupt("its payload is packed with nothing that is known")) }
    }

    /// A field that came with protocol `since`.
    fn half(&self, since: u16, at: u64, before: u32) -> u32 {
        if self.version >= since { u32_at(self.file, at).unwrap_or(before) } else { before }
    }

    /// The address after all that the kernel needs when it unpacks itself from 1 MiB.
    fn end(&self) -> u64 {
        let preferred = if self.version >= INIT_SIZE { u64_at(self.file, 0x258).unwrap_or(0) } else { 0 };
        let moves = self.version >= RELOCATABLE && u8_at(self.file, 0x234) != Some(0);
        // A kernel that may be moved runs where it was loaded, but not below its preferred address.
        let runs_at = if moves || self.version >= INIT_SIZE { preferred.max(HIGH) } else { HIGH };
        let needs = runs_at.saturating_add(self.half(INIT_SIZE, 0x260, 0).into());
        needs.max(HIGH + self.code.len() as u64)
    }
}

/// Loads the kernel and what it is told.
#[inline(never)]
pub fn load(memory: &mut impl GuestMemory, space: &mut Space, guest: &Guest<'_>) -> Result<Start, Error> {
    let header = Header::read(guest.kernel)?;
    claim(space, "", guest.append, header.half(COMMAND_LINE_SIZE, 0x238, 255).min(MOST_COMMAND_LINE) as usize)?;
    space.claim(HIGH, header.end() - HIGH, What::Kernel)?;
    let highest = header.half(INITRD_LIMIT, 0x22c, 0x37ff_ffff);
    let initrd = guest.initrd(space, (u64::from(highest) + 1).min(LIMIT_32))?;
    Contents::default().with(HIGH, header.code)?.with(initrd, guest.initrd)?.write(memory)?;
    write_command_line(memory, "", guest.append)?;
    put(memory, BOOT_DATA, &zero_page(&header, space, guest, initrd))?;
    let table = [0, 0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff_u64].map(u64::to_le_bytes);
    put(memory, DESCRIPTORS, table.as_flattened())?;
    Ok(Start { rsi: BOOT_DATA, code: CODE, data: DATA, table: Some((DESCRIPTORS, 31)), ..Start::flat(HIGH) })
}

fn zero_page(header: &Header<'_>, space: &Space, guest: &Guest<'_>, initrd: u64) -> [u8; ZERO_PAGE] {
    let mut page = [0; ZERO_PAGE];
    // The header ends where its jump instruction goes.
    let end = 0x202 + usize::from(u8_at(header.file, 0x201).unwrap_or(0));
    let end = end.min(HEADER_END).min(header.file.len());
    if let (Some(to), Some(from)) = (page.get_mut(HEADER..end), header.file.get(HEADER..end)) {
        to.copy_from_slice(from);
    }
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = page.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(0x210, &[LOADER]);
    put(0x214, &(HIGH as u32).to_le_bytes());
    put(0x218, &(initrd as u32).to_le_bytes());
    put(0x21c, &(guest.initrd.len() as u32).to_le_bytes());
    put(0x228, &(COMMAND_LINE as u32).to_le_bytes());
    if header.version >= RSDP {
        put(0x70, &guest.rsdp.to_le_bytes());
    }
    put(0x1e8, &[space.map().len() as u8]);
    for (index, range) in space.map().iter().enumerate() {
        let at = 0x2d0 + 20 * index;
        put(at, &range.start.to_le_bytes());
        put(at + 8, &(range.end - range.start).to_le_bytes());
        put(at + 16, &(range.kind as u32).to_le_bytes());
    }
    page
}

#[cfg(test)]
pub mod tests {
    use super::super::map::map;
    use super::*;
    use crate::memory::tests::Plain;

    const MEMORY: u64 = 16 << 20;

    /// A bzImage of protocol 2.15 with 32 KiB of code that wants 1 MiB at 4 MiB.
    pub fn bzimage() -> Vec<u8> {
        let mut file = vec![0; 0x400 + 0x8000];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x1f1, &[1]);
        put(0x1f4, &0x800_u32.to_le_bytes());
        put(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
        put(0x202, b"HdrS");
        put(0x206, &0x20f_u16.to_le_bytes());
        put(0x211, &[1]);
        put(0x214, &0x10_0000_u32.to_le_bytes());
        put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
        put(0x234, &[1]);
        put(0x238, &2047_u32.to_le_bytes());
        put(0x248, &0x2cc_u32.to_le_bytes());
        put(0x24c, &0x1000_u32.to_le_bytes());
        put(0x258, &0x40_0000_u64.to_le_bytes());
        put(0x260, &0x10_0000_u32.to_le_bytes());
        put(0x400, &[0xfc, 0xfa]);
        put(0x400 + 0x2cc, PACKINGS[3]);
        file
    }

    fn loaded(file: &[u8], append: &str, initrd: &[u8], memory: u64) -> Result<(Vec<u8>, Start), Error> {
        let guest = Guest { kernel: file, initrd, append, rsdp: 0xe_0000 };
        let mut plain = Plain::new(memory as usize);
        let mut space = Space::new(map(memory, true));
        load(&mut plain, &mut space, &guest).map(|start| (plain.0, start))
    }

    #[test]
    fn the_kernel_lies_at_one_mib_and_finds_the_zero_page_in_esi() {
        let mut file = bzimage();
        file.extend([0xee; 100]);
        let (memory, start) = loaded(&file, "quiet", &[9; 10], MEMORY).unwrap();
        let table = Some((DESCRIPTORS, 31));
        assert_eq!(start, Start { rsi: 0x6000, code: 0x10, data: 0x18, table, ..Start::flat(0x10_0000) });
        assert_eq!(memory[0x10_0000..0x10_8000], file[0x400..0x8400]);
        assert!(!memory.contains(&0xee), "the signature is not loaded");
        let page = &memory[0x6000..0x7000];
        assert_eq!(page[0x1f1..0x210], file[0x1f1..0x210]);
        assert_eq!((page[0x210], page[0x211], page[0x1e8]), (0xff, 1, 5));
        let half = |at| u32_at(page, at).unwrap();
        assert_eq!([0x214, 0x218, 0x21c, 0x228].map(half), [0x10_0000, 0xff_f000, 10, 0x2_0000]);
        assert_eq!(u64_at(page, 0x70), Some(0xe_0000));
        assert_eq!([0x2d0, 0x2d8].map(|at| u64_at(page, at).unwrap()), [0, 0x9_f000]);
        let last = [u64_at(page, 0x2d0 + 80).unwrap(), u64_at(page, 0x2d8 + 80).unwrap(), half(0x2e0 + 80).into()];
        assert_eq!(last, [0x10_0000, MEMORY - 0x10_0000, 1]);
        assert_eq!(memory[0x2_0000..0x2_0006], *b"quiet\0");
        assert_eq!(u64_at(&memory, DESCRIPTORS + 0x10), Some(0x00cf_9b00_0000_ffff));
    }

    #[test]
    fn a_last_paragraph_may_be_cut_and_nothing_more() {
        let mut file = bzimage();
        let last = file.len() - 1;
        file[last] = 0x77;
        let whole = file.clone();
        for cut in 0..16 {
            file.truncate(whole.len() - cut);
            let (memory, _) = loaded(&file, "", &[], MEMORY).unwrap();
            let end = 0x10_8000 - cut;
            assert_eq!(memory[0x10_0000..end], whole[0x400..whole.len() - cut]);
            assert!(memory[end..0x10_8000].iter().all(|byte| *byte == 0));
        }
        file.truncate(whole.len() - 16);
        assert_eq!(loaded(&file, "", &[], MEMORY).err(), Some(Error::Corrupt("the bzImage ends too early")));
    }

    #[test]
    fn an_image_without_a_32_bit_entry_is_refused_by_name() {
        let mut file = bzimage();
        file[0x214..0x218].fill(0);
        let text = loaded(&file, "", &[], MEMORY).err().unwrap().to_string();
        assert!(text.contains("names no 32-bit entry"), "{text}");
    }

    #[test]
    fn the_room_that_unpacking_takes_is_demanded_and_kept_free() {
        let file = bzimage();
        let needed = 0x50_0000;
        assert_eq!(loaded(&file, "", &[], 4 << 20).err(), Some(Error::Memory { needed, have: 4 << 20 }));
        let initrd = vec![1; 0x20_0000];
        let error = loaded(&file, "", &initrd, 6 << 20).err();
        assert_eq!(error, Some(Error::Initrd { bytes: 0x20_0000, room: 0x10_0000 }));
        assert!(loaded(&file, "", &initrd, 7 << 20).is_ok());
    }

    #[test]
    fn the_initrd_stays_below_the_limit_of_the_header() {
        let mut file = bzimage();
        file[0x22c..0x230].copy_from_slice(&0x7f_ffff_u32.to_le_bytes());
        let (memory, _) = loaded(&file, "", &[9; 10], MEMORY).unwrap();
        assert_eq!(u32_at(&memory, 0x6218), Some(0x7f_f000));
    }

    #[test]
    fn an_unusable_or_damaged_image_is_refused_with_the_reason() {
        let changed = |at: usize, bytes: &[u8]| {
            let mut file = bzimage();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            loaded(&file, "", &[], MEMORY).err().unwrap()
        };
        assert!(matches!(changed(0x202, b"NOPE"), Error::Unusable(_)));
        assert!(matches!(changed(0x206, &[1, 2]), Error::Unusable(_)));
        assert!(matches!(changed(0x211, &[0]), Error::Unusable(_)));
        assert!(matches!(changed(0x1f4, &[0xff; 4]), Error::Corrupt(_)));
        assert!(matches!(changed(0x24c, &[0xff; 4]), Error::Corrupt(_)));
        assert!(matches!(changed(0x400 + 0x2cc, &[0]), Error::Corrupt(_)));
        assert!(matches!(changed(0x260, &[0xff; 4]), Error::NotRam(..)), "no machine has 4 GiB in one piece there");
        assert!(matches!(changed(0x260, &[0, 0, 0, 0x80]), Error::Memory { .. }));
        let long = "x".repeat(2048);
        assert_eq!(loaded(&bzimage(), &long, &[], MEMORY).err(), Some(Error::CommandLine { bytes: 2048, most: 2047 }));
        assert!(matches!(loaded(&bzimage()[..0x300], "", &[], MEMORY), Err(Error::Corrupt(_))));
    }
}
