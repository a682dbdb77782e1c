//! The first instruction of an instance, and the way from there to the service's `main`.

use super::{heap, pages, syscall};
use crate::reason;
use core::arch::global_asm;
use portcullis_ipc::info::INFO_MAGIC;

/// What the core tells an instance when it starts.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Generation of this instance, from 1.
    pub generation: u32,
    /// [`portcullis_ipc::record::cause`] of the end of the instance before; 0 at cold boot.
    pub cause: u8,
    /// CPU of this thread.
    pub cpu: u16,
}

// RDI, RSI and RDX already stand where the C convention wants the three arguments.
global_asm!(
    ".section .text._start, \"ax\", @progbits",
    ".global _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "cld",
    "call {first}",
    "ud2",
    ".text",
    first = sym first,
);

unsafe extern "Rust" {
    safe fn portcullis_main(start: Start) -> !;
}

extern "C" fn first(generation: u64, cause: u64, cpu: u64) -> ! {
    let info = pages::info();
    if info.page().magic != INFO_MAGIC {
        syscall::abort(reason::NO_INFO_PAGE);
    }
    heap::start(info.page());
    portcullis_main(Start { generation: generation as u32, cause: cause as u8, cpu: cpu as u16 })
}

/// Names the function that runs after the runtime has started: `fn(Start) -> !`.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        fn portcullis_main(start: $crate::start::Start) -> ! {
            $main(start)
        }
    };
}
