//! What the guest's tools tell about it with `SetGuestInfo` (facts of VMware's backdoor, section 4.5): the last of
//! each number is kept as it came, as an entry beside guestinfo under a key that no guest can name, because it holds
//! blanks. Of what is new some goes to the log: text as it stands, and of a structure that is known its text. Anything
//! else is named and measured, never shown.

use crate::channels::{Channels, Outside};
use crate::dispatch::LINE;
use crate::guestinfo::{Entry, hash};
use portcullis_runtime::state::Words;

/// Bytes that are kept at most: addresses of all interfaces, the largest of them, take less.
const MOST: usize = 16 * 1024;
/// Bytes that are compared at a time.
const PIECE: usize = 64;

/// Where the text of a value stands.
#[derive(Clone, Copy)]
enum Form {
    /// It is the value.
    Text,
    /// In a structure: the version, the short and the full name of the operating system, then its details
    /// (`HostinfoDetailedDataHeader` of open-vm-tools). The full name is what a person reads.
    Detailed,
}

/// Version of that structure, its bytes before the details, and where the full name stands.
const DETAILED_VERSION: u32 = 1;
const DETAILED_BYTES: usize = 648;
const FULL_NAME: usize = 4 + 129;

/// What a number stands for, of those that are of interest to whoever reads the log.
fn form_of(number: u8) -> Option<(&'static str, Form)> {
    match number {
        1 => Some(("host name", Form::Text)),
        4 => Some(("build of its tools", Form::Text)),
        5 => Some(("operating system", Form::Text)),
        11 => Some(("operating system in detail", Form::Detailed)),
        _ => None,
    }
}

/// Whether bytes are a line of text: neither empty nor with a control character.
fn is_text(line: &[u8]) -> bool {
    !line.is_empty() && !line.iter().any(u8::is_ascii_control)
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
        if let Some((what, form)) = form_of(number) {
            let mut line = [0; LINE];
            let start = self.text_at(form, chain, value, value_length);
            let line = line.get_mut(..(value_length - start).min(LINE)).unwrap_or_default();
            self.store.read(self.store.cursor(chain, value + start), line);
            match line.split(|byte| *byte == 0).next().unwrap_or_default() {
                line if is_text(line) => outside.told(what, line),
                _ => outside.told_structure(what, value_length),
            }
        }
        let Ok(index) = self.store.admit(key, &entry) else { return false };
        self.store.put(index, &entry);
        true
    }

    /// Where in a value of `length` bytes the text begins that is shown.
    fn text_at(&self, form: Form, chain: u16, value: usize, length: usize) -> usize {
        let mut version = [0; 4];
        self.store.read(self.store.cursor(chain, value), version.get_mut(..length.min(4)).unwrap_or_default());
        let known = u32::from_le_bytes(version) == DETAILED_VERSION && length >= DETAILED_BYTES;
        if matches!(form, Form::Detailed) && known { FULL_NAME } else { 0 }
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
