//! The SMBIOS tables, version 3.2: a 64-bit entry point and the structures after it, with the names that
//! programs written for VMware look for.

use crate::roots::complement;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use portcullis_ipc::proto::acpi::BuildTables;
use portcullis_ipc::ram::Ram;

/// Bytes of the entry point, and where the structures after it begin.
const ENTRY: usize = 24;
const STRUCTURES: usize = 32;
const VERSION: [u8; 3] = [3, 2, 0];
const MAKER: &str = "VMware, Inc.";
const PRODUCT: &str = "VMware Virtual Platform";
const OWN: &str = "Portcullis";
const RELEASE_DATE: &str = "11/22/2026";
/// Handles of the structures that others refer to.
const CHASSIS: u16 = 0x300;
const MEMORY_ARRAY: u16 = 0x1000;
const NO_ERROR_HANDLE: u16 = 0xfffe;
const NO_CACHE: u16 = 0xffff;

/// A structure under construction: its formatted part, then its strings.
struct Structure {
    bytes: Vec<u8>,
    strings: Vec<String>,
}

impl Structure {
    fn new(kind: u8, handle: u16) -> Self {
        let mut bytes = Vec::from([kind, 0]);
        bytes.extend(handle.to_le_bytes());
        Self { bytes, strings: Vec::new() }
    }

    fn put(mut self, field: &[u8]) -> Self {
        self.bytes.extend(field);
        self
    }

    /// A field that names a string by its number.
    fn text(mut self, text: &str) -> Self {
        self.strings.push(text.into());
        let number = self.strings.len() as u8;
        self.put(&[number])
    }

    /// Appends the structure to the table.
    fn end(mut self, table: &mut Vec<u8>) {
        let length = self.bytes.len() as u8;
        if let Some(place) = self.bytes.get_mut(1) {
            *place = length;
        }
        table.extend(self.bytes);
        for string in &self.strings {
            table.extend(string.bytes());
            table.push(0);
        }
        // A zero byte ends the strings; without any there are two.
        table.extend(if self.strings.is_empty() { &[0, 0][..] } else { &[0] });
    }
}

/// The entry point at guest-physical address `at`, and the structures.
pub fn build(machine: &BuildTables, at: u32) -> Vec<u8> {
    let structures = structures(machine);
    let mut entry = Vec::from(*b"_SM3_");
    entry.extend([0, ENTRY as u8]);
    entry.extend(VERSION);
    // Revision of the entry point, and a reserved byte.
    entry.extend([1, 0]);
    entry.extend((structures.len() as u32).to_le_bytes());
    entry.extend((u64::from(at) + STRUCTURES as u64).to_le_bytes());
    let checksum = complement(&entry);
    if let Some(place) = entry.get_mut(5) {
        *place = checksum;
    }
    entry.resize(STRUCTURES, 0);
    entry.extend(structures);
    entry
}

fn structures(machine: &BuildTables) -> Vec<u8> {
    let mut table = Vec::new();
    bios(&mut table);
    system(machine, &mut table);
    Structure::new(2, 0x200).text(OWN).text("Virtual Machine").put(&[0; 5]).end(&mut table);
    // Kind "other", states safe, security none.
    Structure::new(3, CHASSIS)
        .text(OWN)
        .put(&[1, 0, 0, 0, 3, 3, 3, 3])
        .put(&[0; 4])
        .put(&[0, 1, 0, 0, 0])
        .end(&mut table);
    processor(machine, &mut table);
    memory(machine, &mut table);
    // No boot error.
    Structure::new(32, 0x2000).put(&[0; 7]).end(&mut table);
    Structure::new(127, 0x7f00).end(&mut table);
    table
}

fn bios(table: &mut Vec<u8>) {
    /// No characteristics are given; ACPI; this is a virtual machine.
    const CHARACTERISTICS: [u8; 10] = [8, 0, 0, 0, 0, 0, 0, 0, 1, 1 << 4];
    Structure::new(0, 0)
        .text(OWN)
        .text("1")
        .put(&0xe000_u16.to_le_bytes())
        .text(RELEASE_DATE)
        // Less than 64 KiB of ROM.
        .put(&[0])
        .put(&CHARACTERISTICS)
        // Release 1.0, no embedded controller, no further ROM.
        .put(&[1, 0, 0xff, 0xff, 0, 0])
        .end(table);
}

