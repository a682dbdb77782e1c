//! The tables of each platform version: their bytes never change (R12), and the tools that read such tables
//! find no fault with them.

use crate::roots::complement;
use crate::tables::build;
use portcullis_ipc::proto::Refusal;
use portcullis_ipc::proto::acpi::{BuildTables, WINDOW, WINDOW_BYTES};
use std::path::Path;
use std::process::Command;

/// A machine with everything.
const FULL: BuildTables = BuildTables {
    platform: 1,
    hardware: 13,
    base: WINDOW,
    memory: 512 << 20,
    vcpus: 2,
    acpi: true,
    smbios: true,
    lapic: true,
    ioapic: true,
    serial: true,
    clock: true,
    mailbox: Some(0xe_f000),
    uuid: [0x56, 0x4d, 0x8e, 0x67, 0x12, 0x34, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0xff],
};

/// One that has nothing but its tables.
const BARE: BuildTables = BuildTables {
    memory: 64 << 30,
    vcpus: 1,
    lapic: false,
    ioapic: false,
    serial: false,
    clock: false,
    mailbox: None,
    ..FULL
};

/// The window of guest memory with the tables in it.
fn window(machine: &BuildTables) -> Vec<u8> {
    let mut window = vec![0; WINDOW_BYTES as usize];
    for (offset, bytes) in build(machine).unwrap().pieces {
        window[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    window
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + N].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The table at a guest-physical address.
fn table(window: &[u8], address: u64) -> &[u8] {
    let start = address as usize - WINDOW as usize;
    let length = number::<4>(window, start + 4) as usize;
    &window[start..start + length]
}

/// All tables by signature, found as a guest finds them.
fn tables(window: &[u8]) -> Vec<(String, Vec<u8>)> {
    let xsdt = table(window, number::<8>(window, 24));
    let mut found = vec![xsdt.to_vec(), table(window, number::<4>(window, 16)).to_vec()];
    found.extend(xsdt[36..].chunks(8).map(|entry| table(window, number::<8>(entry, 0)).to_vec()));
    let fadt = found.iter().find(|table| table.starts_with(b"FACP")).unwrap();
    found.push(table(window, number::<8>(fadt, 140)).to_vec());
    found.into_iter().map(|table| (String::from_utf8(table[..4].to_vec()).unwrap(), table)).collect()
}

fn get(window: &[u8], signature: &str) -> Vec<u8> {
    tables(window).into_iter().find(|(name, _)| name == signature).unwrap().1
}

#[test]
fn the_bytes_are_those_of_the_platform_version() {
    let trimmed = |machine: &BuildTables| {
        let window = window(machine);
        let pieces = build(machine).unwrap().pieces;
        assert!(pieces.iter().all(|(offset, bytes)| window[*offset as usize..].starts_with(bytes)));
        pieces.into_iter().flat_map(|(_, bytes)| bytes).collect::<Vec<u8>>()
    };
    assert_eq!(trimmed(&FULL), include_bytes!("../golden/full-1.bin"));
    assert_eq!(trimmed(&BARE), include_bytes!("../golden/bare-1.bin"));
    let second = |machine| BuildTables { platform: 2, ..machine };
    assert_eq!(trimmed(&second(FULL)), include_bytes!("../golden/full-2.bin"));
    assert_eq!(trimmed(&second(BARE)), include_bytes!("../golden/bare-2.bin"));
}

#[test]
fn every_table_is_found_from_the_rsdp_and_sums_to_zero() {
    for machine in [FULL, BARE] {
        let window = window(&machine);
        assert_eq!((&window[..8], window[15]), (&b"RSD PTR "[..], 2));
        assert_eq!((complement(&window[..20]), complement(&window[..36])), (0, 0));
        let found = tables(&window);
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["XSDT", "RSDT", "FACP", "APIC", "DSDT"]);
        assert!(found.iter().all(|(_, table)| complement(table) == 0));
        let rsdt = get(&window, "RSDT");
        let entries: Vec<u64> = rsdt[36..].chunks(4).map(|entry| number::<4>(entry, 0)).collect();
        let xsdt = get(&window, "XSDT");
        assert_eq!(entries, xsdt[36..].chunks(8).map(|entry| number::<8>(entry, 0)).collect::<Vec<_>>());
    }
}

#[test]
fn the_fadt_says_hardware_reduced_and_names_the_registers() {
    let fadt = get(&window(&FULL), "FACP");
    assert_eq!((fadt[8], fadt.len()), (6, 276));
    assert_eq!(number::<4>(&fadt, 112), 1 << 20 | 1 << 10 | 1 << 5 | 1 << 4 | 1 << 2 | 1);
    assert_eq!(number::<2>(&fadt, 109), 1 << 2);
    assert_eq!(number::<4>(&fadt, 40), number::<8>(&fadt, 140));
    for (at, port) in [(116, 0xcf9), (244, 0x600), (256, 0x601)] {
        assert_eq!(fadt[at..at + 4], [1, 8, 0, 1]);
        assert_eq!(number::<8>(&fadt, at + 4), port);
    }
    assert_eq!(fadt[128], 6);
    assert!(fadt[46..109].iter().all(|byte| *byte == 0), "no PM blocks, no SCI");
    assert_eq!(number::<2>(&get(&window(&BARE), "FACP"), 109), 1 << 2 | 1 << 5);
}

#[test]
fn the_madt_lists_what_the_machine_has() {
    let madt = get(&window(&FULL), "APIC");
    let body = [
        &[0, 0, 0xe0, 0xfe, 0, 0, 0, 0][..],
        &[0, 8, 0, 0, 1, 0, 0, 0],
        &[0, 8, 1, 1, 1, 0, 0, 0],
        &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
        &[0x10, 16, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0xe, 0, 0, 0, 0, 0],
    ];
    assert_eq!(madt[36..], body.concat());
    assert_eq!(get(&window(&BARE), "APIC")[36..], [0; 8]);
}

#[test]
fn switches_leave_tables_out() {
    let none = build(&BuildTables { acpi: false, smbios: false, ..FULL }).unwrap();
    assert_eq!((none.pieces.len(), none.rsdp), (0, 0));
    let smbios = build(&BuildTables { acpi: false, ..FULL }).unwrap();
    assert_eq!((smbios.pieces[0].0, smbios.rsdp), (0x1_0000, 0));
    assert_eq!(build(&BuildTables { smbios: false, ..FULL }).unwrap().pieces.len(), 1);
}

#[test]
fn a_machine_that_cannot_be_is_refused() {
    for platform in [0, 3] {
        assert_eq!(build(&BuildTables { platform, ..FULL }), Err(Refusal::Unsupported));
    }
    for machine in [
        BuildTables { vcpus: 0, ..FULL },
        BuildTables { vcpus: 255, ..FULL },
        BuildTables { base: 0xe_0001, ..FULL },
        BuildTables { base: 0xf_0000, ..FULL },
    ] {
        assert_eq!(build(&machine), Err(Refusal::Malformed));
    }
}

#[test]
fn the_largest_tables_leave_room_for_the_mailbox_page() {
    let largest = build(&BuildTables { vcpus: 254, ..FULL }).unwrap();
    for ((offset, bytes), end) in largest.pieces.iter().zip([0xf000, WINDOW_BYTES as usize]) {
        assert!(*offset as usize + bytes.len() <= end);
    }
}

/// Whether a tool succeeded, and what it said.
fn run(tool: &str, arguments: &[&str], directory: &Path) -> (bool, String) {
    // Debian installs dmidecode where a user's PATH does not lead.
    let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(tool).args(arguments).current_dir(directory).env("PATH", path).output();
    let output = output.unwrap_or_else(|error| panic!("{tool}: {error}; `cargo xtask setup` installs it"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Debian 12's iasl is older than the mailbox structure: the machine for it has none.
#[test]
fn iasl_reads_every_table_without_complaint_and_compiles_the_dsdt_anew() {
    for machine in [BuildTables { mailbox: None, ..FULL }, BARE] {
        let directory = tempfile::tempdir().unwrap();
        for (name, table) in tables(&window(&machine)) {
            let file = format!("{name}.dat");
            std::fs::write(directory.path().join(&file), table).unwrap();
            let (done, text) = run("iasl", &["-d", &file], directory.path());
            let source = std::fs::read_to_string(directory.path().join(format!("{name}.dsl"))).unwrap();
            let complaints = ["Error", "Warning", "Invalid", "Incorrect", "Unknown"];
            assert!(
                done && !complaints.iter().any(|word| text.contains(word) || source.contains(word)),
                "{text}{source}"
            );
        }
        let (done, text) = run("iasl", &["-p", "again", "DSDT.dsl"], directory.path());
        assert!(done && text.contains("0 Errors, 0 Warnings, 0 Remarks"), "{text}");
        let again = std::fs::read(directory.path().join("again.aml")).unwrap();
        let dsdt = get(&window(&machine), "DSDT");
        assert_eq!(again[36..], dsdt[36..], "what iasl makes of its own source is the same");
    }
}

/// The SMBIOS tables as a dump of dmidecode: the entry point, then the structures.
fn dump(machine: &BuildTables) -> Vec<u8> {
    let mut dump = window(machine)[0x1_0000..].to_vec();
    assert_eq!(&dump[..5], b"_SM3_");
    assert_eq!((complement(&dump[..24]), number::<8>(&dump, 16)), (0, 0xf_0020));
    let end = 32 + number::<4>(&dump, 12) as usize;
    dump.truncate(end);
    // In a dump the structures follow at byte 32.
    dump[16..24].copy_from_slice(&32_u64.to_le_bytes());
    dump[5] = dump[5].wrapping_add(complement(&dump[..24]));
    dump
}

/// Types of the structures and their strings.
fn structures(dump: &[u8]) -> Vec<(u8, Vec<String>)> {
    let mut found = Vec::new();
    let mut at = 32;
    while at < dump.len() {
        let (kind, mut end) = (dump[at], at + usize::from(dump[at + 1]));
        let mut strings = Vec::new();
        while dump[end] != 0 {
            let length = dump[end..].iter().position(|byte| *byte == 0).unwrap();
            strings.push(String::from_utf8(dump[end..end + length].to_vec()).unwrap());
            end += length + 1;
        }
        at = end + if strings.is_empty() { 2 } else { 1 };
        found.push((kind, strings));
    }
    assert_eq!(at, dump.len());
    found
}

#[test]
fn smbios_has_the_names_that_programs_for_vmware_look_for() {
    let found = structures(&dump(&FULL));
    let kinds: Vec<u8> = found.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [0, 1, 2, 3, 4, 16, 17, 19, 32, 127]);
    let system =
        ["VMware, Inc.", "VMware Virtual Platform", "None", "VMware-56 4d 8e 67 12 34 00 01-02 03 04 05 06 07 08 ff"];
    assert_eq!(found[1].1, system);
}

#[test]
fn dmidecode_reads_every_structure_without_complaint() {
    for (machine, size) in [(FULL, "Size: 512 MB"), (BARE, "Size: 64 GB")] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("dump"), dump(&machine)).unwrap();
        let (done, text) = run("dmidecode", &["--from-dump", "dump"], directory.path());
        assert!(done && text.contains("End Of Table") && text.contains(size), "{text}");
        assert!(text.contains("UUID: 564d8e67-1234-0001-0203-0405060708ff"), "{text}");
        assert!(text.contains("Memory Technology: DRAM") && text.contains("Logical Size: None"), "{text}");
        for complaint in ["OUT OF SPEC", "BAD INDEX", "truncated", "Wrong", "Invalid", "broken", "TRUNCATED"] {
            assert!(!text.contains(complaint), "{text}");
        }
    }
}

#[test]
fn memory_above_three_gib_is_mapped_from_four_on() {
    const GIB: u64 = 1 << 30;
    let low = "0x00000000000-0x000BFFFFFFF";
    let table: [(u64, &str, &[&str]); 4] = [
        (3 * GIB - (2 << 20), "3070 MB", &["0x00000000000-0x000BFDFFFFF"]),
        (3 * GIB, "3 GB", &[low]),
        (3 * GIB + (2 << 20), "3074 MB", &[low, "0x00100000000-0x001001FFFFF"]),
        (64 * GIB, "64 GB", &[low, "0x00100000000-0x0103FFFFFFF"]),
    ];
    for (memory, size, ranges) in table {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("dump"), dump(&BuildTables { memory, ..FULL })).unwrap();
        let (_, text) = run("dmidecode", &["--from-dump", "dump", "-t", "16,17,19"], directory.path());
        let fields = |name: &str| -> Vec<String> {
            text.lines().filter_map(|line| line.trim().strip_prefix(name)).map(str::to_owned).collect()
        };
        let mapped: Vec<_> = fields("Starting Address: ")
            .iter()
            .zip(fields("Ending Address: "))
            .map(|(from, to)| format!("{from}-{to}"))
            .collect();
        assert_eq!(
            (mapped, fields("Size: ")),
            (ranges.iter().map(|range| range.to_string()).collect(), vec![size.to_owned()]),
            "{text}"
        );
        assert_eq!(fields("Maximum Capacity: "), [size]);
    }
}

/// What dmidecode prints of the UUID and the serial number.
fn names(machine: &BuildTables) -> [String; 2] {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("dump"), dump(machine)).unwrap();
    let (_, text) = run("dmidecode", &["--from-dump", "dump", "-t", "1"], directory.path());
    let field = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap().to_owned();
    [field("UUID: "), field("Serial Number: ")]
}

#[test]
fn from_hardware_version_13_on_the_uuid_reads_as_under_vmware() {
    const SERIAL: &str = "VMware-56 4d 8e 67 12 34 00 01-02 03 04 05 06 07 08 ff";
    const PLAIN: &str = "564d8e67-1234-0001-0203-0405060708ff";
    const SWAPPED: &str = "678e4d56-3412-0100-0203-0405060708ff";
    for (platform, hardware, uuid) in
        [(1, 13, PLAIN), (1, 21, PLAIN), (2, 12, PLAIN), (2, 13, SWAPPED), (2, 21, SWAPPED)]
    {
        let machine = BuildTables { platform, hardware, ..FULL };
        assert_eq!(names(&machine), [uuid, SERIAL], "platform {platform}, hardware {hardware}");
    }
}
