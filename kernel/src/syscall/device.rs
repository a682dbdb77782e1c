//! Ports, model-specific registers and interrupts, by capability.

use super::{DONE, Decoded, Outcome};
use crate::arch::{cpu, entry};
use crate::fault::Misuse;
use crate::object::capability::covers;
use crate::state::Core;
use portcullis_ipc::image::kind;
use portcullis_ipc::record::misuse;
use portcullis_ipc::syscall::{Status, rights};

const WRITE: u64 = 1 << 8;

impl Core {
    pub(super) fn sys_port_io(&mut self, caller: u8) -> Decoded {
        let (capability, [port, value, form]) = self.decode(caller, kind::PORTS, 0)?;
        let width = form & 0xff;
        if !matches!(width, 1 | 2 | 4) || form & !(WRITE | 0xff) != 0 || port > 0xffff {
            return Err(Misuse(misuse::ARGUMENT));
        }
        if !covers(capability, port, width.wrapping_sub(1)) {
            return Err(Misuse(misuse::RIGHT));
        }
        if form & WRITE != 0 {
            // SAFETY: the capability gives the port to the caller; the builder gave it nobody else.
            unsafe { cpu::port_out(port as u16, width as u8, value as u32) };
            return DONE;
        }
        // SAFETY: as above.
        let value = unsafe { cpu::port_in(port as u16, width as u8) };
        Ok(Outcome::Value(Status::Ok, value.into()))
    }

    /// Number of the register, and the value to write.
    fn decode_msr(&self, caller: u8, right: u8) -> Result<(u32, u64), Misuse> {
        let (capability, [number, value, _]) = self.decode(caller, kind::MSRS, right)?;
        if number > u32::MAX.into() || !covers(capability, number, 0) {
            return Err(Misuse(misuse::RIGHT));
        }
        Ok((number as u32, value))
    }

    pub(super) fn sys_msr_read(&mut self, caller: u8) -> Decoded {
        let (number, _) = self.decode_msr(caller, rights::READ)?;
        // A register that this processor lacks is the manifest's mistake, not the caller's.
        Ok(entry::try_msr(number).map_or(Outcome::Value(Status::Gone, 0), |value| Outcome::Value(Status::Ok, value)))
    }

    pub(super) fn sys_msr_write(&mut self, caller: u8) -> Decoded {
        let (number, value) = self.decode_msr(caller, rights::WRITE)?;
        // SAFETY: the builder refuses capabilities for registers that the core depends on.
        let done = unsafe { entry::try_set_msr(number, value) };
        Ok(Outcome::Value(if done { Status::Ok } else { Status::Gone }, 0))
    }

    pub(super) fn sys_interrupt_ack(&mut self, caller: u8) -> Decoded {
        let (line, _) = self.decode(caller, kind::INTERRUPT, 0)?;
        if line.rights & rights::LEVEL != 0 {
            self.ioapic.route(line.object, line.rights, false);
        }
        DONE
    }

    /// An interrupt of line `gsi` came: bits to its holder. A level-triggered line is masked until the
    /// acknowledgement; an edge must not be, or the next one is lost.
    pub fn line(&mut self, gsi: u8) {
        let line = self.lines[gsi];
        let Some(holder) = line.holder.get() else { return };
        if line.mode & rights::LEVEL != 0 {
            self.ioapic.route(gsi.into(), line.mode, true);
        }
        self.notify(holder, line.bits);
    }
}
