//! Partitions and VMs from the image's records: every record is checked against every limit and against
//! the others before anything of it runs.

use super::frames::Frames;
use super::image::{Image, Record};
use super::{BootError, core_page};
use crate::arch::extended;
use crate::audit::Owner;

use crate::mem::table;
use crate::object::capability::of_the_core;
use crate::object::partition::{Life, Range};
use crate::object::{Account, account};
use crate::state::{Core, Index, Line, NO_SUPERVISOR};
use crate::svm::nested;
use portcullis_ipc::image::{
    CapabilityRecord, NO_PARTITION, PartitionRecord, SegmentRecord, VcpuRecord, VmRecord, flag, kind,
};
use portcullis_ipc::syscall::rights;
use portcullis_ipc::{layout, limits};

struct Builder<'a> {
    core: &'a mut Core,
    image: &'a Image<'a>,
    root: u64,
    frames: &'a mut Frames,
    /// Number of the record that is being built.
    record: u32,
    partitions: u8,
    vms: u8,
    vcpus: u8,
    timers: u64,
}

type Step = Result<(), BootError>;

/// Build everything that the image describes, below the core's own `root`.
pub fn build(core: &mut Core, image: &Image, root: u64, frames: &mut Frames) -> Step {
    core.platform = core_page(core, root, frames, Owner::PLATFORM)?;
    core.clock.slice = i64::from(image.head.slice_us);
    core.supervisor_restarts = image.head.supervisor_restarts;
    core.supervisor_left = image.head.supervisor_restarts;
    core.supervisor_window = image.head.supervisor_window_us;
    core.supervisor = NO_SUPERVISOR;
    let mut builder = Builder { core, image, root, frames, record: 0, partitions: 0, vms: 0, vcpus: 0, timers: 0 };
    image.records(|number, record| {
        builder.record = number;
        match record {
            Record::Partition(record) => builder.partition(record),
            Record::Segment(record) => builder.segment(record),
            Record::Capability(record) => builder.capability(record),
            Record::Vm(record) => builder.vm(record),
            Record::Vcpu(record) => builder.vcpu(record),
        }
    })?;
    builder.check_whole()
}

