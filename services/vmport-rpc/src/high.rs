//! The high-bandwidth port (facts of VMware's backdoor, section 3.5): REP OUTSB sends a whole message, REP
//! INSB takes one, in as many pieces as `vmexit` makes of it.
//!
//! A string that fits no transfer fails as a whole: nothing is moved and EBX becomes 0. It may be shorter
//! than the message, which then goes on with the next one.

use crate::channel::state;
use crate::channels::{Channels, Outside};
use crate::record::{Record, kind};
use portcullis_ipc::port::{MAGIC, register};
use portcullis_ipc::proto::vmport::{HighBandwidth, HighBandwidthMoved, PIECE};
use portcullis_runtime::state::Words;

/// EBX of a success.
const SUCCESS: u32 = 0x0001_0000;

/// The registers of a string, by name.
struct Registers<'a>(&'a HighBandwidth);

impl Registers<'_> {
    fn get(&self, index: usize) -> u32 {
        self.0.registers.get(index).map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    /// Message transfer is the only command: the low half of EBX is 0.
    fn is_message(&self) -> bool {
        self.get(register::EAX) == MAGIC && self.get(register::EBX) & 0xffff == 0
    }

    fn channel(&self) -> usize {
        (self.get(register::EDX) >> 16) as usize
    }

    /// The cookie's halves: the string's own registers are left out of it.
    fn cookie(&self) -> (u32, u32) {
        if self.0.input {
            (self.get(register::ESI), self.get(register::EBP))
        } else {
            (self.get(register::EBP), self.get(register::EDI))
        }
    }
}

impl<W: Words> Channels<W> {
    /// Serves a piece, or answers it from the record. `piece` holds what the guest sends, or takes what it
    /// is to get; its length is what the caller lends, at most [`PIECE`] bytes. One that lends nothing learns whether
    /// the piece was served before, and how much it moved.
    pub fn string(
        &mut self,
        request: &HighBandwidth,
        piece: &mut [u8],
        outside: &mut impl Outside,
    ) -> HighBandwidthMoved {
        let failed = HighBandwidthMoved { moved: request.count, ebx: 0 };
        let Some(record) = self.store.record(request.vcpu) else { return failed };
        let direction = if request.input { kind::INPUT } else { kind::OUTPUT };
        if record.sequence == request.sequence && record.kind == direction {
            self.give_again(&record, piece);
            return HighBandwidthMoved { moved: record.moved.into(), ebx: SUCCESS };
        }
        let done = self.piece(request, piece, outside);
        done.map_or(failed, |moved| HighBandwidthMoved { moved: moved.into(), ebx: SUCCESS })
    }

    fn piece(&mut self, request: &HighBandwidth, piece: &mut [u8], outside: &mut impl Outside) -> Option<u32> {
        let registers = Registers(request);
        let id = registers.channel();
        let mut channel = self.store.channel(id);
        let (high, low) = registers.cookie();
        let rest = channel.length.wrapping_sub(channel.position);
        // A caller that lends nothing asks for the record.
        if request.lent == 0 || !registers.is_message() || !channel.admits(high, low) || request.count > rest.into() {
            return None;
        }
        let most = piece.len().min(PIECE).min(request.count as usize);
        let piece = piece.get_mut(..most)?;
        channel.active = outside.second();
        let record = if request.input {
            let before = channel.position;
            self.receive(&mut channel, piece)?;
            let record = Record::piece(request.sequence, kind::INPUT, id as u16, most as u32);
            let (high, low) = ((channel.cookie >> 32) as u32, channel.cookie as u32);
            Record { values: [before, high, low, 0, 0, 0].map(u32::to_le_bytes), ..record }
        } else {
            self.send(id, &mut channel, piece, outside)?;
            Record::piece(request.sequence, kind::OUTPUT, id as u16, most as u32)
        };
        self.store.stage_channel(id, &channel);
        self.store.stage_record(request.vcpu, &record);
        self.store.commit().then_some(most as u32)
    }

    /// Fills the piece that the record gave out already. Where another vCPU has used the channel since, the
    /// bytes are gone: then they are zeros, as in no case are they another channel's.
    fn give_again(&self, record: &Record, piece: &mut [u8]) {
        if record.kind != kind::INPUT {
            return;
        }
        piece.fill(0);
        let channel = self.store.channel(record.channel.into());
        let [before, high, low, ..] = record.values.map(u32::from_le_bytes);
        let same = channel.state == state::WAITING
            && channel.cookie == u64::from(high) << 32 | u64::from(low)
            && channel.position == before.wrapping_add(record.moved);
        if same {
            let moved = piece.len().min(record.moved as usize);
            let mut channel = channel;
            self.seek(&mut channel, before);
            self.copy_out(&mut channel, piece.get_mut(..moved).unwrap_or_default());
        }
    }
}
