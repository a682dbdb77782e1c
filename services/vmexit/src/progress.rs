//! How far the load of the guest has come: an instance goes on where the one before stopped, so that a load ends however
//! often the instance that does it ends, and takes as many exits as it needs.
//!
//! A load is the same each time: the same files of the image, the same plan, the same writes in the same order. So it is
//! a stream of bytes, and the number of those that are in place says all; the check of the files, which comes before,
//! likewise. The numbers are durable after every [`PIECE`]. An end in between leaves a piece that is done again: the same
//! bytes in the same place, while nobody else uses guest memory.
//!
//! A load that takes longer than its caller allows is paused: what is left of the stream passes by without a write, and
//! the next exit does more of it. So no call of the service is long, however large the files and slow the processor.

use crate::host::{File, Host};
use crate::loader::Error;
use crate::memory::GuestMemory;
use crate::saved::Load;

/// Bytes of a file after which the progress is durable and the clock is read; whole words.
pub const PIECE: u64 = if cfg!(test) { 64 } else { 1 << 20 };
/// The same of zeros.
pub const ZEROS: u64 = if cfg!(test) { 0x8000 } else { PIECE };

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
    /// Value of the host's TSC from which on it is paused; at least a piece is done before.
    until: u64,
    paused: bool,
}

impl<'a, H: Host> Progress<'a, H> {
    /// A load that has come as far as `load`, and pauses after `ticks` of the host's TSC.
    pub fn new(host: &'a mut H, load: Load, ticks: u64) -> Self {
        let (size, until) = (host.memory().size(), host.tsc().saturating_add(ticks));
        Self { host, load, size, files: 0, position: 0, saved: load.written, until, paused: false }
    }

    /// How far it has come; less than a piece of that is not durable.
    pub fn load(&self) -> Load {
        self.load
    }

    /// Whether something of it is left for another exit.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// A file of the image, whose bytes are those that the image builder put there; `None` when its check is paused. It
    /// is read-only: what was right once stays so, for other instances and other loads too. Files are wanted in the same
    /// order each time.
    pub fn file(&mut self, name: &'static str) -> Result<Option<&'static [u8]>, Error> {
        let File { bytes, checksum } = self.host.file(name)?;
        let before = self.files;
        self.files += bytes.len() as u64;
        while self.load.checked < self.files {
            if self.paused {
                return Ok(None);
            }
            let done = self.load.checked.saturating_sub(before) as usize;
            let rest = bytes.get(done..).unwrap_or_default();
            let piece = rest.get(..PIECE as usize).unwrap_or(rest);
            let crc = self.host.crc32c(self.load.crc as u32, piece);
            let ends = piece.len() == rest.len();
            if ends && crc != checksum {
                return Err(Error::Checksum(name));
            }
            self.load.checked += piece.len() as u64;
            self.load.crc = if ends { 0 } else { crc.into() };
            self.save();
        }
        Ok(Some(bytes))
    }

    /// The next `length` bytes of the stream: has `write` put those that are not in place there, at most `most` at once,
    /// given how many to pass over and how many to write.
    fn next(&mut self, length: u64, most: u64, mut write: impl FnMut(&mut H::Memory, u64, u64) -> bool) -> bool {
        let begin = self.position;
        self.position += length;
        // Whole words, so that what follows is as aligned as the stream was.
        let mut done = self.load.written.saturating_sub(begin).min(length) & !7;
        while done < length && !self.paused {
            let piece = (length - done).min(most);
            if !write(self.host.memory(), done, piece) {
                return false;
            }
            done += piece;
            self.load.written = self.load.written.max(begin + done);
            if self.load.written - self.saved >= PIECE {
                self.save();
            }
        }
        true
    }

    /// Makes it durable, and pauses it when its time is over. Where the state region is too small for that, the log
    /// knows since the load began.
    fn save(&mut self) {
        let _ = self.load.commit(self.host.journal());
        self.saved = self.load.written;
        self.paused = self.host.tsc() >= self.until;
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
        self.holds(address, length)
            && self.next(length, PIECE, |memory, done, piece| {
                let piece = bytes.get(done as usize..(done + piece) as usize);
                piece.is_some_and(|piece| memory.write(address + done, piece))
            })
    }

    fn zero(&mut self, address: u64, length: u64) -> bool {
        self.holds(address, length)
            && self.next(length, ZEROS, |memory, done, piece| memory.zero(address + done, piece))
    }
}