impl Builder<'_> {
    /// `what` is wrong with the present record unless `condition` holds.
    fn require(&self, condition: bool, what: &'static str) -> Step {
        if condition { Ok(()) } else { Err(BootError::Record(self.record, what)) }
    }

    fn map(&mut self, root: u64, address: u64, physical: u64, pages: u64, flags: u64) -> Step {
        Ok(self.core.pool.map_range(root, address, physical, pages, flags | table::USER)?)
    }

    fn partition(&mut self, record: &PartitionRecord) -> Step {
        let index = self.partitions;
        self.require(usize::from(record.index) == usize::from(index), "partitions are not in order")?;
        self.require(usize::from(index) < limits::PARTITIONS, "more than 32 partitions (limit 32)")?;
        self.require(record.rank <= portcullis_ipc::image::rank::SUPERVISOR, "unknown rank")?;
        let account = self.account(record.cpu, record.priority.into(), record.budget_us, record.period_us)?;
        self.require(record.call_limit_us > 0, "call limit 0")?;
        self.require(record.state_pages as usize <= limits::STATE_PAGES, "state region above its limit (1024 pages)")?;
        self.require(self.image.holds(record.info_offset, layout::PAGE as u64), "information page outside the image")?;
        let message = core_page(self.core, self.root, self.frames, Owner(Owner::MESSAGE, index))?;
        let root = self.core.pool.table()?;
        let read_only = table::NO_EXECUTE;
        let writable = table::NO_EXECUTE | table::WRITE;
        self.map(root, layout::INFO_PAGE, self.image.address(record.info_offset), 1, read_only)?;
        self.map(root, layout::PLATFORM_PAGE, self.core.platform.physical(), 1, read_only)?;
        self.map(root, layout::MESSAGE_PAGE, message.physical(), 1, writable)?;
        self.core.pool.share_core(self.root, root)?;
        let pages = u64::from(record.state_pages);
        if pages > 0 {
            let state = self.frames.take(pages, 4096, Owner(Owner::STATE, index))?;
            self.map(root, layout::STATE_REGION, state, pages, writable)?;
            self.add_range(index, kept(layout::STATE_REGION, state, pages))?;
        }
        if record.spare_pages > 0 {
            self.frames.take(record.spare_pages.into(), 4096, Owner(Owner::SPARE, index))?;
        }
        if record.flags & flag::SUPERVISOR != 0 {
            self.require(self.core.supervisor == NO_SUPERVISOR, "two supervisors")?;
            self.core.supervisor = index;
        }
        let partition = &mut self.core.partitions[index];
        partition.life = Life::Frozen;
        partition.generation = 1;
        partition.name = record.name;
        partition.rank = record.rank;
        partition.root = root;
        partition.entry = record.entry;
        partition.stack_top = record.stack_top;
        partition.build_id = record.build_id;
        partition.thread.message = message;
        partition.thread.call_limit = record.call_limit_us.into();
        partition.thread.reserve = record.reserve_us.into();
        self.core.accounts[index] = account;
        self.partitions = index.wrapping_add(1);
        Ok(())
    }

    /// An account; its times are microseconds until the clock is known.
    fn account(&self, cpu: u16, priority: u32, budget_us: u32, period_us: u32) -> Result<Account, BootError> {
        self.require(cpu == 0 && (1..=255).contains(&priority), "priority 0, or a CPU that is not brought up")?;
        self.require(budget_us > 0 && budget_us <= period_us, "budget 0 or above its period")?;
        let (priority, budget, period) = (priority as u8, budget_us.into(), period_us.into());
        Ok(Account { priority, budget, period, ..Account::default() })
    }

    fn last(&self) -> Result<u8, BootError> {
        self.partitions.checked_sub(1).ok_or(BootError::Record(self.record, "it stands before the first partition"))
    }

    /// Note that partition `index` has `range`.
    fn add_range(&mut self, index: u8, range: Range) -> Step {
        let ranges = &self.core.partitions[index].ranges;
        let end = range.address.saturating_add(range.bytes);
        let apart = |known: &Range| {
            known.bytes == 0 || end <= known.address || known.address.saturating_add(known.bytes) <= range.address
        };
        self.require(ranges.iter().all(apart), "ranges of a partition overlap")?;
        let used = ranges.iter().filter(|known| known.bytes != 0).count();
        self.require(used < limits::RANGES, "more than 16 ranges in a partition (limit 16)")?;
        if let Some(free) = self.core.partitions[index].ranges.get_mut(used) {
            *free = range;
        }
        Ok(())
    }

    fn segment(&mut self, record: &SegmentRecord) -> Step {
        let index = self.last()?;
        let pages = u64::from(record.pages);
        let bytes = pages.wrapping_mul(4096);
        let (read, write, execute) =
            (record.rights & rights::READ, record.rights & rights::WRITE, record.rights & rights::EXECUTE);
        self.require(record.rights <= 7 && read != 0, "segment without READ or with unknown rights")?;
        self.require(write == 0 || execute == 0, "segment writable and executable (R7)")?;
        let end = record.address.saturating_add(bytes);
        let program = record.address >= layout::USER_BASE && end <= layout::SEGMENT_END;
        let blob = record.address >= layout::BLOB_BASE && end <= layout::GUEST_BASE && record.rights == rights::READ;
        self.require(
            pages > 0 && record.address & 0xfff == 0 && (program || blob),
            "segment outside the addresses for segments",
        )?;
        let holds = |bytes| match blob {
            true => self.image.holds_blob(record.offset, bytes),
            false => self.image.holds(record.offset, bytes),
        };
        self.require(
            record.file_bytes <= bytes && holds(record.file_bytes),
            "segment's bytes outside the checked part of the image",
        )?;
        let root = self.core.partitions[index].root;
        let no_execute = if execute == 0 { table::NO_EXECUTE } else { 0 };
        let source = self.image.address(record.offset);
        if write == 0 {
            self.require(holds(bytes) && record.file_bytes > 0, "read-only segment's pages outside the image")?;
            self.map(root, record.address, source, pages, no_execute)?;
            let (address, rights) = (record.address, record.rights);
            return self.add_range(index, Range { address, physical: source, bytes, rights, source: 0, file_bytes: 0 });
        }
        let filled = self.core.partitions[index].ranges.iter().filter(|range| range.source != 0);
        let total = filled.map(|range| range.bytes >> 12).sum::<u64>().saturating_add(pages);
        self.require(
            total <= limits::WRITABLE_PAGES as u64,
            "writable memory of a partition above its limit (256 pages)",
        )?;
        let physical = self.frames.take(pages, 4096, Owner(Owner::PARTITION, index))?;
        self.map(root, record.address, physical, pages, table::WRITE | table::NO_EXECUTE)?;
        let (address, rights, file_bytes) = (record.address, record.rights, record.file_bytes);
        self.add_range(index, Range { address, physical, bytes, rights, source, file_bytes })
    }

    fn capability(&mut self, record: &CapabilityRecord) -> Step {
        let index = self.last()?;
        let object = usize::from(record.object);
        match record.kind {
            kind::TIMER => {
                self.require(
                    object < limits::TIMERS && self.timers >> object & 1 == 0,
                    "timer does not exist or is held twice",
                )?;
                self.timers |= 1 << object;
            }
            kind::INTERRUPT => {
                self.require(object < limits::INTERRUPTS, "interrupt above 31 (limit 32)")?;
                let line = object as u8;
                self.require(self.core.lines[line].holder == Index::NONE, "interrupt held twice")?;
                self.core.lines[line] = Line { holder: Index::of(index), bits: record.first, mode: record.rights };
            }
            kind::PORTS => self.require(record.first.saturating_add(record.count) <= 0x1_0000, "ports above 0xffff")?,
            kind::MSRS => {
                self.require(record.first.saturating_add(record.count) <= 1 << 32, "MSR number above 32 bits")?;
                self.require(
                    record.rights & rights::WRITE == 0 || !of_the_core(record),
                    "MSR capability for a register of the core",
                )?;
            }
            kind::ENDPOINT | kind::NOTIFICATION | kind::PARTITION | kind::VM | kind::LOG | kind::CLOCK => {}
            _ => self.require(false, "capability of unknown kind")?,
        }
        let put = self.core.partitions[index].slots.put(record);
        self.require(put, "slot used twice or above 63 (limit 64)")
    }

    fn vm(&mut self, record: &VmRecord) -> Step {
        let index = self.vms;
        self.require(
            usize::from(record.index) == usize::from(index) && usize::from(index) < limits::VMS,
            "VMs out of order or above 8 (limit 8)",
        )?;
        self.require(record.vmexit < u16::from(self.partitions), "VM without vmexit")?;
        self.require(
            record.vmport == NO_PARTITION || record.vmport < u16::from(self.partitions),
            "VM with an unknown vmport",
        )?;
        let vmexit = record.vmexit as u8;
        let rank = |index: u16| self.core.partitions[index as u8].rank;
        self.require(
            record.vmport == NO_PARTITION || rank(record.vmport) > rank(record.vmexit),
            "vmport does not stand above vmexit (R11)",
        )?;
        self.require(self.core.vms.iter().all(|(_, vm)| !vm.exists || vm.vmexit != vmexit), "a vmexit serves two VMs")?;
        let pages = record.memory_pages;
        self.require(pages > 0 && pages & 511 == 0 && pages < 1 << 28, "VM memory is not a multiple of 2 MiB")?;
        let avx_alone = record.xcr0 & 6 == 4;
        self.require(
            record.xcr0 & !extended::XCR0_MOST == 0 && !avx_alone,
            "VM's XCR0 above x87, SSE and AVX, or AVX without SSE",
        )?;
        let physical = self.frames.take(pages, 1 << 21, Owner(Owner::GUEST, index))?;
        let nested = nested::build(&mut self.core.pool, physical, pages)?;
        let root = self.core.partitions[vmexit].root;
        self.map(root, layout::GUEST_BASE, physical, pages, table::WRITE | table::NO_EXECUTE)?;
        self.add_range(vmexit, kept(layout::GUEST_BASE, physical, pages))?;
        let vm = &mut self.core.vms[index];
        vm.exists = true;
        vm.vmexit = vmexit;
        vm.vmport = if record.vmport == NO_PARTITION { Index::NONE } else { Index::of(record.vmport as u8) };
        vm.badge = record.vmport_badge;
        vm.features = record.features;
        vm.xcr0 = record.xcr0 & extended::supported() | 1;
        vm.nested = nested;
        (vm.pages, vm.first_vcpu) = (pages, self.vcpus);
        self.vms = index.wrapping_add(1);
        Ok(())
    }

    fn vcpu(&mut self, record: &VcpuRecord) -> Step {
        let vm = self.vms.checked_sub(1).ok_or(BootError::Record(self.record, "vCPU before the first VM"))?;
        let index = self.vcpus;
        self.require(usize::from(index) < limits::VCPUS, "more than 16 vCPUs (limit 16)")?;
        self.require(usize::from(record.index) == usize::from(self.core.vms[vm].vcpu_count), "vCPUs are not in order")?;
        let account = self.account(record.cpu, record.priority, record.budget_us, record.period_us)?;
        let control = core_page(self.core, self.root, self.frames, Owner::CORE)?;
        let extended = core_page(self.core, self.root, self.frames, Owner::CORE)?;
        let page = core_page(self.core, self.root, self.frames, Owner(Owner::EXIT, index))?;
        let root = self.core.partitions[self.core.vms[vm].vmexit].root;
        let at = layout::EXIT_PAGES.wrapping_add(u64::from(record.index).wrapping_mul(4096));
        self.map(root, at, page.physical(), 1, table::WRITE | table::NO_EXECUTE)?;
        self.require(usize::from(record.index) < limits::VCPUS_PER_VM, "more than 8 vCPUs in a VM (limit 8)")?;
        self.core.vms[vm].vcpu_count = record.index.wrapping_add(1) as u8;
        let vcpu = &mut self.core.vcpus[index];
        vcpu.exists = true;
        vcpu.vm = vm;
        vcpu.index = record.index as u8;
        (vcpu.control, vcpu.extended, vcpu.page) = (control, extended, page);
        self.core.accounts[account::of_vcpu(index)] = account;
        self.vcpus = index.wrapping_add(1);
        Ok(())
    }

    /// What only the whole image shows: ranks, targets, entry points, who holds a VM.
    fn check_whole(&self) -> Step {
        self.require(self.core.supervisor != NO_SUPERVISOR, "image without a supervisor")?;
        for (index, partition) in self.core.partitions.iter().take(self.partitions.into()) {
            self.require(
                partition.translate(partition.entry, 1, rights::EXECUTE).is_some(),
                "entry point outside executable memory",
            )?;
            for slot in partition.slots.iter() {
                let object = slot.object as u8;
                let known = slot.object < u16::from(self.partitions);
                match slot.kind {
                    kind::ENDPOINT => self.require(
                        known && self.core.partitions[object].rank > partition.rank,
                        "call that does not go up in rank (R11)",
                    )?,
                    kind::NOTIFICATION | kind::PARTITION => self.require(known, "capability for no partition")?,
                    kind::VM => {
                        let vm = &self.core.vms[object];
                        self.require(slot.object < self.vms.into(), "capability for no VM")?;
                        self.require(
                            slot.rights & rights::RUN == 0 || vm.vmexit == index,
                            "VM run by a partition that is not its vmexit",
                        )?;
                        self.require(
                            slot.rights & rights::ANSWER == 0 || vm.vmport == Index::of(index),
                            "VM answered by a partition that is not its vmport",
                        )?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Memory that outlives an instance.
fn kept(address: u64, physical: u64, pages: u64) -> Range {
    let rights = rights::READ | rights::WRITE;
    Range { address, physical, bytes: pages << 12, rights, source: 0, file_bytes: 0 }
}

/// Number of partitions.
pub fn count(core: &Core) -> usize {
    core.partitions.iter().filter(|(_, partition)| partition.life != Life::Absent).count()
}

/// Microseconds become ticks, memory becomes zero, and every partition starts (R10).
pub fn start(core: &mut Core) {
    let ticks =
        |clock: &crate::schedule::Clock, microseconds: i64| clock.ticks(microseconds.cast_unsigned()).cast_signed();
    core.clock.slice = ticks(&core.clock, core.clock.slice);
    core.supervisor_window = core.clock.ticks(core.supervisor_window);
    for (_, account) in core.accounts.iter_mut() {
        account.budget = ticks(&core.clock, account.budget);
        account.period = core.clock.ticks(account.period);
        account.left = account.budget;
        account.period_end = core.clock.since.wrapping_add(account.period);
        account.slice_left = core.clock.slice;
    }
    for (_, partition) in core.partitions.iter_mut() {
        partition.thread.call_limit = ticks(&core.clock, partition.thread.call_limit);
        partition.thread.reserve = ticks(&core.clock, partition.thread.reserve);
        for range in &partition.ranges {
            let kept = range.rights & rights::WRITE != 0 && range.source == 0;
            for offset in (0..if kept { range.bytes } else { 0 }).step_by(layout::PAGE) {
                core.windows.zero(range.physical.wrapping_add(offset), layout::PAGE);
            }
        }
    }
    super::reset_vcpus(core);
    for index in 0..limits::PARTITIONS as u8 {
        if core.partitions[index].life == Life::Frozen {
            core.start(index);
        }
    }
}
