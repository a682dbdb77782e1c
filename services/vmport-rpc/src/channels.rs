//! The message channels: command MESSAGE of the low-bandwidth port (facts of VMware's backdoor, section 3).
//! What a complete message means is the matter of `dispatch`; the high-bandwidth port has its own file.
//!
//! An operation answers with ECX = status << 16, and with ECX = 0 as a whole when it fails, which changes
//! nothing. No state is ever lost, so no operation answers "checkpoint".

use crate::channel::{Channel, NONE, flag, protocol, state};
use crate::cookie::draw;
use crate::layout::{BLOCK, CHANNELS, OPTIONS, RANDOM, RESET_SEQUENCE};
use crate::pool::{Cursor, blocks};
use crate::record::{Record, kind};
use crate::store::Store;
use crate::tclo::{PAUSE, command};
use crate::text;
use portcullis_ipc::port::{PortCall, PortReply, register};
use portcullis_runtime::state::Words;

/// Bytes of a message of the guest at most.
pub const MESSAGE_BYTES: u32 = 65_536;
/// RPCI: the guest asks.
const RPCI: u32 = u32::from_le_bytes(*b"RPCI");
/// TCLO: the host commands.
const TCLO: u32 = u32::from_le_bytes(*b"TCLO");
/// OPEN: the channel gets a cookie.
const WITH_COOKIE: u32 = 1 << 31;

/// Operations, in the high half of ECX.
mod operation {
    pub const OPEN: u16 = 0;
    pub const SEND_SIZE: u16 = 1;
    pub const SEND_PAYLOAD: u16 = 2;
    pub const RECEIVE_SIZE: u16 = 3;
    pub const RECEIVE_PAYLOAD: u16 = 4;
    pub const RECEIVE_STATUS: u16 = 5;
    pub const CLOSE: u16 = 6;
}

/// ECX of a success.
const SUCCESS: u32 = 0x0001_0000;
/// ECX of SENDSIZE: the high-bandwidth port may be used.
const SEND: u32 = SUCCESS | 0x0080_0000;
/// ECX of RECVSIZE: a message waits, and the high-bandwidth port may be used.
const RECEIVE: u32 = SEND | 0x0002_0000;

/// Option bits of the header: the preset guestinfo was taken over.
pub const PRESET: u64 = 1;
/// Option bits of the header: the guest follows the host's clock.
pub const SYNCHRONIZE: u64 = 2;

