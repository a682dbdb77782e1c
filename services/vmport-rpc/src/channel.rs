//! One message channel as it stands in the state region.

use crate::layout::CHANNEL;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Nothing: the chain is empty, the block does not exist.
pub const NONE: u16 = u16::MAX;

/// What a channel is doing.
pub mod state {
    /// Not open.
    pub const FREE: u8 = 0;
    /// Open, nothing under way.
    pub const IDLE: u8 = 1;
    /// The guest sends a message.
    pub const SENDING: u8 = 2;
    /// A message for the guest is there.
    pub const WAITING: u8 = 3;
}

/// Who speaks first.
pub mod protocol {
    /// The guest asks, the host answers.
    pub const RPCI: u8 = 1;
    /// The host commands, the guest answers.
    pub const TCLO: u8 = 2;
}

/// Bits of [`Channel::flags`].
pub mod flag {
    /// Opened with a cookie, which every operation must bring.
    pub const COOKIE: u8 = 1;
    /// The chain of the waiting message belongs to a guestinfo entry or to another channel.
    pub const SHARED: u8 = 2;
}

/// A channel. Its waiting message is a fixed text, then bytes of a chain, either of which may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Channel {
    /// The cookie.
    pub cookie: u64,
    /// Bytes of the message that is under way.
    pub length: u32,
    /// Bytes of it that were moved.
    pub position: u32,
    /// Byte of the chain at which its part of the waiting message starts.
    pub start: u32,
    /// Second of the last operation.
    pub active: u32,
    /// First block of the chain, or [`NONE`].
    pub head: u16,
    /// Block of the chain in which the next byte stands; of no meaning outside the chain.
    pub block: u16,
    /// [`state`].
    pub state: u8,
    /// [`protocol`].
    pub protocol: u8,
    /// [`flag`].
    pub flags: u8,
    /// Number of the waiting message's [`crate::text::Text`].
    pub text: u8,
    /// TCLO: commands to be given, a bit mask of [`crate::tclo::command`].
    pub pending: u8,
    /// TCLO: the command whose result is awaited; 0 for none.
    pub outstanding: u8,
    /// TCLO: results in a row that were lost.
    pub lost: u8,
    /// Zero.
    pub reserved: u8,
    /// TCLO: second of the last result.
    pub answered: u32,
    /// TCLO: hash of the program's name; 0 as long as it has told none.
    pub name: u32,
    /// Zero.
    pub spare: u32,
}

static_assertions::const_assert_eq!(size_of::<Channel>(), CHANNEL * 8);

impl Channel {
    /// A channel that is not open.
    pub const FREE: Self = Self {
        cookie: 0,
        length: 0,
        position: 0,
        start: 0,
        active: 0,
        head: NONE,
        block: NONE,
        state: state::FREE,
        protocol: 0,
        flags: 0,
        text: 0,
        pending: 0,
        outstanding: 0,
        lost: 0,
        reserved: 0,
        answered: 0,
        name: 0,
        spare: 0,
    };

    /// From its words.
    pub fn from_words(words: [u64; CHANNEL]) -> Self {
        zerocopy::transmute!(words)
    }

    /// As words.
    pub fn words(self) -> [u64; CHANNEL] {
        zerocopy::transmute!(self)
    }

    /// Whether the operation with this cookie may use the channel.
    pub fn admits(&self, high: u32, low: u32) -> bool {
        let given = u64::from(high) << 32 | u64::from(low);
        self.state != state::FREE && (self.flags & flag::COOKIE == 0 || given == self.cookie)
    }

    /// Whether the chain belongs to the channel alone.
    pub fn owns_chain(&self) -> bool {
        self.head != NONE && self.flags & flag::SHARED == 0
    }

    /// No message under way; whoever calls this has seen to the chain.
    pub fn settle(&mut self) {
        self.state = state::IDLE;
        self.flags &= !flag::SHARED;
        (self.head, self.block, self.start, self.text) = (NONE, NONE, 0, 0);
        (self.length, self.position) = (0, 0);
    }
}
