//! Control registers in the text of QEMU's `info registers -a` or Bochs's `creg`, and what they must be.

use crate::emulator::Features;

/// The registers of one CPU that protect the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

/// The emulator's text has no value for a register.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the emulator's register listing has no {0}: was the emulator updated?")]
pub struct Missing(&'static str);

/// Reads the listing: one entry a CPU. Bochs writes `0x` before and a colon after a value.
pub fn parse(text: &str) -> Result<Vec<Control>, Missing> {
    let parts: Vec<&str> = text.split("CPU#").filter(|part| part.contains("CR0=")).collect();
    if parts.is_empty() {
        return Err(Missing("CR0"));
    }
    parts.into_iter().map(one).collect()
}

fn one(text: &str) -> Result<Control, Missing> {
    let value = |name: &'static str| {
        let hex = text.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let hex = hex.map(|hex| hex.trim_start_matches("0x").trim_end_matches(':'));
        hex.and_then(|hex| u64::from_str_radix(hex, 16).ok()).ok_or(Missing(name))
    };
    Ok(Control { cr0: value("CR0")?, cr3: value("CR3")?, cr4: value("CR4")?, efer: value("EFER")? })
}

/// One bit of one register.
struct Bit {
    name: &'static str,
    register: fn(&Control) -> u64,
    bit: u32,
}

const fn bit(name: &'static str, register: fn(&Control) -> u64, bit: u32) -> Bit {
    Bit { name, register, bit }
}

/// Bits that must be set while the core or a partition runs.
const REQUIRED: [Bit; 5] = [
    bit("CR0.WP", |c| c.cr0, 16),
    bit("CR0.PG", |c| c.cr0, 31),
    bit("CR4.SMEP", |c| c.cr4, 20),
    bit("EFER.NXE", |c| c.efer, 11),
    bit("EFER.LMA", |c| c.efer, 10),
];

/// Set in addition where the processor has them.
const SMAP: Bit = bit("CR4.SMAP", |c| c.cr4, 21);
const UMIP: Bit = bit("CR4.UMIP", |c| c.cr4, 11);

/// Set in addition where VMs run, with AMD-V and with VT-x.
const SVM: Bit = bit("EFER.SVME", |c| c.efer, 12);
const VMX: Bit = bit("CR4.VMXE", |c| c.cr4, 13);

/// Names of the bits that are clear and must not be on a processor with these features. `vms`: the system has VMs.
pub fn clear_bits(control: &Control, features: Features, vms: bool) -> Vec<&'static str> {
    let for_vms = if features.vmx { &VMX } else { &SVM };
    let optional = [(features.smap, &SMAP), (features.umip, &UMIP), (vms, for_vms)];
    let required = REQUIRED.iter().chain(optional.into_iter().filter(|(used, _)| *used).map(|(_, bit)| bit));
    let clear = required.filter(|bit| (bit.register)(control) & 1 << bit.bit == 0);
    clear.map(|bit| bit.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "
CPU#0
RAX=0000000000000000 RBX=0000000000000000 RCX=0000000000000000 RDX=0000000000000000
GDT=     0000000000205000 00000037
CR0=80050033 CR2=0000000000000000 CR3=0000000000301000 CR4=00340e20
DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000
EFER=0000000000001d01
";

    #[test]
    fn the_listing_gives_one_entry_a_cpu() {
        let control = parse(LISTING).unwrap();
        assert_eq!(control, [Control { cr0: 0x8005_0033, cr3: 0x30_1000, cr4: 0x34_0e20, efer: 0x1d01 }]);
        assert_eq!(parse(&LISTING.repeat(2)).unwrap().len(), 2);
        assert_eq!(parse("nothing"), Err(Missing("CR0")));
    }

    #[test]
    fn bochs_lists_them_in_its_own_way() {
        let listing = "creg\nCR0=0x8001003b: PG cd nw\nCR2=page fault laddr=0x0000000000000000\n\
            CR3=0x0000001a1000\n    PCD=page-level cache disable=0\nCR4=0x003406e0: pks cet\nCR8: 0x0\n\
            EFER=0x00001d01: ffxsr NXE\n";
        let expected = Control { cr0: 0x8001_003b, cr3: 0x1a_1000, cr4: 0x34_06e0, efer: 0x1d01 };
        assert_eq!(parse(listing).unwrap(), [expected]);
    }

    const ALL: Features = Features { smap: true, umip: true, vmx: false };

    #[test]
    fn each_required_bit_is_missed_by_name() {
        let sound = parse(LISTING).unwrap()[0];
        assert_eq!(clear_bits(&sound, ALL, true), [] as [&str; 0]);
        let cases = [
            ("CR0.WP", Control { cr0: sound.cr0 & !(1 << 16), ..sound }),
            ("CR4.SMEP", Control { cr4: sound.cr4 & !(1 << 20), ..sound }),
            ("CR4.SMAP", Control { cr4: sound.cr4 & !(1 << 21), ..sound }),
            ("CR4.UMIP", Control { cr4: sound.cr4 & !(1 << 11), ..sound }),
            ("EFER.NXE", Control { efer: sound.efer & !(1 << 11), ..sound }),
            ("EFER.SVME", Control { efer: sound.efer & !(1 << 12), ..sound }),
        ];
        for (name, control) in cases {
            assert_eq!(clear_bits(&control, ALL, true), [name]);
        }
        let without = Control { efer: sound.efer & !(1 << 12), ..sound };
        assert_eq!(clear_bits(&without, ALL, false), [] as [&str; 0]);
    }

    #[test]
    fn what_the_processor_lacks_is_not_asked_for() {
        let sound = parse(LISTING).unwrap()[0];
        let bare = Control { cr4: sound.cr4 & !(1 << 21 | 1 << 11), ..sound };
        assert_eq!(clear_bits(&bare, ALL, true), ["CR4.SMAP", "CR4.UMIP"]);
        assert_eq!(clear_bits(&bare, Features { smap: false, ..ALL }, true), ["CR4.UMIP"]);
        let intel = Features { smap: false, umip: false, vmx: true };
        assert_eq!(clear_bits(&bare, intel, true), ["CR4.VMXE"]);
        assert_eq!(clear_bits(&Control { cr4: bare.cr4 | 1 << 13, ..bare }, intel, true), [] as [&str; 0]);
    }
}
