//! A written bundle reads back as what was asked for, whatever the sizes.

use super::{Bundle, Inputs, ReadError, write};
use crate::elf_file::{Load, Program};
use crate::manifest::{System, parse};
use portcullis_ipc::checksum::crc32;
use portcullis_ipc::image::{ImageHead, SegmentRecord, TableHead, kind};
use portcullis_ipc::info::{InfoPage, config_offset};
use portcullis_ipc::layout::{BLOB_BASE, PAGE, USER_BASE};
use portcullis_ipc::limits;
use portcullis_ipc::syscall::rights;
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

const MANIFEST: &str = r#"[system]
name = "t"
[[partition]]
name = "supervisor"
elf = "a"
rank = "supervisor"
priority = 200
stack = "16K"
heap = "32K"
budget_us = 1
period_us = 1000
reserve_us = 1
call_limit_us = 1
config = { colour = "red" }
[[partition.capability]]
name = "backoff"
kind = "timer"
[[partition]]
name = "vmexit"
elf = "a"
rank = "vmexit"
priority = 100
stack = "8K"
state = "8K"
budget_us = 1
period_us = 1000
reserve_us = 1
call_limit_us = 1
blobs = [{ name = "guest", file = "g" }]
[[partition.capability]]
name = "vm"
kind = "vm"
vm = "v"
rights = ["run"]
[[vm]]
name = "v"
vmexit = "vmexit"
memory = "4M"
vcpus = [{ priority = 1, budget_us = 1, period_us = 1000 }]
"#;

fn system() -> System {
    parse("t.toml", MANIFEST).unwrap_or_else(|findings| panic!("{findings}"))
}

fn program(text: usize, data: usize, bss: u64) -> Program {
    let load = |address, bytes: Vec<u8>, memory_bytes, rights| Load { address, bytes, memory_bytes, rights };
    let data_at = USER_BASE + (text as u64).next_multiple_of(4096);
    Program {
        path: "a".into(),
        entry: USER_BASE,
        loads: vec![
            load(USER_BASE, vec![0x90; text], text as u64, rights::READ | rights::EXECUTE),
            load(data_at, vec![7; data], data as u64 + bss, rights::READ | rights::WRITE),
        ],
        build_id: [9; 20],
    }
}

fn inputs(text: usize, data: usize, bss: u64, blob: usize) -> Vec<Inputs> {
    let one = |blobs| Inputs { program: program(text, data, bss), blobs };
    vec![one(Vec::new()), one(vec![vec![0xab; blob]])]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_written_bundle_reads_back(text in 1usize..20_000, data in 0usize..9_000, bss in 1u64..9_000, blob in 0usize..9_000) {
        let bytes = write("t.toml", &system(), &inputs(text, data, bss, blob)).unwrap();
        prop_assert_eq!(bytes.len() % PAGE, 0);
        let bundle = Bundle::read(&bytes).unwrap();
        prop_assert_eq!(bundle.head.length, bytes.len() as u64);
        prop_assert_eq!(bundle.partitions.len(), 2);
        prop_assert_eq!(bundle.vms.len(), 1);
        let mut file_pages = std::collections::BTreeSet::new();
        for partition in &bundle.partitions {
            prop_assert_eq!(partition.record.build_id, [9; 20]);
            prop_assert!(bundle.is_intact(partition));
            let mut end = 0;
            for segment in &partition.segments {
                prop_assert_eq!(segment.address % PAGE as u64, 0);
                prop_assert_eq!(segment.offset % PAGE as u64, 0);
                prop_assert!(segment.address >= end, "segments rise and do not overlap");
                end = segment.address + u64::from(segment.pages) * PAGE as u64;
                prop_assert!(segment.file_bytes <= u64::from(segment.pages) * PAGE as u64);
                prop_assert!(segment.rights & (rights::WRITE | rights::EXECUTE) != rights::WRITE | rights::EXECUTE);
                for page in 0..segment.file_bytes.div_ceil(PAGE as u64) {
                    prop_assert!(file_pages.insert(segment.offset / PAGE as u64 + page), "no page has two owners");
                }
            }
            let stack = partition.record.stack_top;
            let below_stack = |segment: &&SegmentRecord| {
                segment.address + u64::from(segment.pages) * PAGE as u64 == stack
            };
            let found = partition.segments.iter().find(below_stack);
            prop_assert_eq!(found.map(|segment| segment.rights), Some(rights::READ | rights::WRITE));
}
        let first = &bundle.partitions[0].segments[0];
        prop_assert_eq!(bundle.segment_bytes(first), &vec![0x90; text][..]);
        let blobs = bundle.partitions[1].segments.iter().filter(|segment| segment.address >= BLOB_BASE);
        let lengths: Vec<u64> = blobs.map(|segment| segment.file_bytes).collect();
        prop_assert_eq!(lengths, if blob == 0 { vec![] } else { vec![blob as u64] });
    }

    #[test]
    fn a_cut_or_changed_bundle_is_refused(cut in 1usize..5000, at in 64usize..9000) {
        let bytes = write("t.toml", &system(), &inputs(5000, 100, 100, 10)).unwrap();
        let cut_off = &bytes[..bytes.len() - cut.min(bytes.len() - 1)];
        let truncated = matches!(Bundle::read(cut_off), Err(ReadError::Truncated { .. }));
        prop_assert!(truncated);
        let mut changed = bytes.clone();
        let at = at.min(changed.len() - 1);
        changed[at] ^= 1;
        let damaged = matches!(Bundle::read(&changed), Err(ReadError::Checksum { .. }));
        prop_assert!(damaged);
    }
}

