//! Where trials run: an emulator with a processor. QEMU is the usual one; a trial in Bochs takes longer, and only
//! some are part of every run.

use crate::directives::{By, Directives, Rule};
use portcullis_build::emulator::machine::{Bios, Kind, QEMU_NO_SVM, QEMU_NO_VMX, QEMU_SVM, Target};
use std::time::Duration;

/// An emulator with a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name in directives and in front of a trial's name.
    pub name: &'static str,
    kind: Kind,
    processor: &'static str,
    bios: Bios,
}

/// QEMU with AMD-V.
pub const QEMU: Place = Place { name: "qemu", kind: Kind::Qemu, processor: QEMU_SVM, bios: Bios::Bochs };
/// QEMU without it.
pub const QEMU_BARE: Place = Place { name: "qemu-bare", processor: QEMU_NO_SVM, ..QEMU };
/// QEMU with a processor of Intel's without VT-x.
pub const QEMU_INTEL: Place = Place { name: "qemu-intel", processor: QEMU_NO_VMX, ..QEMU };
/// Bochs with AMD-V.
const RYZEN: Place = bochs("ryzen", "ryzen");
/// Bochs with VT-x and without SMAP.
pub const HASWELL: Place = bochs("haswell", "corei7_haswell_4770");
/// The same under SeaBIOS.
pub const HASWELL_SEABIOS: Place = Place { name: "haswell-seabios", bios: Bios::Seabios, ..HASWELL };
/// Bochs with VT-x and SMAP.
pub const SKYLAKE: Place = bochs("skylake", "corei7_skylake_x");
/// Bochs with a processor that has no SMEP.
pub const SANDY_BRIDGE: Place = bochs("sandy-bridge", "corei7_sandy_bridge_2600k");
/// Bochs with a processor of 32 bits.
pub const ATOM: Place = bochs("atom", "atom_n270");

/// Where the systems of `systems/tests` run.
pub const ALL: [Place; 4] = [QEMU, RYZEN, HASWELL, SKYLAKE];

const fn bochs(name: &'static str, processor: &'static str) -> Place {
    Place { name, kind: Kind::Bochs, processor, bios: Bios::Bochs }
}

/// What starting the firmware and GRUB takes more in Bochs.
const FIRMWARE: Duration = Duration::from_secs(30);

/// The places that a word of a directive means: one, or `bochs` for all three there.
pub fn named(word: &str) -> Vec<Place> {
    let means = |place: &Place| place.name == word || (word == "bochs" && place.kind == Kind::Bochs);
    ALL.into_iter().filter(means).collect()
}

impl Place {
    /// The emulator and its processor.
    pub fn target(self) -> Target {
        Target { bios: self.bios, ..Target::new(self.kind, Some(self.processor)) }
    }

    /// Name of a trial there; trials in QEMU have their own names only.
    pub fn trial(self, name: &str) -> String {
        if self == QEMU { name.to_owned() } else { format!("{}::{name}", self.name) }
    }

    /// Why a system with these directives does not run there.
    pub fn refusal(self, directives: &Directives) -> Option<&str> {
        self.rules(directives).find_map(|rule| if let Rule::Not(why) = rule { Some(why.as_str()) } else { None })
    }

    /// Whether the trial is part of every run.
    pub fn is_quick(self, directives: &Directives) -> bool {
        self == QEMU || self.rules(directives).any(|rule| *rule == Rule::Quick)
    }

    /// What a system wants, as this place can give it: Bochs boots from a CD only, takes longer, and sends a byte on a
    /// line in the time of a real one.
    pub fn adapt(self, directives: Directives) -> Directives {
        let known = |rule: &Rule| if let Rule::Known(text) = rule { Some(text.clone()) } else { None };
        let known = self.rules(&directives).filter_map(known).collect();
        let directives = Directives { known, ..directives };
        match self.kind {
            Kind::Qemu => directives,
            Kind::Bochs => {
                let limit = directives.limit * 2 + FIRMWARE;
                Directives { boot: By::Bios, limit, slow_lines: true, ..directives }
            }
        }
    }

    fn rules(self, directives: &Directives) -> impl Iterator<Item = &Rule> {
        directives.elsewhere.iter().filter(move |(place, _)| *place == self).map(|(_, rule)| rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directives::read;

    #[test]
    fn a_system_runs_where_its_directives_let_it_and_waits_longer_in_bochs() {
        let directives = read("# test: seconds 20\n# test: quick haswell\n# test: not ryzen it hangs\n").unwrap();
        let [qemu, ryzen, haswell, skylake] = ALL;
        assert_eq!(ALL.map(|place| place.is_quick(&directives)), [true, false, true, false]);
        assert_eq!(ryzen.refusal(&directives), Some("it hangs"));
        assert_eq!(haswell.refusal(&directives), None);
        assert_eq!(skylake.adapt(directives.clone()).limit, Duration::from_secs(70));
        let adapted = skylake.adapt(directives.clone());
        assert_eq!((adapted.boot, adapted.slow_lines), (By::Bios, true));
        assert_eq!(qemu.adapt(directives.clone()), directives);
        assert_eq!([qemu.trial("a"), ryzen.trial("a")], ["a", "ryzen::a"]);
    }

    #[test]
    fn a_word_means_one_place_or_all_of_bochs() {
        assert_eq!(named("bochs").len(), 3);
        assert_eq!(named("qemu"), [QEMU]);
        assert_eq!(named("vax"), []);
    }
}
