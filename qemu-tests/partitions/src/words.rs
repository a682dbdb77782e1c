//! The state region as plain words, for tests that count across instances.

use portcullis_ipc::layout::STATE_REGION;

fn word(index: usize) -> *mut u64 {
    core::ptr::with_exposed_provenance_mut(STATE_REGION as usize + index * 8)
}

/// Word `index` of the state region, below 512: the manifest gives each user a page at least.
pub fn load(index: usize) -> u64 {
    // SAFETY: the first page of the region is mapped for the life of the instance and only this thread uses it.
    unsafe { word(index & 511).read_volatile() }
}

/// Stores word `index` of the state region, below 512.
pub fn store(index: usize, value: u64) {
    // SAFETY: as in `load`; the region is writable.
    unsafe { word(index & 511).write_volatile(value) }
}
