//! The heap: the segment that the image builder adds and the information page names, and memory that a
//! program brings itself because it needs it whatever the manifest says.

use core::alloc::{GlobalAlloc, Layout};
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use linked_list_allocator::Heap;
use portcullis_ipc::info::InfoPage;
use spin::Mutex;

struct Locked {
    manifest: Mutex<Heap>,
    own: Mutex<Heap>,
}

#[global_allocator]
static HEAP: Locked = Locked { manifest: Mutex::new(Heap::empty()), own: Mutex::new(Heap::empty()) };

/// Gives the heap its segment. Called once, before the service's code.
pub(super) fn start(info: &InfoPage) {
    if info.heap_bytes > 0 {
        let first = core::ptr::with_exposed_provenance_mut(info.heap as usize);
        // SAFETY: the segment is mapped readable and writable for the life of the instance, used by
        // nothing else, and this is called once.
        unsafe { HEAP.manifest.lock().init(first, info.heap_bytes as usize) }
    }
}

/// Adds memory of the program's own; only the first call has an effect.
pub fn add(memory: &'static mut [MaybeUninit<u8>]) {
    let mut own = HEAP.own.lock();
    if own.size() == 0 {
        own.init_from_slice(memory);
    }
}

// SAFETY: the allocators behind the locks hand out disjoint blocks of disjoint memory, aligned as asked.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = self.manifest.lock().allocate_first_fit(layout);
        let block = block.or_else(|()| self.own.lock().allocate_first_fit(layout));
        block.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(block) = NonNull::new(block) else { return };
        let own = self.own.lock();
        let inside = (own.bottom()..own.top()).contains(&block.as_ptr());
        drop(own);
        let heap = if inside { &self.own } else { &self.manifest };
        // SAFETY: the caller returns a block of this allocator with the layout it asked for, and its
        // address says which of the two heaps gave it.
        unsafe { heap.lock().deallocate(block, layout) }
    }
}
