//! What the system image gives each partition to map: addresses, rights, and for what is mapped from the
//! sealed image itself the place in it. It is read from the image, not from the core.

use super::walk::Rights;
use crate::bundle::Bundle;
use portcullis_ipc::layout;
use portcullis_ipc::ram::Ram;
use portcullis_ipc::syscall::rights;
use std::ops::Range;

/// A range that a partition may map, and must map so if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// First address.
    pub address: u64,
    /// Pages.
    pub pages: u64,
    /// Stores.
    pub write: bool,
    /// Instruction fetch.
    pub execute: bool,
    /// Offset in the sealed image of what is mapped from there.
    pub image_offset: Option<u64>,
}

impl Grant {
    const fn data(address: u64, pages: u64, write: bool) -> Self {
        Self { address, pages, write, execute: false, image_offset: None }
    }

    /// True when so many pages from `address` on lie in the range.
    pub fn covers(&self, address: u64, pages: u64) -> bool {
        address.checked_sub(self.address).is_some_and(|offset| (offset >> 12) + pages <= self.pages)
    }

    /// True when the page at `address` lies in the range and has its rights, and its frame is the right
    /// one of an image that starts at `image`.
    pub fn allows(&self, address: u64, frame: u64, given: Rights, image: Option<u64>) -> bool {
        let inside = address.checked_sub(self.address).filter(|offset| offset >> 12 < self.pages);
        let Some(offset) = inside else { return false };
        let from_image =
            self.image_offset.is_none_or(|start| image.is_some_and(|image| image + start + offset == frame));
        from_image && given.write == self.write && given.execute == self.execute
    }
}

/// The ranges of every partition, by index.
pub fn of(bundle: &Bundle<'_>) -> Vec<Vec<Grant>> {
    (0u16..)
        .zip(&bundle.partitions)
        .map(|(index, partition)| {
            let mut grants = vec![
                Grant { image_offset: Some(partition.record.info_offset), ..Grant::data(layout::INFO_PAGE, 1, false) },
                Grant::data(layout::PLATFORM_PAGE, 1, false),
                Grant::data(layout::MESSAGE_PAGE, 1, true),
                Grant::data(layout::STATE_REGION, partition.record.state_pages.into(), true),
            ];
            for vm in bundle.vms.iter().filter(|vm| vm.record.vmexit == index) {
                grants.push(Grant::data(layout::EXIT_PAGES, vm.vcpus.len() as u64, true));
                let guest = |piece: Range<u64>| {
                    Grant::data(layout::GUEST_BASE + piece.start, (piece.end - piece.start) >> 12, true)
                };
                grants.extend(Ram::new(vm.record.memory_pages << 12).pieces().map(guest));
            }
            grants.extend(partition.segments.iter().map(|segment| {
                let write = segment.rights & rights::WRITE != 0;
                Grant {
                    address: segment.address,
                    pages: segment.pages.into(),
                    write,
                    execute: segment.rights & rights::EXECUTE != 0,
                    image_offset: (!write).then_some(segment.offset),
                }
            }));
            grants
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_allowed_only_in_its_range_with_its_rights_and_from_its_place() {
        let text = Grant { address: 0x4000_0000, pages: 2, write: false, execute: true, image_offset: Some(0x3000) };
        let given = |write, execute| Rights { write, user: true, execute };
        let read_execute = given(false, true);
        let image = Some(0x50_0000);
        assert!(text.allows(0x4000_1000, 0x50_4000, read_execute, image));
        assert!(!text.allows(0x4000_2000, 0x50_5000, read_execute, image), "beyond the range");
        assert!(!text.allows(0x3fff_f000, 0x50_2000, read_execute, image), "before the range");
        assert!(!text.allows(0x4000_0000, 0x50_3000, given(true, true), image), "more rights");
        assert!(!text.allows(0x4000_0000, 0x50_3000, given(false, false), image), "fewer rights");
        assert!(!text.allows(0x4000_0000, 0x50_4000, read_execute, image), "another page of the image");
        assert!(!text.allows(0x4000_0000, 0x50_3000, read_execute, None), "no image");
        let data = Grant::data(0x7000_2000, 1, true);
        assert!(data.allows(0x7000_2000, 0x1234_5000, given(true, false), None));
    }
}
