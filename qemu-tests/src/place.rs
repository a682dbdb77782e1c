//! Where trials run: an emulator with a processor. QEMU is the usual one; a trial in Bochs takes longer, and only
//! some are part of every run.

use crate::directives::{By, Directives};
use portcullis_build::emulator::machine::{Kind, Target};
use std::time::Duration;

/// An emulator with a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name in directives and in front of a trial's name; empty for the usual one.
    pub name: &'static str,
    kind: Kind,
    processor: Option<&'static str>,
}

/// QEMU with AMD-V.
pub const QEMU: Place = Place { name: "", kind: Kind::Qemu, processor: None };

/// All of them.
pub const ALL: [Place; 4] = [
    QEMU,
    Place { name: "ryzen", kind: Kind::Bochs, processor: Some("ryzen") },
    Place { name: "haswell", kind: Kind::Bochs, processor: Some("corei7_haswell_4770") },
    Place { name: "skylake", kind: Kind::Bochs, processor: Some("corei7_skylake_x") },
];

/// What starting the firmware and GRUB takes more in Bochs.
const FIRMWARE: Duration = Duration::from_secs(30);

impl Place {
    /// The emulator and its processor.
    pub fn target(self) -> Target {
        Target::new(self.kind, self.processor)
    }

    /// Name of a trial there.
    pub fn trial(self, name: &str) -> String {
        if self.name.is_empty() { name.to_owned() } else { format!("{}::{name}", self.name) }
    }

    /// What a system wants, as this place can give it: Bochs boots from a CD only, and takes longer.
    pub fn adapt(self, directives: Directives) -> Directives {
        match self.kind {
            Kind::Qemu => directives,
            Kind::Bochs => Directives { boot: By::Bios, limit: directives.limit * 2 + FIRMWARE, ..directives },
        }
    }
}
