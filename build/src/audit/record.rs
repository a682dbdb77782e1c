//! The core's own record for audits (`kernel/src/audit.rs`): it stands somewhere in the static that its ELF names `CORE`,
//! and is read from captured memory. It says where the tables are and who owns which frames; which partition
//! serves which VM comes from the system image.

use super::grants;
use super::subject::{Kind, Owned, Owner, Space, Subject};
use super::walk::Memory;
use crate::bundle::Bundle;
use elf::ElfBytes;
use elf::endian::LittleEndian;
use portcullis_ipc::layout::{PAGE, USER_BASE};
use portcullis_ipc::limits;

/// Why there is no record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The ELF has no such symbol.
    #[error("the core's ELF has no symbol CORE: build it from this checkout's kernel/")]
    Symbol,
    /// The memory does not hold the record.
    #[error(
        "the captured memory holds no audit record at {0:#x}: did the core start, and is it the ELF that was booted?"
    )]
    Magic(u64),
    /// A run of an unknown owner.
    #[error(
        "the audit record names an owner of kind {0}, which this tool does not know: use the tool of the core's release"
    )]
    Owner(u32),
    /// The core had no room to note all runs.
    #[error("the core noted {RUNS} of {0} runs of frames: raise RUNS in kernel/src/audit.rs and here")]
    Full(u64),
}

const MAGIC: [u8; 8] = *b"PCAUDIT2";
/// Runs that the core can note.
const RUNS: u64 = 256;
/// Offsets in the record, after its magic.
const CORE_ROOT: u64 = 8;
const ROOTS: u64 = CORE_ROOT + 8;
const NESTED: u64 = ROOTS + 8 * limits::PARTITIONS as u64;
const COUNT: u64 = NESTED + 8 * limits::VMS as u64;
const RUN: u64 = COUNT + 8;
/// Bytes of a run: start, pages, owner and index.
const RUN_BYTES: u64 = 24;

/// Start of the fixed maps at the end of the core's half: local APIC, then the copy windows.
const FIXED_MAPS: u64 = USER_BASE - (2 << 20);
/// Copy windows after the local APIC's page.
const WINDOWS: u64 = 3;
/// Frame of the local APIC.
const LOCAL_APIC: u64 = 0xfee0_0000;

/// Reads the record.
pub fn read(elf: &[u8], memory: Memory<'_>, bundle: &Bundle<'_>) -> Result<Subject, Error> {
    let (core, bytes) = symbol(elf, "CORE").ok_or(Error::Symbol)?;
    let places = (core..core.saturating_add(bytes)).step_by(8);
    let at = places.into_iter().find(|at| is_record(memory, *at)).ok_or(Error::Magic(core))?;
    let names: Vec<String> = bundle.partitions.iter().map(|partition| name(&partition.record.name)).collect();
    let vms: Vec<String> = bundle.vms.iter().map(|vm| name(&vm.record.name)).collect();
    let vcpus: Vec<u16> = (0..).zip(&bundle.vms).flat_map(|(index, vm)| vm.vcpus.iter().map(move |_| index)).collect();
    let mut subject = at_address(memory, at, &names, &vms, &vcpus)?;
    subject.grants = grants::of(bundle);
    subject.vmexit = bundle.vms.iter().map(|vm| vm.record.vmexit).collect();
    Ok(subject)
}

fn is_record(memory: Memory<'_>, at: u64) -> bool {
    memory.bytes(at, MAGIC.len()) == Some(MAGIC.as_slice())
}

/// Reads the record at `at`; `vcpus` has the VM of each vCPU of the system.
fn at_address(memory: Memory<'_>, at: u64, names: &[String], vms: &[String], vcpus: &[u16]) -> Result<Subject, Error> {
    if !is_record(memory, at) {
        return Err(Error::Magic(at));
    }
    let word = |offset: u64| memory.word(at + offset).ok_or(Error::Magic(at));
    let mut spaces = vec![Space { name: "the core".into(), kind: Kind::Core, root: word(CORE_ROOT)? }];
    for index in 0..limits::PARTITIONS as u16 {
        let root = word(ROOTS + 8 * u64::from(index))?;
        spaces.push(space(names, index, Kind::Partition(index), root));
    }
    for index in 0..limits::VMS as u16 {
        let root = word(NESTED + 8 * u64::from(index))?;
        spaces.push(space(vms, index, Kind::Vm(index), root));
    }
    spaces.retain(|space| space.root != 0);
    let mut owned = Vec::new();
    let count = word(COUNT)?;
    if count > RUNS {
        return Err(Error::Full(count));
    }
    for run in (0..count).map(|index| RUN + index * RUN_BYTES) {
        let tail = word(run + 16)?;
        let owner = owner(tail as u32, (tail >> 32) as u16, vcpus)?;
        owned.push(Owned { start: word(run)?, pages: word(run + 8)?, owner });
    }
    let mut subject = Subject::new(spaces, owned);
    subject.local_apic = LOCAL_APIC;
    subject.windows = (1..=WINDOWS).map(|slot| FIXED_MAPS + slot * PAGE as u64).collect();
    Ok(subject)
}

