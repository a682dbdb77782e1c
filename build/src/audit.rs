//! `audit`: boots a system and checks its page tables and control registers from outside.
//!
//! [`walk`] reads page tables in captured memory, [`registers`] the monitor's listing, [`subject`] says
//! whose each frame is, [`rules`] judges. Nothing here asks the running core.

pub mod registers;
pub mod rules;
pub mod subject;
pub mod walk;

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the verb.
pub fn command(_args: &Args) -> anyhow::Result<()> {
    anyhow::bail!("the verb `audit` is not in this version")
}

#[cfg(test)]
pub mod fixture {
    //! Page tables in a piece of memory, for the tests of this directory.
    use super::walk::Memory;

    /// Present.
    pub const P: u64 = 1;
    /// Writable.
    pub const W: u64 = 2;
    /// Open to ring 3.
    pub const U: u64 = 4;
    /// Executable: the absence of [`NX`], by name.
    pub const E: u64 = 0;
    /// Not executable.
    pub const NX: u64 = 1 << 63;

    /// Captured memory under construction; tables are taken from its start.
    pub struct Image {
        bytes: Vec<u8>,
        next: u64,
    }

    impl Image {
        /// `pages` pages of zeros.
        pub fn new(pages: usize) -> Self {
            Self {
                bytes: vec![0; pages << 12],
                next: 0,
            }
        }

        /// A new table.
        pub fn table(&mut self) -> u64 {
            self.next += 4096;
            self.next - 4096
        }

        /// Sets the word at `address`.
        pub fn set(&mut self, address: u64, word: u64) {
            self.bytes[address as usize..][..8].copy_from_slice(&word.to_le_bytes());
        }

        /// Maps one page; tables on the way give all rights.
        pub fn map(&mut self, root: u64, address: u64, physical: u64, flags: u64) {
            let mut table = root;
            for level in [4, 3, 2] {
                let slot = table + (address >> (12 + 9 * (level - 1)) & 511) * 8;
                let entry = self.memory().word(slot).unwrap();
                table = entry & 0x000f_ffff_ffff_f000;
                if entry == 0 {
                    table = self.table();
                    self.set(slot, table | P | W | U);
                }
            }
            self.set(table + (address >> 12 & 511) * 8, physical | flags | P);
        }

        /// The memory.
        pub fn memory(&self) -> Memory<'_> {
            Memory(&self.bytes)
        }
    }
}
