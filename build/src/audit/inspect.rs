//! From a stopped machine to a verdict: captures it while the core's own tables are in force, and judges
//! it with the core's record and the system image.

use super::record;
use super::registers::{self, Control};
use super::rules::{self, Breach, Extent};
use super::subject::{Kind, Subject};
use super::walk::Memory;
use crate::bundle::Bundle;
use crate::emulator::{Emulator, Snapshot};
use crate::image::{CORE, Image};
use crate::workspace;
use anyhow::{Context, bail};
use std::time::Duration;

/// What an audit found.
pub struct Found {
    /// Rules broken.
    pub breaches: Vec<Breach>,
    /// How much was looked at.
    pub extent: Extent,
}

/// How often a machine that was caught inside a guest runs on for a moment.
const TRIES: u32 = 200;

/// Audits the machine. `snapshot` was taken while it stood still; if a guest ran then, so that the
/// registers are the guest's, the machine runs on until it is caught outside.
pub fn inspect(emulator: &mut Emulator, mut snapshot: Snapshot, image: &Image) -> anyhow::Result<Found> {
    let elf = std::fs::read(workspace::metal_elf(CORE)).context("the core's ELF cannot be read")?;
    let bundle = std::fs::read(&image.bundle).context("the system image cannot be read")?;
    let bundle = Bundle::read(&bundle)?;
    let mut subject = record::read(&elf, Memory(&snapshot.memory), &bundle)?;
    let mut control = registers::parse(&snapshot.registers)?;
    for _ in 0..TRIES {
        if control.iter().all(|processor| is_host(&subject, processor)) {
            let (breaches, extent) = rules::check(Memory(&snapshot.memory), &subject, &control);
            return Ok(Found { breaches, extent });
        }
        emulator.run_for(Duration::from_micros(300))?;
        control = registers::parse(&emulator.monitor().human("info registers -a")?)?;
        if control.iter().all(|processor| is_host(&subject, processor)) {
            snapshot = emulator.snapshot()?;
            subject = record::read(&elf, Memory(&snapshot.memory), &bundle)?;
        }
    }
    bail!("the machine was caught inside a guest {TRIES} times in a row: its control registers cannot be read")
}

/// True when the processor translates with one of the core's host tables.
fn is_host(subject: &Subject, processor: &Control) -> bool {
    let host = subject.spaces.iter().filter(|space| !matches!(space.kind, Kind::Vm(_)));
    host.into_iter().any(|space| space.root == processor.cr3 & !0xfff)
}