#[test]
fn the_information_page_names_slots_heap_files_and_configuration() {
    let bytes = write("t.toml", &system(), &inputs(100, 10, 10, 5000)).unwrap();
    let bundle = Bundle::read(&bytes).unwrap();
    let page = |index: usize| {
        let start = bundle.partitions[index].record.info_offset as usize;
        let page = &bytes[start..start + PAGE];
        let info = InfoPage::read_from_prefix(page).unwrap().0;
        let config = &page[config_offset(info.slot_count as usize)..][..info.config_bytes as usize];
        (info, String::from_utf8(config.to_vec()).unwrap())
    };
    let (supervisor, config) = page(0);
    assert_eq!(config, "colour=red\n");
    assert_eq!(supervisor.heap_bytes, 32 << 10);
    assert_eq!((supervisor.slot_count, supervisor.slots[0].kind, supervisor.slots[0].detail), (1, kind::TIMER, 1 << 2));
    let (vmexit, config) = page(1);
    assert_eq!(config, "vm.name=v\nvm.port=false\nvm.identity=false\nvm.xcr0=0x7\nvm.platform=1\nvm.hardware=13\n");
    assert_eq!((vmexit.guest_bytes, vmexit.state_bytes), (4 << 20, 8 << 10));
    assert_eq!((vmexit.blob_count, vmexit.blobs[0].address, vmexit.blobs[0].bytes), (1, BLOB_BASE, 5000));
    assert_eq!(vmexit.slots[0].detail, 1, "a VM's detail is its number of vCPUs");
}

#[test]
fn a_configuration_page_holds_all_of_its_text_or_the_image_is_refused() {
    const SWITCHES: &str = "vm.name=v\nvm.port=false\nvm.identity=false\nvm.xcr0=0x7\nvm.platform=1\nvm.hardware=13\n";
    let mut system = system();
    let slots = system.partitions[1].capabilities.len();
    let room = PAGE - config_offset(slots) - SWITCHES.len();
    assert!(room > 2047 + 500, "{room} bytes are too few for a kernel's command line and all else");
    // The letter takes two bytes, so that one of the two lengths ends within it.
    for more in 0..2 {
        system.partitions[1].config =
            format!("a={}{}\n", "x".repeat((room - 3 + more) % 2), "ü".repeat((room - 3 + more) / 2));
        let written = write("t.toml", &system, &inputs(100, 10, 10, 5000));
        if more == 0 {
            let bytes = written.unwrap();
            let start = Bundle::read(&bytes).unwrap().partitions[1].record.info_offset as usize;
            let page = &bytes[start..start + PAGE];
            let expected = format!("{}{SWITCHES}", system.partitions[1].config);
            assert_eq!(&page[config_offset(slots)..], expected.as_bytes());
        } else {
            let text = written.unwrap_err().to_string();
            let limits = format!("{}, but the limit is {}", room + SWITCHES.len() + 1, room + SWITCHES.len());
            assert!(text.contains("bytes of configuration text") && text.contains(&limits), "{text}");
        }
    }
}