/// What the channels need from outside.
pub trait Outside {
    /// Seconds since the machine was started.
    fn second(&self) -> u32;
    /// Bits that a guest cannot guess.
    fn entropy(&mut self) -> u64;
    /// A line that the guest wants to have logged: its beginning.
    fn log(&mut self, line: &[u8]);
    /// The guest's tools tell something that they did not tell before: what it is, and its beginning.
    fn told(&mut self, what: &'static str, value: &[u8]);
    /// The guest's tools told something about it that is not text: what, and how many bytes.
    fn told_structure(&mut self, what: &'static str, bytes: usize);
    /// A second program of this name wanted to be commanded.
    fn refused(&mut self, name: &[u8]);
}

/// The channels, and everything that their messages reach.
pub struct Channels<W> {
    /// The durable state.
    pub store: Store<W>,
}

impl<W: Words> Channels<W> {
    /// The guest follows the host's clock.
    pub fn synchronizes(&self) -> bool {
        self.store.header(OPTIONS) & SYNCHRONIZE != 0
    }

    /// Serves a call of command MESSAGE, or answers it from the record.
    pub fn message(&mut self, call: &PortCall, outside: &mut impl Outside) -> PortReply {
        let failed = PortReply::UNCHANGED.with(register::ECX, 0);
        let sequence = u64::from_le_bytes(call.sequence);
        let Some(record) = self.store.record(call.vcpu) else { return failed };
        if record.sequence == sequence && record.kind == kind::PORT {
            return record.reply();
        }
        let Some(reply) = self.operation(call, outside) else { return failed };
        self.store.stage_record(call.vcpu, &Record::port(sequence, &reply));
        if self.store.commit() { reply } else { failed }
    }

    /// Stages the effect of an operation; `None`, and nothing staged, when it fails.
    fn operation(&mut self, call: &PortCall, outside: &mut impl Outside) -> Option<PortReply> {
        let operation = (call.register(register::ECX) >> 16) as u16;
        let argument = call.register(register::EBX);
        if operation == operation::OPEN {
            return self.open(argument, outside);
        }
        let id = (call.register(register::EDX) >> 16) as usize;
        let mut channel = self.store.channel(id);
        if !channel.admits(call.register(register::ESI), call.register(register::EDI)) {
            return None;
        }
        let second = outside.second();
        let paused = second.wrapping_sub(channel.active) > PAUSE;
        channel.active = second;
        let reply = PortReply::UNCHANGED;
        let reply = match operation {
            operation::SEND_SIZE => {
                self.send_size(id, &mut channel, argument, paused, outside)?;
                reply.with(register::ECX, SEND)
            }
            operation::SEND_PAYLOAD => {
                let rest = channel.length.wrapping_sub(channel.position).min(4) as usize;
                let bytes = argument.to_le_bytes();
                self.send(id, &mut channel, bytes.get(..rest)?, outside)?;
                reply.with(register::ECX, SUCCESS)
            }
            operation::RECEIVE_SIZE => self.receive_size(&mut channel),
            operation::RECEIVE_PAYLOAD if argument & 1 != 0 => {
                let rest = channel.length.wrapping_sub(channel.position).min(4) as usize;
                let mut bytes = [0; 4];
                self.receive(&mut channel, bytes.get_mut(..rest)?)?;
                let reply = reply.with(register::ECX, SUCCESS).with(register::EDX, 2 << 16);
                reply.with(register::EBX, u32::from_le_bytes(bytes))
            }
            operation::RECEIVE_PAYLOAD | operation::RECEIVE_STATUS => {
                self.take(&mut channel, argument & 1 != 0)?;
                reply.with(register::ECX, SUCCESS)
            }
            operation::CLOSE => {
                self.close(&mut channel);
                reply.with(register::ECX, SUCCESS)
            }
            _ => return None,
        };
        self.store.stage_channel(id, &channel);
        Some(reply)
    }

    fn open(&mut self, argument: u32, outside: &mut impl Outside) -> Option<PortReply> {
        let (protocol, pending) = match argument & !WITH_COOKIE {
            RPCI => (protocol::RPCI, 0),
            TCLO => (protocol::TCLO, command::RESET),
            _ => return None,
        };
        let id = (0..CHANNELS).find(|id| self.store.channel(*id).state == state::FREE)?;
        let second = outside.second();
        let mut channel =
            Channel { state: state::IDLE, protocol, pending, active: second, answered: second, ..Channel::FREE };
        let reply = PortReply::UNCHANGED.with(register::ECX, SUCCESS).with(register::EDX, (id as u32) << 16);
        if argument & WITH_COOKIE == 0 {
            self.store.stage_channel(id, &channel);
            return Some(reply);
        }
        let mut random = [0; 4];
        self.store.journal.load_block(RANDOM, &mut random);
        let (random, cookie) = draw(random, outside.entropy());
        self.store.journal.stage_block(RANDOM, &random);
        (channel.cookie, channel.flags) = (cookie, flag::COOKIE);
        self.store.stage_channel(id, &channel);
        Some(reply.with(register::ESI, (cookie >> 32) as u32).with(register::EDI, cookie as u32))
    }

    /// The guest announces a message. One that is under way ends here, in either direction.
    fn send_size(
        &mut self,
        id: usize,
        channel: &mut Channel,
        length: u32,
        paused: bool,
        outside: &mut impl Outside,
    ) -> Option<()> {
        if length > MESSAGE_BYTES {
            return None;
        }
        // The same message once more takes the same memory.
        let again = channel.state == state::SENDING && blocks(length as usize) == blocks(channel.length as usize);
        let head =
            if again { core::mem::replace(&mut channel.head, NONE) } else { self.store.allocate(length as usize)? };
        self.drop_message(channel);
        if paused && channel.protocol == protocol::TCLO {
            channel.pending |= command::RESET;
        }
        (channel.head, channel.block, channel.length) = (head, head, length);
        if length == 0 {
            self.complete(id, channel, outside);
        } else {
            channel.state = state::SENDING;
        }
        Some(())
    }

    /// The next bytes of the guest's message: at least one, and no more than it announced.
    pub(crate) fn send(
        &mut self,
        id: usize,
        channel: &mut Channel,
        bytes: &[u8],
        outside: &mut impl Outside,
    ) -> Option<()> {
        let length = bytes.len() as u32;
        if channel.state != state::SENDING || length == 0 || length > channel.length.wrapping_sub(channel.position) {
            return None;
        }
        let at = self.cursor(channel);
        channel.block = self.store.write(at, bytes).block;
        channel.position += length;
        if channel.position == channel.length {
            self.complete(id, channel, outside);
        }
        Some(())
    }

    fn receive_size(&mut self, channel: &mut Channel) -> PortReply {
        channel.next_command(self.synchronizes());
        let reply = PortReply::UNCHANGED;
        if channel.state != state::WAITING {
            return reply.with(register::ECX, SUCCESS);
        }
        self.seek(channel, 0);
        let reply = reply.with(register::ECX, RECEIVE).with(register::EDX, 1 << 16);
        reply.with(register::EBX, channel.length)
    }

    /// The next bytes for the guest: at least one, and no more than the message still has.
    pub(crate) fn receive(&self, channel: &mut Channel, bytes: &mut [u8]) -> Option<()> {
        let length = bytes.len() as u32;
        if channel.state != state::WAITING || length == 0 || length > channel.length.wrapping_sub(channel.position) {
            return None;
        }
        self.copy_out(channel, bytes);
        Some(())
    }

    /// Goes to a position of the waiting message.
    pub(crate) fn seek(&self, channel: &mut Channel, position: u32) {
        channel.position = position;
        let moved = (position as usize).saturating_sub(text::bytes(channel.text).len());
        let at = channel.start as usize + moved;
        let ended = moved > 0 && at.is_multiple_of(BLOCK);
        channel.block = self.store.cursor(channel.head, at - usize::from(ended)).block;
    }

    /// Copies bytes of the waiting message out, from its position, and moves that on.
    pub(crate) fn copy_out(&self, channel: &mut Channel, bytes: &mut [u8]) {
        let fixed = text::bytes(channel.text);
        let left = fixed.get(channel.position as usize..).unwrap_or_default();
        let (first, rest) = bytes.split_at_mut(left.len().min(bytes.len()));
        for (to, from) in first.iter_mut().zip(left) {
            *to = *from;
        }
        channel.position += first.len() as u32;
        if !rest.is_empty() && channel.head != NONE {
            let at = self.cursor(channel);
            channel.block = self.store.read(at, rest).block;
            channel.position += rest.len() as u32;
        }
    }

    /// Where the next byte of the chain stands.
    fn cursor(&self, channel: &Channel) -> Cursor {
        let fixed = if channel.state == state::WAITING { text::bytes(channel.text).len() } else { 0 };
        let moved = (channel.position as usize).saturating_sub(fixed);
        let offset = channel.start as usize + moved;
        // After the last byte of a block the channel still names that block.
        let ended = moved > 0 && offset.is_multiple_of(BLOCK);
        Cursor { block: channel.block, offset: if ended { BLOCK } else { offset % BLOCK } }
    }

    /// The guest took the waiting message, or could not.
    fn take(&mut self, channel: &mut Channel, taken: bool) -> Option<()> {
        if channel.state != state::WAITING {
            return None;
        }
        if channel.protocol == protocol::TCLO {
            channel.command_left(true);
            if !taken {
                channel.result_lost();
            }
        } else {
            self.drop_message(channel);
        }
        Some(())
    }

    /// Ends the message under way, if there is one.
    fn drop_message(&mut self, channel: &mut Channel) {
        if channel.protocol == protocol::TCLO && channel.state == state::WAITING {
            let whole = channel.position == channel.length;
            channel.command_left(whole);
            return;
        }
        if channel.owns_chain() {
            // Only a waiting message's chain can have other readers.
            match channel.state {
                state::WAITING => self.store.disown(channel.head),
                _ => self.store.orphan(channel.head),
            }
        }
        channel.settle();
    }

    /// Frees a channel.
    fn close(&mut self, channel: &mut Channel) {
        self.drop_message(channel);
        *channel = Channel::FREE;
    }

    /// Stages the end of a channel of which the guest does not know.
    pub(crate) fn abandon(&mut self, id: usize) {
        let mut channel = self.store.channel(id);
        self.close(&mut channel);
        self.store.stage_channel(id, &channel);
    }

    /// The machine was reset: every channel closes, once for each reset.
    pub fn machine_reset(&mut self, sequence: u64) {
        if self.store.header(RESET_SEQUENCE) == sequence {
            return;
        }
        for id in 0..CHANNELS {
            if self.store.channel(id).state != state::FREE {
                self.abandon(id);
                self.store.commit();
            }
        }
        self.store.journal.stage(RESET_SEQUENCE, sequence);
        self.store.commit();
    }
}
