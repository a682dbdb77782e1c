//! Page tables in captured memory: the four-level walk, for address spaces and for nested tables, of AMD-V and of VT-x.
//! What a mapping may be is not known here; how its entry must look is [`ept`]'s.

use super::ept;

/// Captured physical memory, from address 0.
#[derive(Clone, Copy)]
pub struct Memory<'a>(pub &'a [u8]);

impl Memory<'_> {
    /// The word at `address`; `None` outside of what was captured.
    pub fn word(&self, address: u64) -> Option<u64> {
        let start = usize::try_from(address).ok()?;
        let bytes = self.0.get(start..)?.first_chunk::<8>()?;
        Some(u64::from_le_bytes(*bytes))
    }

    /// `length` bytes at `address`.
    pub fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        let start = usize::try_from(address).ok()?;
        self.0.get(start..start.checked_add(length)?)
    }
}

/// What all entries on the way to a page allow together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Stores.
    pub write: bool,
    /// Ring 3; in a nested table: any access.
    pub user: bool,
    /// Instruction fetch.
    pub execute: bool,
}

/// One leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address that it translates.
    pub address: u64,
    /// First frame.
    pub physical: u64,
    /// Pages of 4 KiB: 1, 512 or 512 * 512.
    pub pages: u64,
    /// Rights.
    pub rights: Rights,
}

/// What hangs below one root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Leaves in the order of their addresses.
    pub mappings: Vec<Mapping>,
    /// Frames of the tables, root included, in the order of the walk.
    pub tables: Vec<u64>,
    /// Tables that lie outside the captured memory or form a loop: address of the first byte translated,
    /// and frame.
    pub missing: Vec<(u64, u64)>,
    /// Entries that no core writes: address of the first byte translated, and what is wrong.
    pub malformed: Vec<(u64, &'static str)>,
}

/// How an entry is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Address spaces, and nested tables of AMD-V.
    Plain,
    /// Nested tables of VT-x.
    Ept,
}

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// A leaf above the last level.
pub const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Frame of an entry.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Walks the tree below `root` (a CR3 or nCR3, or an EPT pointer's table).
pub fn walk(memory: Memory<'_>, root: u64, format: Format) -> Tree {
    let mut tree = Tree::default();
    let all = Rights { write: true, user: true, execute: true };
    Walk { memory, format, tree: &mut tree }.table(root & ADDRESS, 4, 0, all);
    tree
}

/// Address of the entry that maps the page at `address` below `root`, of whatever size; `None` where nothing does.
pub fn leaf_entry(memory: Memory<'_>, root: u64, address: u64) -> Option<u64> {
    let mut frame = root & ADDRESS;
    for level in (2..=4u32).rev() {
        let at = frame + (address >> (12 + 9 * (level - 1)) & 511) * 8;
        let entry = memory.word(at)?;
        if entry & PRESENT == 0 {
            return None;
        }
        if entry & LARGE != 0 {
            return Some(at);
        }
        frame = entry & ADDRESS;
    }
    Some(frame + (address >> 12 & 511) * 8)
}

struct Walk<'a> {
    memory: Memory<'a>,
    format: Format,
    tree: &'a mut Tree,
}

impl Walk<'_> {
    fn table(&mut self, frame: u64, level: u32, base: u64, rights: Rights) {
        let looping = self.tree.tables.len() > self.memory.0.len() / 4096;
        if looping || self.memory.bytes(frame, 4096).is_none() {
            self.tree.missing.push((base, frame));
            return;
        }
        self.tree.tables.push(frame);
        for index in 0..512 {
            let entry = self.memory.word(frame + index * 8).unwrap_or(0);
            let shift = 12 + 9 * (level - 1);
            let address = canonical(base + (index << shift));
            let leaf = level == 1 || (level < 4 && entry & LARGE != 0);
            let Some(own) = self.rights(entry, leaf, level, address) else { continue };
            let rights = Rights {
                write: rights.write && own.write,
                user: rights.user && own.user,
                execute: rights.execute && own.execute,
            };
            if leaf {
                let pages = 1u64 << (9 * (level - 1));
                let physical = entry & ADDRESS & !((pages << 12) - 1);
                self.tree.mappings.push(Mapping { address, physical, pages, rights });
            } else {
                self.table(entry & ADDRESS, level - 1, address, rights);
            }
        }
    }

    /// What the entry allows; `None` when it translates nothing.
    fn rights(&mut self, entry: u64, leaf: bool, level: u32, address: u64) -> Option<Rights> {
        match self.format {
            Format::Plain => (entry & PRESENT != 0).then_some(Rights {
                write: entry & WRITE != 0,
                user: entry & USER != 0,
                execute: entry & NO_EXECUTE == 0,
            }),
            Format::Ept => {
                let rights = ept::rights(entry)?;
                let faults = ept::faults(entry, leaf.then_some(level));
                self.tree.malformed.extend(faults.into_iter().map(|what| (address, what)));
                Some(rights)
            }
        }
    }
}

