//! What a complete message does: a request of RPCI gets its reply, a message of TCLO is a result or a sign of
//! life.

use crate::channel::{Channel, NONE, flag, protocol, state};
use crate::channels::{Channels, Outside, SYNCHRONIZE};
use crate::guestinfo::{Entry, hash};
use crate::layout::{CHANNELS, OPTIONS};
use crate::rpci::{HEAD, Request, parse};
use crate::tclo::{PAUSE, command};
use crate::text::Text;
use portcullis_runtime::state::Words;

/// Bytes of a line of the guest that reach the log at most.
pub const LINE: usize = 160;

impl<W: Words> Channels<W> {
    /// The guest's message on channel `id` is complete.
    pub(crate) fn complete(&mut self, id: usize, channel: &mut Channel, outside: &mut impl Outside) {
        let length = channel.length as usize;
        let mut buffer = [0; HEAD];
        let head = buffer.get_mut(..length.min(HEAD)).unwrap_or_default();
        let chain = channel.head;
        self.store.read(self.store.cursor(chain, 0), head);
        if channel.protocol == protocol::TCLO {
            self.store.orphan(chain);
            channel.settle();
            if length == 0 {
                channel.result_lost();
            } else if let Some(name) = channel.result(head, channel.active, self.synchronizes())
                && !self.name(id, channel, name)
            {
                outside.refused(name);
                *channel = Channel::FREE;
            }
            return;
        }
        channel.settle();
        channel.state = state::WAITING;
        match parse(head, length) {
            Request::Set(key, at, value) => {
                let text = self.set(key, at, value, chain, length);
                answer(channel, text);
                if text == Text::Done {
                    return;
                }
            }
            Request::Get(key) => self.get(channel, key),
            Request::Log(start) => {
                let mut line = [0; LINE];
                let line = line.get_mut(..(length - start).min(LINE)).unwrap_or_default();
                self.store.read(self.store.cursor(chain, start), line);
                outside.log(line.split(|byte| *byte == 0).next().unwrap_or_default());
                answer(channel, Text::Done);
            }
            Request::Synchronize(on) => {
                self.synchronize(id, on);
                answer(channel, Text::Done);
            }
            Request::Info { number, value } => {
                answer(channel, Text::Done);
                if self.keep_told(number, head, value, chain, length, outside) {
                    return;
                }
            }
            Request::Report => answer(channel, Text::Done),
            Request::Denied => answer(channel, Text::Denied),
            Request::Incomplete => answer(channel, Text::TwoArguments),
            Request::KeyTooLong => answer(channel, Text::KeyTooLong),
            Request::Unknown => answer(channel, Text::UnknownCommand),
        }
        self.store.orphan(chain);
    }

    /// `info-set`: the value is the rest of the message up to the first zero. Takes over the chain when it
    /// succeeds.
    fn set(&mut self, key: &[u8], at: usize, value: usize, chain: u16, length: usize) -> Text {
        let value_length = self.store.before_zero(self.store.cursor(chain, value), length - value);
        if value_length == 0 {
            return Text::TwoArguments;
        }
        let entry = Entry {
            head: chain,
            key: at as u16,
            key_length: key.len() as u16,
            value: value as u16,
            value_length: value_length as u32,
            hash: hash(key),
        };
        match self.store.admit(key, &entry) {
            Ok(index) => {
                self.store.put(index, &entry);
                Text::Done
            }
            Err(text) => text,
        }
    }

    /// `info-get`: the reply is the value as it stands in its entry.
    fn get(&mut self, channel: &mut Channel, key: &[u8]) {
        let Some(index) = self.store.find(key) else {
            answer(channel, Text::NoValue);
            return;
        };
        let entry = self.store.entry(index);
        answer(channel, Text::Done);
        channel.length += entry.value_length;
        channel.head = entry.head;
        channel.start = entry.value.into();
        channel.flags |= flag::SHARED;
        channel.block = self.store.cursor(entry.head, entry.value.into()).block;
    }

    /// Gives the channel its program's name; `false` when another program has it that polls. One that does not is
    /// gone, and its channel closes.
    fn name(&mut self, id: usize, channel: &mut Channel, name: &[u8]) -> bool {
        let name = hash(name).max(1);
        for other in (0..CHANNELS).filter(|other| *other != id) {
            let holder = self.store.channel(other);
            if holder.state == state::FREE || holder.protocol != protocol::TCLO || holder.name != name {
                continue;
            }
            if channel.active.saturating_sub(holder.active) <= PAUSE {
                return false;
            }
            self.abandon(other);
        }
        channel.name = name;
        true
    }

    /// Stages the option, and tells every program that listens on a channel other than `id`.
    fn synchronize(&mut self, id: usize, on: bool) {
        let options = self.store.header(OPTIONS);
        let options = if on { options | SYNCHRONIZE } else { options & !SYNCHRONIZE };
        self.store.journal.stage(OPTIONS, options);
        for other in (0..CHANNELS).filter(|other| *other != id) {
            let mut channel = self.store.channel(other);
            if channel.state != state::FREE && channel.protocol == protocol::TCLO {
                channel.pending |= command::SYNCHRONIZE;
                self.store.stage_channel(other, &channel);
            }
        }
    }
}

/// Makes a text the waiting message.
fn answer(channel: &mut Channel, text: Text) {
    channel.text = text as u8;
    (channel.length, channel.position) = (text.bytes().len() as u32, 0);
    (channel.head, channel.block) = (NONE, NONE);
}
