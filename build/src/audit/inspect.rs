//! From a stopped machine to a verdict: captures it while the core's own tables are in force, and judges
//! it with the core's record and the system image.

use super::registers::{self, Control};
use super::rules::{self, Breach, Extent};
use super::subject::{Kind, Owner, Subject};
use super::walk::Memory;
use super::{platform, record};
use crate::bundle::Bundle;
use crate::emulator::{Emulator, Features, Snapshot};
use crate::image::{CORE, Image};
use crate::{elf_file, workspace};
use anyhow::{Context, bail};
use portcullis_ipc::syscall::rights;

/// What an audit found.
pub struct Found {
    /// Rules broken.
    pub breaches: Vec<Breach>,
    /// How much was looked at.
    pub extent: Extent,
}

/// Everything that an audit judges.
pub struct Scene {
    /// RAM.
    pub memory: Vec<u8>,
    /// Control registers of the processors, none of them inside a guest.
    pub control: Vec<Control>,
    /// What they have.
    pub features: Features,
    /// Roots and owners.
    pub subject: Subject,
}

impl Scene {
    /// Judges it.
    pub fn judge(&self) -> Found {
        let (breaches, extent) = rules::check(Memory(&self.memory), &self.subject, &self.control, self.features);
        Found { breaches, extent }
    }

    /// What the core says of the machine; `None` when it has not got that far.
    pub fn platform(&self) -> Option<String> {
        platform::line(Memory(&self.memory), self.subject.first_of(Owner::Platform)?)
    }
}

/// Exits of guests at which a machine that was caught inside one is looked at again.
const EXITS: u32 = 8;

/// Audits the machine. `snapshot` was taken while it stood still; if a guest ran then, so that the
/// registers are the guest's, the machine runs on to the guest's exit.
pub fn inspect(emulator: &mut Emulator, snapshot: Snapshot, image: &Image) -> anyhow::Result<Found> {
    Ok(capture(emulator, snapshot, image)?.judge())
}

/// Captures the machine outside its guests; see [`inspect`].
pub fn capture(emulator: &mut Emulator, snapshot: Snapshot, image: &Image) -> anyhow::Result<Scene> {
    let elf = std::fs::read(workspace::metal_elf(CORE)).context("the core's ELF cannot be read")?;
    let bundle = std::fs::read(&image.bundle).context("the system image cannot be read")?;
    let bundle = Bundle::read(&bundle)?;
    let from = |snapshot: Snapshot| -> anyhow::Result<Scene> {
        let subject = record::read(&elf, Memory(&snapshot.memory), &bundle)?;
        let control = registers::parse(&snapshot.registers)?;
        Ok(Scene { memory: snapshot.memory, control, features: snapshot.features, subject })
    };
    let mut scene = from(snapshot)?;
    for _ in 0..EXITS {
        if outside(&scene.subject, &scene.control, scene.features) {
            return Ok(scene);
        }
        emulator.leave_guest(after_entry()?)?;
        scene = from(emulator.snapshot()?)?;
    }
    bail!("the machine looked as inside a guest at {EXITS} exits in a row: does the core run without SMAP?")
}

/// VMRUN and the VMSAVE with which the core goes on after an exit (AMD manual, volume 3).
const VMRUN_VMSAVE: [u8; 6] = [0x0f, 0x01, 0xd8, 0x0f, 0x01, 0xdb];
/// Bytes of VMRUN.
const VMRUN_BYTES: u64 = 3;

/// Address of the first instruction that the core runs after a guest's exit.
fn after_entry() -> anyhow::Result<u64> {
    let core = elf_file::Program::read(&workspace::metal_elf(CORE))?;
    let place = core.loads.iter().filter(|load| load.rights & rights::EXECUTE != 0).find_map(|load| {
        let at = load.bytes.windows(VMRUN_VMSAVE.len()).position(|bytes| bytes == VMRUN_VMSAVE)?;
        Some(load.address + at as u64 + VMRUN_BYTES)
    });
    place.context("the core has no VMRUN with VMSAVE after it: build/src/audit/inspect.rs must follow its world switch")
}

/// CR4.SMAP, which the core never clears and no guest of the tests sets.
const SMAP: u64 = 1 << 21;

/// True when every processor translates with one of the core's host tables. A guest's CR3 can be the same number as a
/// host's, so the registers must look like the core's too; a core that runs without SMAP is reported as never
/// outside a guest. Processors without SMAP are Bochs's, which never stops inside a guest.
fn outside(subject: &Subject, control: &[Control], features: Features) -> bool {
    let is_host = |processor: &Control| {
        let mut host = subject.spaces.iter().filter(|space| !matches!(space.kind, Kind::Vm(_)));
        let marked = !features.smap || processor.cr4 & SMAP != 0;
        marked && host.any(|space| space.root == processor.cr3 & !0xfff)
    };
    control.iter().all(is_host)
}
