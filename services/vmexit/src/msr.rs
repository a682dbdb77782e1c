//! Model-specific registers that exit: which there are, what they hold, what may be written. A register
//! that is in no table raises #GP, as on a processor that lacks it. Those of a local APIC are in `apic`; where
//! there is none, its base reads as disabled and the others are not there.

use crate::cpuid::Vendor;
use portcullis_ipc::exit::{ExitPage, group};

/// Numbers.
pub mod number {
    /// Time-stamp counter.
    pub const TSC: u32 = 0x10;
    /// Base of the local APIC.
    pub const APIC_BASE: u32 = 0x1b;
    /// Machine check: number of banks, none.
    pub const MCG_CAP: u32 = 0x179;
    /// Machine check: status, always 0.
    pub const MCG_STATUS: u32 = 0x17a;
    /// Page attribute table.
    pub const PAT: u32 = 0x277;
    /// Extended features.
    pub const EFER: u32 = 0xc000_0080;
    /// What RDTSCP returns in ECX.
    pub const TSC_AUX: u32 = 0xc000_0103;
}

/// Registers that kernels read and write without asking whether they exist, and what each reads; writes are
/// ignored.
const QUIET: [(u32, u64); 8] = [
    // Microcode level.
    (0x8b, 0),
    // MISC_ENABLE.
    (0x1a0, 0),
    // SYSCFG.
    (0xc001_0010, 0),
    // HWCR.
    (0xc001_0015, 0),
    // Interrupt pending (C1E).
    (0xc001_0055, 0),
    // OSVW length and status.
    (0xc001_0140, 0),
    (0xc001_0141, 0),
    // DE_CFG.
    (0xc001_1029, 0),
];
/// Those of Intel's that read something else: MISC_ENABLE says fast strings, and neither branch trace store nor PEBS
/// (SDM volume 4, table 2-2).
const QUIET_INTEL: [(u32, u64); 1] = [(0x1a0, 1 | 1 << 11 | 1 << 12)];
/// Those of AMD's: HWCR says that the TSC counts at the frequency of P0 (bit 24), DE_CFG that LFENCE serializes
/// (bit 1), which the core sees to; NB_CFG1 is read and written for the sake of PCI. Counters 0 to 3 of performance, with
/// their controls, are there on every processor (APM volume 2, 13.2.1) and count nothing.
const QUIET_AMD: [(u32, u64); 11] = [
    (0xc001_001f, 0),
    (0xc001_0015, 1 << 24),
    (0xc001_1029, 1 << 1),
    (0xc001_0000, 0),
    (0xc001_0001, 0),
    (0xc001_0002, 0),
    (0xc001_0003, 0),
    (0xc001_0004, 0),
    (0xc001_0005, 0),
    (0xc001_0006, 0),
    (0xc001_0007, 0),
];

/// What a register reads whose writes are ignored.
fn quiet(msr: u32, vendor: Vendor) -> Option<u64> {
    let own = match vendor {
        Vendor::Intel => &QUIET_INTEL[..],
        Vendor::Amd => &QUIET_AMD[..],
    };
    own.iter().chain(&QUIET).find(|(number, _)| *number == msr).map(|(_, value)| *value)
}

/// SCE, LME, NXE.
const EFER_WRITABLE: u64 = 1 | 1 << 8 | 1 << 11;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const CR0_PG: u64 = 1 << 31;
/// Physical address of a local APIC, bootstrap processor; the enable bit is clear.
const APIC_BASE: u64 = 0xfee0_0000;
const BOOTSTRAP: u64 = 1 << 8;

/// The access raises #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// Groups that the registers' values stand in.
pub fn groups(number: u32) -> u32 {
    match number {
        number::TSC => group::TIME,
        number::PAT | number::TSC_AUX => group::SYSCALL,
        number::EFER => group::CONTROL,
        _ => 0,
    }
}

/// Reads a register of `vcpu`, whose [`groups`] are valid in the page; `tsc` is the host's counter.
pub fn read(page: &ExitPage, vcpu: u16, msr: u32, tsc: u64, vendor: Vendor) -> Result<u64, Refused> {
    Ok(match msr {
        number::TSC => tsc.wrapping_add(page.tsc_offset),
        number::APIC_BASE => APIC_BASE | if vcpu == 0 { BOOTSTRAP } else { 0 },
        number::PAT => page.pat,
        number::TSC_AUX => page.tsc_aux,
        number::EFER => page.efer,
        number::MCG_CAP | number::MCG_STATUS => 0,
        _ => quiet(msr, vendor).ok_or(Refused)?,
    })
}

/// Writes a register of `vcpu`; changes nothing when it refuses.
pub fn write(page: &mut ExitPage, vcpu: u16, msr: u32, value: u64, tsc: u64, vendor: Vendor) -> Result<(), Refused> {
    match msr {
        number::TSC => page.tsc_offset = value.wrapping_sub(tsc),
        number::APIC_BASE if Ok(value) == read(page, vcpu, msr, tsc, vendor) => {}
        number::PAT if value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7)) => {
            page.pat = value;
        }
        number::TSC_AUX if value >> 32 == 0 => page.tsc_aux = value,
        number::EFER => page.efer = efer(page, value)?,
        number::MCG_STATUS if value == 0 => {}
        _ if quiet(msr, vendor).is_some() => {}
        _ => return Err(Refused),
    }
    page.dirty |= groups(msr);
    Ok(())
}

