//! Birth, end and rebirth of a partition's instance. Cold boot and restart are one path (R10).

use crate::arch::entry::Frame;
use crate::arch::{cpu, gdt};
use crate::epitaph;
use crate::log;
use crate::object::Work;
use crate::object::partition::{Life, Partition, Range, queue};
use crate::schedule::bits;
use crate::state::{Core, Index};
use portcullis_ipc::image;
use portcullis_ipc::record::cause;
use portcullis_ipc::syscall::Status;

impl Core {
    /// Start an instance of `index` from the sealed image: writable memory as the image has it, registers
    /// as the ABI says, everything that was asked of the one before still in the queue.
    pub fn start(&mut self, index: u8) {
        let windows = self.windows;
        let partition = &mut self.partitions[index];
        for range in partition.ranges.iter().filter(|range| range.source != 0) {
            for_each_page(range, |target, source, bytes| {
                if bytes > 0 {
                    windows.copy(source, target, bytes);
                }
                if bytes < 4096 {
                    windows.zero(target.wrapping_add(bytes as u64), 4096usize.wrapping_sub(bytes));
                }
            });
        }
        partition.thread.message.clear();
        partition.thread.frame = Frame {
            rip: partition.plan.entry,
            rsp: partition.plan.stack_top,
            rdi: partition.generation.into(),
            rsi: partition.record.cause.into(),
            rflags: 0x202,
            cs: gdt::USER_CODE.into(),
            ss: gdt::USER_DATA.into(),
            ..Frame::default()
        };
        partition.life = Life::Alive;
        let thread = &mut partition.thread;
        thread.pending = 0;
        thread.used = 0;
        thread.work = Work::Own;
        log::started(index, partition);
        for slot in self.partitions[index].slots.iter() {
            if slot.kind == image::kind::INTERRUPT {
                self.ioapic.route(slot.object, slot.rights, false);
            }
        }
        // The resume loads the data segments, which the instance before or an exit may have left otherwise.
        self.root = 0;
        self.activate(index);
    }

    /// End the instance of `index`: keep its record, release whoever depends on it, tell the supervisor.
    pub fn freeze(&mut self, index: u8, why: u8, detail: u8, code: u32) {
        let partition = &mut self.partitions[index];
        if partition.life != Life::Alive {
            return;
        }
        record(partition, why, detail, code);
        partition.life = Life::Frozen;
        partition.generation = partition.generation.wrapping_add(1);
        let generation = partition.generation;
        let work = core::mem::replace(&mut partition.thread.work, Work::None);
        let callee = core::mem::replace(&mut partition.thread.calling, Index::NONE).get();
        log::ended(index, partition);
        // The call that took too long fails with "timeout"; all others learn that it is dead.
        let status = if why == cause::HUNG { Status::Timeout } else { Status::Dead };
        if let Work::Call(caller) = work {
            self.end_call(caller, status, generation.into());
        }
        self.hold(index, work);
        self.release_callers(index, Status::Dead, generation);
        if let Some(callee) = callee {
            let thread = &mut self.partitions[callee].thread;
            thread.queue &= !queue::call(index);
            if thread.work == Work::Call(index) {
                thread.work = Work::Orphan;
                self.activate(callee);
            }
        }
        self.timers.disarm(index);
        self.deactivate(index);
        self.reschedule = true;
        if self.supervisor == Index::of(index) {
            self.revive_supervisor(index);
        } else if let Some(supervisor) = self.supervisor.get() {
            self.notify(supervisor, 1u64 << (index & 63));
        }
    }

    fn release_callers(&mut self, index: u8, status: Status, generation: u32) {
        let waiting = self.partitions[index].thread.queue & queue::CALLS;
        self.partitions[index].thread.queue &= !queue::CALLS;
        for caller in bits(waiting) {
            self.end_call(caller, status, generation.into());
        }
    }

    /// Start a frozen partition anew. Nothing happens to one that is not frozen.
    pub fn restart(&mut self, index: u8) {
        let partition = &mut self.partitions[index];
        if partition.life == Life::Frozen {
            let count = u32::from_le_bytes(partition.record.restarts).wrapping_add(1);
            partition.record.restarts = count.to_le_bytes();
            self.start(index);
        }
    }

    /// Give a frozen partition up.
    pub fn abandon(&mut self, index: u8) {
        let partition = &mut self.partitions[index];
        if partition.life == Life::Frozen {
            partition.life = Life::Gone;
            let generation = partition.generation;
            self.release_callers(index, Status::Gone, generation);
        }
    }

    /// The supervisor has nobody above it: the core restarts it, at most so many times in so long.
    fn revive_supervisor(&mut self, index: u8) {
        let now = cpu::tsc();
        if now >= self.supervisor_window_end {
            self.supervisor_window_end = now.saturating_add(self.supervisor_window);
            self.supervisor_left = self.supervisor_restarts;
        }
        if self.supervisor_left == 0 {
            epitaph::stop(format_args!(
                "the supervisor died more than {} times in its window (manifest: supervisor restarts)",
                self.supervisor_restarts
            ));
        }
        self.supervisor_left = self.supervisor_left.wrapping_sub(1);
        self.restart(index);
    }
}

fn record(partition: &mut Partition, why: u8, detail: u8, code: u32) {
    let phase = partition.phase();
    let frame = partition.thread.frame;
    let record = &mut partition.record;
    record.cause = why;
    record.phase = phase;
    record.detail = detail;
    record.code = code.to_le_bytes();
    record.rip = frame.rip.to_le_bytes();
    record.rsp = frame.rsp.to_le_bytes();
    record.address = if why == cause::EXCEPTION && detail == 14 { cpu::cr2() } else { 0 }.to_le_bytes();
    record.tsc = cpu::tsc().to_le_bytes();
}

/// Call `page(target, source, bytes)` for each page of a writable segment: `bytes` come from the image.
fn for_each_page(range: &Range, mut page: impl FnMut(u64, u64, usize)) {
    for offset in (0..range.bytes).step_by(4096) {
        let bytes = range.file_bytes.saturating_sub(offset).min(4096);
        page(range.physical.wrapping_add(offset), range.source.wrapping_add(offset), bytes as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_of_a_segment_is_filled_once_and_only_its_own_bytes_come_from_the_image() {
        let (physical, source) = (0x10_0000, 0x20_0000);
        let segment = Range { address: 0, physical, bytes: 3 << 12, rights: 3, source, file_bytes: 4096 + 10 };
        let mut seen = Vec::new();
        for_each_page(&segment, |target, source, bytes| seen.push((target, source, bytes)));
        assert_eq!(seen, [(0x10_0000, 0x20_0000, 4096), (0x10_1000, 0x20_1000, 10), (0x10_2000, 0x20_2000, 0)]);
    }
}
