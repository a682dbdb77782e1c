//! The service on the machine: the core, guest memory and the console behind [`Host`].

use crate::config::{Bad, Config};
use crate::cpuid::Identity;
use crate::host::{File, Host, Note};
use crate::loader::{Error, TEXT};
use crate::machine::Machine;
use crate::memory::{Entries, GuestMemory};
use crate::saved::{SCHEMA, VERSION, WORDS};
use crate::tally::Tally;
use arrayvec::ArrayString;
use core::fmt::Write;
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use portcullis_ipc::exit::ExitPage;
use portcullis_ipc::layout::GUEST_BASE;
use portcullis_ipc::limits::PAYLOAD;
use portcullis_ipc::message::Lease;
use portcullis_ipc::proto::acpi::{BuildTables, TablesBuilt, WINDOW, WINDOW_BYTES};
use portcullis_ipc::proto::link::{ConsoleInput, ConsoleRead, ConsoleWrite, VmEvent, VmEventKind};
use portcullis_ipc::proto::vmport::{HighBandwidth, HighBandwidthMoved, MachineReset};
use portcullis_ipc::ram::Ram;
use portcullis_ipc::record::cause;
use portcullis_ipc::syscall::{Resume, VcpuId, rights};
use portcullis_runtime::allowance::Allowance;
use portcullis_runtime::call::{CallError, read_reply};
use portcullis_runtime::endpoint::{Endpoint, REPEATS};
use portcullis_runtime::handle::{Timer, Vm, bad_config, endpoint, missing};
use portcullis_runtime::journal::{HEAD_WORDS, Journal};
use portcullis_runtime::pages::{self, RegionWords, info, journal, platform};
use portcullis_runtime::serve::{Service, serve};
use portcullis_runtime::start::Start;
use portcullis_runtime::time::{ticks, tsc};
use portcullis_runtime::{bulk, heap, syscall};
use spin::{Mutex, MutexGuard};

portcullis_runtime::entry!(main);

/// How long the beginning of a line waits for its end, microseconds.
const LINE_WAIT: u64 = 20_000;
/// Notes of a kind that reach the log at once, then it is one a second: the guest can cause any number.
const NOTES: u32 = 32;

/// Bytes from which on the processor's string instructions copy faster than a loop.
const BULK: usize = 256;

/// CPUID 0x8000_0001 EDX: pages of 1 GiB.
const GIGABYTE_PAGES: u32 = 1 << 26;

/// Bytes of the decoder's tables and of what building them takes: 104 KB, measured, and some room.
const DECODER: usize = 128 * 1024;

/// Memory for the decoder's tables: needed whatever heap the manifest gives.
static TABLES: Mutex<[MaybeUninit<u8>; DECODER]> = Mutex::new([MaybeUninit::uninit(); DECODER]);

fn main(start: Start) -> ! {
    let mut desk = open();
    defmt::info!("vmexit ready, generation {=u32}", start.generation);
    desk.machine.crashed = matches!(start.cause, cause::EXCEPTION | cause::MISUSE | cause::HUNG | cause::ABORTED);
    desk.machine.start(start.cause == cause::BAD_GUEST_STATE);
    serve(start, &mut desk)
}

/// The service as the instance before left it. A function of its own, so that what building takes of the stack
/// is free again while it serves.
#[inline(never)]
fn open() -> Desk {
    let tables: &mut [_; DECODER] = MutexGuard::leak(TABLES.lock());
    heap::add(tables);
    let Some(vm) = Vm::find("vm") else { missing("vm") };
    let info = info();
    let guest_bytes = info.page().guest_bytes;
    let config = match Config::read(|key| info.config(key)) {
        Ok(config) => config,
        Err(Bad(key, wanted)) => bad_config(key, wanted),
    };
    let platform = platform();
    let khz = |hz: u64| u32::try_from(hz / 1000).unwrap_or(u32::MAX);
    let identity = Identity {
        platform: config.platform,
        vmware: config.identity,
        // What the processor lacks the core refuses.
        xcr0_mask: config.xcr0 & (u64::from(core::arch::x86_64::__cpuid_count(0xd, 0).eax) | 1),
        vcpus: vm.vcpus.into(),
        apic: config.lapic,
        tsc_khz: khz(platform.tsc_hz),
        lapic_khz: khz(platform.lapic_hz),
    };
    let (journal, _) = journal("vmexit", VERSION, SCHEMA, 0);
    let host = Core {
        vm,
        memory: Memory { bytes: guest_bytes, ram: Ram::new(guest_bytes), entries: entries() },
        link: endpoint("link"),
        vmport: endpoint("vmport-rpc"),
        uart: Timer::find("uart"),
        lapic: Timer::find("lapic"),
        acpi_mangler: endpoint("acpi-mangler"),
        line_wait: ticks(LINE_WAIT),
        armed: false,
        journal,
        fates: Allowance::new(NOTES),
        tries: Allowance::new(NOTES),
        told_of_timer: false,
        tally: Tally::new(),
    };
    if config.lapic && host.lapic.is_none() {
        defmt::warn!("no capability \"lapic\": timers of the guest's local APICs never fire; add a timer of this name");
    }
    Desk { vm, machine: Machine::new(host, config, identity) }
}

