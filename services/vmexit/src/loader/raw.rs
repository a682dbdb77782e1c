//! Raw images: the first byte is the first instruction. RBX holds the bytes of guest memory; those above 3 GiB lie from 4 GiB
//! on, where the page tables of long mode, which map 4 GiB, do not reach: a guest that wants them maps them itself.
//!
//! In guest memory the loader uses 0x1000 to 0x7fff, of guests that do not start in real mode; the
//! stack pointer starts at 0x9000. The guest may take all of it over.

use super::error::Error;
use super::map::reaching;
use super::space::{Contents, What, put};
use super::start::{Mode, Start};
use crate::config::Entry;
use crate::memory::GuestMemory;
use portcullis_ipc::ram::{self, Ram};

/// Page tables: root, next level, then one table for each GiB.
const TABLES: u64 = 0x1000;
/// GiB that the tables map.
const MAPPED: u64 = 4;
const DESCRIPTORS: u64 = 0x7000;
const PAGE: u64 = 0x1000;
const STACK: u64 = 0x9000;

const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;

/// Loads `image` at `address` for one of the raw entries.
#[inline(never)]
pub fn load(memory: &mut impl GuestMemory, entry: Entry, address: u64, image: &[u8]) -> Result<Start, Error> {
    let have = memory.size();
    let (bytes, end) = (image.len() as u64, address.saturating_add(image.len() as u64));
    if !memory.holds(address, bytes) || have < STACK {
        let needed = reaching(end.max(STACK));
        let beyond = needed > have && Ram::new(ram::MOST).holds(address, bytes);
        return Err(if beyond { Error::Memory { needed, have } } else { Error::NotRam(What::Kernel, address, end) });
    }
    if entry != Entry::Real16 && address < DESCRIPTORS + PAGE && TABLES < end {
        return Err(Error::Overlap(What::Kernel, What::BootData, address, end));
    }
    Contents::default().with(address, image)?.write(memory)?;
    let start = Start { rbx: have, rsp: STACK, ..Start::flat(address) };
    let start = match entry {
        Entry::Real16 => Start { mode: Mode::Real16, rsp: 0x7c00, ..start },
        Entry::Long64 => {
            descriptors(memory, 0x00af_9b00_0000_ffff)?;
            page_tables(memory)?;
            Start { mode: Mode::Long64 { root: TABLES }, table: Some((DESCRIPTORS, 23)), ..start }
        }
        _ => {
            descriptors(memory, 0x00cf_9b00_0000_ffff)?;
            Start { table: Some((DESCRIPTORS, 23)), ..start }
        }
    };
    Ok(start)
}

fn descriptors(memory: &mut impl GuestMemory, code: u64) -> Result<(), Error> {
    let table = [0, code, 0x00cf_9300_0000_ffff].map(u64::to_le_bytes);
    put(memory, DESCRIPTORS, table.as_flattened())
}

fn page_tables(memory: &mut impl GuestMemory) -> Result<(), Error> {
    let (directory_pointers, directories) = (TABLES + 0x1000, TABLES + 0x2000);
    let mut entry = |address, value: u64| put(memory, address, &value.to_le_bytes());
    entry(TABLES, directory_pointers | PRESENT_WRITABLE)?;
    for gib in 0..MAPPED {
        let table = directories + gib * 0x1000;
        entry(directory_pointers + gib * 8, table | PRESENT_WRITABLE)?;
        for index in 0..512 {
            entry(table + index * 8, (gib << 30 | index << 21) | PRESENT_WRITABLE | LARGE)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::Plain;
    use crate::paging::{Access, Translation};
    use portcullis_ipc::exit::{ExitPage, gpr};
    use zerocopy::FromZeros;

    #[test]
    fn each_mode_starts_at_the_load_address_with_the_size_of_memory_in_rbx() {
        for (entry, address, stack) in
            [(Entry::Real16, 0x7c00, 0x7c00), (Entry::Protected32, 0x1_0000, 0x9000), (Entry::Long64, 0x1_0000, 0x9000)]
        {
            let mut memory = Plain::new(0x2_0000);
            let start = load(&mut memory, entry, address, &[0xf4; 3]).unwrap();
            assert_eq!((start.entry, start.rbx, start.rsp), (address, 0x2_0000, stack));
            assert_eq!(memory.0[address as usize..][..4], [0xf4, 0xf4, 0xf4, 0]);
        }
    }

    #[test]
    fn long_mode_maps_four_gib_one_to_one() {
        let mut memory = Plain::new(0x2_0000);
        let mut page = ExitPage::new_zeroed();
        load(&mut memory, Entry::Long64, 0x1_0000, &[]).unwrap().fill(&mut page);
        assert_eq!(page.registers[gpr::RSP], STACK);
        let translation = Translation::of(&page);
        for address in [0, 0x10_0000, 0x3fff_ffff, 0x1_0000_0000 - 1] {
            assert_eq!(translation.translate(&mut memory, address, Access::Write), Ok(address));
        }
        assert!(translation.translate(&mut memory, 0x1_0000_0000, Access::Read).is_err());
    }

    #[test]
    fn an_image_in_the_place_of_what_the_loader_writes_is_refused() {
        let at = |entry, address| load(&mut Plain::new(0x2_0000), entry, address, &[0xf4; 16]).err();
        let overlap = |start| Some(Error::Overlap(What::Kernel, What::BootData, start, start + 16));
        for entry in [Entry::Protected32, Entry::Long64] {
            assert_eq!([0xff8, 0x7ff8].map(|address| at(entry, address)), [0xff8, 0x7ff8].map(overlap));
            assert_eq!([0xff0, 0x8000].map(|address| at(entry, address)), [None, None]);
        }
        assert_eq!(at(Entry::Real16, 0x7c00), None);
    }

    #[test]
    fn memory_that_is_too_small_is_noticed_before_anything_is_written() {
        let mut memory = Plain::new(0x1_0000);
        let error = load(&mut memory, Entry::Long64, 0xffff, &[1, 2]);
        assert_eq!(error, Err(Error::Memory { needed: 0x1_0001, have: 0x1_0000 }));
        assert!(memory.0.iter().all(|byte| *byte == 0));
    }
}
