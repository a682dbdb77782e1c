//! Partitions as objects of control, timers, the log, the clock.

use super::{DONE, Decoded, Outcome};
use crate::fault::Misuse;
use crate::log::RING;
use crate::object::partition::Life;
use crate::state::Core;
use portcullis_ipc::image::kind;
use portcullis_ipc::log::payload;
use portcullis_ipc::platform::PlatformPage;
use portcullis_ipc::record::{cause, misuse};
use portcullis_ipc::syscall::{Id, Status, control, rights};
use portcullis_ipc::{layout, limits, message, record};
use zerocopy::IntoBytes;

impl Core {
    pub(super) fn sys_timer_set(&mut self, caller: u8) -> Decoded {
        let partition = &self.partitions[caller];
        let index = partition.slots.get(partition.thread.frame.rdi, kind::TIMER, 0)?.object as u8;
        let deadline = partition.thread.frame.rsi;
        self.timers.arm(index, deadline);
        self.clock_changed();
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
        if self.partitions[target].generation != id.generation() {
            return Ok(Outcome::Value(Status::Dead, self.partitions[target].generation.into()));
        }
        let life = self.partitions[target].life;
        let alive = life == Life::Alive;
        match operation {
            _ if life == Life::Gone => return Ok(Outcome::Value(Status::Gone, 0)),
            control::KILL if alive => self.freeze(target, cause::KILLED, caller, 0),
            control::RESTART if !alive => self.restart(target),
            control::ABANDON if !alive => self.abandon(target),
            _ => return Ok(Outcome::Value(Status::NotStopped, 0)),
        }
        // A caller that killed itself has no registers to set.
        if target == caller { Ok(Outcome::Later) } else { DONE }
    }

    pub(super) fn sys_partition_status(&mut self, caller: u8) -> Decoded {
        let partition = &self.partitions[caller];
        let target = partition.slots.get(partition.thread.frame.rdi, kind::PARTITION, rights::STATUS)?.object as u8;
        let bytes = encode(&self.partitions[target].record);
        let header =
            message::Header { length: record::STATUS_BYTES as u16, source: target.into(), ..Default::default() };
        let page = partition.thread.message;
        page.write::<message::Header, { layout::RECEIVE }>(&header);
        page.write::<[u8; record::STATUS_BYTES], { layout::RECEIVE + 32 }>(&bytes);
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
        let partition = &self.partitions[caller];
        partition.slots.get(partition.thread.frame.rdi, kind::LOG, 0)?;
        let mut bytes = [0u8; limits::LOG_READ];
        let (length, _) = RING.lock().take(partition.thread.frame.rsi, &mut bytes);
        partition.thread.message.write::<[u8; limits::LOG_READ], { layout::LOG_IN }>(&bytes);
        Ok(Outcome::Value(Status::Ok, length as u64))
    }

    pub(super) fn sys_clock_set(&mut self, caller: u8) -> Decoded {
        const WALL: usize = core::mem::offset_of!(PlatformPage, wall_ns);
        let partition = &self.partitions[caller];
        partition.slots.get(partition.thread.frame.rdi, kind::CLOCK, 0)?;
        let (nanoseconds, tsc) = (partition.thread.frame.rsi, partition.thread.frame.rdx);
        if self.platform.word(WALL) != 0 {
            return Ok(Outcome::Value(Status::Full, 0));
        }
        self.platform.set_word(core::mem::offset_of!(PlatformPage, wall_tsc), tsc);
        self.platform.set_word(WALL, nanoseconds);
        DONE
    }
}

/// A status as postcard writes it: all its fields are bytes, so this is its memory in order.
fn encode(status: &record::Status) -> [u8; record::STATUS_BYTES] {
    let head = [status.state, status.cause, status.phase, status.detail];
    let halves = [head, status.code, status.generation, status.restarts];
    let words = [status.rip, status.rsp, status.address, status.tsc];
    let mut bytes = [0u8; record::STATUS_BYTES];
    let parts = halves.as_bytes().iter().chain(words.as_bytes());
    for (to, from) in bytes.iter_mut().zip(parts) {
        *to = *from;
    }
    bytes
}
