//! Tells how a kernel can be entered and makes of it the file that the guest loader gets: the inner ELF of
//! a bzImage where it can be entered by PVH, everything else as it is.

use super::bzimage;
use elf::ElfBytes;
use elf::abi::{PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use std::fmt;
use std::path::Path;

/// How a guest is entered: the words of the service's key `guest.entry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Entry {
    /// By the address in an ELF's PVH note.
    Pvh,
    /// By the 32-bit Linux boot protocol.
    Linux32,
    /// By multiboot 1.
    Multiboot,
}

impl fmt::Display for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Self::Pvh => "pvh",
            Self::Linux32 => "linux32",
            Self::Multiboot => "multiboot",
        })
    }
}

/// A kernel as the guest loader gets it.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// How it is entered.
    pub entry: Entry,
    /// The file.
    pub bytes: Vec<u8>,
    /// First guest-physical address after all that it takes when it starts, files apart.
    pub end: u64,
}

/// Why a file is not a kernel that can be entered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("the kernel {file} cannot be read ({reason}); name a bzImage or an ELF")]
    Read {
        /// The file.
        file: String,
        /// What the system said.
        reason: std::io::Error,
    },
    /// A bzImage that is damaged.
    #[error("the kernel {file} {reason}")]
    Image {
        /// The file.
        file: String,
        /// What is wrong.
        reason: bzimage::Error,
    },
    /// An ELF that is damaged.
    #[error("the kernel {file} is not a whole ELF ({reason}); copy it again")]
    Elf {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// No method fits.
    #[error(
        "the kernel {file} cannot be entered: it is not a bzImage, has no PVH note (build it with CONFIG_PVH=y) and no multiboot 1 header"
    )]
    NoEntry {
        /// The file.
        file: String,
    },
    /// The method that was asked for does not fit.
    #[error("the kernel {file} cannot be entered by {wanted}: {fix}")]
    NotBy {
        /// The file.
        file: String,
        /// The method.
        wanted: Entry,
        /// What to do.
        fix: &'static str,
    },
}

/// Reads a kernel and takes the best method of entering it, or the one that is `wanted`.
pub fn read(path: &Path, wanted: Option<Entry>) -> Result<Kernel, Error> {
    let name = crate::workspace::display(path);
    let bytes = std::fs::read(path).map_err(|reason| Error::Read { file: name.clone(), reason })?;
    prepare(&name, bytes, wanted)
}

/// [`read`] for a file in memory; `name` is what errors call it.
pub fn prepare(name: &str, bytes: Vec<u8>, wanted: Option<Entry>) -> Result<Kernel, Error> {
    let file = || name.to_owned();
    let kernel = if bzimage::is(&bytes) {
        of_bzimage(name, bytes, wanted)?
    } else if let Some(end) = flat_multiboot_end(&bytes) {
        Kernel { entry: Entry::Multiboot, bytes, end }
    } else {
        of_elf(name, bytes)?
    };
    match wanted {
        Some(wanted) if wanted != kernel.entry => {
            let fix = match wanted {
                Entry::Pvh => "it has no PVH note; build it with CONFIG_PVH=y",
                Entry::Linux32 => "it is not a bzImage; name arch/x86/boot/bzImage of its build",
                Entry::Multiboot => "it has no multiboot 1 header in its first 8 KiB",
            };
            Err(Error::NotBy { file: file(), wanted, fix })
        }
        _ => Ok(kernel),
    }
}