/// What this processor takes for a page-table entry: the guest is shown the same.
fn entries() -> Entries {
    let leaf = |number| core::arch::x86_64::__cpuid_count(number, 0);
    Entries::new(leaf(0x8000_0008).eax & 0xff, leaf(0x8000_0001).edx & GIGABYTE_PAGES != 0)
}

struct Desk {
    vm: Vm,
    machine: Machine<Core>,
}

impl Service for Desk {
    #[inline(always)]
    fn exited(&mut self, vcpu: u16) -> (VcpuId, u64) {
        let page = exit_page(vcpu);
        self.machine.host.tally.count(page.reason, page.qualification[0]);
        let word = self.machine.exited(vcpu, page);
        (self.vm.vcpu(vcpu), word)
    }

    fn notified(&mut self, bits: u64) {
        let bits_of = |timer: Option<Timer>| timer.map_or(0, |timer| timer.bits);
        let (uart, lapic) = (bits_of(self.machine.host.uart), bits_of(self.machine.host.lapic));
        if bits & lapic != 0 {
            self.machine.timer();
        }
        if bits & uart != 0 {
            self.machine.host.armed = false;
            self.machine.output();
        }
        if bits & !(uart | lapic) != 0 {
            self.machine.input();
        }
    }
}

/// The exit page of a vCPU.
#[inline(always)]
fn exit_page(vcpu: u16) -> &'static mut ExitPage {
    // SAFETY: the core maps the page of each vCPU of this VM for the life of the instance. Each vCPU has one
    // reference at a time: that of the exit that is served, or that of `stopped`, which is asked about other vCPUs
    // only. It ends before the next wait, and `fetch`, in which the core writes the page, gets it as an argument.
    unsafe { &mut *pages::exit_page(vcpu) }
}

struct Core {
    vm: Vm,
    memory: Memory,
    link: Option<Endpoint>,
    vmport: Option<Endpoint>,
    uart: Option<Timer>,
    lapic: Option<Timer>,
    acpi_mangler: Option<Endpoint>,
    line_wait: u64,
    armed: bool,
    journal: Journal<RegionWords>,
    /// Notes about what becomes of the machine, and about what its guest tries: neither silences the other.
    fates: Allowance,
    tries: Allowance,
    /// The log knows that the guest looks for an interval timer.
    told_of_timer: bool,
    tally: Tally,
}

impl Core {
    /// Whether something that the guest causes may be logged; tells how many were left out before it.
    fn may_say(&mut self, fate: bool) -> bool {
        let second = (tsc() / platform().tsc_hz.max(1)) as u32;
        let allowance = if fate { &mut self.fates } else { &mut self.tries };
        let Some(omitted) = allowance.take(second) else { return false };
        if omitted > 0 {
            defmt::warn!("{=u32} notes about the guest left out: it may cause one a second", omitted);
        }
        true
    }

    /// Tells the log which exits the guest caused so far.
    fn report_exits(&self) {
        defmt::info!("{=u64} exits of this instance", self.tally.total());
        for (name, count) in self.tally.most_frequent_first() {
            defmt::info!("{=u64} exits: {=str}", count, name);
        }
    }
}

impl Host for Core {
    type Memory = Memory;
    type Region = RegionWords;

    fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    fn fetch(&mut self, vcpu: u16, page: &mut ExitPage, groups: u32) -> bool {
        syscall::vcpu_fetch(self.vm.vcpu(vcpu), groups, page).ok()
    }

    fn tsc(&self) -> u64 {
        tsc()
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
        [result.eax, result.ebx, result.ecx, result.edx]
    }