fn canonical(address: u64) -> u64 {
    ((address << 16) as i64 >> 16) as u64
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{E, Image, NX, P, U, W};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rights_are_those_that_every_level_gives() {
        let mut image = Image::new(16);
        let root = image.table();
        image.map(root, 0x4000_0000, 0x9000, U | E);
        image.map(root, 0x4000_1000, 0xa000, W | U | NX);
        let tree = walk(image.memory(), root, Format::Plain);
        let rights = |write, user, execute| Rights { write, user, execute };
        let leaf = |address, physical, rights| Mapping { address, physical, pages: 1, rights };
        assert_eq!(
            tree.mappings,
            [
                leaf(0x4000_0000, 0x9000, rights(false, true, true)),
                leaf(0x4000_1000, 0xa000, rights(true, true, false)),
            ]
        );
        assert_eq!(tree.tables.len(), 4);
        // A level above that is read-only and supervisor wins over the leaf.
        let directory = image.memory().word(root).unwrap() & !0xfff;
        image.set(root, directory | P);
        let first = walk(image.memory(), root, Format::Plain).mappings[1];
        assert_eq!(first.rights, rights(false, false, false));
    }

    #[test]
    fn large_pages_are_one_leaf_and_high_addresses_are_canonical() {
        let mut image = Image::new(16);
        let root = image.table();
        let (second, third) = (image.table(), image.table());
        image.set(root + 511 * 8, second | P | W | U);
        image.set(second, third | P | W | U);
        image.set(second + 8, 0x4000_0000 | P | LARGE);
        image.set(third + 8, 0x20_0000 | P | LARGE | NX);
        let tree = walk(image.memory(), root, Format::Plain);
        let found: Vec<_> = tree.mappings.iter().map(|m| (m.address, m.physical, m.pages)).collect();
        assert_eq!(found, [(0xffff_ff80_0020_0000, 0x20_0000, 512), (0xffff_ff80_4000_0000, 0x4000_0000, 512 * 512)]);
    }

    #[test]
    fn the_entry_of_a_page_is_where_the_walk_finds_its_mapping() {
        let mut image = Image::new(16);
        let root = image.table();
        image.map(root, 0x4000_3000, 0x9000, U | NX);
        let entry = leaf_entry(image.memory(), root, 0x4000_3000).unwrap();
        assert_eq!(image.memory().word(entry), Some(0x9000 | U | NX | P));
        assert_eq!(leaf_entry(image.memory(), root, 0x8000_0000), None);
        let directory = image.memory().word(root).unwrap() & ADDRESS;
        image.set(directory + 3 * 8, LARGE | P);
        assert_eq!(leaf_entry(image.memory(), root, 0xc123_4000), Some(directory + 3 * 8));
    }

    #[test]
    fn a_table_outside_the_captured_memory_is_reported() {
        let mut image = Image::new(4);
        let root = image.table();
        image.set(root + 8, 0x7fff_f000 | P);
        assert_eq!(walk(image.memory(), root, Format::Plain).missing, [(1 << 39, 0x7fff_f000)]);
    }

    #[test]
    fn a_table_that_names_itself_ends_the_walk() {
        let mut image = Image::new(4);
        let root = image.table();
        image.set(root, root | P);
        image.set(root + 8, root | P);
        assert!(!walk(image.memory(), root, Format::Plain).missing.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn tables_of_garbage_never_panic(bytes in proptest::collection::vec(any::<u8>(), 4096)) {
            // Entries above the captured memory end the walk, so it stays short.
            walk(Memory(&bytes), 0, Format::Plain);
            walk(Memory(&bytes), 0, Format::Ept);
        }
    }
}
