//! Guestinfo that the VM starts with: taken over from the image once, before the first call is served.

use crate::channels::{Channels, PRESET};
use crate::guestinfo::{Entry, hash};
use crate::layout::OPTIONS;
use crate::text::Text;
use portcullis_ipc::guestinfo::{Blob, Invalid};
use portcullis_runtime::state::Words;

/// Why an entry of the blob was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omitted {
    /// The blob is damaged from here on.
    Invalid(Invalid),
    /// The limit on the number of keys.
    Keys,
    /// The limit on bytes, or the pool.
    Bytes,
}

impl<W: Words> Channels<W> {
    /// Takes over a blob unless an instance before did; returns how many entries. An instance that ends
    /// within leaves the next one to do all of it again, with the same result.
    ///
    /// # Errors
    /// The first entry that was left out, and why; the ones before it are kept.
    pub fn preset(&mut self, bytes: &[u8]) -> Result<usize, (usize, Omitted)> {
        let options = self.store.header(OPTIONS);
        if options & PRESET != 0 {
            return Ok(0);
        }
        let blob = Blob::new(bytes).map_err(|invalid| (0, Omitted::Invalid(invalid)))?;
        let mut count = 0;
        let mut result = Ok(());
        for entry in blob {
            let entry = entry.map_err(Omitted::Invalid);
            if let Err(why) = entry.and_then(|(key, value)| self.keep(key, value)) {
                result = Err((count, why));
                break;
            }
            count += 1;
        }
        self.store.journal.stage(OPTIONS, options | PRESET);
        self.store.commit();
        result.map(|()| count)
    }

    fn keep(&mut self, key: &[u8], value: &[u8]) -> Result<(), Omitted> {
        let head = self.store.allocate(key.len() + value.len()).ok_or(Omitted::Bytes)?;
        let entry = Entry {
            head,
            key: 0,
            key_length: key.len() as u16,
            value: key.len() as u16,
            value_length: value.len() as u32,
            hash: hash(key),
        };
        match self.store.admit(key, &entry) {
            Ok(index) => {
                let at = self.store.write(self.store.cursor(head, 0), key);
                self.store.write(at, value);
                self.store.put(index, &entry);
                self.store.commit();
                Ok(())
            }
            Err(text) => {
                self.store.release(head);
                Err(if text == Text::TooManyKeys { Omitted::Keys } else { Omitted::Bytes })
            }
        }
    }
}
