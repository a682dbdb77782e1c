//! The system image, checked again by the core (section 4 of the design): head, checksum, records, and
//! every record against every limit. Pure; what the records ask for is done by `boot::system`.

use super::error::BootError;
use portcullis_ipc::checksum::crc32;
use portcullis_ipc::image::{
    CapabilityRecord, ImageHead, MAGIC, MANDATORY, PartitionRecord, RecordHead, SegmentRecord, VERSION, VcpuRecord,
    VmRecord, record,
};
use zerocopy::FromBytes;

const MAGIC_MISSING: BootError = BootError::Line("image: module 0 is not a Portcullis image (magic)");
const MALFORMED: &str = "malformed";

/// One record.
pub enum Record<'a> {
    /// A partition.
    Partition(&'a PartitionRecord),
    /// A segment of the last partition.
    Segment(&'a SegmentRecord),
    /// A capability of the last partition.
    Capability(&'a CapabilityRecord),
    /// A VM.
    Vm(&'a VmRecord),
    /// A vCPU of the last VM.
    Vcpu(&'a VcpuRecord),
}

/// A checked image.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    /// Its head.
    pub head: ImageHead,
    bytes: &'a [u8],
}

impl<'a> Image<'a> {
    /// Check head and checksum of `module`.
    pub fn check(module: &'a [u8]) -> Result<Self, BootError> {
        let length = module.len() as u64;
        let (head, _) = ImageHead::read_from_prefix(module).map_err(|_| BootError::Truncated(length, 64))?;
        if head.magic != MAGIC {
            return Err(MAGIC_MISSING);
        }
        if head.version != VERSION {
            return Err(BootError::Version(head.version));
        }
        let bytes = usize::try_from(head.length).ok().and_then(|end| module.get(..end));
        let bytes = bytes.ok_or(BootError::Truncated(length, head.length))?;
        let checked = usize::try_from(head.checked).ok().and_then(|end| bytes.get(size_of::<ImageHead>()..end));
        let found = crc32(0, checked.ok_or(BootError::Truncated(head.length, head.checked))?);
        if found != head.checksum {
            return Err(BootError::Checksum(found, head.checksum));
        }
        Ok(Self { head, bytes })
    }

    /// Whether `bytes` bytes at `offset` lie in the checked part of the image and `offset` is at a page.
    pub fn holds(&self, offset: u64, bytes: u64) -> bool {
        offset & 0xfff == 0 && offset.checked_add(bytes).is_some_and(|end| end <= self.head.checked)
    }

    /// The same for a blob, which may lie behind the checked part.
    pub fn holds_blob(&self, offset: u64, bytes: u64) -> bool {
        offset & 0xfff == 0 && offset.checked_add(bytes).is_some_and(|end| end <= self.head.length)
    }

    /// Physical address of the byte at `offset`, which the image holds.
    pub fn address(&self, offset: u64) -> u64 {
        (self.bytes.as_ptr() as u64).wrapping_add(offset)
    }

    /// Call `each` with every record and its number; unknown records that are not mandatory are skipped.
    pub fn records(&self, mut each: impl FnMut(u32, Record<'a>) -> Result<(), BootError>) -> Result<(), BootError> {
        let start = size_of::<ImageHead>();
        let end = start.saturating_add(self.head.records_bytes as usize);
        let within = end as u64 <= self.head.checked;
        let mut rest = self.bytes.get(start..end).filter(|_| within).ok_or(BootError::Record(0, MALFORMED))?;
        for number in 0..self.head.records {
            let malformed = BootError::Record(number, MALFORMED);
            let (head, after) = RecordHead::read_from_prefix(rest).map_err(|_| malformed)?;
            let (body, after) = after.split_at_checked(head.length as usize).ok_or(malformed)?;
            rest = after;
            let found = match head.kind {
                record::PARTITION => Record::Partition(cast(body).ok_or(malformed)?),
                record::SEGMENT => Record::Segment(cast(body).ok_or(malformed)?),
                record::CAPABILITY => Record::Capability(cast(body).ok_or(malformed)?),
                record::VM => Record::Vm(cast(body).ok_or(malformed)?),
                record::VCPU => Record::Vcpu(cast(body).ok_or(malformed)?),
                kind if head.flags & MANDATORY != 0 => {
                    return Err(BootError::Unknown(number, kind));
                }
                _ => continue,
            };
            each(number, found)?;
        }
        if rest.is_empty() { Ok(()) } else { Err(BootError::Record(self.head.records, MALFORMED)) }
    }
}

fn cast<T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable>(body: &[u8]) -> Option<&T> {
    T::ref_from_bytes(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_ipc::image::MAGIC;
    use zerocopy::IntoBytes;

    #[repr(align(4096))]
    struct Page([u8; 4096]);

    fn build(records: &[(u16, u16, &[u8])]) -> Box<Page> {
        let mut page = Box::new(Page([0; 4096]));
        let mut at = 64;
        for (kind, flags, body) in records {
            let head = RecordHead { kind: *kind, flags: *flags, length: body.len() as u32 };
            page.0[at..at + 8].copy_from_slice(head.as_bytes());
            page.0[at + 8..at + 8 + body.len()].copy_from_slice(body);
            at += 8 + body.len();
        }
        let head = ImageHead {
            magic: MAGIC,
            version: 1,
            checksum: crc32(0, &page.0[64..]),
            length: 4096,
            checked: 4096,
            records_bytes: (at - 64) as u32,
            records: records.len() as u32,
            ..ImageHead::default()
        };
        page.0[..64].copy_from_slice(head.as_bytes());
        page
    }

    fn refusal(module: &[u8]) -> BootError {
        match Image::check(module).and_then(|image| image.records(|_, _| Ok(()))) {
            Err(error) => error,
            Ok(()) => panic!("accepted"),
        }
    }

    #[test]
    fn each_way_to_damage_an_image_is_named() {
        let vcpu = VcpuRecord::default();
        let good = build(&[(record::VCPU, 1, vcpu.as_bytes())]);
        assert!(Image::check(&good.0).unwrap().records(|_, _| Ok(())).is_ok());
        assert_eq!(refusal(&good.0[..10]), BootError::Truncated(10, 64));
        assert_eq!(refusal(&good.0[..4000]), BootError::Truncated(4000, 4096));
        let mut bad = build(&[(record::VCPU, 1, vcpu.as_bytes())]);
        bad.0[0] = 0;
        assert_eq!(refusal(&bad.0), MAGIC_MISSING);
        let mut bad = build(&[(record::VCPU, 1, vcpu.as_bytes())]);
        bad.0[4000] ^= 1;
        assert!(matches!(refusal(&bad.0), BootError::Checksum(..)));
        assert_eq!(refusal(&build(&[(99, MANDATORY, &[0; 8])]).0), BootError::Unknown(0, 99));
        assert_eq!(refusal(&build(&[(record::VCPU, 1, &[0; 8])]).0), BootError::Record(0, MALFORMED));
        assert!(Image::check(&build(&[(99, 0, &[0; 8])]).0).unwrap().records(|_, _| Ok(())).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn no_records_make_the_reader_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), count in 0u32..9) {
            let mut page = Box::new(Page([0; 4096]));
            page.0[64..64 + bytes.len()].copy_from_slice(&bytes);
            let head = ImageHead { magic: MAGIC, version: 1, checksum: crc32(0, &page.0[64..]), length: 4096, checked: 4096, records_bytes: bytes.len() as u32, records: count, ..ImageHead::default() };
            page.0[..64].copy_from_slice(head.as_bytes());
            let _ = Image::check(&page.0).unwrap().records(|_, _| Ok(()));
        }
    }
}
