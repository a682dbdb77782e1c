//! Taking an image apart again. The checks are those of the format, in the order in which the core
//! makes them.

use portcullis_ipc::checksum::crc32;
use portcullis_ipc::image::{
    self, CapabilityRecord, ImageHead, PartitionRecord, RecordHead, SegmentRecord, VcpuRecord, VmRecord, record,
};
use portcullis_ipc::info::InfoPage;
use sha2::{Digest, Sha256};
use zerocopy::FromBytes;

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

/// Why bytes are no image.
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
    #[error("the file is no system image (magic {0:02x?}); name the bundle that `cargo xtask image` wrote")]
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
    /// A record that is not allowed here or unknown and mandatory.
    #[error("record {index} of the image (kind {kind}) is refused: {reason}; write it anew with `cargo xtask image`")]
    Record {
        /// Position.
        index: u32,
        /// Kind.
        kind: u16,
        /// Why.
        reason: &'static str,
    },
}

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
        let records = body.get(..head.records_bytes as usize).ok_or(truncated(head.records_bytes.into()))?;
        let mut bundle = Self { bytes, head, partitions: Vec::new(), vms: Vec::new() };
        bundle.read_records(records)?;
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
                let found = crc32(0, segment.map_or(&[][..], |segment| self.segment_bytes(segment)));
                if found != blob.checksum {
                    return Err(ReadError::Checksum { found, expected: blob.checksum });
                }
            }
        }
        Ok(())
    }

    fn read_records(&mut self, mut rest: &[u8]) -> Result<(), ReadError> {
        for index in 0..self.head.records {
            let refuse = |kind, reason| ReadError::Record { index, kind, reason };
            let (head, after) = RecordHead::read_from_prefix(rest).map_err(|_| refuse(0, "it is cut off"))?;
            let body = after.get(..head.length as usize).ok_or(refuse(head.kind, "it is cut off"))?;
            rest = after.get(head.length as usize..).unwrap_or_default();
            let order = refuse(head.kind, "it follows no record that it could belong to");
            let size = |_| refuse(head.kind, "its body has the wrong size");
            match head.kind {
                record::PARTITION => {
                    let record = PartitionRecord::read_from_bytes(body).map_err(|_| size(()))?;
                    self.partitions.push(ReadPartition { record, segments: Vec::new(), capabilities: Vec::new() });
                }
                record::SEGMENT => {
                    let record = SegmentRecord::read_from_bytes(body).map_err(|_| size(()))?;
                    self.partitions.last_mut().ok_or(order)?.segments.push(record);
                }
                record::CAPABILITY => {
                    let record = CapabilityRecord::read_from_bytes(body).map_err(|_| size(()))?;
                    self.partitions.last_mut().ok_or(order)?.capabilities.push(record);
                }
                record::VM => {
                    let record = VmRecord::read_from_bytes(body).map_err(|_| size(()))?;
                    self.vms.push(ReadVm { record, vcpus: Vec::new() });
                }
                record::VCPU => {
                    let record = VcpuRecord::read_from_bytes(body).map_err(|_| size(()))?;
                    self.vms.last_mut().ok_or(order)?.vcpus.push(record);
                }
                _ if head.flags & image::MANDATORY != 0 => {
                    return Err(refuse(head.kind, "it is unknown and mandatory"));
                }
                _ => {}
            }
        }
        Ok(())
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
