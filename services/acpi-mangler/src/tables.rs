//! All tables of one machine and where each lies.

use crate::{dsdt, fadt, madt, roots, smbios};
use alloc::vec::Vec;
use portcullis_ipc::limits::PLATFORMS;
use portcullis_ipc::proto::Refusal;
use portcullis_ipc::proto::acpi::BuildTables;

/// Where SMBIOS begins, in the range that guests search.
const SMBIOS: u32 = 0xf_0000;
/// Tables begin at multiples of this.
const ALIGN: usize = 16;

/// Who made a table.
pub const OEM: [u8; 6] = *b"PRTCLS";
/// Name of the table set.
pub const OEM_TABLE: [u8; 8] = *b"PORTCULL";
/// Revision of the table set: the platform version.
pub fn oem_revision(machine: &BuildTables) -> u32 {
    machine.platform.into()
}

/// The tables.
#[derive(Debug, PartialEq, Eq)]
pub struct Tables {
    /// Offset in the lease, and what stands there.
    pub pieces: Vec<(u32, Vec<u8>)>,
    /// Guest-physical address of the RSDP; 0 without ACPI.
    pub rsdp: u32,
}

/// Builds the tables.
///
/// # Errors
/// [`Refusal::Unsupported`] for another platform version, [`Refusal::Malformed`] for a machine that cannot be.
pub fn build(machine: &BuildTables) -> Result<Tables, Refusal> {
    if !PLATFORMS.contains(&machine.platform) {
        return Err(Refusal::Unsupported);
    }
    let places = (machine.base as usize).is_multiple_of(ALIGN) && machine.base < SMBIOS;
    // The structures of the MADT hold ids of eight bits, and 255 means all.
    if !places || machine.vcpus == 0 || machine.vcpus == u8::MAX {
        return Err(Refusal::Malformed);
    }
    let mut pieces = Vec::new();
    if machine.acpi {
        pieces.push((0, acpi(machine)));
    }
    if machine.smbios {
        pieces.push((SMBIOS - machine.base, smbios::build(machine, SMBIOS)));
    }
    Ok(Tables { pieces, rsdp: if machine.acpi { machine.base } else { 0 } })
}

/// The RSDP, then the tables that it leads to.
fn acpi(machine: &BuildTables) -> Vec<u8> {
    let mut image = Image { base: machine.base, bytes: Vec::new() };
    image.bytes.resize(roots::RSDP_BYTES.next_multiple_of(ALIGN), 0);
    let dsdt = image.place(&dsdt::build(machine));
    let fadt = image.place(&fadt::build(machine, dsdt));
    let madt = image.place(&madt::build(machine));
    let rsdt = image.place(&roots::rsdt(machine, &[fadt, madt]));
    let xsdt = image.place(&roots::xsdt(machine, &[fadt, madt]));
    let rsdp = roots::rsdp(rsdt, xsdt);
    if let Some(head) = image.bytes.get_mut(..rsdp.len()) {
        head.copy_from_slice(&rsdp);
    }
    image.bytes
}

struct Image {
    base: u32,
    bytes: Vec<u8>,
}

impl Image {
    /// Puts a table after the others; returns its guest-physical address.
    fn place(&mut self, table: &[u8]) -> u32 {
        let offset = self.bytes.len();
        self.bytes.extend(table);
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        self.base + offset as u32
    }
}