    fn console_write(&mut self, sequence: u64, bytes: &[u8]) -> bool {
        let Some(link) = &mut self.link else {
            return true;
        };
        if sequence == 1 {
            defmt::info!("first output of the guest");
        }
        let written = link.call_idempotent(&ConsoleWrite { sequence, bytes });
        written.is_ok_and(|written| written.sequence >= sequence)
    }

    fn console_read(&mut self, from: u64, buffer: &mut [u8]) -> Option<(u64, usize)> {
        let Some(link) = &mut self.link else {
            return Some((from, 0));
        };
        let request = ConsoleRead { from, most: buffer.len() as u8 };
        let mut reply = [0; PAYLOAD];
        let mut outcome = link.transfer(&request, &[], &mut reply);
        for _ in 0..REPEATS {
            match outcome {
                Err(CallError::Dead) => outcome = link.transfer(&request, &[], &mut reply),
                _ => break,
            }
        }
        let header = match outcome {
            Ok(header) => header,
            // Nobody is there any more.
            Err(CallError::Gone) => return Some((from, 0)),
            Err(_) => return None,
        };
        let payload = reply.get(..header.length.into()).unwrap_or_default();
        let input = read_reply::<ConsoleInput<'_>>(&header, payload).ok()?;
        for (to, from) in buffer.iter_mut().zip(input.bytes) {
            *to = *from;
        }
        Some((input.from, input.bytes.len().min(buffer.len())))
    }

    fn event(&mut self, sequence: u64, kind: VmEventKind) {
        if let Some(link) = &mut self.link
            && link.call_idempotent(&VmEvent { sequence, kind }).is_err()
            && self.may_say(true)
        {
            defmt::warn!("link takes no event of the VM: the host is not told what became of it");
        }
    }

    #[inline(always)]
    fn journal(&mut self) -> &mut Journal<RegionWords> {
        &mut self.journal
    }

    fn flush_later(&mut self) -> bool {
        if let Some(timer) = self.uart
            && !self.armed
        {
            self.armed = true;
            timer.set(tsc() + self.line_wait);
        }
        self.armed
    }

    fn wall_clock(&self) -> u64 {
        let platform = platform();
        // Until `link` has set the clock, time runs since 1970.
        let ticks = u128::from(tsc().wrapping_sub(platform.wall_tsc));
        let passed = ticks * 1_000_000_000 / u128::from(platform.tsc_hz.max(1));
        platform.wall_ns.wrapping_add(passed as u64)
    }

    fn rates(&self) -> (u64, u64) {
        let platform = platform();
        (platform.tsc_hz, platform.lapic_hz)
    }

    fn wake_at(&mut self, deadline: u64) {
        if let Some(timer) = self.lapic {
            timer.set(deadline);
        }
    }

