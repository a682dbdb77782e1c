//! The log: defmt frames, one at a time, assembled in the message page and handed to the core, which
//! adds origin, sequence and time of arrival. A frame that does not fit is left out whole.

use super::{message, syscall, time};
use core::sync::atomic::{AtomicUsize, Ordering};
use portcullis_ipc::limits::LOG_FRAME;

defmt::timestamp!("{=u64}", time::tsc());

/// Bytes of the frame that is being written. One thread, so a plain load and store are enough.
static LENGTH: AtomicUsize = AtomicUsize::new(0);

#[defmt::global_logger]
struct Logger;

// SAFETY: a partition has one thread and no interrupt handler of its own, so between `acquire` and
// `release` nobody else writes; a panic inside a frame starts a new one.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        LENGTH.store(0, Ordering::Relaxed);
    }

    unsafe fn flush() {}

    unsafe fn release() {
        let length = LENGTH.load(Ordering::Relaxed);
        if length <= LOG_FRAME {
            syscall::log_write(length);
        }
    }

    unsafe fn write(bytes: &[u8]) {
        let length = LENGTH.load(Ordering::Relaxed);
        if length + bytes.len() <= LOG_FRAME {
            message::log_out(length, bytes);
        }
        LENGTH.store(length + bytes.len(), Ordering::Relaxed);
    }
}

#[defmt::panic_handler]
fn defmt_panic() -> ! {
    syscall::abort(crate::reason::PANIC)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    defmt::error!("{}", defmt::Display2Format(info));
    syscall::abort(crate::reason::PANIC)
}
