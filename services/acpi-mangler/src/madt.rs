//! The MADT: processors, interrupt controllers, and the mailbox by which further processors start.

use crate::tables::{OEM, OEM_TABLE, oem_revision};
use acpi_tables::Aml;
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::sdt::Sdt;
use alloc::vec::Vec;
use portcullis_ipc::proto::acpi::BuildTables;

/// Revision of ACPI 6.4, the first with the mailbox.
const REVISION: u8 = 5;
const LAPIC: u32 = 0xfee0_0000;
const IOAPIC: u32 = 0xfec0_0000;
/// Flags: no 8259.
const FLAGS: u32 = 0;
/// Multiprocessor wake-up: kind and length of the structure, version of the mailbox.
const WAKE_UP: [u8; 4] = [0x10, 16, 0, 0];

/// The table.
pub fn build(machine: &BuildTables) -> Vec<u8> {
    let mut madt = Sdt::new(*b"APIC", 36, REVISION, OEM, OEM_TABLE, oem_revision(machine));
    let mut body = Vec::new();
    body.extend(if machine.lapic { LAPIC } else { 0 }.to_le_bytes());
    body.extend(FLAGS.to_le_bytes());
    if machine.lapic {
        for id in 0..machine.vcpus {
            ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).to_aml_bytes(&mut body);
        }
    }
    if machine.ioapic {
        IoApic::new(0, IOAPIC, 0).to_aml_bytes(&mut body);
    }
    if let Some(mailbox) = machine.mailbox {
        body.extend(WAKE_UP);
        body.extend([0; 4]);
        body.extend(u64::from(mailbox).to_le_bytes());
    }
    madt.append_slice(&body);
    madt.as_slice().into()
}
