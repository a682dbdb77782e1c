//! Leases of the call that is being served: a bounded loan of the caller's memory.

use super::syscall::{lease_read, lease_write};
use portcullis_ipc::client::lease_id;
use portcullis_ipc::limits::LEASE_COPY;
use portcullis_ipc::message::Header;
use portcullis_ipc::syscall::Status;

/// A lease of the current caller.
#[derive(Clone, Copy)]
pub struct Borrowed {
    id: u64,
}

impl Borrowed {
    /// Lease `index` of the call with this header; `None` when the call carries fewer.
    pub fn of(header: &Header, index: u8) -> Option<Self> {
        (index < header.leases).then(|| Self { id: lease_id(index.into(), header.sequence) })
    }

    /// Copies from the lease, starting `offset` bytes into it, until `buffer` is full.
    ///
    /// # Errors
    /// [`Status::BadLease`] when the lease is gone or does not cover the range; part of the buffer may
    /// be filled then.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Status> {
        let mut at = offset;
        for piece in buffer.chunks_mut(LEASE_COPY) {
            lease_read(self.id, at, piece).done()?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Copies `bytes` into the lease, starting `offset` bytes into it.
    ///
    /// # Errors
    /// As [`Borrowed::read`]; part of the bytes may have been copied then.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Status> {
        let mut at = offset;
        for piece in bytes.chunks(LEASE_COPY) {
            lease_write(self.id, at, piece).done()?;
            at += piece.len() as u64;
        }
        Ok(())
    }
}
