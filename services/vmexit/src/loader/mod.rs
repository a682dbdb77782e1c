//! The guest loader: puts a kernel and what it is told into guest memory and says in which state the
//! guest starts. One file for each entry method; nothing of a kernel file is believed before it was
//! checked, and nothing is written before everything has its place.
//!
//! Not here: unpacking of compressed kernels (a bzImage does that itself), the firmware's tables.

mod boot_data;
mod bytes;
mod elf;
mod error;
mod linux32;
mod map;
mod multiboot;
mod pvh;
mod raw;
mod segments;
mod space;
mod start;

pub use error::Error;
pub use start::{Mode, Start};

use crate::config::{Config, Entry};
use crate::memory::GuestMemory;
use elf::Elf;
use portcullis_ipc::ram;
pub use space::put;
use space::{Space, What};

/// Bytes of the longest error text.
pub const TEXT: usize = 256;
/// Kernels are told addresses of 32 bits.
const LIMIT_32: u64 = 1 << 32;

/// What is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guest<'a> {
    /// The kernel file, or the raw image.
    pub kernel: &'a [u8],
    /// The initial RAM disk; empty without one.
    pub initrd: &'a [u8],
    /// The command line.
    pub append: &'a str,
    /// Physical address of the RSDP; 0 without ACPI.
    pub rsdp: u64,
}

impl Guest<'_> {
    /// Claims a place for the initial RAM disk below `limit`; 0 without one.
    fn initrd(&self, space: &mut Space, limit: u64) -> Result<u64, Error> {
        if self.initrd.is_empty() {
            return Ok(0);
        }
        space.claim_top(self.initrd.len() as u64, limit, What::Initrd)
    }
}

/// The entry method for this kernel, when the manifest leaves the choice.
fn method(kernel: &[u8]) -> Result<Entry, Error> {
    if elf::is_elf(kernel) && pvh::has_entry(&Elf::read(kernel)?) {
        Ok(Entry::Pvh)
    } else if linux32::is_bzimage(kernel) {
        Ok(Entry::Linux32)
    } else if multiboot::has_header(kernel) {
        Ok(Entry::Multiboot)
    } else {
        Err(Error::NoMethod)
    }
}

/// Loads the guest; guest memory may be half written when it fails, and the guest must not start then.
pub fn load(memory: &mut impl GuestMemory, config: &Config, guest: &Guest<'_>) -> Result<Start, Error> {
    let have = memory.size();
    if have > ram::MOST {
        return Err(Error::TooMuchMemory { have });
    }
    let entry = if config.entry == Entry::Auto { method(guest.kernel)? } else { config.entry };
    let mut space = Space::new(map::map(have, guest.rsdp != 0));
    // None of them is inlined: together they take more of the stack than any alone.
    match entry {
        Entry::Pvh => pvh::load(memory, &mut space, &Elf::read(guest.kernel)?, guest),
        Entry::Linux32 => linux32::load(memory, &mut space, guest),
        Entry::Multiboot => multiboot::load(memory, &mut space, guest),
        raw => raw::load(memory, raw, config.load, guest.kernel),
    }
}

#[cfg(test)]
mod tests;
