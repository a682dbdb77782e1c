//! Laying out the file: head, directory, tables, page-aligned data, blobs last, so that the core's checksum can stop before them.

use super::{Inputs, Placed, Segment, info, name24};
use crate::manifest::{Capability, Object, Partition, System, Vm};
use portcullis_ipc::checksum::crc32;
use portcullis_ipc::image::{
    self, CapabilityRecord, ImageHead, PartitionRecord, SegmentRecord, TableHead, VcpuRecord, VmRecord, feature,
    schedule, table,
};
use portcullis_ipc::layout::PAGE;
use portcullis_ipc::syscall::rights;
use sha2::{Digest, Sha256};
use zerocopy::{Immutable, IntoBytes};

/// Tables and data while they grow.
struct Image {
    partitions: Vec<PartitionRecord>,
    segments: Vec<SegmentRecord>,
    capabilities: Vec<CapabilityRecord>,
    vms: Vec<VmRecord>,
    vcpus: Vec<VcpuRecord>,
    data: Pages,
    blobs: Pages,
}

/// Bytes in pages of their own, from `start` of the image.
struct Pages {
    start: u64,
    bytes: Vec<u8>,
}

impl Pages {
    fn from(start: u64) -> Self {
        Self { start, bytes: Vec::new() }
    }

    /// Offset after the last page.
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Appends bytes; returns their offset in the image.
    fn push(&mut self, bytes: &[u8]) -> u64 {
        let offset = self.end();
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(PAGE), 0);
        offset
    }
}

impl Image {
    /// The directory of tables and the tables, as they stand after the head.
    fn tables(&self) -> (u32, Vec<u8>) {
        let tables: [(u16, usize, &[u8], usize); 5] = [
            table_of(table::PARTITIONS, &self.partitions),
            table_of(table::SEGMENTS, &self.segments),
            table_of(table::CAPABILITIES, &self.capabilities),
            table_of(table::VMS, &self.vms),
            table_of(table::VCPUS, &self.vcpus),
        ];
        let start = size_of::<ImageHead>() + tables.len() * size_of::<TableHead>();
        let (mut directory, mut records) = (Vec::new(), Vec::new());
        for (kind, count, bytes, record_bytes) in tables {
            let offset = (start + records.len()) as u32;
            let (record_bytes, count) = (record_bytes as u32, count as u32);
            let head = TableHead { kind, flags: image::MANDATORY, record_bytes, count, offset };
            directory.extend_from_slice(head.as_bytes());
            records.extend_from_slice(bytes);
        }
        directory.extend_from_slice(&records);
        (tables.len() as u32, directory)
    }
}

/// Kind, number of records, bytes, and bytes of one record.
fn table_of<T: IntoBytes + Immutable>(kind: u16, records: &[T]) -> (u16, usize, &[u8], usize) {
    (kind, records.len(), records.as_bytes(), size_of::<T>())
}

/// Writes the bundle of a system whose partitions are placed.
pub fn write(system: &System, inputs: &[Inputs], placed: &[Placed], pool_pages: u32) -> Vec<u8> {
    // Offsets count from the start of the image, so the parts before are measured first.
    let measured = lay_out(system, inputs, placed, 0, 0);
    let data_start = (size_of::<ImageHead>() + measured.tables().1.len()).next_multiple_of(PAGE);
    let checked = data_start + measured.data.bytes.len();
    let image = lay_out(system, inputs, placed, data_start as u64, checked as u64);
    let (tables, records) = image.tables();
    let mut bytes = vec![0; size_of::<ImageHead>()];
    bytes.extend_from_slice(&records);
    bytes.resize(data_start, 0);
    bytes.extend_from_slice(&image.data.bytes);
    let head = ImageHead {
        magic: image::MAGIC,
        version: image::VERSION,
        checksum: crc32(0, bytes.get(size_of::<ImageHead>()..).unwrap_or_default()),
        length: image.blobs.end(),
        tables,
        reserved: 0,
        pool_pages,
        supervisor_restarts: system.supervisor_restarts,
        supervisor_window_us: system.supervisor_window_us,
        slice_us: system.slice_us,
        mitigations_off: system.mitigations_off,
        checked: checked as u64,
    };
    bytes.extend_from_slice(&image.blobs.bytes);
    if let Some(start) = bytes.get_mut(..size_of::<ImageHead>()) {
        start.copy_from_slice(head.as_bytes());
    }
    bytes
}

