//! The system image, checked again by the core (section 4 of the design): head, checksum, tables. Pure; the records are
//! checked where they are carried out, by `boot::system`.

use super::error::BootError;
use portcullis_ipc::checksum::crc32;
use portcullis_ipc::image::{
    CapabilityRecord, ImageHead, MAGIC, MANDATORY, PartitionRecord, SegmentRecord, TableHead, VERSION, VcpuRecord,
    VmRecord, table,
};
use zerocopy::{FromBytes, Immutable, KnownLayout};

const HEAD: usize = size_of::<ImageHead>();
const NO_IMAGE: &str = "image: module 0 is not a Portcullis image (magic)";
const OTHER_VERSION: &str = "image: not this core's format version; build core and image alike; version";
const TRUNCATED: &str = "image: truncated; load the whole bundle; bytes needed";
const CHECKSUM: &str = "image: checksum does not match; build it anew";
const MALFORMED: &str = "image: malformed table; build it anew; kind";
const UNKNOWN: &str = "image: unknown mandatory table; use a newer core; kind";

/// A checked image.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    /// Its head.
    pub head: ImageHead,
    /// Its partitions.
    pub partitions: &'a [PartitionRecord],
    /// Their segments.
    pub segments: &'a [SegmentRecord],
    /// Their capabilities.
    pub capabilities: &'a [CapabilityRecord],
    /// Its VMs.
    pub vms: &'a [VmRecord],
    /// Their vCPUs.
    pub vcpus: &'a [VcpuRecord],
    bytes: &'a [u8],
}

impl<'a> Image<'a> {
    /// Check head, checksum and tables of `module`. A table of unknown kind that is not mandatory is skipped.
    pub fn check(module: &'a [u8]) -> Result<Self, BootError> {
        let truncated = |needed| BootError::Number(TRUNCATED, needed);
        let (head, _) = ImageHead::read_from_prefix(module).map_err(|_| truncated(HEAD as u64))?;
        if head.magic != MAGIC {
            return Err(NO_IMAGE.into());
        }
        if head.version != VERSION {
            return Err(BootError::Number(OTHER_VERSION, head.version.into()));
        }
        let bytes = module.get(..head.length as usize).ok_or(truncated(head.length))?;
        let checked = bytes.get(..head.checked as usize).ok_or(truncated(head.checked))?;
        if crc32(0, checked.get(HEAD..).unwrap_or_default()) != head.checksum {
            return Err(CHECKSUM.into());
        }
        let mut image = Self { head, partitions: &[], segments: &[], capabilities: &[], vms: &[], vcpus: &[], bytes };
        let directory = TableHead {
            record_bytes: size_of::<TableHead>() as u32,
            count: head.tables,
            offset: HEAD as u32,
            ..TableHead::default()
        };
        for table in records::<TableHead>(checked, &directory)? {
            match table.kind {
                table::PARTITIONS => image.partitions = records(checked, table)?,
                table::SEGMENTS => image.segments = records(checked, table)?,
                table::CAPABILITIES => image.capabilities = records(checked, table)?,
                table::VMS => image.vms = records(checked, table)?,
                table::VCPUS => image.vcpus = records(checked, table)?,
                kind if table.flags & MANDATORY != 0 => return Err(BootError::Number(UNKNOWN, kind.into())),
                _ => {}
            }
        }
        Ok(image)
    }

    /// Whether `offset` is at a page and `bytes` bytes from there lie in the checked part of the image; a blob may lie after
    /// it.
    pub fn holds(&self, offset: u64, bytes: u64, blob: bool) -> bool {
        let limit = if blob { self.head.length } else { self.head.checked };
        offset & 0xfff == 0 && offset.checked_add(bytes).is_some_and(|end| end <= limit)
    }

    /// Physical address of the byte at `offset`, which the image holds.
    pub fn address(&self, offset: u64) -> u64 {
        (self.bytes.as_ptr() as u64).wrapping_add(offset)
    }
}

#[cfg(test)]
impl<'a> Image<'a> {
    /// An image of one page with these tables.
    pub fn of(partitions: &'a [PartitionRecord], vms: &'a [VmRecord], capabilities: &'a [CapabilityRecord]) -> Self {
        let head = ImageHead { length: 4096, checked: 4096, ..ImageHead::default() };
        Self { head, partitions, segments: &[], capabilities, vms, vcpus: &[], bytes: &[] }
    }
}

