//! Guestinfo: keys and values of the VM. An entry names the chain of the message that set it and where key
//! and value stand in there, so that neither setting nor getting copies a value.
//!
//! Entries in use are the first of their table; an entry that goes is replaced by the last one in the same
//! transaction. Keys are compared without regard to the case of letters.

use crate::channel::{NONE, flag, state};
use crate::layout::{CHANNELS, ENTRIES, ENTRY, Layout};
use crate::pool::blocks;
use crate::store::Store;
use crate::text::Text;
use portcullis_ipc::guestinfo::{KEY_BYTES, TOTAL_BYTES};
use portcullis_runtime::state::Words;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Entry {
    /// First block of the chain.
    pub head: u16,
    /// Byte of the chain at which the key starts, prefix left out.
    pub key: u16,
    /// Bytes of the key.
    pub key_length: u16,
    /// Byte of the chain at which the value starts.
    pub value: u16,
    /// Bytes of the value.
    pub value_length: u32,
    /// Hash of the key.
    pub hash: u32,
}

static_assertions::const_assert_eq!(size_of::<Entry>(), ENTRY * 8);

impl Entry {
    /// From its words.
    pub fn from_words(words: [u64; ENTRY]) -> Self {
        zerocopy::transmute!(words)
    }

    /// As words.
    pub fn words(self) -> [u64; ENTRY] {
        zerocopy::transmute!(self)
    }

    /// Bytes that count for the limit.
    pub fn bytes(&self) -> usize {
        usize::from(self.key_length) + self.value_length as usize
    }

    /// Bytes of the chain that the entry needs.
    pub fn end(&self) -> usize {
        usize::from(self.value) + self.value_length as usize
    }
}

/// Hash of a key: FNV-1a over its letters in lower case.
pub fn hash(key: &[u8]) -> u32 {
    key.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0193))
}

impl<W: Words> Store<W> {
    /// The index of the entry of `key`, which stands without prefix.
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let hash = hash(key);
        (0..self.entries()).find(|index| {
            let second = self.journal.load(Layout::entry(*index) + 1);
            (second >> 32) as u32 == hash && self.key_is(*index, key)
        })
    }

    fn key_is(&self, index: usize, key: &[u8]) -> bool {
        let entry = self.entry(index);
        let mut buffer = [0; KEY_BYTES];
        let Some(stored) = buffer.get_mut(..entry.key_length.into()) else { return false };
        self.read(self.cursor(entry.head, entry.key.into()), stored);
        stored.eq_ignore_ascii_case(key)
    }

    /// Whether `entry`, whose key is `key`, may take the place of the present one or a new one: the index, or
    /// the text that says why not.
    pub fn admit(&self, key: &[u8], entry: &Entry) -> Result<usize, Text> {
        let found = self.find(key);
        let index = found.unwrap_or(self.entries());
        if index == self.layout.keys {
            return Err(Text::TooManyKeys);
        }
        let (old_bytes, old_blocks) = found.map_or((0, 0), |index| {
            let old = self.entry(index);
            (old.bytes(), self.chain_blocks(old.head))
        });
        let held = self.info_blocks - old_blocks + blocks(entry.end());
        if self.info_bytes - old_bytes + entry.bytes() > TOTAL_BYTES || held > self.most_info_blocks() {
            return Err(Text::Full);
        }
        Ok(index)
    }

    /// Blocks that guestinfo may hold; the rest is for messages.
    pub fn most_info_blocks(&self) -> usize {
        self.layout.blocks / 4 * 3
    }

    /// Stages `entry` at the index that [`Self::admit`] gave; it takes over its chain, of which it keeps what
    /// it needs. The counts follow at once: the caller commits, or gives up the store.
    pub fn put(&mut self, index: usize, entry: &Entry) {
        if index < self.entries() {
            let old = self.entry(index);
            self.info_bytes -= old.bytes();
            self.info_blocks -= self.chain_blocks(old.head);
            self.disown(old.head);
        } else {
            self.journal.stage(ENTRIES, index as u64 + 1);
        }
        self.info_bytes += entry.bytes();
        self.info_blocks += blocks(entry.end());
        self.trim(entry.head, entry.end());
        self.journal.stage_block(Layout::entry(index), &entry.words());
    }

    /// Stages the end of what owned a chain that others may read: one of them owns it from now on, or nobody.
    pub fn disown(&mut self, head: u16) {
        if head == NONE {
            return;
        }
        let heir = (0..CHANNELS).map(|id| (id, self.channel(id))).find(|(_, channel)| {
            channel.state == state::WAITING && channel.head == head && channel.flags & flag::SHARED != 0
        });
        match heir {
            Some((id, mut channel)) => {
                channel.flags &= !flag::SHARED;
                self.stage_channel(id, &channel);
            }
            None => self.orphan(head),
        }
    }
}
