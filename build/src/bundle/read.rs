//! Taking an image apart again. The checks are those of the format, in the order in which the core
//! makes them.

use portcullis_ipc::checksum::crc32;
use portcullis_ipc::file::crc32c;
use portcullis_ipc::image::{
    self, CapabilityRecord, ImageHead, PartitionRecord, SegmentRecord, TableHead, VcpuRecord, VmRecord, table,
};
use portcullis_ipc::info::InfoPage;
use sha2::{Digest, Sha256};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An image, read.
#[derive(Clone, Debug)]
pub struct Bundle<'a> {
    /// All bytes.
    pub bytes: &'a [u8],
    /// Head.
    pub head: ImageHead,
    /// Partitions in their order.
    pub partitions: Vec<ReadPartition>,
    /// VMs in their order.
    pub vms: Vec<ReadVm>,
}

/// A partition of an image.
#[derive(Clone, Debug)]
pub struct ReadPartition {
    /// Its record.
    pub record: PartitionRecord,
    /// Its segments.
    pub segments: Vec<SegmentRecord>,
    /// Its capabilities.
    pub capabilities: Vec<CapabilityRecord>,
}

/// A VM of an image.
#[derive(Clone, Debug)]
pub struct ReadVm {
    /// Its record.
    pub record: VmRecord,
    /// Its vCPUs.
    pub vcpus: Vec<VcpuRecord>,
}

/// Why bytes are not an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Too short for a head, or shorter than the head says.
    #[error("the image is truncated: it has {have} bytes and needs {need}; write it anew with `cargo xtask image`")]
    Truncated {
        /// Bytes there.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// Not an image.
    #[error("the file is not a system image (magic {0:02x?}); name the bundle that `cargo xtask image` wrote")]
    Magic([u8; 8]),
    /// Another format version.
    #[error("the image has format version {0}, not that of this tool; use the tool of its release")]
    Version(u32),
    /// Damaged.
    #[error(
        "the image is damaged: checksum {found:#010x}, expected {expected:#010x}; write it anew with `cargo xtask image`"
    )]
    Checksum {
        /// Over the bytes there.
        found: u32,
        /// In the head.
        expected: u32,
    },
    /// A table that is malformed or unknown and mandatory.
    #[error("table of kind {kind} of the image is refused: {reason}; write it anew with `cargo xtask image`")]
    Table {
        /// Kind.
        kind: u16,
        /// Why.
        reason: &'static str,
    },
}

/// Where the directory of tables stands.
const DIRECTORY: TableHead = TableHead {
    kind: 0,
    flags: 0,
    record_bytes: size_of::<TableHead>() as u32,
    count: 0,
    offset: size_of::<ImageHead>() as u32,
};

impl<'a> Bundle<'a> {
    /// Reads an image.
    pub fn read(bytes: &'a [u8]) -> Result<Self, ReadError> {
        let have = bytes.len() as u64;
        let truncated = |need| ReadError::Truncated { have, need };
        let (head, rest) = ImageHead::read_from_prefix(bytes).map_err(|_| truncated(size_of::<ImageHead>() as u64))?;
        if head.magic != image::MAGIC {
            return Err(ReadError::Magic(head.magic));
        }
        if head.version != image::VERSION {
            return Err(ReadError::Version(head.version));
        }
        if head.length > have || head.length < size_of::<ImageHead>() as u64 {
            return Err(truncated(head.length));
        }
        let body = rest.get(..head.length as usize - size_of::<ImageHead>()).ok_or(truncated(head.length))?;
        let checked = body.get(..(head.checked as usize).saturating_sub(size_of::<ImageHead>()));
        let found = crc32(0, checked.ok_or(truncated(head.checked))?);
        if found != head.checksum {
            return Err(ReadError::Checksum { found, expected: head.checksum });
        }
        let mut bundle = Self { bytes, head, partitions: Vec::new(), vms: Vec::new() };
        bundle.read_tables()?;
        bundle.check_blobs()?;
        Ok(bundle)
    }

