//! Commands of the host to the guest's tools: which one is next, and what a result or its loss means. Pure:
//! all of it is a change of the channel.
//!
//! A channel starts with `reset`. Its result names the program; then the program is asked to register its
//! capabilities. One command is under way at a time; the next send that is not empty is its result. A name belongs
//! to one program that polls: the channel of a second one closes when it tells its name.

use crate::channel::{Channel, state};
use crate::text::Text;

/// Commands, one bit each; the lowest goes first.
pub mod command {
    /// Forget what was said before.
    pub const RESET: u8 = 1;
    /// Say what you can do.
    pub const CAPABILITIES: u8 = 2;
    /// Follow the host's clock, or do not, as the option says.
    pub const SYNCHRONIZE: u8 = 4;
    /// Are you there?
    pub const PING: u8 = 8;
}

/// Seconds without a poll after which a channel starts with a reset again: the guest, or all of the machine,
/// stood still.
pub const PAUSE: u32 = 15;
/// Seconds after a result until the program is asked whether it is there.
pub const QUIET: u32 = 60;
/// Results in a row that may be lost until a command is not repeated.
const LOSSES: u8 = 3;
/// Beginning of the result of a reset; the program's name follows.
const ATTRIBUTES: &[u8] = b"OK ATR ";

/// The command that a text is; 0 for a text that is none.
pub fn of(text: u8) -> u8 {
    match text {
        _ if text == Text::Reset as u8 => command::RESET,
        _ if text == Text::Capabilities as u8 => command::CAPABILITIES,
        _ if text == Text::Ping as u8 => command::PING,
        _ if text == Text::SyncOn as u8 || text == Text::SyncOff as u8 => command::SYNCHRONIZE,
        _ => 0,
    }
}

impl Channel {
    /// Makes the next command the waiting message, if there is one and none is under way.
    pub fn next_command(&mut self, synchronize: bool) {
        if self.state != state::IDLE || self.outstanding != 0 || self.pending == 0 {
            return;
        }
        let next = self.pending & self.pending.wrapping_neg();
        let text = match next {
            command::RESET => Text::Reset,
            command::CAPABILITIES => Text::Capabilities,
            command::PING => Text::Ping,
            _ if synchronize => Text::SyncOn,
            _ => Text::SyncOff,
        };
        self.pending &= !next;
        self.state = state::WAITING;
        self.text = text as u8;
        (self.length, self.position) = (text.bytes().len() as u32, 0);
    }

    /// The guest took the waiting command, or turned to something else; `whole` says that it has read it.
    pub fn command_left(&mut self, whole: bool) {
        let command = of(self.text);
        self.settle();
        if whole {
            self.outstanding = command;
        } else {
            self.pending |= command;
        }
    }

    /// A message of the guest on this channel: the result of the command under way. `head` holds its beginning.
    /// Returns the program's name if it told it.
    pub fn result<'a>(&mut self, head: &'a [u8], second: u32, synchronize: bool) -> Option<&'a [u8]> {
        let command = core::mem::take(&mut self.outstanding);
        (self.lost, self.answered) = (0, second);
        let name = head.strip_prefix(ATTRIBUTES).filter(|_| command == command::RESET)?;
        self.pending |= command::CAPABILITIES;
        if synchronize {
            self.pending |= command::SYNCHRONIZE;
        }
        name.split(|byte| matches!(byte, b' ' | 0)).next()
    }

    /// The result of the command under way, if there is one, will not come: a reset and what follows from it
    /// are given again, a few times.
    pub fn result_lost(&mut self) {
        let command = core::mem::take(&mut self.outstanding);
        if command != 0 && self.lost < LOSSES {
            self.lost += 1;
            self.pending |= command & !command::PING;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::bytes;

    fn idle(pending: u8) -> Channel {
        Channel { state: state::IDLE, pending, ..Channel::FREE }
    }

    fn said(channel: &mut Channel) -> &'static [u8] {
        channel.next_command(false);
        if channel.state != state::WAITING {
            return b"";
        }
        let text = bytes(channel.text);
        assert_eq!(channel.length as usize, text.len());
        channel.command_left(true);
        text
    }

    #[test]
    fn a_channel_is_reset_and_then_asked_for_capabilities() {
        let mut channel = idle(command::RESET);
        assert_eq!(said(&mut channel), b"reset");
        assert_eq!(said(&mut channel), b"", "one command at a time");
        assert_eq!(channel.result(b"OK ATR toolbox\0", 5, true), Some(&b"toolbox"[..]));
        assert_eq!(said(&mut channel), b"Capabilities_Register");
        assert_eq!(channel.result(b"OK ATR toolbox", 6, true), None, "it was not asked");
        assert_eq!(said(&mut channel), b"Set_Option synctime 0");
        channel.result(b"ERROR Unknown Command", 7, true);
        assert_eq!((said(&mut channel), channel.answered), (&b""[..], 7));
    }

    #[test]
    fn a_program_without_a_name_is_not_asked_for_capabilities() {
        let mut channel = idle(command::RESET);
        assert_eq!(said(&mut channel), b"reset");
        channel.result(b"ERROR Unknown Command", 5, true);
        assert_eq!(said(&mut channel), b"");
    }

    #[test]
    fn a_lost_reset_comes_again_a_few_times_and_a_lost_ping_does_not() {
        let mut channel = idle(command::RESET);
        for _ in 0..=LOSSES {
            assert_eq!(said(&mut channel), b"reset");
            channel.result_lost();
        }
        assert_eq!(said(&mut channel), b"");
        let mut channel = idle(command::PING);
        assert_eq!(said(&mut channel), b"ping");
        channel.result_lost();
        assert_eq!(said(&mut channel), b"");
    }

    #[test]
    fn a_command_that_was_not_read_waits_again() {
        let mut channel = idle(command::RESET | command::PING);
        channel.next_command(false);
        channel.command_left(false);
        assert_eq!((channel.pending, channel.outstanding), (command::RESET | command::PING, 0));
    }
}
