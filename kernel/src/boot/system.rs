//! Partitions and VMs from the image's tables: every record is checked against every limit and against the others before
//! anything of it runs.

use super::frames::Frames;
use super::image::Image;
use super::{BootError, core_page, core_pages};
use crate::arch::{extended, time};
use crate::audit::Owner;
use crate::mem::table;
use crate::object::account::{Account, of_vcpu};
use crate::object::partition::{Life, Range};
use crate::state::{Core, Index, Line};
use crate::vcpu::{Vendor, nested};
use portcullis_ipc::allowed::{self, within};
use portcullis_ipc::image::{
    CapabilityRecord, NO_PARTITION, PartitionRecord, SegmentRecord, VcpuRecord, VmRecord, kind, rank, schedule,
};
use portcullis_ipc::ram::Ram;
use portcullis_ipc::syscall::rights;
use portcullis_ipc::{layout, limits, ram};

struct Builder<'a> {
    core: &'a mut Core,
    image: &'a Image<'a>,
    frames: &'a mut Frames,
}

type Step = Result<(), BootError>;

/// Build everything that the image describes, below the core's own root.
pub fn build(core: &mut Core, image: &Image, frames: &mut Frames) -> Step {
    core.platform = core_page(core, frames, Owner::PLATFORM)?;
    require(image.head.slice_us > 0, "image: slice 0; build it anew")?;
    core.clock.slice = image.head.slice_us.into();
    core.supervisor_restarts = image.head.supervisor_restarts;
    core.supervisor_window = image.head.supervisor_window_us;
    let mut builder = Builder { core, image, frames };
    builder.each("partition", image.partitions, Builder::partition)?;
    builder.each("segment", image.segments, Builder::segment)?;
    builder.each("partition", image.partitions, Builder::entry)?;
    builder.each("VM", image.vms, Builder::vm)?;
    builder.each("vCPU", image.vcpus, Builder::vcpu)?;
    builder.each("capability", image.capabilities, Builder::capability)?;
    Ok(require(core.supervisor != Index::NONE, "image: no supervisor; give one partition its rank")?)
}

fn require(condition: bool, what: &'static str) -> Result<(), &'static str> {
    if condition { Ok(()) } else { Err(what) }
}

/// Memory that outlives an instance.
fn kept(address: u64, physical: u64, pages: u64) -> Range {
    let rights = rights::READ | rights::WRITE;
    Range { address, physical, bytes: pages << 12, rights, source: 0, file_bytes: 0 }
}

/// An account; its times are microseconds until the clock is known.
fn account(cpu: u16, priority: u16, budget_us: u32, period_us: u32, flags: u32) -> Result<Account, &'static str> {
    require(cpu == 0 && (1..=255).contains(&priority), "priority 0, or a CPU that is not brought up")?;
    require(budget_us > 0 && budget_us <= period_us, "budget 0 or above its period")?;
    require(flags & !schedule::CAP == 0, "unknown flags of scheduling")?;
    let (priority, budget, period) = (priority as u8, budget_us.into(), period_us.into());
    Ok(Account { priority, capped: flags & schedule::CAP != 0, budget, period, ..Account::default() })
}

