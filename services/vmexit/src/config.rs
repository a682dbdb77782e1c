//! What the manifest says about this VM.

use portcullis_ipc::limits::PLATFORMS;
use portcullis_runtime::info::number;

/// How the guest is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A raw image in real mode.
    Real16,
    /// A raw image in flat protected mode without paging.
    Protected32,
    /// A raw image in long mode, memory mapped one to one.
    Long64,
    /// An ELF kernel by the PVH boot ABI.
    Pvh,
    /// A bzImage by the 32-bit boot protocol of Linux.
    Linux32,
    /// A kernel by multiboot 1.
    Multiboot,
    /// One of the last three, whatever fits the file.
    Auto,
}

impl Entry {
    /// Whether the image is loaded without being looked at.
    pub fn is_raw(self) -> bool {
        matches!(self, Self::Real16 | Self::Protected32 | Self::Long64)
    }
}

/// How further processors are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApStart {
    /// By INIT and SIPI of the local APIC.
    Sipi,
    /// By the mailbox of the MADT's wake-up structure.
    Mailbox,
}

/// The configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How the guest is entered.
    pub entry: Entry,
    /// Where a raw image is loaded; its first byte is its first instruction.
    pub load: u64,
    /// Command line of the kernel.
    pub append: &'static str,
    /// The machine has local APICs.
    pub lapic: bool,
    /// The machine has an IOAPIC.
    pub ioapic: bool,
    /// The guest is given ACPI tables.
    pub acpi: bool,
    /// The guest is given SMBIOS tables.
    pub smbios: bool,
    /// How further processors are started.
    pub ap_start: ApStart,
    /// UUID of the machine, in the order of its text.
    pub uuid: [u8; 16],
    /// Show VMware's CPUID leaves.
    pub identity: bool,
    /// Platform version.
    pub platform: u16,
    /// Version of the virtual hardware, as VMware counts it.
    pub hardware: u8,
    /// The VM has VMware's port.
    pub port: bool,
    /// XCR0 bits that the guest may set.
    pub xcr0: u64,
    /// Port whose write stops the VM and tells the log the value; tests use it.
    pub exit_port: Option<u16>,
    /// Instances in a row that one exit may end before the machine stops; 0: any number.
    pub exit_tries: u64,
    /// Triple faults in a row before the machine stops; 0: any number.
    pub triple_faults: u64,
}

/// A configuration that is refused: the key, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bad(pub &'static str, pub &'static str);

/// Version of the virtual hardware where the image names none.
const HARDWARE: u8 = 13;
/// Where guests in real mode are loaded unless configured.
const LOW: u64 = 0x7c00;
/// Where others are.
const HIGH: u64 = 0x10_0000;
/// First bytes of a UUID that the manifest does not give, as VMware's begin.
const UUID_PREFIX: [u8; 2] = [0x56, 0x4d];

impl Config {
    /// Reads the configuration through `value`, which looks up a key.
    pub fn read(value: impl Fn(&str) -> Option<&'static str>) -> Result<Self, Bad> {
        let entry = match value("guest.entry") {
            Some("real16") => Entry::Real16,
            Some("protected32") => Entry::Protected32,
            Some("long64") => Entry::Long64,
            Some("pvh") => Entry::Pvh,
            Some("linux32") => Entry::Linux32,
            Some("multiboot") => Entry::Multiboot,
            Some("auto") => Entry::Auto,
            _ => {
                return Err(Bad("guest.entry", "auto, pvh, linux32, multiboot, real16, protected32 or long64"));
            }
        };
        let exit_port = match value("guest.exit-port").map(number) {
            None => None,
            Some(Some(port @ 0..=0xffff)) => Some(port as u16),
            Some(_) => return Err(Bad("guest.exit-port", "a port number")),
        };
        let limit = |key, otherwise| match value(key).map(number) {
            None => Ok(otherwise),
            Some(given) => given.ok_or(Bad(key, "a number")),
        };
        let (exit_tries, triple_faults) = (limit("guest.exit-tries", 5)?, limit("guest.triple-faults", 10)?);
        let switch = |key| switch(key, value(key), !entry.is_raw());
        let flag = |key| matches!(value(key), Some("1" | "true" | "yes" | "on"));
        Ok(Self {
            entry,
            load: load(entry, value("guest.load"))?,
            append: value("guest.append").unwrap_or_default(),
            lapic: switch("lapic")?,
            ioapic: switch("ioapic")?,
            acpi: switch("acpi")?,
            smbios: switch("smbios")?,
            ap_start: match value("ap-start") {
                None | Some("sipi") => ApStart::Sipi,
                Some("mailbox") => ApStart::Mailbox,
                Some(_) => return Err(Bad("ap-start", "sipi or mailbox")),
            },
            uuid: match value("uuid") {
                None => uuid_of_name(value("vm.name").unwrap_or_default()),
                Some(text) => uuid(text).ok_or(Bad("uuid", "32 hexadecimal digits, hyphens between them"))?,
            },
            identity: flag("vm.identity"),
            platform: match value("vm.platform").map(number) {
                None => *PLATFORMS.start(),
                Some(Some(version)) if u16::try_from(version).is_ok_and(|it| PLATFORMS.contains(&it)) => version as u16,
                Some(_) => return Err(Bad("vm.platform", "a platform version that this vmexit serves")),
            },
            hardware: match value("vm.hardware").map(number) {
                None => HARDWARE,
                Some(Some(version @ 1..=99)) => version as u8,
                Some(_) => return Err(Bad("vm.hardware", "a number from 1 to 99")),
            },
            port: flag("vm.port"),
            xcr0: value("vm.xcr0").and_then(number).unwrap_or(1) & 7 | 1,
            exit_port,
            exit_tries,
            triple_faults,
        })
    }
}

