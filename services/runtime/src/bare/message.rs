//! The message page: copies in and out, never a reference into memory that the core writes too.

use portcullis_ipc::layout::{LEASE_TABLE, LOG_IN, LOG_OUT, MESSAGE_PAGE, RECEIVE, SEND};
use portcullis_ipc::limits::{LEASES, LOG_FRAME, LOG_READ, PAYLOAD};
use portcullis_ipc::message::{Header, Lease};

fn at(offset: usize) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(MESSAGE_PAGE as usize + offset)
}

/// Copies `bytes` into the page at `offset`; what would pass `most` is left out.
#[inline(always)]
fn copy_in(offset: usize, bytes: &[u8], most: usize) {
    // SAFETY: the message page is mapped readable and writable for the life of the instance, `offset +
    // most` lies inside it by the layout's static assertions, and no reference into it exists.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), at(offset), bytes.len().min(most)) }
}

/// Copies from the page at `offset`; what would pass `most` is left as it is.
#[inline(always)]
fn copy_out(offset: usize, bytes: &mut [u8], most: usize) {
    // SAFETY: as in `copy_in`; the target is memory of ours.
    unsafe { core::ptr::copy_nonoverlapping(at(offset), bytes.as_mut_ptr(), bytes.len().min(most)) }
}

/// Puts a message into the send area.
#[inline(always)]
pub fn send(header: &Header, payload: &[u8]) {
    // SAFETY: the send area is mapped, aligned to 512 bytes and larger than a header.
    unsafe { at(SEND).cast::<Header>().write(*header) }
    copy_in(SEND + size_of::<Header>(), payload, PAYLOAD);
}

/// The header in the receive area.
#[inline(always)]
pub fn received_header() -> Header {
    // SAFETY: the receive area is mapped, aligned to 512 bytes; every bit pattern is a header.
    unsafe { at(RECEIVE).cast::<Header>().read() }
}

/// Copies the payload in the receive area, `length` bytes or what fits into `buffer`.
#[inline(always)]
pub fn received(length: usize, buffer: &mut [u8; PAYLOAD]) -> &[u8] {
    let target = buffer.get_mut(..length.min(PAYLOAD)).unwrap_or_default();
    copy_out(RECEIVE + size_of::<Header>(), target, PAYLOAD);
    target
}

/// Puts the leases of the next call into their table; more than [`LEASES`] are left out.
pub fn leases(table: &[Lease]) {
    for (index, lease) in table.iter().take(LEASES).enumerate() {
        // SAFETY: entry `index` lies inside the lease table of the mapped page, which is aligned.
        unsafe { at(LEASE_TABLE + index * size_of::<Lease>()).cast::<Lease>().write(*lease) }
    }
}

/// Writes log bytes at `position` of the log frame; what would pass the frame is left out.
#[inline(always)]
pub fn log_out(position: usize, bytes: &[u8]) {
    copy_in(LOG_OUT + position.min(LOG_FRAME), bytes, LOG_FRAME.saturating_sub(position));
}

/// Copies the log records that `log_read` delivered.
pub fn log_in(length: usize, buffer: &mut [u8; LOG_READ]) -> &[u8] {
    let target = buffer.get_mut(..length.min(LOG_READ)).unwrap_or_default();
    copy_out(LOG_IN, target, LOG_READ);
    target
}
