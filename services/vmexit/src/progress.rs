//! How far the load of the guest has come: a new instance goes on there, so that a load ends however often the
//! instance that does it ends.
//!
//! A load is the same in every instance: the same files of the image, the same plan, the same writes in the same
//! order. So it is a stream of bytes, and the number of those that are in place says all; the check of the files,
//! which comes before, likewise. The numbers are durable after every [`PIECE`]. An end in between leaves a piece
//! that is done again: the same bytes in the same place, while nobody else uses guest memory.

use crate::host::{File, Host};
use crate::loader::Error;
use crate::memory::GuestMemory;
use crate::saved::Load;
use portcullis_ipc::file::crc32_of_file;

/// Bytes after which the progress is durable; whole words.
pub const PIECE: usize = if cfg!(test) { 64 } else { 256 << 10 };

/// Guest memory and the files of the image, as one load uses them.
pub struct Progress<'a, H> {
    host: &'a mut H,
    load: Load,
    /// Bytes of guest memory.
    size: u64,
    /// Bytes of the files that were wanted so far.
    files: u64,
    /// Bytes of the stream that this instance came to, in place before or not.
    position: u64,
    /// As many of them are durably in place.
    saved: u64,
}

impl<'a, H: Host> Progress<'a, H> {
    /// A load that has come as far as `load`.
    pub fn new(host: &'a mut H, load: Load) -> Self {
        let size = host.memory().size();
        Self { host, load, size, files: 0, position: 0, saved: load.written }
    }

    /// How far it has come; less than a piece of that is not durable.
    pub fn load(&self) -> Load {
        self.load
    }

    /// A file of the image, whose bytes are those that the image builder put there. It is read-only: what was
    /// right once stays so, for other instances and other loads too. Files are wanted in the same order each time.
    pub fn file(&mut self, name: &'static str) -> Result<&'static [u8], Error> {
        let File { bytes, checksum } = self.host.file(name)?;
        let before = self.files;
        self.files += bytes.len() as u64;
        while self.load.checked < self.files {
            let done = self.load.checked.saturating_sub(before) as usize;
            let rest = bytes.get(done..).unwrap_or_default();
            let piece = rest.get(..PIECE).unwrap_or(rest);
            let crc = crc32_of_file(self.load.crc as u32, piece);
            let ends = piece.len() == rest.len();
            if ends && crc != checksum {
                return Err(Error::Checksum(name));
            }
            self.load.checked += piece.len() as u64;
            self.load.crc = if ends { 0 } else { crc.into() };
            self.save();
        }
        Ok(bytes)
    }

    /// Makes it durable. Where the state region is too small for that, the log knows since the load began.
    fn save(&mut self) {
        let _ = self.load.commit(self.host.journal());
        self.saved = self.load.written;
    }
}

impl<H: Host> GuestMemory for Progress<'_, H> {
    fn size(&self) -> u64 {
        self.size
    }

    /// A load that looked at guest memory would find what another instance left there: it finds nothing.
    fn read(&self, _: u64, _: &mut [u8]) -> bool {
        false
    }

    fn exchange(&mut self, _: u64, _: usize, _: u64, _: u64) -> bool {
        false
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
        let length = bytes.len() as u64;
        if !self.holds(address, length) {
            return false;
        }
        let begin = self.position;
        self.position += length;
        // Whole words, so that what follows is as aligned as the write was.
        let mut done = self.load.written.saturating_sub(begin).min(length) & !7;
        for piece in bytes.get(done as usize..).unwrap_or_default().chunks(PIECE) {
            if !self.host.memory().write(address + done, piece) {
                return false;
            }
            done += piece.len() as u64;
            self.load.written = self.load.written.max(begin + done);
            if self.load.written - self.saved >= PIECE as u64 {
                self.save();
            }
        }
        true
    }
}