/// The records of `table`, if they lie in the `checked` bytes and have the size that this core knows.
fn records<'a, T: FromBytes + KnownLayout + Immutable>(
    checked: &'a [u8],
    table: &TableHead,
) -> Result<&'a [T], BootError> {
    let known = table.record_bytes as usize == size_of::<T>();
    let bytes = checked.get(table.offset as usize..).filter(|_| known);
    let records = bytes.and_then(|bytes| <[T]>::ref_from_prefix_with_elems(bytes, table.count as usize).ok());
    records.map(|(records, _)| records).ok_or(BootError::Number(MALFORMED, table.kind.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;
    use zerocopy::IntoBytes;

    #[repr(align(4096))]
    struct Page([u8; 4096]);

    /// An image with these directory entries and zeros after them.
    fn build(tables: &[TableHead]) -> Box<Page> {
        let mut page = Box::new(Page([0; 4096]));
        page.0[HEAD..HEAD + size_of_val(tables)].copy_from_slice(tables.as_bytes());
        let head = ImageHead {
            magic: MAGIC,
            version: VERSION,
            checksum: crc32(0, &page.0[HEAD..]),
            length: 4096,
            checked: 4096,
            tables: tables.len() as u32,
            ..ImageHead::default()
        };
        page.0[..HEAD].copy_from_slice(head.as_bytes());
        page
    }

    fn refusal(module: &[u8]) -> BootError {
        Image::check(module).err().expect("the image is accepted")
    }

    const VCPUS: TableHead =
        TableHead { kind: table::VCPUS, flags: MANDATORY, record_bytes: 16, count: 2, offset: 1024 };

    #[test]
    fn each_way_to_damage_an_image_is_named() {
        let good = build(&[VCPUS]);
        assert_eq!(Image::check(&good.0).unwrap().vcpus.len(), 2);
        assert_eq!(refusal(&good.0[..10]), BootError::Number(TRUNCATED, 64));
        assert_eq!(refusal(&good.0[..4000]), BootError::Number(TRUNCATED, 4096));
        let mut bad = build(&[VCPUS]);
        bad.0[0] = 0;
        assert_eq!(refusal(&bad.0), BootError::Line(NO_IMAGE));
        let mut bad = build(&[VCPUS]);
        bad.0[offset_of!(ImageHead, version)] = 9;
        assert_eq!(refusal(&bad.0), BootError::Number(OTHER_VERSION, 9));
        let mut bad = build(&[VCPUS]);
        bad.0[4000] ^= 1;
        assert_eq!(refusal(&bad.0), BootError::Line(CHECKSUM));
    }

    #[test]
    fn a_table_that_is_unknown_or_does_not_fit_is_refused() {
        let malformed = BootError::Number(MALFORMED, table::VCPUS.into());
        for bad in [
            TableHead { record_bytes: 8, ..VCPUS },
            TableHead { offset: 1022, ..VCPUS },
            TableHead { offset: 4096 - 16, ..VCPUS },
            TableHead { offset: 0xffff_fff8, ..VCPUS },
            TableHead { count: u32::MAX, ..VCPUS },
        ] {
            assert_eq!(refusal(&build(&[bad]).0), malformed, "{bad:?}");
        }
        assert_eq!(refusal(&build(&[TableHead { kind: 99, ..VCPUS }]).0), BootError::Number(UNKNOWN, 99));
        assert!(Image::check(&build(&[TableHead { kind: 99, flags: 0, ..VCPUS }]).0).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn no_tables_make_the_reader_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), tables in 0u32..400) {
            let mut page = build(&[]);
            page.0[HEAD..HEAD + bytes.len()].copy_from_slice(&bytes);
            let head = ImageHead { tables, checksum: crc32(0, &page.0[HEAD..]), ..ImageHead::read_from_prefix(&page.0).unwrap().0 };
            page.0[..HEAD].copy_from_slice(head.as_bytes());
            let _ = Image::check(&page.0);
        }
    }
}
