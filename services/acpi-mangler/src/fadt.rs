//! The FADT of a hardware-reduced machine: sleep and reset registers, and what the machine does not have.

use crate::tables::{OEM, OEM_TABLE, oem_revision};
use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use alloc::vec::Vec;
use portcullis_ipc::proto::acpi::BuildTables;

/// Minor version: the table is that of ACPI 6.3.
const MINOR: u8 = 3;
/// I/O ports, and what a write to the reset register does.
const SLEEP_CONTROL: u64 = 0x600;
const SLEEP_STATUS: u64 = 0x601;
const RESET: u64 = 0xcf9;
const RESET_VALUE: u8 = 6;
/// Boot architecture flags: no screen to be probed, no clock at the CMOS ports.
const NO_VGA: u16 = 1 << 2;
const NO_CLOCK: u16 = 1 << 5;

fn port(address: u64) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, address)
}

/// The table; `dsdt` is the DSDT's address.
pub fn build(machine: &BuildTables, dsdt: u32) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, oem_revision(machine))
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        // Buttons would be devices of the DSDT: no fixed ones.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1);
    fadt.fadt_minor_version = MINOR;
    (fadt.dsdt, fadt.x_dsdt) = (dsdt.into(), u64::from(dsdt).into());
    fadt.iapc_boot_arch = (NO_VGA | if machine.clock { 0 } else { NO_CLOCK }).into();
    (fadt.reset_reg, fadt.reset_value) = (port(RESET), RESET_VALUE);
    (fadt.sleep_control_reg, fadt.sleep_status_reg) = (port(SLEEP_CONTROL), port(SLEEP_STATUS));
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(OEM_TABLE).into();
    let mut bytes = Vec::new();
    fadt.finalize().to_aml_bytes(&mut bytes);
    bytes
}