impl Builder<'_> {
    /// Take `step` for each of `records`; where it is refused, say which.
    fn each<T>(&mut self, table: &'static str, records: &[T], step: fn(&mut Self, usize, &T) -> Step) -> Step {
        for (number, record) in records.iter().enumerate() {
            step(self, number, record).map_err(|error| match error {
                BootError::Line(what) => BootError::Record(table, number, what),
                other => other,
            })?;
        }
        Ok(())
    }

    /// The partition that a record names.
    fn known(&self, partition: u16) -> Result<u8, &'static str> {
        require(usize::from(partition) < self.image.partitions.len(), "no such partition").map(|()| partition as u8)
    }

    fn rank(&self, index: u8) -> u8 {
        self.core.partitions[index].plan.rank
    }

    fn take(&mut self, pages: u64, align: u64, owner: Owner) -> Result<u64, BootError> {
        let start = self.frames.take(pages, align)?;
        self.core.audit.add(start, pages, owner);
        Ok(start)
    }

    fn map(&mut self, root: u64, address: u64, physical: u64, pages: u64, rights: u8) -> Step {
        let write = if rights & rights::WRITE != 0 { table::WRITE } else { 0 };
        let execute = if rights & rights::EXECUTE != 0 { 0 } else { table::NO_EXECUTE };
        Ok(self.core.pool.map_range(root, address, physical, pages, table::USER | table::LARGE | write | execute)?)
    }

    /// Give partition `index` the memory of `range`, which may be empty.
    fn give(&mut self, index: u8, range: Range) -> Step {
        let Range { address, physical, bytes, rights, .. } = range;
        self.map(self.core.partitions[index].root, address, physical, bytes >> 12, rights)?;
        let ranges = &mut self.core.partitions[index].ranges;
        let end = address.saturating_add(bytes);
        let meets = |known: &Range| address < known.address.saturating_add(known.bytes) && known.address < end;
        require(!ranges.iter().any(meets), "ranges of a partition overlap")?;
        let free = ranges.iter_mut().find(|known| known.bytes == 0);
        *free.ok_or("more than 32 ranges in a partition (limit 32)")? = range;
        Ok(())
    }

    fn partition(&mut self, number: usize, record: &PartitionRecord) -> Step {
        require(number < limits::PARTITIONS, "more than 32 partitions (limit 32)")?;
        require(record.rank <= rank::SUPERVISOR, "unknown rank")?;
        require(record.call_limit_us > 0, "call limit 0")?;
        require(record.state_pages as usize <= limits::STATE_PAGES, "state region above its limit (1024 pages)")?;
        require(self.image.holds(record.info_offset, 4096, false), "information page outside the image")?;
        let index = number as u8;
        if record.rank == rank::SUPERVISOR {
            require(self.core.supervisor == Index::NONE, "a second supervisor")?;
            self.core.supervisor = Index::of(index);
        }
        let PartitionRecord { cpu, priority, budget_us, period_us, flags, .. } = *record;
        require(budget_us.saturating_add(record.reserve_us) <= period_us, "budget and reserve above the period")?;
        self.core.accounts[index] = account(cpu, priority.into(), budget_us, period_us, flags)?;
        let root = self.core.pool.table()?;
        let message = core_page(self.core, self.frames, Owner(Owner::MESSAGE, index))?;
        let (info, platform) = (self.image.address(record.info_offset), self.core.platform.physical());
        self.map(root, layout::INFO_PAGE, info, 1, rights::READ)?;
        self.map(root, layout::PLATFORM_PAGE, platform, 1, rights::READ)?;
        self.map(root, layout::MESSAGE_PAGE, message.physical(), 1, rights::READ | rights::WRITE)?;
        self.core.pool.share_core(self.core.root, root)?;
        self.core.audit.roots[index] = root;
        let partition = &mut self.core.partitions[index];
        (partition.life, partition.generation) = (Life::Frozen, 1);
        (partition.plan, partition.root, partition.thread.message) = (*record, root, message);
        let (state, spare) = (u64::from(record.state_pages), u64::from(record.spare_pages));
        let physical = self.take(state, 4096, Owner(Owner::STATE, index))?;
        self.take(spare, 4096, Owner(Owner::SPARE, index))?;
        self.give(index, kept(layout::STATE_REGION, physical, state))
    }

    fn segment(&mut self, _: usize, record: &SegmentRecord) -> Step {
        let SegmentRecord { address, offset, file_bytes, rights, .. } = *record;
        let index = self.known(record.partition)?;
        let (pages, write) = (u64::from(record.pages), rights & rights::WRITE != 0);
        let (bytes, end) = (pages << 12, address.saturating_add(pages << 12));
        require(rights <= 7 && rights & rights::READ != 0, "segment without READ or with unknown rights")?;
        require(!write || rights & rights::EXECUTE == 0, "segment writable and executable (R7)")?;
        let program = address >= layout::USER_BASE && end <= layout::SEGMENT_END;
        let blob = address >= layout::BLOB_BASE && end <= layout::GUEST_BASE && rights == rights::READ;
        let place = pages > 0 && address & 0xfff == 0 && (program || blob);
        require(place, "segment outside the addresses for segments")?;
        // What is not writable is mapped from the image, page by page.
        let needed = if write { file_bytes } else { bytes };
        let held = self.image.holds(offset, needed, blob);
        let filled = file_bytes <= bytes && (write || file_bytes > 0);
        require(held && filled, "segment's bytes outside the checked part of the image")?;
        let sealed = self.image.address(offset);
        if !write {
            let range = Range { address, physical: sealed, bytes, rights, source: 0, file_bytes: 0 };
            return self.give(index, range);
        }
        let filled = self.core.partitions[index].ranges.iter().filter(|range| range.source != 0);
        let total = filled.map(|range| range.bytes >> 12).sum::<u64>().saturating_add(pages);
        require(total <= limits::WRITABLE_PAGES as u64, "writable memory of a partition above its limit (256 pages)")?;
        let physical = self.take(pages, 4096, Owner(Owner::PARTITION, index))?;
        self.give(index, Range { address, physical, bytes, rights, source: sealed, file_bytes })
    }

    /// The entry point, once the segments are there.
    fn entry(&mut self, number: usize, record: &PartitionRecord) -> Step {
        let entry = self.core.partitions[number as u8].translate(record.entry, 1, rights::EXECUTE);
        Ok(require(entry.is_some(), "entry point outside executable memory")?)
    }

    fn vm(&mut self, number: usize, record: &VmRecord) -> Step {
        require(number < limits::VMS, "more than 8 VMs (limit 8)")?;
        let index = number as u8;
        let vmexit = self.known(record.vmexit)?;
        let vmport = if record.vmport == NO_PARTITION { Index::NONE } else { Index::of(self.known(record.vmport)?) };
        let above = vmport.get().is_none_or(|port| self.rank(port) > self.rank(vmexit));
        require(above, "vmport does not stand above vmexit (R11)")?;
        require(self.core.vms.iter().all(|(_, vm)| !vm.exists || vm.vmexit != vmexit), "a vmexit serves two VMs")?;
        let pages = record.memory_pages;
        require(pages & 511 == 0 && (1..=ram::MOST >> 12).contains(&pages), "VM memory: 2 MiB pages, at most 64 GiB")?;
        let components = record.xcr0 & !extended::XCR0_MOST == 0 && record.xcr0 & 6 != 4;
        require(components, "VM's XCR0 above x87, SSE and AVX, or AVX without SSE")?;
        let flags = nested::open(self.core.machine.vendor, self.core.mitigations);
        let nested = self.core.pool.table()?;
        for core::ops::Range { mut start, end } in Ram::new(pages << 12).pieces() {
            // The machine's own memory has holes, too.
            while start < end {
                let pages = self.frames.most(end.wrapping_sub(start) >> 12, 1 << 21);
                let physical = self.take(pages, 1 << 21, Owner(Owner::GUEST, index))?;
                self.give(vmexit, kept(layout::GUEST_BASE.wrapping_add(start), physical, pages))?;
                self.core.pool.map_range(nested, start, physical, pages, flags)?;
                start = start.wrapping_add(pages << 12);
            }
        }
        self.core.audit.nested[index] = nested;
        let vm = &mut self.core.vms[index];
        vm.exists = true;
        (vm.vmexit, vm.vmport, vm.badge) = (vmexit, vmport, record.vmport_badge);
        (vm.nested, vm.pages, vm.features) = (nested, pages, record.features);
        vm.xcr0 = record.xcr0 & extended::supported() | 1;
        Ok(())
    }

    fn vcpu(&mut self, number: usize, record: &VcpuRecord) -> Step {
        require(number < limits::VCPUS, "more than 16 vCPUs (limit 16)")?;
        require(usize::from(record.vm) < self.image.vms.len(), "no such VM")?;
        let (index, vm) = (number as u8, record.vm as u8);
        let VcpuRecord { cpu, priority, budget_us, period_us, flags, .. } = *record;
        self.core.accounts[of_vcpu(index)] = account(cpu, priority, budget_us, period_us, flags.into())?;
        let place = self.core.vms[vm].vcpu_count;
        require(usize::from(place) < limits::VCPUS_PER_VM, "more than 8 vCPUs in a VM (limit 8)")?;
        if place == 0 {
            self.core.vms[vm].first_vcpu = index;
        }
        require(self.core.vms[vm].vcpus().end == index, "vCPUs of a VM do not stand together")?;
        self.core.vms[vm].vcpu_count = place.wrapping_add(1);
        let [control, extended] = core_pages(self.core, self.frames, Owner::CORE)?;
        if self.core.machine.vendor == Vendor::Vmx {
            self.core.vcpus[index].vmcs = core_page(self.core, self.frames, Owner::CORE)?;
        }
        let page = core_page(self.core, self.frames, Owner(Owner::EXIT, index))?;
        let root = self.core.partitions[self.core.vms[vm].vmexit].root;
        let at = layout::EXIT_PAGES.wrapping_add(u64::from(place) << 12);
        self.map(root, at, page.physical(), 1, rights::READ | rights::WRITE)?;
        let vcpu = &mut self.core.vcpus[index];
        (vcpu.exists, vcpu.vm, vcpu.index) = (true, vm, place);
        (vcpu.control, vcpu.extended, vcpu.page) = (control, extended, page);
        Ok(())
    }

    fn capability(&mut self, number: usize, record: &CapabilityRecord) -> Step {
        let holder = self.known(record.partition)?;
        let object = record.object as u8;
        let mut before = self.image.capabilities.iter().take(number).filter(|other| other.kind == record.kind);
        let end = |one: &CapabilityRecord| one.first.saturating_add(one.count);
        let meets = |other| record.first < end(other) && other.first < end(record);
        let (line, timer) = (&mut self.core.lines[object], &mut self.core.timers.timers[object]);
        match record.kind {
            kind::TIMER => {
                require(usize::from(record.object) < limits::TIMERS, "timer above 63 (limit 64)")?;
                require(timer.holder == Index::NONE, "timer held twice")?;
                (timer.holder, timer.bits) = (Index::of(holder), record.first);
            }
            kind::INTERRUPT => {
                require(usize::from(record.object) < limits::INTERRUPTS, "interrupt above 31 (limit 32)")?;
                require(line.holder == Index::NONE, "interrupt held twice")?;
                *line = Line { holder: Index::of(holder), bits: record.first, mode: record.rights };
            }
            kind::PORTS | kind::MSRS => {
                let ports = record.kind == kind::PORTS;
                let list: &[_] = if ports { &allowed::PORTS } else { &allowed::MSRS };
                require(within(list, record.first, record.count), "ports or MSRs that no partition may have")?;
                require(ports || record.rights & rights::WRITE == 0, "MSR capability that writes")?;
                require(!ports || self.rank(holder) != rank::SUPERVISOR, "supervisor with ports")?;
                require(!before.any(meets), "port or MSR held twice")?;
            }
            kind::ENDPOINT => {
                let target = self.known(record.object)?;
                require(self.rank(target) > self.rank(holder), "call that does not go up in rank (R11)")?;
            }
            kind::NOTIFICATION | kind::PARTITION => _ = self.known(record.object)?,
            kind::VM => {
                let vm = &self.core.vms[object];
                require(usize::from(record.object) < self.image.vms.len(), "no such VM")?;
                let runs = record.rights & rights::RUN != 0;
                require(!runs || vm.vmexit == holder, "VM run by a partition that is not its vmexit")?;
                let answers = record.rights & rights::ANSWER != 0;
                require(!answers || vm.vmport == Index::of(holder), "VM answered by one that is not its vmport")?;
            }
            kind::LOG | kind::CLOCK => require(before.next().is_none(), "log or clock held twice")?,
            _ => Err("capability of unknown kind")?,
        }
        let put = self.core.partitions[holder].slots.put(record);
        Ok(require(put, "slot used twice or above 63 (limit 64)")?)
    }
}

