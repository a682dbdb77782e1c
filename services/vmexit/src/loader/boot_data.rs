//! Where a kernel finds what the loader tells it; below 1 MiB, in RAM.

use super::error::Error;
use super::map::RANGES;
use super::space::{Space, What, put};
use crate::memory::GuestMemory;

/// Descriptor table of the Linux entry.
pub const DESCRIPTORS: u64 = 0x5000;
/// Start info, zero page or multiboot information.
pub const BOOT_DATA: u64 = 0x6000;
/// List of modules, of PVH.
pub const MODULES: u64 = 0x6040;
/// Memory map, of PVH and multiboot.
pub const MEMORY_MAP: u64 = 0x7000;
/// Where these end.
const END: u64 = 0x8000;
/// Command line, ended by a zero byte.
pub const COMMAND_LINE: u64 = 0x2_0000;

// Each entry of a map takes 24 bytes.
static_assertions::const_assert!(RANGES * 24 <= (END - MEMORY_MAP) as usize);

/// Claims the places; `most` is the longest command line, which is `name` and `append`.
pub fn claim(space: &mut Space, name: &str, append: &str, most: usize) -> Result<(), Error> {
    let bytes = name.len() + append.len();
    if bytes > most {
        return Err(Error::CommandLine { bytes, most });
    }
    space.claim(DESCRIPTORS, END - DESCRIPTORS, What::BootData)?;
    space.claim(COMMAND_LINE, bytes as u64 + 1, What::CommandLine)
}

/// Writes the command line; the byte after it is zero, as all memory.
pub fn write_command_line(memory: &mut impl GuestMemory, name: &str, append: &str) -> Result<(), Error> {
    put(memory, COMMAND_LINE, name.as_bytes())?;
    put(memory, COMMAND_LINE + name.len() as u64, append.as_bytes())
}
