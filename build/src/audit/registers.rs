//! Control registers in the text of QEMU's `info registers -a`, and what they must be.

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

/// The monitor's text has no value for a register.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the monitor's register listing has no {0}: was QEMU updated?")]
pub struct Missing(&'static str);

/// Reads the listing: one entry a CPU.
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
const REQUIRED: [Bit; 7] = [
    bit("CR0.WP", |c| c.cr0, 16),
    bit("CR0.PG", |c| c.cr0, 31),
    bit("CR4.SMEP", |c| c.cr4, 20),
    bit("CR4.SMAP", |c| c.cr4, 21),
    bit("CR4.UMIP", |c| c.cr4, 11),
    bit("EFER.NXE", |c| c.efer, 11),
    bit("EFER.LMA", |c| c.efer, 10),
];

/// Set in addition where VMs run.
const FOR_VMS: Bit = bit("EFER.SVME", |c| c.efer, 12);

/// Names of the required bits that are clear. `vms`: the system has VMs.
pub fn clear_bits(control: &Control, vms: bool) -> Vec<&'static str> {
    let required = REQUIRED.iter().chain(vms.then_some(&FOR_VMS));
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
    fn each_required_bit_is_missed_by_name() {
        let sound = parse(LISTING).unwrap()[0];
        assert_eq!(clear_bits(&sound, true), [] as [&str; 0]);
        let cases = [
            ("CR0.WP", Control { cr0: sound.cr0 & !(1 << 16), ..sound }),
            ("CR4.SMEP", Control { cr4: sound.cr4 & !(1 << 20), ..sound }),
            ("CR4.SMAP", Control { cr4: sound.cr4 & !(1 << 21), ..sound }),
            ("CR4.UMIP", Control { cr4: sound.cr4 & !(1 << 11), ..sound }),
            ("EFER.NXE", Control { efer: sound.efer & !(1 << 11), ..sound }),
            ("EFER.SVME", Control { efer: sound.efer & !(1 << 12), ..sound }),
        ];
        for (name, control) in cases {
            assert_eq!(clear_bits(&control, true), [name]);
        }
        let without = Control { efer: sound.efer & !(1 << 12), ..sound };
        assert_eq!(clear_bits(&without, false), [] as [&str; 0]);
    }
}
