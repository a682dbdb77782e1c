//! Why the boot stopped: one line that says what is wrong and what to do.

use crate::arch::uart::Text;
use crate::mem::table::PoolExhausted;
use core::fmt;

/// Why the boot stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// What a line says.
    Line(&'static str),
    /// The same with a name.
    Name(&'static str, &'static str),
    /// The same with a number.
    Number(&'static str, u64),
    /// A record of the image exceeds a limit or contradicts another: its table, its number, what is wrong.
    Record(&'static str, usize, &'static str),
}

impl From<&'static str> for BootError {
    fn from(line: &'static str) -> Self {
        Self::Line(line)
    }
}

impl From<PoolExhausted> for BootError {
    fn from(PoolExhausted(pages): PoolExhausted) -> Self {
        Self::Number("boot: the page-table pool is used up; build the image anew; its pages", pages)
    }
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => f.write_str(line),
            Self::Name(line, name) => write!(f, "{}: {}", Text(line), Text(name)),
            Self::Number(line, number) => write!(f, "{}: {number}", Text(line)),
            Self::Record(table, number, what) => {
                write!(f, "image: {} {number}: {}; build it anew", Text(table), Text(what))
            }
        }
    }
}
