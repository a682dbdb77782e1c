//! An image as text, for people.

use super::{Bundle, ReadPartition};
use crate::elf_file::hex;
use crate::manifest::rank_name;
use portcullis_ipc::layout::PAGE;
use portcullis_ipc::syscall::rights;
use std::fmt::Write;

/// What an image holds: a few lines for each partition and VM.
pub fn show(bundle: &Bundle) -> String {
    let head = &bundle.head;
    let mut text = format!(
        "image format {}, {} bytes, checksum {:#010x}, {} page-table pages\n",
        head.version, head.length, head.checksum, head.pool_pages
    );
    for (index, partition) in bundle.partitions.iter().enumerate() {
        show_partition(bundle, index, partition, &mut text);
    }
    for (index, vm) in bundle.vms.iter().enumerate() {
        let record = &vm.record;
        let _ = writeln!(
            text,
            "VM {index} {}: {} MiB, {} vCPU, vmexit is partition {}",
            name(&record.name),
            (record.memory_pages * PAGE as u64) >> 20,
            vm.vcpus.len(),
            record.vmexit
        );
    }
    text
}

fn show_partition(bundle: &Bundle, index: usize, partition: &ReadPartition, text: &mut String) {
    let record = &partition.record;
    let intact = if bundle.is_intact(partition) { "intact" } else { "DAMAGED" };
    let _ = writeln!(
        text,
        "partition {index} {}: rank {}, {} capabilities, state version {} (reads from {}), spare {} pages\n  build {}, digest {intact}",
        name(&record.name),
        rank_name(record.rank),
        partition.capabilities.len(),
        record.state_version,
        record.state_reads_from,
        record.spare_pages,
        hex(&record.build_id)
    );
    for segment in &partition.segments {
        let letter = |right: u8, letter| if segment.rights & right != 0 { letter } else { '-' };
        let _ = writeln!(
            text,
            "  {:#014x} {:>4} pages {}{}{} {:>7} bytes",
            segment.address,
            segment.pages,
            letter(rights::READ, 'r'),
            letter(rights::WRITE, 'w'),
            letter(rights::EXECUTE, 'x'),
            segment.file_bytes
        );
    }
}

fn name(field: &[u8]) -> String {
    String::from_utf8_lossy(field).trim_end_matches('\0').to_owned()
}
