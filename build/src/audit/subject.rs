//! What an audit looks at: the roots, who owns which frames, and which partition serves which VM. The
//! roots and owners come from the core's own record, the rest from the system image.

use super::grants::Grant;
use std::fmt;

/// Whose a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The core: its image, stacks, tables of objects, log ring.
    Core,
    /// The page-table pool.
    Tables,
    /// The sealed image: nobody writes it.
    Image,
    /// The platform page.
    Platform,
    /// Message page of a partition's thread.
    Message(u16),
    /// Exit page of a vCPU of this VM.
    Exit(u16),
    /// Memory of a partition.
    Partition(u16),
    /// State region of a partition.
    State(u16),
    /// Guest memory of a VM.
    Guest(u16),
    /// Spare slot of a partition: nobody maps it.
    Spare(u16),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Core => f.write_str("the core"),
            Self::Tables => f.write_str("the page-table pool"),
            Self::Image => f.write_str("the sealed image"),
            Self::Platform => f.write_str("the platform page"),
            Self::Message(of) => write!(f, "partition {of} (message page)"),
            Self::Exit(of) => write!(f, "VM {of} (exit page)"),
            Self::Partition(of) => write!(f, "partition {of}"),
            Self::State(of) => write!(f, "partition {of} (state region)"),
            Self::Guest(of) => write!(f, "VM {of} (guest memory)"),
            Self::Spare(of) => write!(f, "partition {of} (spare slot)"),
        }
    }
}

/// A contiguous range of frames with one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned {
    /// First frame.
    pub start: u64,
    /// Pages.
    pub pages: u64,
    /// Owner.
    pub owner: Owner,
}

impl Owned {
    fn end(&self) -> u64 {
        self.start.saturating_add(self.pages << 12)
    }
}

/// What a root translates for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The core before and between partitions.
    Core,
    /// A partition's address space.
    Partition(u16),
    /// A VM's nested table.
    Vm(u16),
}

/// One tree of tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// Name in breaches.
    pub name: String,
    /// What it translates for.
    pub kind: Kind,
    /// Frame of the root table.
    pub root: u64,
}

/// The whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Roots.
    pub spaces: Vec<Space>,
    /// Owners, sorted by start ([`Subject::new`] sorts).
    owned: Vec<Owned>,
    /// For each VM the partition that serves it.
    pub vmexit: Vec<u16>,
    /// For each partition what the image gives it to map.
    pub grants: Vec<Vec<Grant>>,
    /// Addresses of the copy windows, each one page.
    pub windows: Vec<u64>,
    /// Frame of the local APIC.
    pub local_apic: u64,
}

impl Subject {
    /// A subject with these roots and owners; the rest is filled in by the caller.
    pub fn new(spaces: Vec<Space>, mut owned: Vec<Owned>) -> Self {
        owned.sort_by_key(|range| range.start);
        Self { spaces, owned, ..Self::default() }
    }

    /// Who owns the frame.
    pub fn owner(&self, frame: u64) -> Option<Owner> {
        let after = self.owned.partition_point(|range| range.start <= frame);
        let range = self.owned[..after].last()?;
        (frame < range.end()).then_some(range.owner)
    }

    /// Whether so many pages from `frame` on lie in one range of one owner.
    pub fn one_owner(&self, frame: u64, pages: u64) -> bool {
        let after = self.owned.partition_point(|range| range.start <= frame);
        self.owned[..after].last().is_some_and(|range| frame.saturating_add(pages << 12) <= range.end())
    }

    /// First frame of that owner.
    pub fn first_of(&self, owner: Owner) -> Option<u64> {
        self.owned.iter().find(|range| range.owner == owner).map(|range| range.start)
    }

    /// Pairs of ranges that overlap, in words.
    pub fn overlaps(&self) -> Vec<String> {
        let pairs = self.owned.windows(2).filter(|pair| pair[1].start < pair[0].end());
        pairs
            .map(|pair| {
                let [first, second] = [&pair[0], &pair[1]];
                format!("{} and {} at {:#x}", first.owner, second.owner, second.start)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_found_by_frame_and_overlaps_are_named() {
        let range = |start, pages, owner| Owned { start, pages, owner };
        let sound = Subject::new(vec![], vec![range(0x5000, 2, Owner::Guest(1)), range(0x1000, 1, Owner::Core)]);
        assert_eq!(sound.owner(0x1000), Some(Owner::Core));
        assert_eq!(sound.owner(0x2000), None);
        assert_eq!(sound.owner(0x6000), Some(Owner::Guest(1)));
        assert_eq!(sound.owner(0x7000), None);
        assert_eq!(sound.owner(0), None);
        assert!(sound.one_owner(0x5000, 2) && sound.one_owner(0x6000, 1));
        assert!(!sound.one_owner(0x5000, 3) && !sound.one_owner(0, 1) && !sound.one_owner(0x2000, 1));
        assert_eq!(sound.overlaps(), [] as [String; 0]);
        let torn = Subject::new(vec![], vec![range(0x1000, 2, Owner::Core), range(0x2000, 1, Owner::State(3))]);
        assert_eq!(torn.overlaps(), ["the core and partition 3 (state region) at 0x2000"]);
    }
}