fn of_bzimage(name: &str, bytes: Vec<u8>, wanted: Option<Entry>) -> Result<Kernel, Error> {
    let damaged = |reason| Error::Image { file: name.to_owned(), reason };
    let end = bzimage::check_entry(&bytes).and_then(|()| bzimage::memory_end(&bytes)).map_err(damaged)?;
    let as_it_is = |bytes| Kernel { entry: Entry::Linux32, bytes, end };
    if wanted == Some(Entry::Linux32) {
        return Ok(as_it_is(bytes));
    }
    match bzimage::inner(&bytes) {
        // What is inside may not be an ELF, or one that only its own decompressor can start.
        Ok(inner) => Ok(of_elf(name, inner).ok().filter(|one| one.entry == Entry::Pvh).unwrap_or(as_it_is(bytes))),
        Err(bzimage::Error::NoPayload) => Ok(as_it_is(bytes)),
        Err(reason) => Err(damaged(reason)),
    }
}

fn of_elf(name: &str, mut bytes: Vec<u8>) -> Result<Kernel, Error> {
    let file = || name.to_owned();
    if !bytes.starts_with(b"\x7fELF") {
        return Err(Error::NoEntry { file: file() });
    }
    let damaged = |reason: String| Error::Elf { file: file(), reason };
    let elf = ElfBytes::<LittleEndian>::minimal_parse(&bytes).map_err(|error| damaged(error.to_string()))?;
    let segments = elf.segments().ok_or_else(|| damaged("it has no program headers".to_owned()))?;
    let headers = &elf.ehdr;
    let mut file_end = headers.e_shoff + u64::from(headers.e_shnum) * u64::from(headers.e_shentsize);
    let (mut end, mut pvh) = (0, false);
    for segment in segments.iter() {
        // Also finds a segment that reaches over the file's end.
        let data = elf.segment_data(&segment).map_err(|error| damaged(error.to_string()))?;
        file_end = file_end.max(segment.p_offset + segment.p_filesz);
        if segment.p_type == PT_LOAD {
            end = end.max(segment.p_paddr.saturating_add(segment.p_memsz));
        }
        pvh |= segment.p_type == PT_NOTE && has_pvh_note(data);
    }
    let entry = match (pvh, has_multiboot_header(&bytes)) {
        (true, _) => Entry::Pvh,
        (false, true) => Entry::Multiboot,
        (false, false) => return Err(Error::NoEntry { file: file() }),
    };
    // After it a kernel's build leaves relocations that only its own decompressor uses.
    bytes.truncate(usize::try_from(file_end).unwrap_or(usize::MAX));
    Ok(Kernel { entry, bytes, end })
}

/// Type of the note whose descriptor is the entry (Xen's PHYS32_ENTRY).
const PHYS32_ENTRY: u32 = 18;

fn has_pvh_note(mut notes: &[u8]) -> bool {
    let word = |notes: &[u8], at: usize| Some(u32::from_le_bytes(notes.get(at..at + 4)?.try_into().ok()?));
    while let (Some(name), Some(bytes), Some(kind)) = (word(notes, 0), word(notes, 4), word(notes, 8)) {
        let (name, bytes) = (name as usize, bytes as usize);
        let data = 12 + name.next_multiple_of(4);
        if kind == PHYS32_ENTRY && notes.get(12..12 + name) == Some(b"Xen\0") && matches!(bytes, 4 | 8) {
            return true;
        }
        match notes.get(data + bytes.next_multiple_of(4)..) {
            Some(rest) => notes = rest,
            None => return false,
        }
    }
    false
}

/// Bytes at the start of a file among which a multiboot 1 header stands.
const MULTIBOOT_RANGE: usize = 8192;
/// Its magic number.
const MULTIBOOT_MAGIC: u32 = 0x1bad_b002;

/// Flag of its header: fields follow that say where a flat file goes.
const MULTIBOOT_ADDRESSES: u32 = 1 << 16;

/// The words from the header on, and where it stands in the file.
fn multiboot_header(file: &[u8]) -> Option<(usize, Vec<u32>)> {
    let start = file.get(..MULTIBOOT_RANGE.min(file.len())).unwrap_or_default();
    let words: Vec<u32> =
        start.chunks_exact(4).map(|four| four.iter().rev().fold(0, |all, &byte| all << 8 | u32::from(byte))).collect();
    let at = words.windows(3).position(|header| match *header {
        [MULTIBOOT_MAGIC, flags, checksum] => MULTIBOOT_MAGIC.wrapping_add(flags).wrapping_add(checksum) == 0,
        _ => false,
    })?;
    Some((at * 4, words.get(at..)?.to_vec()))
}