fn lay_out(system: &System, inputs: &[Inputs], placed: &[Placed], data: u64, blobs: u64) -> Image {
    let mut image = Image {
        partitions: Vec::new(),
        segments: Vec::new(),
        capabilities: Vec::new(),
        vms: system.vms.iter().map(vm_record).collect(),
        vcpus: Vec::new(),
        data: Pages::from(data),
        blobs: Pages::from(blobs),
    };
    for (index, (input, placed)) in inputs.iter().zip(placed).enumerate() {
        let Some(partition) = system.partitions.get(index) else {
            continue;
        };
        let info = info::page(system, index, input, placed);
        let info_offset = image.data.push(&info);
        image.partitions.push(PartitionRecord { info_offset, ..partition_record(partition, input, placed) });
        for segment in &placed.segments {
            let pages = if segment.is_blob() { &mut image.blobs } else { &mut image.data };
            let offset = if segment.bytes.is_empty() { 0 } else { pages.push(&segment.bytes) };
            image.segments.push(SegmentRecord {
                address: segment.address,
                offset,
                file_bytes: segment.bytes.len() as u64,
                pages: segment.pages as u32,
                rights: segment.rights,
                reserved: 0,
                partition: index as u16,
            });
        }
        for (slot, capability) in partition.capabilities.iter().enumerate() {
            image.capabilities.push(capability_record(index, slot, capability));
        }
    }
    for (index, vm) in system.vms.iter().enumerate() {
        image.vcpus.extend(vm.vcpus.iter().map(|vcpu| VcpuRecord {
            vm: index as u16,
            cpu: vcpu.cpu,
            priority: vcpu.priority.into(),
            flags: cap(vcpu.cap) as u16,
            budget_us: vcpu.budget_us,
            period_us: vcpu.period_us,
        }));
    }
    image
}

fn partition_record(partition: &Partition, input: &Inputs, placed: &Placed) -> PartitionRecord {
    PartitionRecord {
        name: name24(&partition.name),
        rank: partition.rank,
        priority: partition.priority,
        cpu: partition.cpu,
        state_limit_pages: partition.state_limit_pages,
        budget_us: partition.budget_us,
        period_us: partition.period_us,
        reserve_us: partition.reserve_us,
        call_limit_us: partition.call_limit_us,
        entry: input.program.entry,
        stack_top: placed.stack_top,
        info_offset: 0,
        state_pages: partition.state_pages,
        state_version: partition.state_version,
        state_reads_from: partition.state_reads_from,
        spare_pages: partition.spare_pages.unwrap_or(placed.own_pages as u32),
        build_id: input.program.build_id,
        digest: digest(&placed.segments),
        flags: cap(partition.cap),
        signature: [0; 64],
    }
}

/// The flag of an account whose budget is a limit, too.
fn cap(cap: bool) -> u32 {
    if cap { schedule::CAP } else { 0 }
}

/// SHA-256 over the bytes of all segments, in the order of their records.
pub fn digest(segments: &[Segment]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for segment in segments {
        hash.update(&segment.bytes);
    }
    hash.finalize().into()
}

fn capability_record(partition: usize, slot: usize, capability: &Capability) -> CapabilityRecord {
    let mut record = CapabilityRecord {
        slot: slot as u16,
        kind: capability.object.kind(),
        partition: partition as u16,
        ..CapabilityRecord::default()
    };
    match capability.object {
        Object::Endpoint { partition, badge } => (record.object, record.badge) = (partition, badge),
        Object::Notification { partition, bits } => (record.object, record.first) = (partition, bits),
        Object::Timer { timer, bits } => (record.object, record.first) = (timer, bits),
        Object::Interrupt { gsi, level, low, bits } => {
            let level = if level { rights::LEVEL } else { 0 };
            let low = if low { rights::LOW } else { 0 };
            (record.object, record.first, record.rights) = (gsi, bits, level | low);
        }
        Object::Ports { first, count } => (record.first, record.count) = (first, count),
        Object::Msrs { first, count, rights } => (record.first, record.count, record.rights) = (first, count, rights),
        Object::Vm { vm, rights } => (record.object, record.rights) = (vm, rights),
        Object::Partition { partition, rights } => (record.object, record.rights) = (partition, rights),
        Object::Log | Object::Clock => {}
    }
    record
}

fn vm_record(vm: &Vm) -> VmRecord {
    let rdtsc = if vm.intercept_rdtsc { feature::INTERCEPT_RDTSC } else { 0 };
    let pause = if vm.intercept_pause.unwrap_or(vm.vcpus.len() > 1) { feature::INTERCEPT_PAUSE } else { 0 };
    VmRecord {
        name: name24(&vm.name),
        vmexit: vm.vmexit,
        vmport: vm.port.unwrap_or(image::NO_PARTITION),
        vmport_badge: vm.badge,
        features: rdtsc | pause,
        reserved: 0,
        memory_pages: vm.memory_pages,
        xcr0: vm.xcr0,
    }
}
