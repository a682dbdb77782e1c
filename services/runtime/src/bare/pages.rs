//! The pages that the core shows this partition: information, platform, state region.

use super::syscall;
use crate::bulk;
use crate::info::Info;
use crate::journal::{Foreign, Journal};
use crate::reason;
use crate::state::{StateRegion, Words};
use portcullis_ipc::exit::ExitPage;
use portcullis_ipc::info::{InfoPage, config_offset};
use portcullis_ipc::layout::{EXIT_PAGES, INFO_PAGE, PAGE, PLATFORM_PAGE, STATE_REGION};
use portcullis_ipc::platform::PlatformPage;

/// The information page of this partition.
pub fn info() -> Info<'static> {
    let page = core::ptr::with_exposed_provenance::<InfoPage>(INFO_PAGE as usize);
    // SAFETY: the core maps the page read-only at this address before the first instruction; nobody
    // writes it while the instance lives, and every bit pattern is a valid page.
    let page = unsafe { &*page };
    let offset = config_offset(page.slot_count as usize);
    let text = core::ptr::with_exposed_provenance::<u8>(INFO_PAGE as usize + offset);
    // SAFETY: the text lies in the same read-only page, up to its end.
    let text = unsafe { core::slice::from_raw_parts(text, PAGE - offset) };
    Info::new(page, text)
}

/// The exit page of vCPU `index` of the VM that this partition runs. The core writes it when it tells of an exit of the
/// vCPU, and in `syscall::vcpu_fetch`: a reference to it ends before the next event is waited for, and what is fetched
/// goes through it.
#[inline(always)]
pub fn exit_page(index: u16) -> *mut ExitPage {
    core::ptr::with_exposed_provenance_mut(EXIT_PAGES as usize + usize::from(index) * PAGE)
}

/// The platform page as it is now.
pub fn platform() -> PlatformPage {
    let page = core::ptr::with_exposed_provenance::<PlatformPage>(PLATFORM_PAGE as usize);
    // SAFETY: the core maps the page read-only at this address; every bit pattern is a valid page, and
    // the copy is volatile because the core sets the wall clock later.
    unsafe { page.read_volatile() }
}

/// A blob whose bytes are not those that the image builder put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// The blob of this partition with this name, checked.
pub fn blob(name: &str) -> Result<Option<&'static [u8]>, Damaged> {
    let Some(blob) = info().blob(name) else { return Ok(None) };
    let first = core::ptr::with_exposed_provenance::<u8>(blob.address as usize);
    // SAFETY: the core maps what the information page names read-only for the life of the instance.
    let bytes = unsafe { core::slice::from_raw_parts(first, blob.bytes as usize) };
    if bulk::crc32c(0, bytes) == blob.checksum { Ok(Some(bytes)) } else { Err(Damaged) }
}

/// Words of the state region, from the one at `first`.
pub struct RegionWords {
    first: usize,
    words: usize,
}

impl RegionWords {
    /// The first `count` words, and the rest.
    pub fn split(self, count: usize) -> (Self, Self) {
        let count = count.min(self.words);
        let head = Self { first: self.first, words: count };
        (head, Self { first: self.first + count, words: self.words - count })
    }

    fn at(&self, index: usize) -> Option<*mut u64> {
        let address = STATE_REGION as usize + (self.first + index) * 8;
        (index < self.words).then(|| core::ptr::with_exposed_provenance_mut(address))
    }
}

impl Words for RegionWords {
    fn words(&self) -> usize {
        self.words
    }

    fn load(&self, index: usize) -> u64 {
        match self.at(index) {
            // SAFETY: the core maps the region for the life of the instance; `index` lies inside.
            Some(word) => unsafe { word.read_volatile() },
            None => 0,
        }
    }

    fn store(&mut self, index: usize, value: u64) {
        if let Some(word) = self.at(index) {
            // SAFETY: as for `load`; the region is writable and no reference into it exists.
            unsafe { word.write_volatile(value) }
        }
    }
}

/// The state region of this partition, opened as the state of `service` with `version` and `schema`.
/// Its last `counters` words are left to [`counters`].
pub fn state_region(service: &str, version: u32, schema: u64, counters: usize) -> StateRegion<RegionWords> {
    let words = (info().page().state_bytes as usize / 8).saturating_sub(counters);
    StateRegion::open(RegionWords { first: 0, words }, service, version, schema)
}

/// The state region of this partition, opened for changes in place, without its last `counters` words; and
/// whether its content is that of an instance before.
pub fn journal(service: &str, version: u32, schema: u64, counters: usize) -> (Journal<RegionWords>, bool) {
    let words = (info().page().state_bytes as usize / 8).saturating_sub(counters);
    match Journal::open(RegionWords { first: 0, words }, service, version, schema) {
        Ok(opened) => opened,
        Err(Foreign { version: found, length }) => {
            defmt::error!(
                "the state region holds live state of version {=u32}, {=u32} bytes, not version {=u32}: start the system anew",
                found,
                length,
                version
            );
            syscall::abort(reason::FOREIGN_STATE)
        }
    }
}

/// The last `count` words of the state region: each is state of its own, changed by one store.
pub fn counters(count: usize) -> RegionWords {
    let words = info().page().state_bytes as usize / 8;
    let count = count.min(words);
    RegionWords { first: words - count, words: count }
}
