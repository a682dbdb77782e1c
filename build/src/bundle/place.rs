//! Addresses of a partition: its ELF's segments, then stack and heap behind guard pages, then its files.

use super::{Inputs, info, pages};
use crate::elf_file::Load;
use crate::manifest::{Partition, Problem, System};
use portcullis_ipc::file::crc32c;
use portcullis_ipc::layout::{self, PAGE};
use portcullis_ipc::limits;
use portcullis_ipc::ram::Ram;
use portcullis_ipc::syscall::rights;

const PAGE_BYTES: u64 = PAGE as u64;

/// A segment as the image carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First address, page aligned.
    pub address: u64,
    /// Bytes in the image.
    pub bytes: Vec<u8>,
    /// Pages in memory.
    pub pages: u64,
    /// [`rights`].
    pub rights: u8,
}

impl Segment {
    /// The segment is a file of the manifest, not a part of the program.
    pub fn is_blob(&self) -> bool {
        self.address >= layout::BLOB_BASE
    }

    fn end(&self) -> u64 {
        self.address + self.pages * PAGE_BYTES
    }
}

/// A file at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedBlob {
    /// First address.
    pub address: u64,
    /// Bytes.
    pub bytes: u64,
    /// CRC-32 of the bytes.
    pub checksum: u32,
}

/// A partition with everything at its place.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Segments: program, stack, heap, files.
    pub segments: Vec<Segment>,
    /// Initial RSP.
    pub stack_top: u64,
    /// First address and bytes of the heap.
    pub heap: (u64, u64),
    /// Each file.
    pub blobs: Vec<PlacedBlob>,
    /// Pages of the program with stack and heap, files apart.
    pub own_pages: u64,
    /// Configuration text: the manifest's, and what the image builder adds for the services of a VM.
    pub config: String,
}

/// Places one partition.
pub fn place(system: &System, partition: &Partition, input: &Inputs) -> Result<Placed, Problem> {
    let elf = crate::workspace::display(&input.program.path);
    let mut segments = Vec::new();
    for load in &input.program.loads {
        segments.push(segment(&elf, load)?);
    }
    check_entry(&elf, &segments, input.program.entry)?;
    for pair in segments.windows(2) {
        if let [first, second] = pair
            && first.end() > second.address
        {
            return Err(Problem::Overlap { elf, first: first.address, second: second.address });
        }
    }
    let writable = rights::READ | rights::WRITE;
    let program_end = segments.last().map_or(layout::USER_BASE, Segment::end);
    // One unmapped page below the stack and one below the heap: an overrun faults.
    let stack = Segment {
        address: program_end + PAGE_BYTES,
        bytes: Vec::new(),
        pages: partition.stack_pages.into(),
        rights: writable,
    };
    let stack_top = stack.end();
    segments.push(stack);
    let mut heap = (0, 0);
    if partition.heap_pages > 0 {
        let address = stack_top + PAGE_BYTES;
        let pages = u64::from(partition.heap_pages);
        heap = (address, pages * PAGE_BYTES);
        segments.push(Segment { address, bytes: Vec::new(), pages, rights: writable });
    }
    check_range(&elf, &segments)?;
    let own_pages = segments.iter().map(|segment| segment.pages).sum();
    let mut blobs = Vec::new();
    let mut address = layout::BLOB_BASE;
    for bytes in &input.blobs {
        blobs.push(PlacedBlob { address, bytes: bytes.len() as u64, checksum: crc32c(0, bytes) });
        let segment = Segment { address, bytes: bytes.clone(), pages: pages(bytes.len() as u64), rights: rights::READ };
        address = segment.end();
        if segment.pages > 0 {
            segments.push(segment);
        }
    }
    check_limits(system, partition, &segments)?;
    let index = system.partitions.iter().position(|other| other.name == partition.name);
    let config = info::config(system, index.unwrap_or(usize::MAX))?;
    Ok(Placed { segments, stack_top, heap, blobs, own_pages, config })
}

fn segment(elf: &str, load: &Load) -> Result<Segment, Problem> {
    if load.rights & rights::WRITE != 0 && load.rights & rights::EXECUTE != 0 {
        return Err(Problem::WritableExecutable { elf: elf.to_owned(), address: load.address });
    }
    let skew = load.address % PAGE_BYTES;
    let mut bytes = load.bytes.clone();
    if !bytes.is_empty() {
        bytes.splice(0..0, std::iter::repeat_n(0, skew as usize));
    }
    let address = load.address - skew;
    if load.rights & rights::WRITE == 0 {
        // It is mapped from the image itself, so all of its pages must be there.
        bytes.resize((skew + load.memory_bytes) as usize, 0);
    }
    Ok(Segment { address, bytes, pages: pages(skew + load.memory_bytes), rights: load.rights })
}

fn check_entry(elf: &str, segments: &[Segment], entry: u64) -> Result<(), Problem> {
    let mut executable = segments.iter().filter(|segment| segment.rights & rights::EXECUTE != 0);
    if executable.any(|segment| (segment.address..segment.end()).contains(&entry)) {
        return Ok(());
    }
    let reason = format!("the entry {entry:#x} lies in no executable segment; link it with ENTRY(_start)");
    Err(Problem::Elf { elf: elf.to_owned(), reason })
}

fn check_range(elf: &str, segments: &[Segment]) -> Result<(), Problem> {
    let (low, high) = (layout::USER_BASE, layout::SEGMENT_END);
    match segments.iter().find(|segment| segment.address < low || segment.end() > high) {
        Some(segment) => Err(Problem::OutsideRange { elf: elf.to_owned(), address: segment.address, low, high }),
        None => Ok(()),
    }
}

fn check_limits(system: &System, partition: &Partition, segments: &[Segment]) -> Result<(), Problem> {
    let limit = |what, wanted: u64, limit: usize| {
        if wanted > limit as u64 { Err(Problem::Limit { what, wanted, limit: limit as u64 }) } else { Ok(()) }
    };
    // A page of information has room for the names of so many.
    limit("blobs of one partition", partition.blobs.len() as u64, limits::BLOBS)?;
    limit("capability slots of one partition", partition.capabilities.len() as u64, limits::SLOTS)?;
    limit("segments of one partition (program, stack, heap, files)", segments.len() as u64, limits::SEGMENTS)?;
    let writable = segments.iter().filter(|segment| segment.rights & rights::WRITE != 0);
    let pages = writable.map(|segment| segment.pages).sum();
    limit("writable pages of one partition (data, stack, heap)", pages, limits::WRITABLE_PAGES)?;
    let index = system.partitions.iter().position(|other| other.name == partition.name);
    let guests = system.vms.iter().filter(|vm| Some(usize::from(vm.vmexit)) == index);
    let guests: usize = guests.map(|vm| Ram::new(vm.memory_pages * PAGE_BYTES).pieces().count()).sum();
    // Besides the segments, which a replacement has too: the spare slot, the state region, the guest's memory.
    let ranges = 2 * segments.len() + 1 + usize::from(partition.state_pages > 0) + guests;
    limit("memory ranges of one partition", ranges as u64, limits::RANGES)
}
