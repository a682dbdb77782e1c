//! The machine against a model of the outside.

mod delivery;
mod exits;
mod faults;
mod high;
mod load;
mod restart;
mod starts;
mod strings;

use crate::apic::lapic::Lapic;
use crate::config::{ApStart, Config, Entry};
use crate::cpuid::Identity;
use crate::host::{File, Host, Note};
use crate::loader::{self, Error, Guest};
use crate::machine::Machine;
use crate::memory::GuestMemory;
use crate::memory::tests::Plain;
use crate::saved::{SCHEMA, VERSION, WORDS, life, power};
use portcullis_ipc::exit::{ExitPage, Reason, Segment, gpr, io, segment};
use portcullis_ipc::file::crc32c;
use portcullis_ipc::proto::acpi::{BuildTables, TablesBuilt};
use portcullis_ipc::proto::link::VmEventKind;
use portcullis_ipc::proto::vmport::{HighBandwidth, HighBandwidthMoved, MachineReset};
use portcullis_runtime::journal::{HEAD_WORDS, Journal};
use portcullis_runtime::state::Words;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use zerocopy::FromZeros;

pub const CONFIG: Config = Config {
    entry: Entry::Real16,
    load: 0x7c00,
    append: "",
    lapic: false,
    ioapic: false,
    acpi: false,
    smbios: false,
    ap_start: ApStart::Sipi,
    uuid: [0; 16],
    identity: true,
    platform: 1,
    hardware: 13,
    port: true,
    xcr0: 7,
    exit_port: Some(0xf4),
    exit_tries: 3,
    triple_faults: 3,
};

/// Hz of the TSC and of the local APIC's timer.
pub const RATES: (u64, u64) = (1_000_000_000, 1_000_000_000);

pub const IDENTITY: Identity =
    Identity { platform: 1, vmware: true, xcr0_mask: 7, vcpus: 2, apic: false, tsc_khz: 1000, lapic_khz: 100 };

/// Where the code under test stands.
pub const CODE: u64 = 0x1000;

/// How many more effects the service lives for, and the words of its state region: both are there for the next
/// instance.
#[derive(Clone)]
pub struct Region {
    fuse: Rc<Cell<u32>>,
    words: Rc<RefCell<Vec<u64>>>,
}

impl Region {
    /// Zeros, and a service that lives.
    pub fn new() -> Self {
        Self { fuse: Rc::new(Cell::new(u32::MAX)), words: Rc::new(RefCell::new(vec![0; HEAD_WORDS + WORDS])) }
    }

    /// The state as an instance opens it.
    pub fn open(&self) -> Journal<Self> {
        Journal::open(self.clone(), "vmexit", VERSION, SCHEMA).unwrap().0
    }

    /// Whether the service still lives for one more effect.
    fn burn(&self) -> bool {
        let left = self.fuse.get();
        self.fuse.set(left.saturating_sub(1));
        left > 0
    }
}

impl Words for Region {
    fn words(&self) -> usize {
        self.words.borrow().len()
    }
    fn load(&self, index: usize) -> u64 {
        self.words.borrow().get(index).copied().unwrap_or(0)
    }
    fn store(&mut self, index: usize, value: u64) {
        if self.burn()
            && let Some(word) = self.words.borrow_mut().get_mut(index)
        {
            *word = value;
        }
    }
}

/// Guest memory in which every word that is written is an effect.
pub struct Ram {
    pub plain: Plain,
    /// Words that were written.
    pub written: usize,
    region: Region,
}

impl core::ops::Deref for Ram {
    type Target = Plain;
    fn deref(&self) -> &Plain {
        &self.plain
    }
}

impl core::ops::DerefMut for Ram {
    fn deref_mut(&mut self) -> &mut Plain {
        &mut self.plain
    }
}

impl GuestMemory for Ram {
    fn size(&self) -> u64 {
        self.plain.size()
    }
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        self.plain.read(address, bytes)
    }
    fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
        let fits = address.checked_add(bytes.len() as u64).is_some_and(|end| end <= self.size());
        let mut at = address;
        for word in bytes.chunks(8).take_while(|_| fits && self.region.burn()) {
            self.plain.write(at, word);
            self.written += 1;
            at += word.len() as u64;
        }
        fits
    }
    fn zero(&mut self, address: u64, length: u64) -> bool {
        let fits = address.checked_add(length).is_some_and(|end| end <= self.size());
        let mut at = address;
        // A page is one effect: a megabyte of words would be too many to cut at each.
        while fits && at < address + length && self.region.burn() {
            let page = (address + length - at).min(4096);
            self.plain.zero(at, page);
            self.written += page as usize / 8;
            at += page;
        }
        fits
    }
    fn exchange(&mut self, address: u64, width: usize, old: u64, new: u64) -> bool {
        if !self.plain.holds(address, width, old) {
            return false;
        }
        self.write(address, &new.to_le_bytes()[..width])
    }
}

