//! Random commands, channel operations and strings at the VMware port.

use super::Fuzzer;
use crate::code::{Code, Place};
use crate::port::{MAGIC, PORT};
use crate::run::{Mode, reg};

/// The port of strings.
const PORT_HIGH: u16 = 0x5659;
/// Command of the channels.
const MESSAGE: u64 = 30;
/// Protocols of a channel: RPCI and TCLO, and a flag for a cookie.
const PROTOCOLS: [u64; 4] = [0x4943_5052, 0xc943_5052, 0x4f4c_4354, 0xcf4c_4354];
/// Requests of which pieces are sent.
const TEXTS: [&[u8]; 6] =
    [b"info-get guestinfo.a", b"info-set guestinfo.a b", b"log x", b"SetGuestInfo  4 x", b"reset", b"tools.capability"];

/// First and last of the ports whose access ends the machine, or is the guest's own report.
const LEFT_OUT: [(u16, u16); 5] = [(0x60, 0x64), (0xf4, 0xf4), (0x3f8, 0x3ff), (0x600, 0x601), (0xcf8, 0xcff)];

impl Fuzzer {
    /// A port that may be accessed with any width.
    pub(super) fn port(&mut self) -> u16 {
        if !self.random.chance(8) {
            return PORT;
        }
        let port = if self.random.chance(2) { 0x5650 + self.random.below(16) } else { self.random.below(0x1_0000) };
        let port = port as u16;
        let touches = |&(first, last): &(u16, u16)| port <= last && port.saturating_add(3) >= first;
        if LEFT_OUT.iter().any(touches) { PORT } else { port }
    }

    fn magic(&mut self) -> u64 {
        let upper = self.random.word() << 32;
        upper | if self.random.chance(8) { self.random.draw() >> 32 } else { u64::from(MAGIC) }
    }

    /// IN or OUT of any width, to any command.
    pub(super) fn command(&mut self) {
        let place = self.place();
        let opcode = self.random.pick(&[0xec, 0xed, 0xed, 0xed, 0xee, 0xef]);
        let code = Code::new(place.mode);
        let code = match self.random.below(8) {
            0 => code.op16(&[opcode]),
            1 => code.raw(&[self.random.pick(&[0x2e, 0x3e, 0x67, 0xf2, 0xf3]), opcode]),
            _ => code.op32(&[opcode]),
        };
        let (magic, port) = (self.magic(), self.port());
        let command = if self.random.chance(4) { self.random.word() } else { self.random.below(128) };
        let upper = self.random.word() << 16;
        self.run(place, &code, |state| {
            state.registers[reg::RAX] = magic;
            state.registers[reg::RCX] = upper | command;
            state.registers[reg::RDX] = upper << 4 & !0xffff | u64::from(port);
        });
    }

    /// The cookie of a channel, or something else.
    fn cookie(&mut self, channel: u64) -> (u64, u64) {
        match self.random.below(8) {
            0 => (self.random.word(), self.random.word()),
            _ => self.cookies.get(channel as usize).copied().unwrap_or_default(),
        }
    }

    /// One operation of a channel.
    pub(super) fn channel(&mut self) {
        let place = if self.random.chance(2) { Place::ring0(Mode::Long) } else { Place::ring3(Mode::Long, 0) };
        let operation = if self.random.chance(16) { self.random.word() } else { self.random.below(7) };
        let channel = if self.random.chance(16) { self.random.word() } else { self.random.below(4) };
        let argument = match operation & 0xffff {
            0 if !self.random.chance(8) => self.random.pick(&PROTOCOLS),
            1 if !self.random.chance(4) => self.random.below(24),
            2 => self.text(),
            5 => 1,
            _ => self.random.word(),
        };
        let (high, low) = self.cookie(channel);
        let output = self.random.chance(8);
        let code = Code::new(place.mode).raw(&[if output { 0xef } else { 0xed }]);
        let after = self.run(place, &code, |state| {
            state.registers[reg::RAX] = u64::from(MAGIC);
            state.registers[reg::RBX] = argument;
            state.registers[reg::RCX] = operation << 16 | MESSAGE;
            state.registers[reg::RDX] = channel << 16 | u64::from(PORT);
            state.registers[reg::RSI] = high;
            state.registers[reg::RDI] = low;
        });
        let given = (after.registers[reg::RDX] >> 16 & 0xffff) as usize;
        if operation == 0
            && after.registers[reg::RCX] & 0x1_0000 != 0
            && let Some(cookie) = self.cookies.get_mut(given)
        {
            *cookie = (after.registers[reg::RSI], after.registers[reg::RDI]);
        }
    }

    /// Four bytes of a request.
    fn text(&mut self) -> u64 {
        let text = self.random.pick(&TEXTS);
        let start = self.random.below(text.len() as u64 / 4) as usize * 4;
        text[start..].iter().take(4).rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
    }

    /// REP INSB or OUTSB at the port of strings.
    pub(super) fn high_bandwidth(&mut self) {
        let place = if self.random.chance(2) { Place::ring0(Mode::Long) } else { Place::ring3(Mode::Long, 0) };
        let opcode = self.random.pick(&[0x6c, 0x6c, 0x6e, 0x6e, 0x6d, 0x6f]);
        let code = Code::new(place.mode).raw(&[self.random.pick(&[0xf3, 0xf3, 0xf3, 0xf2, 0x3e]), opcode]);
        let channel = self.random.below(5);
        let (high, low) = self.cookie(channel);
        let magic = self.magic();
        let selector = self.random.pick(&[0x1_0000, 0x1_0000, 0, 0x2_0000]);
        let count = self.count();
        // One pointer is the string's; in the place of the other stands half of the cookie.
        let pointer = self.operand();
        let input = opcode & 2 == 0;
        let (source, target, rest) = if input { (high, pointer, low) } else { (pointer, low, high) };
        self.run(place, &code, |state| {
            state.registers[reg::RAX] = magic;
            state.registers[reg::RBX] = selector;
            state.registers[reg::RCX] = count;
            state.registers[reg::RDX] = channel << 16 | u64::from(PORT_HIGH);
            state.registers[reg::RSI] = source;
            state.registers[reg::RDI] = target;
            state.registers[reg::RBP] = rest;
        });
    }
}
