//! What the manifest says about this VM.

use portcullis_runtime::info::number;

/// How the guest is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Real mode.
    Real16,
    /// Flat protected mode without paging.
    Protected32,
    /// Long mode, memory mapped one to one.
    Long64,
}

/// The configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How the guest is entered.
    pub entry: Entry,
    /// Where its image is loaded; its first byte is its first instruction.
    pub load: u64,
    /// Show VMware's CPUID leaves.
    pub identity: bool,
    /// The VM has VMware's port.
    pub port: bool,
    /// XCR0 bits that the guest may set.
    pub xcr0: u64,
    /// Port whose write stops the VM and tells the log the value; tests use it.
    pub exit_port: Option<u16>,
}

/// A configuration that is refused: the key, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bad(pub &'static str, pub &'static str);

/// Where guests in real mode are loaded unless configured.
const LOW: u64 = 0x7c00;
/// Where others are.
const HIGH: u64 = 0x10_0000;

impl Config {
    /// Reads the configuration through `value`, which looks up a key.
    pub fn read<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Result<Self, Bad> {
        let entry = match value("guest.entry") {
            Some("real16") => Entry::Real16,
            Some("protected32") => Entry::Protected32,
            Some("long64") => Entry::Long64,
            _ => return Err(Bad("guest.entry", "real16, protected32 or long64")),
        };
        let load = match (value("guest.load"), entry) {
            (Some(text), _) => number(text).ok_or(Bad("guest.load", "an address"))?,
            (None, Entry::Real16) => LOW,
            (None, _) => HIGH,
        };
        let (least, wanted) = match entry {
            Entry::Real16 => (0x500, "a paragraph address from 0x500 to 0x9fff0"),
            _ => (0x1_0000, "an address from 0x10000 to 0xfffffff0"),
        };
        let most = if entry == Entry::Real16 { 0x9_fff0 } else { 0xffff_fff0 };
        if !(least..=most).contains(&load) || load % 16 != 0 {
            return Err(Bad("guest.load", wanted));
        }
        let exit_port = match value("guest.exit-port").map(number) {
            None => None,
            Some(Some(port @ 0..=0xffff)) => Some(port as u16),
            Some(_) => return Err(Bad("guest.exit-port", "a port number")),
        };
        let flag = |key| matches!(value(key), Some("1" | "true" | "yes" | "on"));
        Ok(Self {
            entry,
            load,
            identity: flag("vm.identity"),
            port: flag("vm.port"),
            xcr0: value("vm.xcr0").and_then(number).unwrap_or(1) & 7 | 1,
            exit_port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[(&'static str, &'static str)]) -> Result<Config, Bad> {
        Config::read(|key| lines.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
    }

    #[test]
    fn the_load_address_follows_the_entry_unless_given() {
        assert_eq!(read(&[("guest.entry", "real16")]).unwrap().load, 0x7c00);
        assert_eq!(read(&[("guest.entry", "long64")]).unwrap().load, 0x10_0000);
        let given = read(&[("guest.entry", "protected32"), ("guest.load", "0x200000")]);
        assert_eq!(given.unwrap().load, 0x20_0000);
    }

    #[test]
    fn values_that_make_no_sense_are_refused_by_key() {
        let entry = ("guest.entry", "real16");
        for (lines, key) in [
            (&[][..], "guest.entry"),
            (&[("guest.entry", "pvh")], "guest.entry"),
            (&[entry, ("guest.load", "high")], "guest.load"),
            (&[entry, ("guest.load", "0x100000")], "guest.load"),
            (&[entry, ("guest.load", "0x7c01")], "guest.load"),
            (&[entry, ("guest.exit-port", "65536")], "guest.exit-port"),
        ] {
            assert_eq!(read(lines).unwrap_err().0, key);
        }
    }

    #[test]
    fn switches_are_off_unless_they_are_on() {
        let plain = read(&[("guest.entry", "long64")]).unwrap();
        assert_eq!((plain.identity, plain.port, plain.xcr0, plain.exit_port), (false, false, 1, None));
        let lines = [
            ("guest.entry", "long64"),
            ("vm.identity", "true"),
            ("vm.port", "true"),
            ("vm.xcr0", "0x7"),
            ("guest.exit-port", "0xf4"),
        ];
        let full = read(&lines).unwrap();
        assert_eq!((full.identity, full.port, full.xcr0, full.exit_port), (true, true, 7, Some(0xf4)));
    }
}
