//! The tables that lead to the others: RSDP, RSDT, XSDT.

use crate::tables::{OEM, OEM_TABLE, oem_revision};
use acpi_tables::Aml;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use alloc::vec::Vec;
use portcullis_ipc::proto::acpi::BuildTables;

/// Bytes of the RSDP.
pub const RSDP_BYTES: usize = 36;
/// Bytes of it that ACPI 1.0 knows, with a checksum of their own.
const FIRST_PART: usize = 20;
const CHECKSUM: usize = 8;
const EXTENDED_CHECKSUM: usize = 32;
const REVISION: u8 = 2;

/// The RSDP. It names both root tables, for guests that read only the old one.
pub fn rsdp(rsdt: u32, xsdt: u32) -> [u8; RSDP_BYTES] {
    let mut bytes = [0; RSDP_BYTES];
    let mut put = |at: usize, field: &[u8]| {
        if let Some(place) = bytes.get_mut(at..at + field.len()) {
            place.copy_from_slice(field);
        }
    };
    put(0, b"RSD PTR ");
    put(9, &OEM);
    put(15, &[REVISION]);
    put(16, &rsdt.to_le_bytes());
    put(20, &(RSDP_BYTES as u32).to_le_bytes());
    put(24, &u64::from(xsdt).to_le_bytes());
    bytes[CHECKSUM] = complement(bytes.get(..FIRST_PART).unwrap_or_default());
    bytes[EXTENDED_CHECKSUM] = complement(&bytes);
    bytes
}

/// What makes the sum of the bytes zero.
pub fn complement(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// The root table with 32-bit entries.
pub fn rsdt(machine: &BuildTables, tables: &[u32]) -> Vec<u8> {
    let mut rsdt = Sdt::new(*b"RSDT", 36, 1, OEM, OEM_TABLE, oem_revision(machine));
    tables.iter().for_each(|address| rsdt.append_slice(&address.to_le_bytes()));
    rsdt.as_slice().into()
}

/// The root table with 64-bit entries.
pub fn xsdt(machine: &BuildTables, tables: &[u32]) -> Vec<u8> {
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, oem_revision(machine));
    tables.iter().for_each(|address| xsdt.add_entry((*address).into()));
    let mut bytes = Vec::new();
    xsdt.to_aml_bytes(&mut bytes);
    bytes
}
