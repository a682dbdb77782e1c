//! Why the boot stopped: one line that says what is wrong and what to do.

use crate::mem::table::PoolExhausted;
use core::fmt;

/// Why the boot stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// What a line says that has no numbers in it.
    Line(&'static str),
    /// The processor lacks a feature.
    Feature(&'static str),
    /// No so many contiguous pages are free.
    Memory(u64),
    /// The page-table pool is used up: its pages.
    Pool(u64),
    /// Another format version of the image.
    Version(u32),
    /// The module is shorter than the image: bytes there, bytes needed.
    Truncated(u64, u64),
    /// The checksum of the image does not match: found, expected.
    Checksum(u32, u32),
    /// A record of the image is mandatory and of an unknown kind: number, kind.
    Unknown(u32, u16),
    /// A record of the image is malformed, exceeds a limit or contradicts another: number, what.
    Record(u32, &'static str),
}

impl From<&'static str> for BootError {
    fn from(line: &'static str) -> Self {
        Self::Line(line)
    }
}

impl From<PoolExhausted> for BootError {
    fn from(PoolExhausted(pages): PoolExhausted) -> Self {
        Self::Pool(pages)
    }
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => f.write_str(line),
            Self::Feature(name) => write!(f, "boot: this processor has no {name}, which the core needs"),
            Self::Memory(pages) => {
                write!(f, "boot: no {pages} contiguous free pages left; give the machine more memory")
            }
            Self::Pool(pages) => {
                write!(f, "boot: the page-table pool is used up (limit {pages} pages); build the image anew")
            }
            Self::Version(found) => write!(f, "image: format version {found}, not this core's; build both alike"),
            Self::Truncated(found, needed) => {
                write!(f, "image: truncated: {found} of {needed} bytes; load the whole bundle")
            }
            Self::Checksum(found, expected) => {
                write!(f, "image: checksum {found:08x}, head says {expected:08x}; build it anew")
            }
            Self::Unknown(number, kind) => {
                write!(f, "image: record {number} of unknown mandatory kind {kind}; use a newer core")
            }
            Self::Record(number, what) => write!(f, "image: record {number}: {what}"),
        }
    }
}