    /// The checks that the users of the blobs make.
    fn check_blobs(&self) -> Result<(), ReadError> {
        for partition in &self.partitions {
            let page = self.bytes.get(partition.record.info_offset as usize..).unwrap_or_default();
            let Ok((info, _)) = InfoPage::read_from_prefix(page) else { continue };
            for blob in info.blobs.iter().take(info.blob_count as usize).filter(|blob| blob.bytes > 0) {
                let segment = partition.segments.iter().find(|segment| segment.address == blob.address);
                let found = crc32c(0, segment.map_or(&[][..], |segment| self.segment_bytes(segment)));
                if found != blob.checksum {
                    return Err(ReadError::Checksum { found, expected: blob.checksum });
                }
            }
        }
        Ok(())
    }

    fn read_tables(&mut self) -> Result<(), ReadError> {
        let head = TableHead { count: self.head.tables, ..DIRECTORY };
        let (mut segments, mut capabilities, mut vcpus) = (Vec::new(), Vec::new(), Vec::new());
        for head in self.table::<TableHead>(&head)? {
            match head.kind {
                table::PARTITIONS => {
                    let list = |record| ReadPartition { record, segments: Vec::new(), capabilities: Vec::new() };
                    self.partitions = self.table(&head)?.into_iter().map(list).collect();
                }
                table::SEGMENTS => segments = self.table::<SegmentRecord>(&head)?,
                table::CAPABILITIES => capabilities = self.table::<CapabilityRecord>(&head)?,
                table::VMS => {
                    let list = |record| ReadVm { record, vcpus: Vec::new() };
                    self.vms = self.table(&head)?.into_iter().map(list).collect();
                }
                table::VCPUS => vcpus = self.table::<VcpuRecord>(&head)?,
                kind if head.flags & image::MANDATORY != 0 => {
                    return Err(ReadError::Table { kind, reason: "it is unknown and mandatory" });
                }
                _ => {}
            }
        }
        let lost = |kind| ReadError::Table { kind, reason: "a record names a partition or VM that is not there" };
        for one in segments {
            let partition = self.partitions.get_mut(usize::from(one.partition)).ok_or(lost(table::SEGMENTS))?;
            partition.segments.push(one);
        }
        for one in capabilities {
            let partition = self.partitions.get_mut(usize::from(one.partition)).ok_or(lost(table::CAPABILITIES))?;
            partition.capabilities.push(one);
        }
        for one in vcpus {
            self.vms.get_mut(usize::from(one.vm)).ok_or(lost(table::VCPUS))?.vcpus.push(one);
        }
        Ok(())
    }

    /// The records of a table, which lie in the checked part of the image.
    fn table<T: FromBytes + IntoBytes + Immutable>(&self, head: &TableHead) -> Result<Vec<T>, ReadError> {
        let malformed =
            ReadError::Table { kind: head.kind, reason: "it is cut off or its records have the wrong size" };
        if head.record_bytes as usize != size_of::<T>() {
            return Err(malformed);
        }
        let bytes = self.bytes.get(head.offset as usize..self.head.checked as usize);
        let records = bytes.and_then(|bytes| bytes.get(..size_of::<T>().checked_mul(head.count as usize)?));
        let read = |bytes| T::read_from_bytes(bytes).map_err(|_| malformed.clone());
        records.ok_or(malformed.clone())?.chunks_exact(size_of::<T>()).map(read).collect()
    }

    /// Whether a partition's digest is that of its segments.
    pub fn is_intact(&self, partition: &ReadPartition) -> bool {
        let mut hash = Sha256::new();
        for segment in &partition.segments {
            hash.update(self.segment_bytes(segment));
        }
        <[u8; 32]>::from(hash.finalize()) == partition.record.digest
    }

    /// Bytes of a segment in the image.
    pub fn segment_bytes(&self, segment: &SegmentRecord) -> &'a [u8] {
        let start = segment.offset as usize;
        self.bytes.get(start..start.saturating_add(segment.file_bytes as usize)).unwrap_or_default()
    }
}
