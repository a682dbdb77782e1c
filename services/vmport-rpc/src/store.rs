//! The durable state: the journal, typed access to its parts, and what an operation has staged.
//!
//! An operation checks everything, then stages what it changes together with the answer, then commits;
//! blocks that the commit left without an owner are given back after it. What a killed instance had staged
//! is gone; blocks that it had taken for it are free again, because the next instance counts as taken only
//! what something committed names.

use crate::channel::{Channel, NONE, state};
use crate::guestinfo::Entry;
use crate::layout::{CHANNELS, ENTRIES, Layout, MOST_BLOCKS};
use crate::record::Record;
use arrayvec::ArrayVec;
use portcullis_ipc::limits::VCPUS_PER_VM;
use portcullis_runtime::journal::Journal;
use portcullis_runtime::state::Words;

/// Chains that one operation leaves without an owner at most.
const ORPHANS: usize = 4;

/// One bit a block.
pub type Marks = [u64; MOST_BLOCKS / 64];

/// The durable state.
pub struct Store<W> {
    /// The journal.
    pub journal: Journal<W>,
    /// Where its parts stand.
    pub layout: Layout,
    /// First free block, or [`NONE`]; their links make a chain.
    pub(crate) free: u16,
    /// How many are free.
    pub(crate) free_blocks: usize,
    /// Blocks that guestinfo holds.
    pub(crate) info_blocks: usize,
    /// Bytes of all keys and values.
    pub(crate) info_bytes: usize,
    orphans: ArrayVec<u16, ORPHANS>,
}

impl<W: Words> Store<W> {
    /// Opens the state in `journal`, for at most `keys` guestinfo entries. `None` when the region is too
    /// small.
    pub fn open(journal: Journal<W>, keys: usize) -> Option<Self> {
        let layout = Layout::of(journal.words(), keys)?;
        let mut store = Self {
            journal,
            layout,
            free: NONE,
            free_blocks: 0,
            info_blocks: 0,
            info_bytes: 0,
            orphans: ArrayVec::new(),
        };
        let mut marks = [0; MOST_BLOCKS / 64];
        for index in 0..store.entries() {
            let entry = store.entry(index);
            store.info_blocks += store.mark(entry.head, &mut marks);
            store.info_bytes += entry.bytes();
        }
        for id in 0..CHANNELS {
            let channel = store.channel(id);
            if channel.state != state::FREE && channel.owns_chain() {
                store.mark(channel.head, &mut marks);
            }
        }
        store.thread(&marks);
        Some(store)
    }

    /// A word of the header.
    pub fn header(&self, index: usize) -> u64 {
        self.journal.load(index)
    }

    /// A channel; a free one for an id that does not exist.
    pub fn channel(&self, id: usize) -> Channel {
        if id >= CHANNELS {
            return Channel::FREE;
        }
        let mut words = [0; _];
        self.journal.load_block(Layout::channel(id), &mut words);
        Channel::from_words(words)
    }

    /// Stages a channel.
    pub fn stage_channel(&mut self, id: usize, channel: &Channel) {
        if id < CHANNELS {
            self.journal.stage_block(Layout::channel(id), &channel.words());
        }
    }

    /// The record of a vCPU; `None` for one that does not exist.
    pub fn record(&self, vcpu: u8) -> Option<Record> {
        let vcpu = usize::from(vcpu);
        if vcpu >= VCPUS_PER_VM {
            return None;
        }
        let mut words = [0; _];
        self.journal.load_block(Layout::record(vcpu), &mut words);
        Some(Record::from_words(words))
    }

    /// Stages the record of a vCPU that [`Self::record`] knows.
    pub fn stage_record(&mut self, vcpu: u8, record: &Record) {
        self.journal.stage_block(Layout::record(vcpu.into()), &record.words());
    }

    /// Guestinfo entries in use.
    pub fn entries(&self) -> usize {
        (self.header(ENTRIES) as usize).min(self.layout.keys)
    }

    /// A guestinfo entry in use.
    pub fn entry(&self, index: usize) -> Entry {
        let mut words = [0; _];
        self.journal.load_block(Layout::entry(index), &mut words);
        Entry::from_words(words)
    }

    /// The chain has no owner once the transaction is committed.
    pub fn orphan(&mut self, head: u16) {
        if head != NONE {
            // A chain that finds no place here stays taken until the next start.
            let _ = self.orphans.try_push(head);
        }
    }

    /// Commits what was staged; `false` when it was refused as a whole.
    pub fn commit(&mut self) -> bool {
        let orphans = core::mem::take(&mut self.orphans);
        let committed = self.journal.commit().is_ok();
        if committed {
            for head in orphans {
                self.release(head);
            }
        }
        committed
    }
}
