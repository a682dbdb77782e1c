//! Where everything stands in the state region, in words of eight bytes from the start of the journal's
//! content. Nothing is read or written here.
//!
//! | part | words |
//! |---|---|
//! | header | [`HEADER`] |
//! | last answer of each vCPU | [`RECORD`] each |
//! | channels | [`CHANNEL`] each |
//! | guestinfo entries | [`ENTRY`] each |
//! | links of the blocks | 1 each |
//! | blocks | [`BLOCK_WORDS`] each |

use portcullis_ipc::limits::VCPUS_PER_VM;

/// Channels of a VM.
pub const CHANNELS: usize = 128;
/// Words of the header.
pub const HEADER: usize = 16;
/// Words of a vCPU's record.
pub const RECORD: usize = 5;
/// Words of a channel.
pub const CHANNEL: usize = 6;
/// Words of a guestinfo entry.
pub const ENTRY: usize = 2;
/// Bytes of a block, the unit in which messages and values take memory.
pub const BLOCK: usize = 256;
/// Words of a block.
pub const BLOCK_WORDS: usize = BLOCK / 8;
/// Blocks at most: a state region of 4 MiB holds no more.
pub const MOST_BLOCKS: usize = 16_384;
/// Guestinfo entries at most.
pub const MOST_KEYS: usize = 1_024;
/// Blocks without which no region is opened: two of the longest messages.
pub const FEWEST_BLOCKS: usize = 2 * 65_536 / BLOCK;

/// Header: state of the cookie generator, 4 words.
pub const RANDOM: usize = 0;
/// Header: options, a bit mask.
pub const OPTIONS: usize = 4;
/// Header: number of the last machine reset, 0 for none.
pub const RESET_SEQUENCE: usize = 5;
/// Header: guestinfo entries that are in use, the first of the table.
pub const ENTRIES: usize = 6;

/// Places for a number of guestinfo entries and blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Guestinfo entries.
    pub keys: usize,
    /// Blocks.
    pub blocks: usize,
}

impl Layout {
    /// What `words` hold with `keys` entries (at most [`MOST_KEYS`]); `None` when that is too little to work
    /// with.
    pub fn of(words: usize, keys: usize) -> Option<Self> {
        let keys = keys.min(MOST_KEYS);
        let rest = words.checked_sub(Self { keys, blocks: 0 }.links())?;
        let blocks = (rest / (1 + BLOCK_WORDS)).min(MOST_BLOCKS);
        (blocks >= FEWEST_BLOCKS).then_some(Self { keys, blocks })
    }

    /// The record of a vCPU.
    pub const fn record(vcpu: usize) -> usize {
        HEADER + vcpu * RECORD
    }

    /// A channel.
    pub const fn channel(id: usize) -> usize {
        Self::record(VCPUS_PER_VM) + id * CHANNEL
    }

    /// A guestinfo entry.
    pub const fn entry(index: usize) -> usize {
        Self::channel(CHANNELS) + index * ENTRY
    }

    /// The first link.
    pub const fn links(&self) -> usize {
        Self::entry(self.keys)
    }

    /// The first word of the first block.
    pub const fn data(&self) -> usize {
        self.links() + self.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_follow_each_other_and_end_within_the_region() {
        for words in [40_000, 131_072, 524_288] {
            let layout = Layout::of(words, 512).unwrap();
            assert_eq!(Layout::record(0), HEADER);
            assert_eq!(Layout::channel(0), HEADER + 8 * RECORD);
            assert_eq!(layout.links(), Layout::entry(512));
            let end = layout.data() + layout.blocks * BLOCK_WORDS;
            assert!(end <= words && words - end < BLOCK_WORDS + 1);
        }
    }

    #[test]
    fn a_region_without_room_for_two_messages_is_none() {
        let least = Layout { keys: 512, blocks: FEWEST_BLOCKS };
        let words = least.data() + FEWEST_BLOCKS * BLOCK_WORDS;
        assert_eq!(Layout::of(words, 512), Some(least));
        assert_eq!(Layout::of(words - 1, 512), None);
        assert_eq!(Layout::of(0, 512), None);
    }
}
