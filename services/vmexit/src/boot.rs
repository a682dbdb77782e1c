//! The load of the guest, from the files of the image to the state of its first processor.
//!
//! It may take longer than a service may keep its caller waiting. So it is done in turns, each of an exit that vCPU 0
//! makes before its first instruction.

use crate::config::Config;
use crate::firmware;
use crate::host::{Host, Note};
use crate::loader::{self, Guest, Mode, Start};
use crate::machine::Machine;
use crate::memory::GuestMemory;
use crate::progress::Progress;
use crate::saved::{Block, power};
use portcullis_ipc::exit::ExitPage;
use portcullis_ipc::proto::acpi::WINDOW;
use portcullis_ipc::proto::link::VmEventKind;

/// A turn ends after this part of a second of the host's TSC: a tenth of the shortest call limit that is of use.
const TURNS_PER_SECOND: u64 = 200;
/// Where a processor that was reset finds its first instruction, as far as real mode reaches.
const RESET_VECTOR: u64 = 0xf_fff0;

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The guest is loaded, and the page of vCPU 0 holds the state in which it starts.
    Loaded,
    /// There is more to do: another exit of vCPU 0 is needed.
    Paused,
    /// The guest is not loaded, and the log knows why. The machine is off, or starts as soon as who did not answer may.
    Failed,
}

/// A vCPU that was reset: what it is until the guest is loaded.
pub fn at_reset(page: &mut ExitPage) {
    Start { mode: Mode::Real16, ..Start::flat(RESET_VECTOR) }.fill(page);
}

impl<H: Host> Machine<H> {
    /// Loads the guest, or more of it, and fills the page of vCPU 0.
    pub(crate) fn boot(&mut self, page: &mut ExitPage) -> Turn {
        let error = match self.load() {
            Ok(Some(start)) => {
                start.fill(page);
                return Turn::Loaded;
            }
            Ok(None) => {
                at_reset(page);
                return Turn::Paused;
            }
            Err(error) => error,
        };
        self.loads_later = error.may_pass() && self.host.flush_later();
        if self.loads_later {
            self.host.note(Note::LoadsLater(error));
        } else {
            self.host.note(Note::NotLoaded(error));
            self.board().power = power::OFF;
            self.announce(VmEventKind::Stopped);
        }
        self.commit();
        Turn::Failed
    }

    /// `None` when it is paused.
    fn load(&mut self) -> Result<Option<Start>, loader::Error> {
        let before = self.durable.load;
        let turn = self.rates.0 / TURNS_PER_SECOND;
        let rsdp = self.rsdp();
        let mut progress = Progress::new(&mut self.host, before, turn);
        let done = Self::through(&mut progress, &self.config, rsdp);
        let paused = progress.is_paused();
        self.durable.load = progress.load();
        if self.durable.load != before {
            self.touched.add(Block::Load);
        }
        match done? {
            Some(start) if !paused => {
                self.firmware()?;
                Ok(Some(start))
            }
            _ => Ok(None),
        }
    }

    /// Checks the files and writes guest memory, as far as `progress` goes; `None` when the check is paused.
    fn through(progress: &mut Progress<'_, H>, config: &Config, rsdp: u64) -> Result<Option<Start>, loader::Error> {
        let Some(kernel) = progress.file(if config.entry.is_raw() { "guest" } else { "kernel" })? else {
            return Ok(None);
        };
        let initrd = match progress.file("initrd") {
            Err(loader::Error::NoBlob(_)) => Some(&[][..]),
            initrd => initrd?,
        };
        let Some(initrd) = initrd else { return Ok(None) };
        let guest = Guest { kernel, initrd, append: config.append, rsdp };
        loader::load(progress, config, &guest).map(Some)
    }

    /// Leaves the firmware's tables in guest memory.
    fn firmware(&mut self) -> Result<(), loader::Error> {
        let bytes = self.host.memory().size();
        let Some(machine) = firmware::describe(&self.config, bytes, self.identity.vcpus) else { return Ok(()) };
        firmware::clear(self.host.memory())?;
        let built = self.host.build_tables(&machine)?;
        let found = built.map_or(0, |built| u64::from(built.rsdp));
        if found == self.rsdp() { Ok(()) } else { Err(loader::Error::Tables("puts the RSDP elsewhere")) }
    }

    /// Where the RSDP will be; 0 without ACPI.
    fn rsdp(&self) -> u64 {
        if self.config.acpi && self.host.has_tables() { WINDOW.into() } else { 0 }
    }
}
