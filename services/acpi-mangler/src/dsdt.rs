//! The DSDT: the sleep state that turns the machine off, and a device for each that it has.

use crate::tables::{OEM, OEM_TABLE, oem_revision};
use acpi_tables::Aml;
use acpi_tables::aml::{Device, EISAName, IO, Interrupt, Name, Package, ResourceTemplate, Scope, ZERO};
use acpi_tables::sdt::Sdt;
use alloc::vec;
use alloc::vec::Vec;
use portcullis_ipc::proto::acpi::BuildTables;

/// Integers of 64 bits.
const REVISION: u8 = 2;
/// Sleep type of S5.
const S5: u8 = 5;
const COM1: u16 = 0x3f8;
const COM1_BYTES: u8 = 8;
const COM1_GSI: u32 = 4;
const CMOS: u16 = 0x70;
const CMOS_BYTES: u8 = 2;

/// The table.
pub fn build(machine: &BuildTables) -> Vec<u8> {
    let mut body = Vec::new();
    Name::new("_S5_".into(), &Package::new(vec![&S5, &S5, &ZERO, &ZERO])).to_aml_bytes(&mut body);
    let mut devices = Vec::new();
    if machine.serial {
        serial(machine, &mut devices);
    }
    if machine.clock {
        clock(&mut devices);
    }
    body.extend(Scope::raw("_SB_".into(), devices));
    let mut dsdt = Sdt::new(*b"DSDT", 36, REVISION, OEM, OEM_TABLE, oem_revision(machine));
    dsdt.append_slice(&body);
    dsdt.as_slice().into()
}

/// COM1; without an IOAPIC its line ends nowhere, and the guest polls.
fn serial(machine: &BuildTables, devices: &mut Vec<u8>) {
    let ports = IO::new(COM1, COM1, 1, COM1_BYTES);
    let line = Interrupt::new(true, true, false, false, COM1_GSI);
    let resources: Vec<&dyn Aml> = if machine.ioapic { vec![&ports, &line] } else { vec![&ports] };
    let fields: [(&str, &dyn Aml); 3] =
        [("_HID", &EISAName::new("PNP0501")), ("_UID", &ZERO), ("_CRS", &ResourceTemplate::new(resources))];
    device("COM1", &fields, devices);
}

/// The CMOS clock, without an alarm.
fn clock(devices: &mut Vec<u8>) {
    let ports = IO::new(CMOS, CMOS, 1, CMOS_BYTES);
    let fields: [(&str, &dyn Aml); 2] =
        [("_HID", &EISAName::new("PNP0B00")), ("_CRS", &ResourceTemplate::new(vec![&ports]))];
    device("RTC_", &fields, devices);
}

fn device(name: &str, fields: &[(&str, &dyn Aml)], devices: &mut Vec<u8>) {
    let names: Vec<Name> = fields.iter().map(|(name, value)| Name::new((*name).into(), *value)).collect();
    let children = names.iter().map(|name| name as &dyn Aml).collect();
    Device::new(name.into(), children).to_aml_bytes(devices);
}
