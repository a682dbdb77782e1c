//! The machine that a system gets: how it boots, its memory, and which emulator with which processor it is.

use super::Error;
use std::path::{Path, PathBuf};

/// How the system is booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// By the PVH note of the core.
    Pvh {
        /// The core's ELF.
        core: PathBuf,
        /// The image bundle; `None` boots the core alone.
        bundle: Option<PathBuf>,
        /// Command line.
        command_line: String,
    },
    /// By GRUB and multiboot2 from a CD under a BIOS.
    IsoBios(PathBuf),
    /// By GRUB and multiboot2 from a CD under OVMF.
    IsoUefi(PathBuf),
}

/// Which emulator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// QEMU: AMD-V.
    #[default]
    Qemu,
    /// Bochs: VT-x, and AMD-V with other features than QEMU's. Boots by a CD only.
    Bochs,
}

/// BIOS of a machine in Bochs. They differ in what they leave in `IA32_FEATURE_CONTROL`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Bios {
    /// Bochs's own: VMX on, register locked (5).
    #[default]
    Bochs,
    /// SeaBIOS: register not locked, VMX off (0).
    Seabios,
}

/// The emulator with the processor that it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Emulator.
    pub kind: Kind,
    /// Processor: what QEMU takes as `-cpu`, Bochs as `model`.
    pub processor: String,
    /// BIOS, in Bochs.
    pub bios: Bios,
}

/// QEMU's processor: AMD-V, without five-level paging.
pub const QEMU_SVM: &str = "max,+svm,-la57";
/// QEMU's processor for guests that nobody here wrote. CMPXCHG16B after a comparison leaves bits of an operand in RFLAGS
/// (seen: 7.2), and of those that a guest can have, no one can tell the true ones.
pub const QEMU_RUN: &str = "max,+svm,-la57,-cx16";
/// QEMU's processor without AMD-V.
pub const QEMU_NO_SVM: &str = "max,-svm,-la57";
/// The same as one of Intel's; QEMU has no VT-x.
pub const QEMU_NO_VMX: &str = "max,-svm,-la57,vendor=GenuineIntel";
/// Bochs's processor when nothing else is asked for.
const BOCHS_PROCESSOR: &str = "corei7_skylake_x";

impl Default for Target {
    fn default() -> Self {
        Self::new(Kind::Qemu, None)
    }
}

impl Target {
    /// The emulator with that processor, or with the one it is there for.
    pub fn new(kind: Kind, processor: Option<&str>) -> Self {
        let usual = match kind {
            Kind::Qemu => QEMU_SVM,
            Kind::Bochs => BOCHS_PROCESSOR,
        };
        Self { kind, processor: processor.unwrap_or(usual).to_owned(), bios: Bios::default() }
    }
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// How it boots.
    pub boot: Boot,
    /// RAM, MiB.
    pub memory_mib: u32,
    /// Count instructions: one instruction is one tick of every clock, the same in each run. Bochs does nothing else.
    pub icount: bool,
    /// Emulator and processor.
    pub target: Target,
    /// Where the emulator's own log goes, if it keeps one (Bochs).
    pub log: Option<PathBuf>,
}

/// RAM of a machine when nothing else is asked for, MiB.
pub const MEMORY_MIB: u32 = 512;

/// RAM that can be asked for, MiB.
pub const MOST_MEMORY_MIB: i64 = 131_072;
/// RAM from which on only [`LOW_MIB`] of it lie below 4 GiB, MiB.
pub const SPLIT_MIB: u32 = 2816;
/// RAM below 4 GiB of such a machine, MiB.
pub const LOW_MIB: u32 = 2048;

impl Machine {
    /// A machine of QEMU's with its usual processor.
    pub fn new(boot: Boot, memory_mib: u32) -> Self {
        Self { boot, memory_mib, icount: false, target: Target::default(), log: None }
    }

    /// RAM that lies in one piece from address 0, MiB.
    pub fn low_mib(&self) -> u32 {
        if self.memory_mib < SPLIT_MIB { self.memory_mib } else { LOW_MIB }
    }
}

/// Refuses a file that is not there.
pub(super) fn present(what: &'static str, path: &Path, fix: &'static str) -> Result<(), Error> {
    if path.is_file() {
        return Ok(());
    }
    Err(Error::File { what, path: crate::workspace::display(path), fix })
}

/// How an image comes to be.
pub(super) const BUILD: &str = "run `cargo xtask image`";