fn has_multiboot_header(file: &[u8]) -> bool {
    multiboot_header(file).is_some()
}

/// For a file that is not an ELF and whose multiboot header has address fields: the first address after it in memory.
fn flat_multiboot_end(file: &[u8]) -> Option<u64> {
    let (at, words) = multiboot_header(file)?;
    let [_, flags, _, header, load, end, bss_end, ..] = *words else { return None };
    if file.starts_with(b"\x7fELF") || flags & MULTIBOOT_ADDRESSES == 0 {
        return None;
    }
    // An end of 0 means the whole file, which begins as far before the header as in memory.
    let whole = u64::from(header) + (file.len() - at) as u64;
    let loaded = if end == 0 { whole } else { end.max(load).into() };
    Some(loaded.max(bss_end.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF64 with one loadable segment of 16 bytes at 1 MiB and one note segment.
    fn elf64(note: &[u8]) -> Vec<u8> {
        let mut file = vec![0u8; 64];
        file[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
        file[16..20].copy_from_slice(&[2, 0, 62, 0]);
        file[20] = 1;
        file[32] = 64;
        file[52] = 64;
        file[54] = 56;
        file[56] = 2;
        let segments = [(1u32, 176u64, 0x10_0000u64, 16u64), (4, 192, 0, note.len() as u64)];
        for (kind, offset, address, size) in segments {
            file.extend(kind.to_le_bytes());
            file.extend(4u32.to_le_bytes());
            for word in [offset, address, address, size, size, 1] {
                file.extend(word.to_le_bytes());
            }
        }
        file.extend([0xf4; 16]);
        file.extend(note);
        file
    }

    fn note(kind: u32, name: &[u8; 4], descriptor: &[u8]) -> Vec<u8> {
        let mut note = [4, descriptor.len() as u32, kind].map(u32::to_le_bytes).concat();
        note.extend(name);
        note.extend(descriptor);
        note
    }

    fn pvh() -> Vec<u8> {
        elf64(&[note(3, b"GNU\0", &[7; 20]), note(18, b"Xen\0", &[0; 8])].concat())
    }

    fn wrapped(inner: &[u8]) -> Vec<u8> {
        let level = ruzstd::encoding::CompressionLevel::Uncompressed;
        let mut payload = ruzstd::encoding::compress_to_vec(inner, level);
        payload.extend((inner.len() as u32).to_le_bytes());
        bzimage::wrap(&payload)
    }

    #[test]
    fn an_elf_with_the_note_is_entered_by_it_and_loses_what_follows() {
        let mut file = pvh();
        let whole = file.len();
        file.extend([0xaa; 100]);
        let kernel = prepare("k", file, None).unwrap();
        assert_eq!((kernel.entry, kernel.bytes.len(), kernel.end), (Entry::Pvh, whole, 0x10_0010));
    }

    #[test]
    fn a_bzimage_gives_its_inner_elf_or_goes_as_it_is() {
        assert_eq!(prepare("k", wrapped(&pvh()), None).unwrap().bytes, pvh());
        let native = wrapped(&elf64(&[]));
        let kernel = prepare("k", native.clone(), None).unwrap();
        assert_eq!((kernel.entry, kernel.bytes), (Entry::Linux32, native));
        let file = wrapped(&pvh());
        let kernel = prepare("k", file.clone(), Some(Entry::Linux32)).unwrap();
        assert_eq!((kernel.entry, kernel.bytes), (Entry::Linux32, file));
    }

    #[test]
    fn a_damaged_payload_is_an_error_and_no_reason_to_boot_it_another_way() {
        let error = prepare("k", bzimage::wrap(b"garbage"), None).unwrap_err();
        assert!(error.to_string().starts_with("the kernel k has an inner kernel that begins with"), "{error}");
    }

    #[test]
    fn a_kernel_without_any_entry_names_the_option_that_gives_it_one() {
        for file in [elf64(&[]), b"#!/bin/sh".to_vec(), elf64(&note(18, b"GNU\0", &[0; 8]))] {
            let text = prepare("k", file, None).unwrap_err().to_string();
            assert!(text.contains("CONFIG_PVH=y"), "{text}");
        }
    }

    #[test]
    fn a_method_that_does_not_fit_is_refused() {
        let text = prepare("k", pvh(), Some(Entry::Linux32)).unwrap_err().to_string();
        assert!(text.contains("by linux32: it is not a bzImage"), "{text}");
        let text = prepare("k", wrapped(&elf64(&[])), Some(Entry::Pvh)).unwrap_err().to_string();
        assert!(text.contains("CONFIG_PVH=y"), "{text}");
    }

    #[test]
    fn an_elf_cut_off_anywhere_is_an_error() {
        let file = pvh();
        for length in 0..file.len() {
            assert!(prepare("k", file[..length].to_vec(), None).is_err(), "{length}");
        }
    }

    #[test]
    fn an_elf64_with_a_multiboot_header_is_entered_by_it() {
        let header = [MULTIBOOT_MAGIC, 3, 0u32.wrapping_sub(MULTIBOOT_MAGIC).wrapping_sub(3)].map(u32::to_le_bytes);
        let mut file = elf64(&[]);
        let code = file.len() - 16;
        file[code..code + 12].copy_from_slice(header.as_flattened());
        for wanted in [None, Some(Entry::Multiboot)] {
            let kernel = prepare("k", file.clone(), wanted).unwrap();
            assert_eq!((kernel.entry, kernel.end), (Entry::Multiboot, 0x10_0010));
        }
    }

    #[test]
    fn a_flat_file_with_addresses_is_entered_by_multiboot() {
        let flat = |fields: [u32; 5]| {
            let flags = MULTIBOOT_ADDRESSES;
            let head = [MULTIBOOT_MAGIC, flags, 0u32.wrapping_sub(MULTIBOOT_MAGIC).wrapping_sub(flags)];
            let words = [&[0x1234], &head[..], &fields].concat();
            words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()
        };
        let ends = [([0x10_0004, 0x10_0000, 0x10_0010, 0x10_0100, 0x10_0004], 0x10_0100), ([4, 0, 0, 0, 4], 36)];
        for (fields, end) in ends {
            let kernel = prepare("k", flat(fields), None).unwrap();
            assert_eq!((kernel.entry, kernel.end), (Entry::Multiboot, end));
        }
        assert!(prepare("k", flat([0; 5])[..24].to_vec(), None).is_err(), "its fields end too early");
    }

    #[test]
    fn a_bzimage_without_a_32_bit_entry_is_refused_with_its_name() {
        let mut file = wrapped(&elf64(&[]));
        file[0x214..0x218].fill(0);
        for wanted in [None, Some(Entry::Linux32)] {
            let text = prepare("ipxe.lkrn", file.clone(), wanted).unwrap_err().to_string();
            assert!(text.starts_with("the kernel ipxe.lkrn names no 32-bit entry"), "{text}");
        }
    }

    #[test]
    fn a_multiboot_header_counts_with_its_checksum_only() {
        let header = |checksum: u32| [MULTIBOOT_MAGIC, 3, checksum].map(u32::to_le_bytes).concat();
        let good = header(0u32.wrapping_sub(MULTIBOOT_MAGIC).wrapping_sub(3));
        assert!(has_multiboot_header(&good));
        assert!(!has_multiboot_header(&header(1)));
        assert!(!has_multiboot_header(&[vec![0; MULTIBOOT_RANGE], good].concat()));
    }
}
