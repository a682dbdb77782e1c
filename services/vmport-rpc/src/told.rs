//! What the guest's tools tell about it with `SetGuestInfo` (facts of VMware's backdoor, section 4.5): the last of
//! each number is kept as it came, as an entry beside guestinfo under a key that no guest can name, because it holds
//! blanks. What is text and new goes to the log.

use crate::channels::{Channels, Outside};
use crate::dispatch::LINE;
use crate::guestinfo::{Entry, hash};
use portcullis_runtime::state::Words;

/// Bytes that are kept at most: addresses of all interfaces, the largest of them, take less.
const MOST: usize = 16 * 1024;
/// Bytes that are compared at a time.
const PIECE: usize = 64;

/// What a number stands for, of those that are text and of interest to whoever reads the log.
fn text_of(number: u8) -> Option<&'static str> {
    match number {
        1 => Some("host name"),
        4 => Some("build of its tools"),
        5 => Some("operating system"),
        11 => Some("operating system in detail"),
        _ => None,
    }
}

impl<W: Words> Channels<W> {
    /// Keeps the value that starts at byte `value` of the message in `chain`, which begins with `head` and has
    /// `length` bytes, unless it is there already or finds no room. Takes over the chain if it returns `true`.
    pub(crate) fn keep_told(
        &mut self,
        number: u8,
        head: &[u8],
        value: usize,
        chain: u16,
        length: usize,
        outside: &mut impl Outside,
    ) -> bool {
        let Some(key) = value.checked_sub(1).and_then(|end| head.get(..end)) else { return false };
        let value_length = length.saturating_sub(value);
        if value_length == 0 || value_length > MOST {
            return false;
        }
        let entry = Entry {
            head: chain,
            key: 0,
            key_length: key.len() as u16,
            value: value as u16,
            value_length: value_length as u32,
            hash: hash(key),
        };
        if self.store.find(key).is_some_and(|index| self.is_same(&self.store.entry(index), &entry)) {
            return false;
        }
        if let Some(what) = text_of(number) {
            let mut line = [0; LINE];
            let line = line.get_mut(..value_length.min(LINE)).unwrap_or_default();
            self.store.read(self.store.cursor(chain, value), line);
            outside.told(what, line.split(|byte| *byte == 0).next().unwrap_or_default());
        }
        let Ok(index) = self.store.admit(key, &entry) else { return false };
        self.store.put(index, &entry);
        true
    }

    /// Whether two entries have the same value.
    fn is_same(&self, one: &Entry, other: &Entry) -> bool {
        let length = one.value_length as usize;
        let mut cursors = [one, other].map(|entry| self.store.cursor(entry.head, entry.value.into()));
        one.value_length == other.value_length
            && (0..length).step_by(PIECE).all(|done| {
                let pieces = cursors.each_mut().map(|cursor| {
                    let mut piece = [0; PIECE];
                    let bytes = piece.get_mut(..PIECE.min(length - done)).unwrap_or_default();
                    *cursor = self.store.read(*cursor, bytes);
                    piece
                });
                let [one, other] = pieces;
                one == other
            })
    }
}
