//! What the exit code needs from outside: the core, guest memory, the console and the log. On the
//! machine these are system calls; in the tests a model.

use crate::loader::Error;
use crate::memory::GuestMemory;
use portcullis_ipc::exit::ExitPage;
use portcullis_ipc::proto::acpi::{BuildTables, TablesBuilt};
use portcullis_ipc::proto::link::VmEventKind;
use portcullis_ipc::proto::vmport::{HighBandwidth, HighBandwidthMoved, MachineReset};
use portcullis_runtime::journal::Journal;
use portcullis_runtime::state::Words;

/// Something that the log should hold. A guest can cause any number of them; the host bounds what it
/// logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The VM stopped: why, RIP, and a detail.
    Stopped(&'static str, u64, u64),
    /// The guest was not loaded: why.
    NotLoaded(Error),
    /// The guest is not loaded yet, and this is tried again: why.
    LoadsLater(Error),
    /// The machine is reset: why.
    Reset(&'static str),
    /// The guest switched the machine off.
    PowerOff,
    /// The guest wrote the test exit port.
    TestExit(u32),
    /// A model-specific register that does not exist: number, and whether it was a write.
    UnknownMsr(u32, bool),
    /// An instruction that is not emulated, at this RIP, met this address, which is not memory.
    NotEmulated(u64, u64),
    /// The guest programs the interval timer, which is not there.
    NoTimer,
    /// The state region does not hold the state.
    NotSaved,
    /// An exit ended so many instances in a row that it is not served any more, and the machine stops.
    Deadly {
        /// `portcullis_ipc::exit::Reason` as a number.
        reason: u32,
        /// Instances.
        times: u64,
        /// RIP at the exit.
        rip: u64,
        /// RFLAGS at the exit.
        rflags: u64,
    },
    /// So many triple faults in a row that the machine stops.
    Falls(u64),
}

impl Note {
    /// Whether it tells what becomes of the machine, and not what its guest tries.
    pub const fn is_fate(self) -> bool {
        !matches!(self, Self::UnknownMsr(..) | Self::NotEmulated(..) | Self::NoTimer)
    }
}

/// A file of the image.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Its bytes.
    pub bytes: &'static [u8],
    /// CRC-32C of the bytes that the image builder put there.
    pub checksum: u32,
}

/// The outside.
pub trait Host {
    /// Guest memory.
    type Memory: GuestMemory;
    /// The state region.
    type Region: Words;
    /// Guest memory.
    fn memory(&mut self) -> &mut Self::Memory;
    /// Fills state groups of a stopped vCPU into its page; `false` when it is not stopped.
    fn fetch(&mut self, vcpu: u16, page: &mut ExitPage, groups: u32) -> bool;
    /// The host's time-stamp counter.
    fn tsc(&self) -> u64;
    /// The time, nanoseconds since 1970.
    fn wall_clock(&self) -> u64;
    /// The host's CPUID.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4];
    /// Sends a console message; `true` when it was taken, now or before.
    fn console_write(&mut self, sequence: u64, bytes: &[u8]) -> bool;
    /// Fetches console input into `buffer`, from byte number `from` of all input on; what lies before it is
    /// acknowledged. Returns the number of the first byte fetched, and how many there are; `None` when the console
    /// does not answer, and may have input.
    fn console_read(&mut self, from: u64, buffer: &mut [u8]) -> Option<(u64, usize)>;
    /// Tells what became of the VM; repeating a sequence has no effect.
    fn event(&mut self, sequence: u64, kind: VmEventKind);
    /// The durable state.
    fn journal(&mut self) -> &mut Journal<Self::Region>;
    /// Hz of the TSC, and of the local APIC's timer as the guest is told.
    fn rates(&self) -> (u64, u64);
    /// Asks for a call of `Machine::output` soon; `false` when none will come.
    fn flush_later(&mut self) -> bool;
    /// Asks for a call of `Machine::timer` at a TSC value; 0 for none.
    fn wake_at(&mut self, deadline: u64);
    /// Brings a vCPU to a recall exit; `false` when it is stopped.
    fn recall(&mut self, vcpu: u16) -> bool;
    /// The page of a vCPU that is stopped or parked, to be filled; `None` when it is neither.
    fn stopped(&mut self, vcpu: u16) -> Option<&'static mut ExitPage>;
    /// Changes what the guest may do with a page of its memory: `portcullis_ipc::syscall::rights`.
    fn protect(&mut self, address: u64, rights: u8);
    /// Enters a stopped vCPU with what its page holds.
    fn resume(&mut self, vcpu: u16);
    /// Whether somebody builds the firmware's tables: the manifest grants an `acpi-mangler`.
    fn has_tables(&self) -> bool;
    /// Has the firmware's tables built into guest memory; `None` when the manifest grants no `acpi-mangler`.
    fn build_tables(&mut self, machine: &BuildTables) -> Result<Option<TablesBuilt>, Error>;
    /// A file of the image, by the name that the manifest gives it. Its bytes are not checked.
    fn file(&self, name: &'static str) -> Result<File, Error>;
    /// CRC-32C of bytes that follow those with the result `crc`, 0 for none.
    fn crc32c(&self, crc: u32, bytes: &[u8]) -> u32;
    /// Gives a piece of a string to the high-bandwidth port, or takes one; `None` when nobody serves it.
    fn high_bandwidth(&mut self, request: &HighBandwidth, piece: &mut [u8]) -> Option<HighBandwidthMoved>;
    /// Tells whoever serves VMware's port that the machine was reset by this exit; repeating it has no effect.
    fn machine_reset(&mut self, reset: &MachineReset);
    /// Tells the log.
    fn note(&mut self, note: Note);
}