/// The outside. Effects stop happening when the fuse burns out: the service was killed there.
pub struct Model {
    pub memory: Ram,
    /// What the console took, and the sequence of the last message.
    pub console: Vec<u8>,
    pub console_sequence: u64,
    pub console_full: bool,
    /// The host can call for output that waits.
    pub calls_back: bool,
    /// All that was ever typed.
    pub input: Vec<u8>,
    pub events: Vec<(u64, VmEventKind)>,
    pub region: Region,
    pub journal: Journal<Region>,
    pub notes: Vec<Note>,
    pub recalled: Vec<u16>,
    /// vCPUs that are stopped or parked.
    pub stopped: Vec<u16>,
    /// RFLAGS with which they were.
    pub stopped_with: u64,
    /// The exit after which they were.
    pub stopped_by: Reason,
    /// `acpi-mangler` does not answer.
    pub tables_late: bool,
    /// What the timer is set to.
    pub deadline: u64,
    pub protected: Vec<(u64, u8)>,
    pub wall: u64,
    pub tsc: u64,
    /// What the TSC goes on by with each word that is written to guest memory.
    pub ticks_per_word: u64,
    /// Files of the image, and which of them is not as the image builder made it.
    pub files: Vec<(&'static str, &'static [u8])>,
    pub damaged: Option<&'static str>,
    /// What the high-bandwidth port takes or gives.
    pub message: Option<Message>,
    pub resets: Vec<u64>,
}

/// A message at the high-bandwidth port. For input its bytes count down to 1.
#[derive(Default)]
pub struct Message {
    /// Bytes it still has.
    pub left: usize,
    /// What was sent.
    pub bytes: Vec<u8>,
    /// Sequence and length of each piece.
    pub pieces: Vec<(u64, usize)>,
}

impl Model {
    /// The outside of a machine that runs, with both vCPUs.
    pub fn new() -> Self {
        let mut machine = over(Self::cold());
        machine.board().power = power::RUNNING;
        for number in 0..2 {
            *machine.lapic(number).unwrap() = Lapic::reset(number as u32, number == 0);
            machine.vcpu(number).unwrap().life = life::RUNNING;
        }
        machine.commit();
        machine.host
    }

    /// The outside of a machine that never ran.
    pub fn cold() -> Self {
        let region = Region::new();
        let journal = region.open();
        Self {
            memory: Ram { plain: Plain::new(0x2_0000), written: 0, region: region.clone() },
            console: Vec::new(),
            console_sequence: 0,
            console_full: false,
            calls_back: true,
            input: Vec::new(),
            events: Vec::new(),
            region,
            journal,
            notes: Vec::new(),
            recalled: Vec::new(),
            stopped: Vec::new(),
            stopped_with: 2,
            stopped_by: Reason::None,
            tables_late: false,
            deadline: 0,
            protected: Vec::new(),
            wall: 0,
            tsc: 1_000_000,
            ticks_per_word: 0,
            files: vec![("guest", &[0xf4; 16])],
            damaged: None,
            message: None,
            resets: Vec::new(),
        }
    }

    /// Whether the service was killed.
    pub fn killed(&self) -> bool {
        self.region.fuse.get() == 0
    }

    /// The service lives on for `fuse` effects.
    pub fn live_on(&mut self, fuse: u32) {
        self.region.fuse.set(fuse);
    }

    /// Starts the next life, of `fuse` effects.
    pub fn live(&mut self, fuse: u32) {
        self.region.fuse.set(fuse);
        self.journal = self.region.open();
    }
}

impl Host for Model {
    type Memory = Ram;
    type Region = Region;

    fn memory(&mut self) -> &mut Ram {
        &mut self.memory
    }

    fn fetch(&mut self, _vcpu: u16, page: &mut ExitPage, groups: u32) -> bool {
        page.valid |= groups;
        true
    }

    fn tsc(&self) -> u64 {
        self.tsc + self.memory.written as u64 * self.ticks_per_word
    }

    fn cpuid(&self, leaf: u32, _subleaf: u32) -> [u32; 4] {
        if leaf == 0 { [0x16, 1, 2, 3] } else { [u32::MAX; 4] }
    }

    fn console_write(&mut self, sequence: u64, bytes: &[u8]) -> bool {
        if self.console_full || !self.region.burn() {
            return false;
        }
        if sequence > self.console_sequence {
            self.console_sequence = sequence;
            self.console.extend(bytes);
        }
        true
    }

    fn console_read(&mut self, from: u64, buffer: &mut [u8]) -> Option<(u64, usize)> {
        if self.console_full {
            return None;
        }
        let waiting = self.input.get(from as usize..).unwrap_or_default();
        let count = buffer.len().min(waiting.len());
        buffer[..count].copy_from_slice(&waiting[..count]);
        Some((from, count))
    }

    fn event(&mut self, sequence: u64, kind: VmEventKind) {
        if self.region.burn() && self.events.iter().all(|(told, _)| *told != sequence) {
            self.events.push((sequence, kind));
        }
    }

    fn journal(&mut self) -> &mut Journal<Region> {
        &mut self.journal
    }

    fn wall_clock(&self) -> u64 {
        self.wall
    }

    fn rates(&self) -> (u64, u64) {
        RATES
    }

    fn flush_later(&mut self) -> bool {
        self.calls_back
    }