    fn stopped(&mut self, vcpu: u16) -> Option<&'static mut ExitPage> {
        let page = exit_page(vcpu);
        self.fetch(vcpu, page, 0).then_some(page)
    }

    fn protect(&mut self, address: u64, rights: u8) {
        if !syscall::vm_protect(self.vm.slot(), address, 1, rights).ok() && self.may_say(true) {
            defmt::error!("the page at {=u64:#x} cannot be protected: the VM's page-table pool is empty", address);
        }
    }

    fn resume(&mut self, vcpu: u16) {
        syscall::vcpu_resume(self.vm.vcpu(vcpu), Resume::ENTER, 0);
    }

    fn recall(&mut self, vcpu: u16) -> bool {
        syscall::vcpu_recall(self.vm.vcpu(vcpu)).ok()
    }

    fn has_tables(&self) -> bool {
        self.acpi_mangler.is_some()
    }

    fn build_tables(&mut self, machine: &BuildTables) -> Result<Option<TablesBuilt>, Error> {
        let Some(mangler) = &mut self.acpi_mangler else { return Ok(None) };
        let window =
            Lease { address: GUEST_BASE + u64::from(WINDOW), length: WINDOW_BYTES, rights: rights::WRITE.into() };
        mangler.lend_idempotent(machine, &[window]).map(Some).map_err(|error| match error {
            CallError::Refused(_) => Error::Tables("refuses the machine"),
            CallError::Gone => Error::Tables("was given up"),
            _ => Error::TablesLate,
        })
    }

    fn file(&self, name: &'static str) -> Result<File, Error> {
        let blob = info().blob(name).ok_or(Error::NoBlob(name))?;
        let bytes = core::ptr::with_exposed_provenance::<u8>(blob.address as usize);
        // SAFETY: the core maps the blob read-only at this address for the life of the instance.
        let bytes = unsafe { core::slice::from_raw_parts(bytes, blob.bytes as usize) };
        Ok(File { bytes, checksum: blob.checksum })
    }

    fn crc32c(&self, crc: u32, bytes: &[u8]) -> u32 {
        bulk::crc32c(crc, bytes)
    }

    fn high_bandwidth(&mut self, request: &HighBandwidth, piece: &mut [u8]) -> Option<HighBandwidthMoved> {
        let endpoint = self.vmport.as_mut()?;
        let lease = Lease {
            address: piece.as_mut_ptr().expose_provenance() as u64,
            length: piece.len() as u32,
            rights: u32::from(if request.input { rights::WRITE } else { rights::READ }),
        };
        let mut reply = [0; PAYLOAD];
        let mut outcome = endpoint.transfer(request, &[lease], &mut reply);
        for _ in 0..REPEATS {
            match outcome {
                Err(CallError::Dead) => outcome = endpoint.transfer(request, &[lease], &mut reply),
                _ => break,
            }
        }
        let header = outcome.ok()?;
        read_reply(&header, reply.get(..header.length.into())?).ok()
    }

    fn machine_reset(&mut self, reset: &MachineReset) {
        if let Some(endpoint) = &mut self.vmport
            && endpoint.call_idempotent(reset).is_err()
            && self.may_say(true)
        {
            defmt::warn!("vmport-rpc does not take the reset of the machine: its channels stay open");
        }
    }

    #[cold]
    fn note(&mut self, note: Note) {
        if note == Note::NoTimer && core::mem::replace(&mut self.told_of_timer, true) {
            return;
        }
        if !self.may_say(note.is_fate()) {
            return;
        }
        match note {
            Note::Stopped(why, rip, detail) => {
                defmt::error!("vCPU stopped at {=u64:#x}: {=str}, {=u64:#x}", rip, why, detail)
            }
            Note::NotLoaded(error) => defmt::error!("guest not loaded: {=str}", text(error).as_str()),
            Note::LoadsLater(error) => {
                defmt::warn!("guest not loaded yet, this is tried again: {=str}", text(error).as_str())
            }
            Note::Reset(why) => defmt::info!("the machine is reset: {=str}", why),
            Note::PowerOff => {
                defmt::info!("the guest switched its machine off");
                self.report_exits();
            }
            Note::TestExit(value) => defmt::info!("guest exit code {=u32:#x}", value),
            Note::UnknownMsr(number, write) => {
                let what = if write { "write of" } else { "read of" };
                defmt::info!("{=str} MSR {=u32:#x}, which is not there", what, number);
            }
            Note::NotEmulated(rip, address) => {
                defmt::warn!("instruction at {=u64:#x} is not emulated on {=u64:#x}, which is not memory", rip, address)
            }
            Note::NoTimer => defmt::warn!(
                "the guest programs an interval timer (ports 0x40 to 0x43), which is not there: what measures time by it \
                 waits or goes wrong; local APIC timer, TSC and GETHZ are there"
            ),
            Note::Deadly { reason, times, rip, rflags } => defmt::error!(
                "an exit ({=str}) ended {=u64} instances in a row (guest.exit-tries): the machine stops at {=u64:#x}, flags {=u64:#x}",
                Tally::name(reason),
                times,
                rip,
                rflags
            ),
            Note::Falls(times) => defmt::error!(
                "{=u64} triple faults in a row, each within a minute of a start (guest.triple-faults): the machine stops",
                times
            ),
            Note::NotSaved => defmt::warn!(
                "state region holds {=usize} bytes of {=usize} wanted: a restart will lose what the guest did",
                (HEAD_WORDS + self.journal.words()) * 8,
                (HEAD_WORDS + WORDS) * 8
            ),
        }
    }
}

/// An error as a line; one that is too long ends where the room does.
fn text(error: Error) -> ArrayString<TEXT> {
    let mut text = ArrayString::new();
    let _ = write!(text, "{error}");
    text
}

/// Guest memory, mapped from [`GUEST_BASE`] on at its guest-physical addresses.
struct Memory {
    bytes: u64,
    ram: Ram,
    entries: Entries,
}

