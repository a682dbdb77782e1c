//! Reading the ELFs that go into an image: flat segments, entry, build id. Nothing here is written to
//! an image; the core never sees an ELF of a partition.

use elf::ElfBytes;
use elf::abi::{ET_EXEC, NT_GNU_BUILD_ID, PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use portcullis_ipc::syscall::rights;
use std::path::{Path, PathBuf};

/// Bytes of a build id (SHA-1).
pub type BuildId = [u8; 20];

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("{file} cannot be read ({reason}); build it with `cargo xtask build`")]
    Read {
        /// The file.
        file: String,
        /// What the system said.
        reason: std::io::Error,
    },
    /// It is not a static 64-bit ELF program.
    #[error("{file} is not a static 64-bit ELF program ({reason}); build it with `cargo xtask build`")]
    NotStatic {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no build id, by which a log finds its symbols.
    #[error("{file} has no SHA-1 build id; link it with --build-id=sha1 and keep .note.gnu.build-id")]
    NoBuildId {
        /// The file.
        file: String,
    },
}

/// A loadable segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// First address.
    pub address: u64,
    /// Bytes in the file.
    pub bytes: Vec<u8>,
    /// Bytes in memory, at least as many.
    pub memory_bytes: u64,
    /// [`rights`] READ, WRITE, EXECUTE.
    pub rights: u8,
}

/// A program.
#[derive(Clone, Debug)]
pub struct Program {
    /// Where it was read.
    pub path: PathBuf,
    /// First instruction.
    pub entry: u64,
    /// Segments by rising address; empty ones are left out.
    pub loads: Vec<Load>,
    /// Build id.
    pub build_id: BuildId,
}

impl Program {
    /// Reads a program.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let file = || crate::workspace::display(path);
        let data = std::fs::read(path).map_err(|reason| Error::Read { file: file(), reason })?;
        parse(path, &data).map_err(|wrong| match wrong {
            Wrong::Format(reason) => Error::NotStatic { file: file(), reason },
            Wrong::NoBuildId => Error::NoBuildId { file: file() },
        })
    }

    /// Bytes of the segments that can be executed.
    pub fn text_bytes(&self) -> u64 {
        self.loads.iter().filter(|load| load.rights & rights::EXECUTE != 0).map(|load| load.memory_bytes).sum()
    }

    /// Bytes that the program takes in memory, whole pages.
    pub fn memory_bytes(&self) -> u64 {
        self.loads.iter().map(|load| load.memory_bytes.next_multiple_of(4096)).sum()
    }
}

enum Wrong {
    Format(String),
    NoBuildId,
}

impl From<elf::ParseError> for Wrong {
    fn from(error: elf::ParseError) -> Self {
        Self::Format(error.to_string())
    }
}

fn parse(path: &Path, data: &[u8]) -> Result<Program, Wrong> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(data)?;
    if elf.ehdr.e_type != ET_EXEC {
        return Err(Wrong::Format("it is position independent".to_owned()));
    }
    let segments = elf.segments().ok_or_else(|| Wrong::Format("it has no program headers".to_owned()))?;
    let mut loads = Vec::new();
    for header in segments.iter().filter(|header| header.p_type == PT_LOAD && header.p_memsz > 0) {
        let map = [(PF_R, rights::READ), (PF_W, rights::WRITE), (PF_X, rights::EXECUTE)];
        let set = map.iter().filter(|(flag, _)| header.p_flags & flag != 0);
        loads.push(Load {
            address: header.p_vaddr,
            bytes: elf.segment_data(&header)?.to_vec(),
            memory_bytes: header.p_memsz,
            rights: set.fold(0, |all, (_, right)| all | right),
        });
    }
    loads.sort_by_key(|load| load.address);
    let mut build_id = None;
    for header in segments.iter().filter(|header| header.p_type == PT_NOTE) {
        build_id = build_id.or(build_id_in(elf.segment_data(&header)?));
    }
    let build_id = build_id.ok_or(Wrong::NoBuildId)?;
    Ok(Program { path: path.to_owned(), entry: elf.ehdr.e_entry, loads, build_id })
}

/// The SHA-1 build id in a note segment. Notes are read here as 4-byte aligned whatever the segment's
/// alignment says, because a link script that aligns the section to a page sets it to the page's.
fn build_id_in(mut notes: &[u8]) -> Option<BuildId> {
    loop {
        let word = |at: usize| Some(u32::from_le_bytes(notes.get(at..at + 4)?.try_into().ok()?) as usize);
        let (name_bytes, bytes, kind) = (word(0)?, word(4)?, word(8)?);
        let data = 12 + name_bytes.next_multiple_of(4);
        let name = notes.get(12..12 + name_bytes)?;
        if kind as u64 == NT_GNU_BUILD_ID && name == b"GNU\0" {
            return notes.get(data..data + bytes)?.try_into().ok();
        }
        notes = notes.get(data + bytes.next_multiple_of(4)..)?;
    }
}

/// Hexadecimal digits of a build id: the name in the symbol store.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_elf_is_refused_with_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        std::fs::write(&path, b"not an ELF").unwrap();
        let text = Program::read(&path).unwrap_err().to_string();
        assert!(text.contains("is not a static 64-bit ELF program") && !text.contains('\n'), "{text}");
    }

    #[test]
    fn the_build_id_is_found_after_another_note_and_never_in_a_short_one() {
        let other = [4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0, 1, 2, 3, 4];
        let mut notes = other.to_vec();
        notes.extend([4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0]);
        notes.extend(b"GNU\0");
        notes.extend([7; 20]);
        assert_eq!(build_id_in(&notes), Some([7; 20]));
        assert_eq!(build_id_in(&notes[..notes.len() - 1]), None);
        assert_eq!(build_id_in(&other), None);
    }

    #[test]
    fn a_missing_file_names_the_build_command() {
        let text = Program::read(Path::new("/nonexistent/x")).unwrap_err().to_string();
        assert!(text.contains("cargo xtask build"), "{text}");
    }
}
