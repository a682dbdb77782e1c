//! Channels that nobody uses any more, and programs that are asked whether they are there.

use crate::channel::{protocol, state};
use crate::channels::Channels;
use crate::layout::CHANNELS;
use crate::tclo::{QUIET, command};
use portcullis_runtime::state::Words;

/// Seconds without an operation after which a channel closes: its program ended without closing it. A
/// program that listens polls many times a second.
pub const IDLE: u32 = 80;
/// Seconds between two sweeps.
pub const PERIOD: u32 = 10;

impl<W: Words> Channels<W> {
    /// Looks at every channel; returns how many were closed.
    pub fn sweep(&mut self, second: u32) -> u32 {
        let mut closed = 0;
        for id in 0..CHANNELS {
            let mut channel = self.store.channel(id);
            if channel.state == state::FREE {
                continue;
            }
            if second.saturating_sub(channel.active) > IDLE {
                self.abandon(id);
                self.store.commit();
                closed += 1;
                continue;
            }
            let quiet = channel.state == state::IDLE && channel.pending == 0 && channel.outstanding == 0;
            if channel.protocol == protocol::TCLO && quiet && second.saturating_sub(channel.answered) >= QUIET {
                channel.pending |= command::PING;
                self.store.stage_channel(id, &channel);
                self.store.commit();
            }
        }
        closed
    }
}