impl Memory {
    fn place(&self, address: u64, length: usize) -> Option<*mut u8> {
        let place = GUEST_BASE.wrapping_add(address) as usize;
        self.ram.holds(address, length as u64).then(|| core::ptr::with_exposed_provenance_mut(place))
    }
}

impl GuestMemory for Memory {
    fn size(&self) -> u64 {
        self.bytes
    }

    #[inline]
    fn holds(&self, address: u64, length: u64) -> bool {
        self.ram.holds(address, length)
    }

    #[cold]
    fn exchange(&mut self, address: u64, width: usize, old: u64, new: u64) -> bool {
        let Some(place) = self.place(address, width).filter(|_| address.is_multiple_of(width as u64)) else {
            return false;
        };
        match width {
            8 => {
                // SAFETY: the word lies in guest memory, which is mapped for the life of the instance, and is aligned.
                let word = unsafe { AtomicU64::from_ptr(place.cast()) };
                word.compare_exchange(old, new, SeqCst, SeqCst).is_ok()
            }
            4 => {
                // SAFETY: as above.
                let word = unsafe { AtomicU32::from_ptr(place.cast()) };
                word.compare_exchange(old as u32, new as u32, SeqCst, SeqCst).is_ok()
            }
            _ => {
                // SAFETY: as above.
                let byte = unsafe { AtomicU8::from_ptr(place) };
                byte.compare_exchange(old as u8, new as u8, SeqCst, SeqCst).is_ok()
            }
        }
    }

    #[inline]
    fn entries(&self) -> Entries {
        self.entries
    }

    #[inline]
    fn word(&self, address: u64) -> u64 {
        match self.place(address & !7, 8) {
            // SAFETY: the word lies in guest memory, which is mapped for the life of the instance, and
            // is aligned; the guest may change it, so it is read once and volatile.
            Some(place) => unsafe { place.cast::<u64>().read_volatile() },
            None => u64::MAX,
        }
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        let Some(place) = self.place(address, bytes.len()) else {
            return false;
        };
        let (words, rest) = bytes.as_chunks_mut::<8>();
        if place.cast::<u64>().is_aligned() {
            for (index, to) in words.iter_mut().enumerate() {
                // SAFETY: the word lies in guest memory, which is mapped for the life of the instance,
                // and is aligned; the guest may change it, so it is read once and volatile.
                let word = unsafe { place.cast::<u64>().wrapping_add(index).read_volatile() };
                *to = word.to_le_bytes();
            }
            return self.read_bytes(place.wrapping_add(words.len() * 8), rest);
        }
        self.read_bytes(place, bytes)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
        let Some(place) = self.place(address, bytes.len()) else {
            return false;
        };
        if bytes.len() >= BULK {
            // SAFETY: the place lies in guest memory, which is mapped and writable for the life of the instance, and of
            // which no reference exists.
            unsafe { bulk::copy(place, bytes) };
            return true;
        }
        let (words, rest) = bytes.as_chunks::<8>();
        if place.cast::<u64>().is_aligned() {
            for (index, from) in words.iter().enumerate() {
                let word = u64::from_le_bytes(*from);
                // SAFETY: as for `read`; guest memory is writable.
                unsafe { place.cast::<u64>().wrapping_add(index).write_volatile(word) };
            }
            return self.write_bytes(place.wrapping_add(words.len() * 8), rest);
        }
        self.write_bytes(place, bytes)
    }

    fn zero(&mut self, address: u64, length: u64) -> bool {
        let Some(place) = self.place(address, length as usize) else {
            return false;
        };
        // SAFETY: as for `write`.
        unsafe { bulk::zero(place, length as usize) };
        true
    }
}

impl Memory {
    /// Copies bytes that [`Memory::place`] found to be guest memory.
    fn read_bytes(&self, place: *mut u8, bytes: &mut [u8]) -> bool {
        for (index, to) in bytes.iter_mut().enumerate() {
            // SAFETY: the byte lies in guest memory; it is read once and volatile.
            *to = unsafe { place.wrapping_add(index).read_volatile() };
        }
        true
    }

    /// Copies bytes to where [`Memory::place`] found guest memory.
    fn write_bytes(&mut self, place: *mut u8, bytes: &[u8]) -> bool {
        for (index, from) in bytes.iter().enumerate() {
            // SAFETY: the byte lies in guest memory, which is writable.
            unsafe { place.wrapping_add(index).write_volatile(*from) };
        }
        true
    }
}