fn system(machine: &BuildTables, table: &mut Vec<u8>) {
    let [a, b, c, d, e, f, g, h, rest @ ..] = machine.uuid;
    // The first three fields are little endian. From hardware version 13 on VMware writes the bytes in the order of the
    // text all the same, so a guest reads another UUID than the serial number says, and tools that look up a VM by
    // either count on that.
    let as_vmware = machine.platform >= 2 && machine.hardware >= 13;
    let fields = if as_vmware { [a, b, c, d, e, f, g, h] } else { [d, c, b, a, f, e, h, g] };
    /// Power switch.
    const WAKE_UP: u8 = 6;
    Structure::new(1, 0x100)
        .text(MAKER)
        .text(PRODUCT)
        .text("None")
        .text(&serial(&machine.uuid))
        .put(&fields)
        .put(&rest)
        .put(&[WAKE_UP, 0, 0])
        .end(table);
}

/// The serial number that VMware makes of a UUID.
fn serial(uuid: &[u8; 16]) -> String {
    let (first, second) = uuid.split_at(8);
    let half = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    format!("VMware-{}-{}", half(first), half(second))
}

/// One package; nothing is said of its speed, which differs from host to host.
fn processor(machine: &BuildTables, table: &mut Vec<u8>) {
    let cores = machine.vcpus;
    /// Central processor, family unknown.
    const KIND: [u8; 2] = [3, 2];
    /// Populated and enabled.
    const STATUS: u8 = 0x41;
    const UPGRADE_UNKNOWN: u8 = 2;
    // 64 bits; several cores.
    let characteristics = 1 << 2 | u16::from(cores > 1) << 3;
    Structure::new(4, 0x400)
        .text("CPU 0")
        .put(&KIND)
        .text(OWN)
        .put(&[0; 8])
        .text("Virtual CPU")
        // Voltage, clock, speeds.
        .put(&[0; 7])
        .put(&[STATUS, UPGRADE_UNKNOWN])
        .put([NO_CACHE; 3].map(u16::to_le_bytes).as_flattened())
        // Serial number, asset tag, part number.
        .put(&[0; 3])
        .put(&[cores, cores, cores])
        .put(&characteristics.to_le_bytes())
        .put(&2_u16.to_le_bytes())
        .put([u16::from(cores); 3].map(u16::to_le_bytes).as_flattened())
        .end(table);
}

/// One array with one module that is all of RAM, and where that is mapped.
fn memory(machine: &BuildTables, table: &mut Vec<u8>) {
    /// On the board, system memory, no error correction.
    const ARRAY: [u8; 3] = [3, 3, 3];
    /// The field for the size in KiB says: look at the one of 64 bits.
    const LARGE: u32 = 0x8000_0000;
    Structure::new(16, MEMORY_ARRAY)
        .put(&ARRAY)
        .put(&LARGE.to_le_bytes())
        .put(&NO_ERROR_HANDLE.to_le_bytes())
        .put(&1_u16.to_le_bytes())
        .put(&machine.memory.to_le_bytes())
        .end(table);
    let mib = (machine.memory >> 20) as u32;
    // From 32 GiB - 1 MiB on the size stands in the field of 32 bits.
    let short = if mib < 0x7fff { mib as u16 } else { 0x7fff };
    let extended = if mib < 0x7fff { 0 } else { mib };
    /// DIMM; RAM; detail unknown.
    const FORM: u8 = 9;
    const KIND: [u8; 3] = [7, 4, 0];
    /// DRAM; volatile memory.
    const TECHNOLOGY: [u8; 3] = [3, 1 << 3, 0];
    Structure::new(17, 0x1100)
        .put(&MEMORY_ARRAY.to_le_bytes())
        .put(&NO_ERROR_HANDLE.to_le_bytes())
        .put([64_u16; 2].map(u16::to_le_bytes).as_flattened())
        .put(&short.to_le_bytes())
        .put(&[FORM, 0])
        .text("DIMM 0")
        // Bank.
        .put(&[0])
        .put(&KIND)
        // Speed, maker, serial number, asset tag, part number, ranks.
        .put(&[0; 7])
        .put(&extended.to_le_bytes())
        // Configured speed, voltages.
        .put(&[0; 8])
        .put(&TECHNOLOGY)
        // Firmware, makers and products of module and controller, non-volatile bytes.
        .put(&[0; 17])
        .put(&machine.memory.to_le_bytes())
        // Bytes of cache, logical bytes.
        .put(&[0; 16])
        .end(table);
    // Addresses are in KiB; the last is inside.
    for (handle, piece) in (0x1300..).zip(Ram::new(machine.memory).pieces()) {
        let [first, last] = [piece.start >> 10, (piece.end >> 10).saturating_sub(1)];
        Structure::new(19, handle)
            .put(&(first as u32).to_le_bytes())
            .put(&(last as u32).to_le_bytes())
            .put(&MEMORY_ARRAY.to_le_bytes())
            .put(&[1])
            .put(&[0; 16])
            .end(table);
    }
}
