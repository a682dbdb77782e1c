//! Partitions as objects of control, timers, the log, the clock.

use super::{DONE, Decoded, Outcome};
use crate::arch::cpu;
use crate::fault::Misuse;
use crate::log::RING;
use crate::object::Partition;
use crate::object::partition::Life;
use crate::state::Core;
use core::mem::offset_of;
use portcullis_ipc::image::kind;
use portcullis_ipc::log::payload;
use portcullis_ipc::message::Header;
use portcullis_ipc::platform::PlatformPage;
use portcullis_ipc::record::{cause, misuse};
use portcullis_ipc::syscall::{Id, Status, control, rights};
use portcullis_ipc::{layout, limits, record};

impl Core {
    pub(super) fn sys_timer_set(&mut self, caller: u8) -> Decoded {
        let (capability, [deadline, ..]) = self.decode(caller, kind::TIMER, 0)?;
        let index = capability.object as u8;
        self.timers.arm(index, deadline);
        self.set_timer(cpu::tsc(), u64::MAX);
        DONE
    }

    pub(super) fn sys_partition_control(&mut self, caller: u8) -> Decoded {
        let partition = &self.partitions[caller];
        let id = Id(partition.thread.frame.rdi);
        let operation = partition.thread.frame.rsi;
        let right = match operation {
            control::KILL => rights::KILL,
            control::RESTART | control::ABANDON => rights::RESTART,
            _ => return Err(Misuse(misuse::ARGUMENT)),
        };
        let target = partition.slots.get(id.slot().into(), kind::PARTITION, right)?.object as u8;
        if let Some(outcome) = self.check_target(target, id) {
            return Ok(outcome);
        }
        let alive = self.partitions[target].life == Life::Alive;
        match operation {
            control::KILL if alive => self.freeze(target, cause::KILLED, caller, 0),
            control::RESTART if !alive => self.restart(target),
            control::ABANDON if !alive => self.abandon(target),
            _ => return Ok(Outcome::Value(Status::NotStopped, 0)),
        }
        // A caller that killed itself has no registers to set.
        if target == caller { Ok(Outcome::Later) } else { DONE }
    }

    pub(super) fn sys_partition_status(&mut self, caller: u8) -> Decoded {
        let target = self.decode(caller, kind::PARTITION, rights::STATUS)?.0.object as u8;
        let Partition { life, generation, record, .. } = &self.partitions[target];
        let status = record::Status { state: *life as u8, generation: generation.to_le_bytes(), ..*record };
        let header = Header { length: record::STATUS_BYTES as u16, source: target.into(), ..Default::default() };
        let page = self.partitions[caller].thread.message;
        page.write::<Header, { layout::RECEIVE }>(&header);
        page.write::<record::Status, { layout::RECEIVE + 32 }>(&status);
        DONE
    }

    pub(super) fn sys_log_write(&mut self, caller: u8) -> Decoded {
        let thread = &self.partitions[caller].thread;
        let length = thread.frame.rdi as usize;
        let frame = thread.message.read::<[u8; limits::LOG_FRAME], { layout::LOG_OUT }>();
        let part = frame.get(..length).ok_or(Misuse(misuse::ARGUMENT))?;
        let generation = self.partitions[caller].generation;
        let taken = RING.lock().append(caller, generation, payload::DEFMT, [part, &[]]);
        Ok(Outcome::Value(if taken { Status::Ok } else { Status::Full }, 0))
    }

    pub(super) fn sys_log_read(&mut self, caller: u8) -> Decoded {
        let (_, [below, ..]) = self.decode(caller, kind::LOG, 0)?;
        let mut bytes = [0u8; limits::LOG_READ];
        let (length, _) = RING.lock().take(below, &mut bytes);
        self.partitions[caller].thread.message.write::<[u8; limits::LOG_READ], { layout::LOG_IN }>(&bytes);
        Ok(Outcome::Value(Status::Ok, length as u64))
    }

    pub(super) fn sys_clock_set(&mut self, caller: u8) -> Decoded {
        const WALL: usize = offset_of!(PlatformPage, wall_ns);
        let (_, [nanoseconds, tsc, _]) = self.decode(caller, kind::CLOCK, 0)?;
        if self.platform.word(WALL) != 0 {
            return Ok(Outcome::Value(Status::Full, 0));
        }
        self.platform.set_word(offset_of!(PlatformPage, wall_tsc), tsc);
        self.platform.set_word(WALL, nanoseconds);
        DONE
    }
}