    fn wake_at(&mut self, deadline: u64) {
        if self.region.burn() {
            self.deadline = deadline;
        }
    }

    fn stopped(&mut self, vcpu: u16) -> Option<&'static mut ExitPage> {
        let stopped = self.stopped.contains(&vcpu);
        let rflags = self.stopped_with;
        stopped.then(|| Box::leak(Box::new(ExitPage { rflags, ..page(self.stopped_by) })))
    }

    fn protect(&mut self, address: u64, rights: u8) {
        self.protected.push((address, rights));
    }

    fn resume(&mut self, vcpu: u16) {
        if self.region.burn() {
            self.stopped.retain(|one| *one != vcpu);
        }
    }

    fn recall(&mut self, vcpu: u16) -> bool {
        let running = !self.stopped.contains(&vcpu);
        if running && self.region.burn() {
            self.recalled.push(vcpu);
        }
        running
    }

    fn has_tables(&self) -> bool {
        true
    }

    fn build_tables(&mut self, machine: &BuildTables) -> Result<Option<TablesBuilt>, Error> {
        if self.tables_late {
            return Err(Error::TablesLate);
        }
        Ok(Some(TablesBuilt { rsdp: if machine.acpi { machine.base } else { 0 } }))
    }

    fn file(&self, name: &'static str) -> Result<File, Error> {
        let found = self.files.iter().find(|(known, _)| *known == name);
        let (_, bytes) = found.ok_or(Error::NoBlob(name))?;
        let checksum = crc32c(0, bytes) ^ u32::from(self.damaged == Some(name));
        Ok(File { bytes, checksum })
    }

    fn crc32c(&self, crc: u32, bytes: &[u8]) -> u32 {
        crc32c(crc, bytes)
    }

    fn high_bandwidth(&mut self, request: &HighBandwidth, piece: &mut [u8]) -> Option<HighBandwidthMoved> {
        let message = self.message.as_mut()?;
        match message.pieces.last() {
            Some((sequence, moved)) if *sequence == request.sequence => {
                assert_eq!(request.lent, 0, "no exit is given twice here but to ask for its record");
                return Some(HighBandwidthMoved { moved: *moved as u64, ebx: 0x1_0000 });
            }
            _ if request.lent == 0 => return Some(HighBandwidthMoved { moved: request.count, ebx: 0 }),
            _ => {}
        }
        message.pieces.push((request.sequence, piece.len()));
        if request.count > message.left as u64 {
            return Some(HighBandwidthMoved { moved: request.count, ebx: 0 });
        }
        for byte in piece.iter_mut() {
            if request.input {
                *byte = message.left as u8;
            } else {
                message.bytes.push(*byte);
            }
            message.left -= 1;
        }
        Some(HighBandwidthMoved { moved: piece.len() as u64, ebx: 0x1_0000 })
    }

    fn machine_reset(&mut self, reset: &MachineReset) {
        self.resets.push(reset.sequence);
    }

    fn note(&mut self, note: Note) {
        self.notes.push(note);
    }
}

/// A machine over a fresh model.
pub fn machine() -> Machine<Model> {
    over(Model::new())
}

/// A machine over what an instance before left.
pub fn over(model: Model) -> Machine<Model> {
    Machine::new(model, CONFIG, IDENTITY)
}

/// The page of an exit in flat 32-bit code at [`CODE`], ring 0.
pub fn page(reason: Reason) -> ExitPage {
    let mut page = ExitPage::new_zeroed();
    page.reason = reason as u32;
    page.sequence = 1;
    page.rip = CODE;
    page.rflags = 2;
    page.cr0 = 0x11;
    let flat = Segment { attributes: 0xc93, limit: u32::MAX, ..Segment::default() };
    page.segments = [flat; 10];
    page.segments[segment::CS].attributes = 0xc9b;
    page
}

/// The same in 64-bit code with paging on, memory mapped one to one; what lies outside of its tables stays.
pub fn long_page(model: &mut Model, reason: Reason) -> ExitPage {
    let config = Config { entry: Entry::Long64, load: CODE_LONG, ..CONFIG };
    let mut long = page(reason);
    let mut fresh = Plain::new(CODE_LONG as usize);
    loader::load(&mut fresh, &config, &Guest::default()).unwrap().fill(&mut long);
    model.memory.put(0, &fresh.0);
    (long.dirty, long.registers) = (0, [0; 16]);
    long
}

/// Where 64-bit code under test stands: the loader's tables lie at [`CODE`].
pub const CODE_LONG: u64 = 0xa000;

/// The page of a port access that the processor gives a next RIP for.
pub fn port_page(port: u16, width: u64, input: bool) -> ExitPage {
    let mut page = page(Reason::Io);
    let direction = if input { io::INPUT } else { 0 };
    page.qualification[0] = u64::from(port) | width << io::WIDTH_SHIFT | direction;
    page.next_rip = CODE + 1;
    page.registers[gpr::RDX] = port.into();
    page
}

/// Puts code where `page` stands.
pub fn put(machine: &mut Machine<Model>, page: &ExitPage, code: &[u8]) {
    machine.host.memory.put(page.rip as usize, code);
}