/// EFER after a write of `value`: LMA is the processor's, LME is fixed while paging is on.
fn efer(page: &ExitPage, value: u64) -> Result<u64, Refused> {
    let changes_mode = (value ^ page.efer) & EFER_LME != 0 && page.cr0 & CR0_PG != 0;
    if value & !(EFER_WRITABLE | EFER_LMA) != 0 || changes_mode {
        return Err(Refused);
    }
    Ok(value & EFER_WRITABLE | page.efer & EFER_LMA)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    const PAT: u64 = 0x0007_0406_0007_0406;

    #[test]
    fn each_register_keeps_what_it_must_and_refuses_the_rest() {
        let long = EFER_LME | EFER_LMA;
        let table: [(u32, u64, Result<u64, Refused>); 20] = [
            (number::PAT, PAT, Ok(PAT)),
            (number::PAT, 2, Err(Refused)),
            (number::PAT, 8 << 56, Err(Refused)),
            (number::TSC_AUX, 0xffff_ffff, Ok(0xffff_ffff)),
            (number::TSC_AUX, 1 << 32, Err(Refused)),
            (number::TSC, 5, Ok(5)),
            (number::EFER, long | 1, Ok(long | 1)),
            (number::EFER, EFER_LME | 1 << 11, Ok(long | 1 << 11)),
            (number::EFER, 0, Err(Refused)),
            (number::EFER, long | 1 << 12, Err(Refused)),
            (number::EFER, long | 1 << 14, Err(Refused)),
            (number::EFER, long | 1 << 63, Err(Refused)),
            (number::APIC_BASE, 0xfee0_0100, Ok(0xfee0_0100)),
            (number::APIC_BASE, 0xfee0_0900, Err(Refused)),
            (number::MCG_STATUS, 0, Ok(0)),
            (number::MCG_STATUS, 4, Err(Refused)),
            (number::MCG_CAP, 0, Err(Refused)),
            (0x1a0, 1, Ok(0)),
            (0xc001_1029, 0, Ok(2)),
            (0x1234_5678, 0, Err(Refused)),
        ];
        for (msr, value, expected) in table {
            let mut page = ExitPage::new_zeroed();
            (page.efer, page.cr0) = (long, CR0_PG | 1);
            let written = write(&mut page, 0, msr, value, 1000, Vendor::Amd);
            assert_eq!(written.is_ok(), expected.is_ok(), "{msr:#x} {value:#x}");
            assert_eq!(page.dirty, if written.is_ok() { groups(msr) } else { 0 });
            if let Ok(value) = expected {
                assert_eq!(read(&page, 0, msr, 1000, Vendor::Amd), Ok(value), "{msr:#x}");
            }
        }
    }

    #[test]
    fn machine_check_banks_mtrr_and_the_virtualization_registers_are_not_there() {
        let page = ExitPage::new_zeroed();
        assert_eq!(read(&page, 0, number::MCG_CAP, 0, Vendor::Intel), Ok(0));
        for msr in [0x17b, 0x400, 0xfe, 0x2ff, 0x3a, 0x3b, 0x49, 0x6e0, 0x800, 0xc001_0114, 0xc001_0117] {
            assert_eq!(read(&page, 0, msr, 0, Vendor::Amd), Err(Refused), "{msr:#x}");
        }
    }

    #[test]
    fn long_mode_may_be_chosen_while_paging_is_off() {
        let mut page = ExitPage::new_zeroed();
        assert_eq!(write(&mut page, 0, number::EFER, EFER_LME, 0, Vendor::Amd), Ok(()));
        assert_eq!(page.efer, EFER_LME);
    }

    #[test]
    fn what_a_vendor_has_reads_as_its_firmware_leaves_it_and_ignores_writes() {
        const NONE: [Result<u64, Refused>; 2] = [Err(Refused), Err(Refused)];
        // As one of Intel's, and as one of AMD's.
        let mut table = vec![
            (0x1a0, [Ok(0x1801), Ok(0)]),
            (0xc001_0015, [Ok(0), Ok(1 << 24)]),
            (0xc001_1029, [Ok(0), Ok(2)]),
            (0xc001_001f, [Err(Refused), Ok(0)]),
            (0xc001_0008, NONE),
            (0xc000_ffff, NONE),
        ];
        table.extend((0xc001_0000..=0xc001_0007).map(|counter| (counter, [Err(Refused), Ok(0)])));
        for (msr, expected) in table {
            for (vendor, expected) in [Vendor::Intel, Vendor::Amd].into_iter().zip(expected) {
                let mut page = ExitPage::new_zeroed();
                for value in [0, u64::MAX] {
                    let written = write(&mut page, 0, msr, value, 0, vendor);
                    assert_eq!(written.is_ok(), expected.is_ok(), "{msr:#x} {vendor:?}");
                    assert_eq!(read(&page, 0, msr, 0, vendor), expected, "{msr:#x} {vendor:?}");
                }
            }
        }
    }
}