fn space(names: &[String], index: u16, kind: Kind, root: u64) -> Space {
    let name = names.get(usize::from(index)).cloned().unwrap_or_else(|| format!("number {index}"));
    Space { name, kind, root }
}

fn owner(code: u32, index: u16, vcpus: &[u16]) -> Result<Owner, Error> {
    Ok(match code {
        1 => Owner::Core,
        2 => Owner::Tables,
        3 => Owner::Image,
        4 => Owner::Partition(index),
        5 => Owner::State(index),
        6 => Owner::Message(index),
        7 => Owner::Exit(vcpus.get(usize::from(index)).copied().unwrap_or(u16::MAX)),
        8 => Owner::Guest(index),
        9 => Owner::Platform,
        10 => Owner::Spare(index),
        other => return Err(Error::Owner(other)),
    })
}

fn name(field: &[u8]) -> String {
    String::from_utf8_lossy(field).trim_end_matches('\0').to_owned()
}

/// Address and bytes of a symbol.
fn symbol(elf: &[u8], name: &str) -> Option<(u64, u64)> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(elf).ok()?;
    let (symbols, names) = file.symbol_table().ok()??;
    let is_it = |symbol: &elf::symbol::Symbol| names.get(symbol.st_name as usize).is_ok_and(|found| found == name);
    symbols.iter().find(is_it).map(|symbol| (symbol.st_value, symbol.st_size))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 0x100;

    fn record(words: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = vec![0; 0x3000];
        bytes[AT as usize..][..8].copy_from_slice(&MAGIC);
        for (offset, value) in words {
            bytes[(AT + offset) as usize..][..8].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    fn subject(bytes: &[u8]) -> Result<Subject, Error> {
        at_address(Memory(bytes), AT, &["link".into()], &["vm0".into()], &[0, 0, 1])
    }

    #[test]
    fn roots_and_owners_are_read_with_the_names_of_the_image() {
        let bytes = record(&[
            (CORE_ROOT, 0x30_0000),
            (ROOTS, 0x30_1000),
            (ROOTS + 16, 0x30_2000),
            (NESTED, 0x30_3000),
            (COUNT, 2),
            (RUN, 0x40_0000),
            (RUN + 8, 1),
            (RUN + 16, 2 << 32 | 7),
            (RUN + RUN_BYTES, 0x40_1000),
            (RUN + RUN_BYTES + 8, 16),
            (RUN + RUN_BYTES + 16, 2),
        ]);
        let subject = subject(&bytes).unwrap();
        let spaces: Vec<_> = subject.spaces.iter().map(|space| (space.name.as_str(), space.kind, space.root)).collect();
        assert_eq!(
            spaces,
            [
                ("the core", Kind::Core, 0x30_0000),
                ("link", Kind::Partition(0), 0x30_1000),
                ("number 2", Kind::Partition(2), 0x30_2000),
                ("vm0", Kind::Vm(0), 0x30_3000),
            ]
        );
        assert_eq!(subject.owner(0x40_0000), Some(Owner::Exit(1)));
        assert_eq!(subject.owner(0x41_0000), Some(Owner::Tables));
    }

    #[test]
    fn a_record_that_cannot_be_trusted_is_refused() {
        assert_eq!(subject(&[0; 0x3000]), Err(Error::Magic(AT)));
        assert_eq!(subject(&MAGIC), Err(Error::Magic(AT)));
        assert_eq!(subject(&record(&[(COUNT, 257)])), Err(Error::Full(257)));
        assert_eq!(subject(&record(&[(COUNT, 1), (RUN + 16, 77)])), Err(Error::Owner(77)));
    }

    #[test]
    fn an_elf_without_the_symbol_is_refused() {
        assert_eq!(symbol(b"no ELF", "CORE"), None);
    }
}
