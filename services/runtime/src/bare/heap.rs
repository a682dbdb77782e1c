//! The heap: the segment that the image builder adds and the information page names.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use linked_list_allocator::Heap;
use portcullis_ipc::platform::InfoPage;
use spin::Mutex;

struct Locked(Mutex<Heap>);

#[global_allocator]
static HEAP: Locked = Locked(Mutex::new(Heap::empty()));

/// Gives the heap its memory. Called once, before the service's code.
pub(super) fn start(info: &InfoPage) {
    if info.heap_bytes > 0 {
        let first = core::ptr::with_exposed_provenance_mut(info.heap as usize);
        // SAFETY: the segment is mapped readable and writable for the life of the instance, used by
        // nothing else, and this is called once.
        unsafe { HEAP.0.lock().init(first, info.heap_bytes as usize) }
    }
}

// SAFETY: the allocator behind the lock hands out disjoint blocks of the heap segment, aligned as asked.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.0.lock().allocate_first_fit(layout) {
            Ok(block) => block.as_ptr(),
            Err(()) => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller returns a block of this allocator with the layout it asked for.
            unsafe { self.0.lock().deallocate(block, layout) }
        }
    }
}
