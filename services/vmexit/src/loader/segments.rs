//! The pieces of a kernel and where they go.

use super::error::{Error, SEGMENTS};
use super::space::{Contents, Space, What};
use arrayvec::ArrayVec;

/// A loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Where it goes.
    pub physical: u64,
    /// Where it is linked to run.
    pub linked: u64,
    /// Bytes that it takes; zeros follow its own.
    pub length: u64,
    /// Alignment.
    pub align: u64,
}

/// The segments of one kernel.
#[derive(Default)]
pub struct Segments<'a>(pub ArrayVec<Segment<'a>, SEGMENTS>);

impl<'a> Segments<'a> {
    /// Lowest address that a segment goes to, and the one after the highest.
    pub fn extent(&self) -> (u64, u64) {
        let start = self.0.iter().map(|segment| segment.physical).min().unwrap_or(0);
        let end = self.0.iter().map(|segment| segment.physical.saturating_add(segment.length)).max();
        (start, end.unwrap_or(0))
    }

    /// Whether `address` lies in a segment that was moved by `offset`.
    pub fn contain(&self, address: u64, offset: u64) -> bool {
        self.0.iter().any(|one| address.wrapping_sub(one.physical.wrapping_add(offset)) < one.length)
    }

    /// Claims the places, moved by `offset`.
    pub fn claim(&self, space: &mut Space, offset: u64) -> Result<(), Error> {
        let mut segments = self.0.iter();
        segments.try_for_each(|one| space.claim(one.physical.wrapping_add(offset), one.length, What::Kernel))
    }

    /// Their bytes, moved by `offset`; what they take beyond those is zero, as all memory.
    pub fn contents(&self, offset: u64) -> Result<Contents<'a>, Error> {
        let mut segments = self.0.iter();
        segments.try_fold(Contents::default(), |all, one| all.with(one.physical.wrapping_add(offset), one.bytes))
    }
}
