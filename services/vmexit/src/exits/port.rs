//! Port I/O without a string.

use crate::clock;
use crate::data::{self, Places};
use crate::host::{Host, Note};
use crate::machine::{Machine, Step};
use crate::memory::GuestMemory;
use crate::ports::{Claim, Device, claim, system_control};
use crate::registers::{finish, merge};
use crate::saved::Block;
use crate::uart;
use iced_x86::Mnemonic;
use portcullis_ipc::exit::{ExitPage, gpr, group, io};
use portcullis_ipc::proto::link::VmEventKind;
use portcullis_ipc::syscall::Resume;

/// The data of an access.
#[derive(Clone, Copy)]
pub(crate) enum Data {
    /// This is written.
    Out(u32),
    /// It is read into a register.
    In,
    /// It is read into memory, where [`data::translate`] found room.
    Into(Places),
}

impl Data {
    fn written(self) -> Option<u32> {
        match self {
            Self::Out(value) => Some(value),
            Self::In | Self::Into(_) => None,
        }
    }

    /// Puts what was read where it belongs in memory.
    fn arrive(self, memory: &mut impl GuestMemory, value: u32, width: u32) {
        if let Self::Into(places) = self {
            data::write_at(memory, places, value.to_le_bytes().get(..width as usize).unwrap_or_default());
        }
    }
}

impl<H: Host> Machine<H> {
    pub(crate) fn port(&mut self, vcpu: u16, page: &mut ExitPage) -> Step {
        let [access, ..] = page.qualification;
        if access & io::STRING != 0 {
            return self.string_port(vcpu, page);
        }
        let next = match page.next_rip {
            0 => {
                let bytes = self.bytes(vcpu, page, 0)?;
                let instruction =
                    bytes.decode(page.rip).filter(|one| matches!(one.mnemonic(), Mnemonic::In | Mnemonic::Out));
                let instruction = instruction.ok_or(Resume::ENTER)?;
                crate::registers::after(page, instruction.len(), bytes.bits)
            }
            next => next,
        };
        let (port, width) = (access as u16, (access >> io::WIDTH_SHIFT) as u32 & 7);
        let rax = page.registers[gpr::RAX];
        let input = access & io::INPUT != 0;
        let data = if input { Data::In } else { Data::Out(rax as u32 & Self::nobody(width)) };
        let value = self.transfer(vcpu, page, port, width, data)?;
        if input {
            page.registers[gpr::RAX] = merge(rax, width as usize, value.into());
            page.dirty |= group::GENERAL;
        }
        finish(page, next);
        Ok(Resume::ENTER)
    }

    /// One access: the value read, or what the vCPU does instead of going on.
    pub(crate) fn transfer(&mut self, vcpu: u16, page: &mut ExitPage, port: u16, width: u32, data: Data) -> Step<u32> {
        let write = data.written();
        match claim(&self.config, port, width, write) {
            Claim::None => {
                data.arrive(self.host.memory(), Self::nobody(width), width);
                Ok(Self::nobody(width))
            }
            Claim::Bytes => self.bytewise(vcpu, page.sequence, port, width, data),
            Claim::Reset => self.reset(vcpu, page, "the guest asked for it").and_then(Err),
            Claim::Off => self.power_off(vcpu, page, VmEventKind::PowerOff, Note::PowerOff).and_then(Err),
            Claim::TestExit => {
                let value = write.unwrap_or(0);
                self.power_off(vcpu, page, VmEventKind::TestExit(value), Note::TestExit(value)).and_then(Err)
            }
        }
    }

    /// An access that touches devices, byte by byte as the bus splits it.
    fn bytewise(&mut self, vcpu: u16, sequence: u64, port: u16, width: u32, data: Data) -> Step<u32> {
        let write = data.written();
        if let Some(value) = self.answered(vcpu, sequence) {
            return Ok(value as u32);
        }
        if self.durable.uart.is_full() {
            self.flush();
            if write.is_some() && self.durable.uart.is_full() && uart::touches(port, width) {
                // The line is slower than the guest: the instruction runs again later.
                return Err(Resume::YIELD);
            }
        }
        let value = self.once(vcpu, sequence, |machine| {
            let mut value = 0;
            for byte in 0..width {
                let (device, shift) = (Device::at(u32::from(port) + byte), 8 * byte);
                match write {
                    Some(bytes) => machine.write_byte(device, (bytes >> shift) as u8),
                    None => value |= u64::from(machine.read_byte(device)) << shift,
                }
            }
            // Before the record is durable: an exit that is given again after that finds the data in its place.
            data.arrive(machine.host.memory(), value as u32, width);
            value
        });
        Ok(value as u32)
    }

    fn write_byte(&mut self, device: Device, value: u8) {
        match device {
            Device::Serial(offset) => self.uart().write(offset, value),
            Device::ClockIndex => self.board().clock_index = value.into(),
            Device::NoTimer(_) => self.host.note(Note::NoTimer),
            Device::ClockData | Device::SystemControl | Device::Constant(_) | Device::None => {}
        }
    }

    fn read_byte(&mut self, device: Device) -> u8 {
        match device {
            Device::Serial(offset) => self.read_serial(offset),
            Device::ClockData => clock::read(self.durable.board.clock_index as u8, self.host.wall_clock()),
            Device::SystemControl => system_control(self.host.tsc(), self.rates.0),
            Device::Constant(value) | Device::NoTimer(value) => value,
            Device::ClockIndex | Device::None => u8::MAX,
        }
    }

    /// Reads a register of the serial port; one that this changes is an effect.
    fn read_serial(&mut self, offset: u16) -> u8 {
        if self.durable.uart.waiting == 0 {
            self.take_input();
        }
        let before = self.durable.uart;
        let value = self.durable.uart.read(offset);
        if self.durable.uart != before {
            self.touched.add(Block::Uart);
        }
        value
    }
}