#[test]
fn more_files_or_slots_than_a_page_of_information_names_are_refused() {
    let mut system = system();
    let blob = system.partitions[1].blobs[0].clone();
    system.partitions[1].blobs = vec![blob; limits::BLOBS + 1];
    let text = write("t.toml", &system, &inputs(100, 10, 10, 5000)).unwrap_err().to_string();
    assert!(text.contains("blobs of one partition: 5, but the limit is 4"), "{text}");
}

#[test]
fn an_unknown_mandatory_table_is_refused_and_an_unknown_optional_one_skipped() {
    let bytes = write("t.toml", &system(), &inputs(100, 10, 10, 5)).unwrap();
    let last = size_of::<ImageHead>() + 4 * size_of::<TableHead>();
    let changed = |kind: u16, flags: u16| {
        let mut bytes = bytes.clone();
        bytes[last..last + 2].copy_from_slice(&kind.to_le_bytes());
        bytes[last + 2..last + 4].copy_from_slice(&flags.to_le_bytes());
        let mut head = ImageHead::read_from_prefix(&bytes).unwrap().0;
        head.checksum = crc32(0, &bytes[size_of::<ImageHead>()..head.checked as usize]);
        bytes[..size_of::<ImageHead>()].copy_from_slice(head.as_bytes());
        bytes
    };
    assert!(matches!(Bundle::read(&changed(99, 1)), Err(ReadError::Table { kind: 99, .. })));
    assert!(Bundle::read(&changed(99, 0)).is_ok());
}

/// A change to the inputs, and what the finding must say.
type Case = (fn(&mut Inputs), &'static str);

#[test]
fn a_program_that_breaks_r7_or_its_limits_is_a_finding_at_its_partition() {
    let cases: [Case; 5] = [
        (
            |inputs| inputs.program.loads[1].rights = 7,
            "t.toml:3: R7: `a`: the segment at 0x40001000 is writable and executable",
        ),
        (
            |inputs| inputs.program.loads[1].address = USER_BASE + 8,
            "t.toml:3: R7: `a`: the segments at 0x40000000 and 0x40000000 share a page",
        ),
        (
            |inputs| inputs.program.loads[0].address = 0x1000,
            "t.toml:3: format: `a`: the entry 0x40000000 lies in no executable segment",
        ),
        (
            |inputs| inputs.program.loads[1].address = 0x7000_0000,
            "t.toml:3: R7: `a`: 0x70000000 lies outside the addresses of a partition (0x40000000 to 0x70000000)",
        ),
        (
            |inputs| inputs.program.loads[1].memory_bytes = 2 << 20,
            "t.toml:3: R2: writable pages of one partition (data, stack, heap): 524, but the limit is 256",
        ),
    ];
    for (change, expected) in cases {
        let mut inputs = inputs(100, 10, 10, 5);
        change(&mut inputs[0]);
        let printed = write("t.toml", &system(), &inputs).unwrap_err().to_string();
        assert!(printed.starts_with(expected), "expected `{expected}`, found `{printed}`");
    }
}

#[test]
fn more_page_tables_than_the_core_can_hold_are_refused_with_the_limit() {
    let mut system = system();
    let mut wanted = |memory: u64| {
        system.vms[0].memory_pages = memory >> 12;
        let mut all = system.clone();
        all.vms = vec![system.vms[0].clone(); 4];
        write("t.toml", &all, &inputs(100, 10, 10, 5))
    };
    assert!(wanted(32 << 30).is_ok());
    let refused = wanted(64 << 30).unwrap_err().to_string();
    let text = "R2: pages of page tables (one for 2 MiB of each VM's memory): 131";
    assert!(refused.contains(text) && refused.contains("but the limit is 131072"), "{refused}");
}
