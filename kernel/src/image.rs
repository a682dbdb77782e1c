//! The system image, checked again by the core (section 4 of the design): head, checksum, records, and
//! every record against every limit. Pure; what the records ask for is done by `boot::system`.

use portcullis_ipc::checksum::crc32;
use portcullis_ipc::image::{
    CapabilityRecord, ImageHead, MAGIC, MANDATORY, PartitionRecord, RecordHead, SegmentRecord, VERSION, VcpuRecord,
    VmRecord, record,
};
use zerocopy::FromBytes;

/// Why an image was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// No module was loaded.
    Missing,
    /// The module does not start at a page, or lies above 4 GiB.
    Place,
    /// The magic is not there.
    Magic,
    /// Another format version.
    Version(u32),
    /// The module is shorter than the image: bytes there, bytes needed.
    Truncated(u64, u64),
    /// The checksum does not match: found, expected.
    Checksum(u32, u32),
    /// Record number n is malformed, or runs over the end.
    Record(u32),
    /// Record number n is mandatory and of an unknown kind.
    Unknown(u32, u16),
    /// Record number n exceeds a limit or contradicts another: what.
    Content(u32, &'static str),
}

impl core::fmt::Display for ImageError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Missing => write!(f, "image: no module was loaded; give the bundle as the first module"),
            Self::Place => write!(f, "image: the module must start at a page below 4 GiB; load it so"),
            Self::Magic => write!(f, "image: module 0 is not a Portcullis image (magic)"),
            Self::Version(found) => {
                write!(f, "image: format version {found}, this core reads {VERSION}; build both alike")
            }
            Self::Truncated(found, needed) => {
                write!(f, "image: truncated: {found} of {needed} bytes; load the whole bundle")
            }
            Self::Checksum(found, expected) => {
                write!(f, "image: checksum {found:08x}, head says {expected:08x}; build it anew")
            }
            Self::Record(number) => write!(f, "image: record {number} is malformed"),
            Self::Unknown(number, kind) => {
                write!(f, "image: record {number} of unknown mandatory kind {kind}; use a newer core")
            }
            Self::Content(number, what) => write!(f, "image: record {number}: {what}"),
        }
    }
}

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
    pub fn check(module: &'a [u8]) -> Result<Self, ImageError> {
        let length = module.len() as u64;
        let (head, _) = ImageHead::read_from_prefix(module).map_err(|_| ImageError::Truncated(length, 64))?;
        if head.magic != MAGIC {
            return Err(ImageError::Magic);
        }
        if head.version != VERSION {
            return Err(ImageError::Version(head.version));
        }
        let bytes = usize::try_from(head.length).ok().and_then(|end| module.get(..end));
        let bytes = bytes.ok_or(ImageError::Truncated(length, head.length))?;
        let checked = usize::try_from(head.checked).ok().and_then(|end| bytes.get(size_of::<ImageHead>()..end));
        let found = crc32(0, checked.ok_or(ImageError::Truncated(head.length, head.checked))?);
        if found != head.checksum {
            return Err(ImageError::Checksum(found, head.checksum));
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

    /// Call `each` with every record and its number; unknown records that are not mandatory are skipped.
    pub fn records(&self, mut each: impl FnMut(u32, Record<'a>) -> Result<(), ImageError>) -> Result<(), ImageError> {
        let start = size_of::<ImageHead>();
        let end = start.saturating_add(self.head.records_bytes as usize);
        let within = end as u64 <= self.head.checked;
        let mut rest = self.bytes.get(start..end).filter(|_| within).ok_or(ImageError::Record(0))?;
        for number in 0..self.head.records {
            let malformed = ImageError::Record(number);
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
                    return Err(ImageError::Unknown(number, kind));
                }
                _ => continue,
            };
            each(number, found)?;
        }
        if rest.is_empty() { Ok(()) } else { Err(ImageError::Record(self.head.records)) }
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

    fn refusal(module: &[u8]) -> ImageError {
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
        assert_eq!(refusal(&good.0[..10]), ImageError::Truncated(10, 64));
        assert_eq!(refusal(&good.0[..4000]), ImageError::Truncated(4000, 4096));
        let mut bad = build(&[(record::VCPU, 1, vcpu.as_bytes())]);
        bad.0[0] = 0;
        assert_eq!(refusal(&bad.0), ImageError::Magic);
        let mut bad = build(&[(record::VCPU, 1, vcpu.as_bytes())]);
        bad.0[4000] ^= 1;
        assert!(matches!(refusal(&bad.0), ImageError::Checksum(..)));
        assert_eq!(refusal(&build(&[(99, MANDATORY, &[0; 8])]).0), ImageError::Unknown(0, 99));
        assert_eq!(refusal(&build(&[(record::VCPU, 1, &[0; 8])]).0), ImageError::Record(0));
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