fn switch(key: &'static str, value: Option<&str>, default: bool) -> Result<bool, Bad> {
    match value {
        None => Ok(default),
        Some("on" | "true" | "1") => Ok(true),
        Some("off" | "false" | "0") => Ok(false),
        Some(_) => Err(Bad(key, "on or off")),
    }
}

fn load(entry: Entry, value: Option<&str>) -> Result<u64, Bad> {
    let load = match (value, entry) {
        (Some(text), _) => number(text).ok_or(Bad("guest.load", "an address"))?,
        (None, Entry::Real16) => LOW,
        (None, _) => HIGH,
    };
    let (least, wanted) = match entry {
        Entry::Real16 => (0x500, "a paragraph address from 0x500 to 0x9fff0"),
        _ => (0x1_0000, "an address from 0x10000 to 0xfffffff0"),
    };
    let most = if entry == Entry::Real16 { 0x9_fff0 } else { 0xffff_fff0 };
    if (least..=most).contains(&load) && load % 16 == 0 { Ok(load) } else { Err(Bad("guest.load", wanted)) }
}

/// The UUID in `text`.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let mut digits = text.bytes().filter(|byte| *byte != b'-').map(|byte| char::from(byte).to_digit(16));
    let mut uuid = [0; 16];
    for byte in &mut uuid {
        *byte = (digits.next()?? << 4 | digits.next()??) as u8;
    }
    digits.next().is_none().then_some(uuid)
}

/// The UUID of a VM that the manifest gives none: the same for the same name.
fn uuid_of_name(name: &str) -> [u8; 16] {
    // FNV-1a over the name, 128 bits.
    let hash = name.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    let mut uuid = hash.to_be_bytes();
    let [first, second, ..] = &mut uuid;
    [*first, *second] = UUID_PREFIX;
    uuid
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
            (&[("guest.entry", "uefi")], "guest.entry"),
            (&[entry, ("guest.load", "high")], "guest.load"),
            (&[entry, ("guest.load", "0x100000")], "guest.load"),
            (&[entry, ("guest.load", "0x7c01")], "guest.load"),
            (&[entry, ("guest.exit-port", "65536")], "guest.exit-port"),
            (&[entry, ("lapic", "maybe")], "lapic"),
            (&[entry, ("ap-start", "init")], "ap-start"),
            (&[entry, ("vm.platform", "0")], "vm.platform"),
            (&[entry, ("vm.platform", "65537")], "vm.platform"),
            (&[entry, ("vm.hardware", "0")], "vm.hardware"),
            (&[entry, ("uuid", "564d")], "uuid"),
            (&[entry, ("uuid", "564d1234-0000-0000-0000-0000000000000")], "uuid"),
            (&[entry, ("uuid", "564d1234-0000-0000-0000-00000000000g")], "uuid"),
        ] {
            assert_eq!(read(lines).unwrap_err().0, key);
        }
    }

    #[test]
    fn switches_of_the_vm_are_off_unless_they_are_on() {
        let plain = read(&[("guest.entry", "long64")]).unwrap();
        assert_eq!((plain.identity, plain.port, plain.xcr0, plain.exit_port), (false, false, 1, None));
        assert_eq!((plain.exit_tries, plain.triple_faults), (5, 10));
        assert_eq!((plain.platform, plain.hardware), (1, 13));
        let lines = [
            ("guest.entry", "long64"),
            ("vm.identity", "true"),
            ("vm.port", "true"),
            ("vm.xcr0", "0x7"),
            ("vm.platform", "2"),
            ("vm.hardware", "21"),
            ("guest.exit-port", "0xf4"),
        ];
        let full = read(&lines).unwrap();
        assert_eq!((full.identity, full.port, full.xcr0, full.exit_port), (true, true, 7, Some(0xf4)));
        assert_eq!((full.platform, full.hardware), (2, 21));
    }

    #[test]
    fn kernels_get_devices_and_tables_and_raw_images_do_not_unless_the_manifest_says_otherwise() {
        let switches = |config: Config| [config.lapic, config.ioapic, config.acpi, config.smbios];
        for entry in ["pvh", "linux32", "multiboot", "auto"] {
            assert_eq!(switches(read(&[("guest.entry", entry)]).unwrap()), [true; 4]);
        }
        let raw = read(&[("guest.entry", "long64"), ("ioapic", "on")]).unwrap();
        assert_eq!(switches(raw), [false, true, false, false]);
        let none = read(&[("guest.entry", "pvh"), ("lapic", "off"), ("ioapic", "off"), ("acpi", "off")]).unwrap();
        assert_eq!(switches(none), [false, false, false, true]);
    }

    #[test]
    fn the_kernel_is_told_the_command_line_as_it_stands() {
        let config = read(&[("guest.entry", "auto"), ("guest.append", "console=ttyS0 a=b"), ("ap-start", "mailbox")]);
        let config = config.unwrap();
        assert_eq!((config.append, config.ap_start), ("console=ttyS0 a=b", ApStart::Mailbox));
    }

    #[test]
    fn a_uuid_is_read_or_made_from_the_name() {
        let entry = ("guest.entry", "pvh");
        let given = read(&[entry, ("uuid", "564D8e67-1234-0001-0203-0405060708ff")]).unwrap().uuid;
        assert_eq!(given, [0x56, 0x4d, 0x8e, 0x67, 0x12, 0x34, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0xff]);
        let made = |name| read(&[entry, ("vm.name", name)]).unwrap().uuid;
        assert_eq!(made("a")[..2], UUID_PREFIX);
        assert_eq!(made("a"), made("a"));
        assert_ne!(made("a"), made("b"));
    }
}