/// Microseconds become ticks, memory becomes zero, and every partition starts (R10).
pub fn start(core: &mut Core) {
    let ticks = |microseconds: u64| time::scale(microseconds, core.rates.tsc, 1_000_000);
    core.supervisor_window = ticks(core.supervisor_window);
    let slice = ticks(core.clock.slice.cast_unsigned()).cast_signed();
    for (_, account) in core.accounts.iter_mut() {
        account.budget = ticks(account.budget.cast_unsigned()).cast_signed();
        account.period = ticks(account.period);
        account.period_end = core.clock.since.wrapping_add(account.period);
        (account.left, account.slice_left) = (account.budget, slice);
    }
    for (_, partition) in core.partitions.iter_mut() {
        partition.thread.call_limit = ticks(partition.plan.call_limit_us.into()).cast_signed();
        partition.thread.reserve = ticks(partition.plan.reserve_us.into()).cast_signed();
        for range in &partition.ranges {
            // Guest memory is for its `vmexit` to clear: before each start, not this one only.
            let kept = range.rights & rights::WRITE != 0 && range.source == 0 && range.address < layout::GUEST_BASE;
            for offset in (0..if kept { range.bytes } else { 0 }).step_by(layout::PAGE) {
                core.windows.zero(range.physical.wrapping_add(offset), layout::PAGE);
            }
        }
    }
    core.clock.slice = slice;
    for index in 0..limits::VCPUS as u8 {
        if core.vcpus[index].exists {
            core.reset_vcpu(index);
        }
    }
    for index in 0..limits::PARTITIONS as u8 {
        if core.partitions[index].life == Life::Frozen {
            core.start(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    /// Partition 0 is the supervisor, 1 a `vmexit`, 2 `link`; VM 0 is run by 1 and answered by 2.
    fn refusal<T>(
        step: fn(&mut Builder, usize, &T) -> Step,
        records: &[CapabilityRecord],
        last: &T,
    ) -> Option<BootError> {
        let mut core = Core::new_zeroed();
        for (index, rank) in [(0, rank::SUPERVISOR), (1, rank::VMEXIT), (2, rank::LINK)] {
            core.partitions[index].plan.rank = rank;
        }
        (core.vms[0].vmexit, core.vms[0].vmport) = (1, Index::of(2));
        let partitions: [PartitionRecord; 3] = FromZeros::new_zeroed();
        let vms: [VmRecord; 1] = FromZeros::new_zeroed();
        let image = Image::of(&partitions, &vms, records);
        let mut frames = Frames::new(&[], [].iter()).expect("none");
        let mut builder = Builder { core: &mut core, image: &image, frames: &mut frames };
        step(&mut builder, records.len().saturating_sub(1), last).err()
    }

    fn capability(records: &[CapabilityRecord]) -> Option<BootError> {
        refusal(|builder, number, record| builder.capability(number, record), records, records.last().expect("one"))
    }

    #[test]
    fn each_rule_of_capabilities_is_checked_again() {
        let one = |kind, partition, object, rights, first, count| CapabilityRecord {
            kind,
            partition,
            object,
            rights,
            first,
            count,
            ..CapabilityRecord::default()
        };
        let com1 = one(kind::PORTS, 2, 0, 0, 0x3f8, 8);
        let aperf = one(kind::MSRS, 2, 0, rights::READ, 0xe7, 2);
        let (log, clock) = (one(kind::LOG, 2, 0, 0, 0, 0), one(kind::CLOCK, 2, 0, 0, 0, 0));
        let call = one(kind::ENDPOINT, 1, 2, 0, 0, 0);
        let run = one(kind::VM, 1, 0, rights::RUN, 0, 0);
        let answer = one(kind::VM, 2, 0, rights::ANSWER, 0, 0);
        for good in [com1, aperf, log, clock, call, run, answer] {
            assert_eq!(capability(&[good]), None, "{good:?}");
        }
        let com2 = CapabilityRecord { first: 0x2f8, slot: 1, ..com1 };
        assert_eq!(capability(&[com1, com2]), None, "neighbours do not overlap");
        let table: [(&[CapabilityRecord], &str); 19] = [
            (&[CapabilityRecord { partition: 3, ..com1 }], "no such partition"),
            (&[CapabilityRecord { first: 0x20, count: 2, ..com1 }], "ports or MSRs that no partition may have"),
            (&[CapabilityRecord { count: 9, ..com1 }], "ports or MSRs that no partition may have"),
            (&[CapabilityRecord { count: 0, ..com1 }], "ports or MSRs that no partition may have"),
            (&[com1, CapabilityRecord { first: 0x3ff, count: 1, partition: 1, ..com1 }], "port or MSR held twice"),
            (&[CapabilityRecord { partition: 0, ..com1 }], "supervisor with ports"),
            (&[CapabilityRecord { first: 0x123, count: 1, ..aperf }], "ports or MSRs that no partition may have"),
            (&[CapabilityRecord { rights: rights::WRITE, ..aperf }], "MSR capability that writes"),
            (&[aperf, CapabilityRecord { first: 0xe8, count: 1, partition: 1, ..aperf }], "port or MSR held twice"),
            (&[log, CapabilityRecord { partition: 1, ..log }], "log or clock held twice"),
            (&[clock, CapabilityRecord { partition: 1, ..clock }], "log or clock held twice"),
            (&[CapabilityRecord { partition: 2, object: 1, ..call }], "call that does not go up in rank (R11)"),
            (&[CapabilityRecord { partition: 0, ..call }], "call that does not go up in rank (R11)"),
            (&[CapabilityRecord { object: 3, ..call }], "no such partition"),
            (&[CapabilityRecord { partition: 2, ..run }], "VM run by a partition that is not its vmexit"),
            (&[CapabilityRecord { partition: 1, ..answer }], "VM answered by one that is not its vmport"),
            (&[CapabilityRecord { object: 1, ..run }], "no such VM"),
            (&[one(kind::TIMER, 1, 64, 0, 1, 0)], "timer above 63 (limit 64)"),
            (&[one(99, 1, 0, 0, 0, 0)], "capability of unknown kind"),
        ];
        for (records, line) in table {
            assert_eq!(capability(records), Some(BootError::Line(line)), "{records:?}");
        }
        let slot = CapabilityRecord { slot: 64, ..com1 };
        assert_eq!(capability(&[slot]), Some(BootError::Line("slot used twice or above 63 (limit 64)")));
    }

    #[test]
    fn each_rule_of_segments_is_checked_again() {
        let good = SegmentRecord {
            address: layout::USER_BASE,
            offset: 0,
            file_bytes: 4096,
            pages: 1,
            rights: rights::READ,
            reserved: 0,
            partition: 1,
        };
        let place = "segment outside the addresses for segments";
        let bytes = "segment's bytes outside the checked part of the image";
        let table = [
            (SegmentRecord { partition: 3, ..good }, "no such partition"),
            (SegmentRecord { rights: rights::WRITE, ..good }, "segment without READ or with unknown rights"),
            (SegmentRecord { rights: 8 | rights::READ, ..good }, "segment without READ or with unknown rights"),
            (SegmentRecord { rights: 7, ..good }, "segment writable and executable (R7)"),
            (SegmentRecord { address: layout::USER_BASE - 4096, ..good }, place),
            (SegmentRecord { address: layout::SEGMENT_END, ..good }, place),
            (SegmentRecord { address: layout::USER_BASE + 1, ..good }, place),
            (SegmentRecord { pages: 0, ..good }, place),
            (SegmentRecord { offset: 1 << 40, ..good }, bytes),
            (SegmentRecord { offset: 8, ..good }, bytes),
            (SegmentRecord { file_bytes: 0, ..good }, bytes),
            (SegmentRecord { file_bytes: 4097, ..good }, bytes),
            (
                SegmentRecord { pages: 257, file_bytes: 4096, rights: rights::READ | rights::WRITE, ..good },
                "writable memory of a partition above its limit (256 pages)",
            ),
        ];
        for (record, line) in table {
            assert_eq!(
                refusal(|builder, number, record| builder.segment(number, record), &[], &record),
                Some(BootError::Line(line)),
                "{record:?}"
            );
        }
    }
}
