//! The core's own record for audits: the static that its ELF names `AUDIT`, read from captured memory.
//!
//! Layout, little endian: magic `PCAUDIT1` (8 bytes), number of entries (u64), then the entries, 24
//! bytes each: first frame or root (u64), pages (u64; 0 for a root), kind (u32), index (u32).

use super::subject::{Kind, Owned, Owner, Space, Subject};
use super::walk::Memory;
use elf::ElfBytes;
use elf::endian::LittleEndian;
use portcullis_ipc::layout::{PAGE, USER_BASE};

/// Why there is no record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The ELF has no such symbol.
    #[error("the core's ELF has no symbol AUDIT: build it with this release's kernel/")]
    Symbol,
    /// The memory does not hold the record.
    #[error(
        "the captured memory holds no audit record at {0:#x}: did the core start, and is it the ELF that was booted?"
    )]
    Magic(u64),
    /// An entry of an unknown kind.
    #[error(
        "the audit record has an entry of kind {0}, which this tool does not know: use the tool of the core's release"
    )]
    Kind(u32),
}

const MAGIC: [u8; 8] = *b"PCAUDIT1";
/// Entries that are believed.
const MOST: u64 = 4096;
/// Bytes of an entry.
const ENTRY: u64 = 24;
/// Start of the fixed maps at the end of the core's half: local APIC, then the copy windows.
const FIXED_MAPS: u64 = USER_BASE - (2 << 20);
/// Copy windows behind the local APIC's page.
const WINDOWS: u64 = 3;
/// Frame of the local APIC.
const LOCAL_APIC: u64 = 0xfee0_0000;

/// Reads the record.
pub fn read(elf: &[u8], memory: Memory<'_>) -> Result<Subject, Error> {
    let at = symbol(elf, "AUDIT").ok_or(Error::Symbol)?;
    if memory.bytes(at, MAGIC.len()) != Some(MAGIC.as_slice()) {
        return Err(Error::Magic(at));
    }
    let word = |offset: u64| memory.word(at + 8 + offset).ok_or(Error::Magic(at));
    let count = word(0)?.min(MOST);
    let (mut spaces, mut owned) = (Vec::new(), Vec::new());
    for entry in (0..count).map(|index| 8 + index * ENTRY) {
        let (start, pages, tail) = (word(entry)?, word(entry + 8)?, word(entry + 16)?);
        let (kind, index) = (tail as u32, (tail >> 32) as u16);
        let space = |name: String, kind| Space {
            name,
            kind,
            root: start,
        };
        let mut own = |owner| {
            owned.push(Owned {
                start,
                pages,
                owner,
            })
        };
        match kind {
            1 => own(Owner::Core),
            2 => own(Owner::Tables),
            3 => own(Owner::Image),
            4 => own(Owner::Platform),
            5 => own(Owner::Message(index)),
            6 => own(Owner::Exit(index)),
            7 => own(Owner::Partition(index)),
            8 => own(Owner::State(index)),
            9 => own(Owner::Guest(index)),
            16 => spaces.push(space("the core".into(), Kind::Core)),
            17 => spaces.push(space(format!("partition {index}"), Kind::Partition(index))),
            18 => spaces.push(space(format!("VM {index}"), Kind::Vm(index))),
            other => return Err(Error::Kind(other)),
        }
    }
    let mut subject = Subject::new(spaces, owned);
    subject.local_apic = LOCAL_APIC;
    subject.windows = (1..=WINDOWS)
        .map(|slot| FIXED_MAPS + slot * PAGE as u64)
        .collect();
    Ok(subject)
}

/// Address of a symbol.
fn symbol(elf: &[u8], name: &str) -> Option<u64> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(elf).ok()?;
    let (symbols, names) = file.symbol_table().ok()??;
    let found = symbols.iter().find(|symbol| {
        names
            .get(symbol.st_name as usize)
            .is_ok_and(|found| found == name)
    });
    found.map(|symbol| symbol.st_value)
}
