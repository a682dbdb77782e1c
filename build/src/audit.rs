//! `audit`: boots a system and checks its page tables and control registers from outside.
//!
//! [`walk`] reads page tables in captured memory, `ept` the entries of VT-x's nested ones, [`registers`] the monitor's
//! listing, [`subject`] says whose each frame is, [`grants`] what the image gives each partition, [`platform`] what the
//! core says of the machine, [`rules`] judges. Nothing here asks the running core.

mod ept;
pub mod grants;
pub mod inspect;
pub mod platform;
pub mod record;
pub mod registers;
pub mod rules;
pub mod subject;
pub mod walk;

pub use inspect::{Found, Scene, capture, inspect};

use crate::emulator::Event;
use crate::emulator::machine::{MEMORY_MIB, MOST_MEMORY_MIB, Machine};
use crate::run::session::{self, Said, Session};
use crate::{image, setup, workspace};
use anyhow::bail;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// System manifest.
    #[arg(default_value_os_t = workspace::demo_manifest())]
    manifest: PathBuf,
    /// Seconds of wall time that the system runs before it is looked at.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// RAM of the machine, MiB; more where the system needs more.
    #[arg(long, default_value_t = MEMORY_MIB, value_parser = clap::value_parser!(u32).range(32..=MOST_MEMORY_MIB))]
    memory: u32,
}

/// Runs the verb.
pub fn command(args: &Args) -> anyhow::Result<()> {
    setup::ensure(&[setup::Need::Qemu])?;
    let image = image::make(&args.manifest, None, "info")?;
    let machine = Machine::new(session::pvh(&image, None), image.memory_mib(args.memory));
    let run = Duration::from_secs(args.seconds);
    let mut session = Session::start(&machine, &image, run + Duration::from_secs(60))?;
    let until = Instant::now() + run;
    while Instant::now() < until {
        let said = session.next(until.saturating_duration_since(Instant::now()));
        if said.iter().any(ended) {
            break;
        }
    }
    let snapshot = session.snapshot()?;
    let scene = capture(session.emulator(), snapshot, &image)?;
    let found = scene.judge();
    let rules::Extent { spaces, mappings, tables } = found.extent;
    println!("looked at {spaces} address spaces and nested tables, {mappings} mappings, {tables} table pages");
    println!("{}", scene.platform().unwrap_or_else(|| "the platform page is not filled".to_owned()));
    for breach in &found.breaches {
        println!("{breach}");
    }
    match found.breaches.len() {
        0 => Ok(()),
        count => bail!("{count} breaches of R7; the lines above name rule and frame"),
    }
}

/// The machine does not run any more, so there is no point in waiting.
fn ended(said: &Said) -> bool {
    matches!(said, Said::Event(Event::Exit(_) | Event::Stopped(_) | Event::Gone))
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
            Self { bytes: vec![0; pages << 12], next: 0 }
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
