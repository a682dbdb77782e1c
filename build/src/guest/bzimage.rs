//! The container of a Linux kernel as distributions ship it: setup header, protected-mode code and,
//! inside it, the compressed ELF (facts: Linux, Documentation/x86/boot.rst).

use super::payload;

/// Where the boot sector's signature stands.
const BOOT_FLAG: usize = 0x1fe;
/// Where the header's signature stands.
const MAGIC: usize = 0x202;
/// Sectors of real-mode code after the boot sector.
const SETUP_SECTORS: usize = 0x1f1;
/// Version of the boot protocol.
const VERSION: usize = 0x206;
/// Address of the 32-bit entry.
const ENTRY_32: usize = 0x214;
/// Where the payload lies in the protected-mode code, since 2.08.
const PAYLOAD_OFFSET: usize = 0x248;
/// Its length.
const PAYLOAD_LENGTH: usize = 0x24c;
/// Address at which the kernel wants to run.
const PREFERRED: usize = 0x258;
/// Bytes that it takes there before it knows its memory, since 2.10.
const INIT_SIZE: usize = 0x260;
/// The first version with both.
const WITH_INIT_SIZE: u16 = 0x20a;
/// Where older ones run.
const LOW: u64 = 1 << 20;
/// The first version that names the payload.
const WITH_PAYLOAD: u16 = 0x208;

/// Why the inner kernel cannot be taken out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file ends before what its header names.
    #[error("is cut off: its header names {wanted} bytes and it has {length}; copy it again")]
    CutOff {
        /// Bytes that the header needs.
        wanted: u64,
        /// Bytes of the file.
        length: u64,
    },
    /// The header names no payload.
    #[error("holds no inner kernel: its header names none")]
    NoPayload,
    /// It can be started in real mode only.
    #[error(
        "names no 32-bit entry in its setup header (code32_start is 0): it starts in real mode only, which no guest loader here does; give a Linux kernel, or an ELF or multiboot build of it"
    )]
    RealModeOnly,
    /// The payload cannot be decompressed.
    #[error("has an inner kernel that {0}")]
    Payload(#[from] payload::Error),
}

/// True when the file is a bzImage, whole or not.
pub fn is(file: &[u8]) -> bool {
    half(file, BOOT_FLAG) == Some(0xaa55) && file.get(MAGIC..MAGIC + 4) == Some(b"HdrS")
}

/// Refuses an image that only code in real mode can start, as iPXE's is.
pub fn check_entry(file: &[u8]) -> Result<(), Error> {
    match word(file, ENTRY_32) {
        Some(0) => Err(Error::RealModeOnly),
        Some(_) => Ok(()),
        None => Err(Error::CutOff { wanted: ENTRY_32 as u64 + 4, length: file.len() as u64 }),
    }
}

/// The inner kernel of a bzImage, decompressed: an ELF, perhaps with other data after it.
pub fn inner(file: &[u8]) -> Result<Vec<u8>, Error> {
    let cut_off = |wanted: u64| Error::CutOff { wanted, length: file.len() as u64 };
    let version = half(file, VERSION).ok_or_else(|| cut_off(VERSION as u64 + 2))?;
    if version < WITH_PAYLOAD {
        return Err(Error::NoPayload);
    }
    let word = |at| word(file, at).ok_or_else(|| cut_off(at as u64 + 4));
    let (offset, length) = (word(PAYLOAD_OFFSET)?, word(PAYLOAD_LENGTH)?);
    if length == 0 {
        return Err(Error::NoPayload);
    }
    // A count of 0 means 4, as in the first kernels.
    let sectors = match file.get(SETUP_SECTORS) {
        None | Some(0) => 4,
        Some(&count) => u64::from(count),
    };
    let start = (sectors + 1) * 512 + u64::from(offset);
    let end = start + u64::from(length);
    let bytes = file.get(start as usize..end as usize).ok_or_else(|| cut_off(end))?;
    Ok(payload::decompress(bytes)?)
}

/// First address after the memory that the kernel takes when it starts.
pub fn memory_end(file: &[u8]) -> Result<u64, Error> {
    let cut_off = |at: usize| Error::CutOff { wanted: at as u64 + 4, length: file.len() as u64 };
    let version = half(file, VERSION).ok_or_else(|| cut_off(VERSION))?;
    if version < WITH_INIT_SIZE {
        return Ok(LOW + file.len() as u64);
    }
    let word = |at| word(file, at).ok_or_else(|| cut_off(at));
    let preferred = u64::from(word(PREFERRED)?) | u64::from(word(PREFERRED + 4)?) << 32;
    Ok(preferred.saturating_add(word(INIT_SIZE)?.into()))
}

fn half(file: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(file.get(at..at + 2)?.try_into().ok()?))
}

fn word(file: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?))
}

/// A bzImage around a payload, for tests.
#[cfg(test)]
pub fn wrap(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 0x600];
    file[SETUP_SECTORS] = 1;
    file[BOOT_FLAG..BOOT_FLAG + 2].copy_from_slice(&0xaa55u16.to_le_bytes());
    file[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
    file[VERSION..VERSION + 2].copy_from_slice(&0x20fu16.to_le_bytes());
    file[ENTRY_32..ENTRY_32 + 4].copy_from_slice(&0x10_0000u32.to_le_bytes());
    file[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&0x200u32.to_le_bytes());
    file[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend(payload);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(text: &[u8]) -> Vec<u8> {
        let level = ruzstd::encoding::CompressionLevel::Uncompressed;
        let mut stream = ruzstd::encoding::compress_to_vec(text, level);
        stream.extend((text.len() as u32).to_le_bytes());
        stream
    }

    #[test]
    fn the_inner_kernel_is_found_by_the_header() {
        let file = wrap(&stored(b"inner"));
        assert!(is(&file));
        assert_eq!(inner(&file).unwrap(), b"inner");
    }

    #[test]
    fn a_file_cut_off_says_how_much_is_missing() {
        let file = wrap(&stored(b"inner"));
        let error = inner(&file[..file.len() - 1]).unwrap_err().to_string();
        assert!(error.contains(&format!("names {} bytes and it has {}", file.len(), file.len() - 1)), "{error}");
        for length in 0..0x600 {
            assert!(inner(&file[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_header_without_a_payload_is_told_from_a_damaged_one() {
        assert!(matches!(inner(&wrap(b"")), Err(Error::NoPayload)));
        let mut old = wrap(&stored(b"inner"));
        old[VERSION] = 7;
        old[VERSION + 1] = 2;
        assert!(matches!(inner(&old), Err(Error::NoPayload)));
        assert!(matches!(inner(&wrap(b"garbage")), Err(Error::Payload(_))));
    }

    #[test]
    fn the_memory_that_it_takes_is_in_the_header() {
        let mut file = wrap(b"");
        file[PREFERRED + 3] = 1;
        file[INIT_SIZE + 2] = 0x40;
        assert_eq!(memory_end(&file).unwrap(), 0x140_0000);
        file[VERSION] = 9;
        assert_eq!(memory_end(&file).unwrap(), LOW + file.len() as u64);
    }

    #[test]
    fn other_files_are_no_bzimage() {
        assert!(!is(b""));
        assert!(!is(&[0x55; 0x800]));
    }
}
