//! A checked system: what the manifest says, with names resolved to indices and defaults filled in.

use portcullis_ipc::image::{kind, rank};

/// A system.
#[derive(Clone, Debug)]
pub struct System {
    /// Name.
    pub name: String,
    /// Slice of round robin, microseconds.
    pub slice_us: u32,
    /// Restarts of the supervisor by the core.
    pub supervisor_restarts: u32,
    /// Window of those restarts, microseconds.
    pub supervisor_window_us: u64,
    /// Mitigations turned off ([`portcullis_ipc::image::mitigation`]).
    pub mitigations_off: u32,
    /// Command line of the core.
    pub command_line: String,
    /// Partitions; the position is the index.
    pub partitions: Vec<Partition>,
    /// VMs; the position is the index.
    pub vms: Vec<Vm>,
}

/// A partition.
#[derive(Clone, Debug)]
pub struct Partition {
    /// Name.
    pub name: String,
    /// Line of its table in the manifest.
    pub line: usize,
    /// Binary of the workspace, or a path with a slash.
    pub elf: String,
    /// Rank ([`rank`]).
    pub rank: u8,
    /// Scheduling priority.
    pub priority: u8,
    /// CPU.
    pub cpu: u16,
    /// Stack, pages.
    pub stack_pages: u32,
    /// Heap, pages.
    pub heap_pages: u32,
    /// Budget, microseconds a period.
    pub budget_us: u32,
    /// Period, microseconds.
    pub period_us: u32,
    /// The budget is a limit, too.
    pub cap: bool,
    /// Reserve that it lends, microseconds.
    pub reserve_us: u32,
    /// Call limit, microseconds.
    pub call_limit_us: u32,
    /// State region, pages.
    pub state_pages: u32,
    /// State version written.
    pub state_version: u32,
    /// Oldest state version read.
    pub state_reads_from: u32,
    /// Pages that the state region of a replacement may have.
    pub state_limit_pages: u32,
    /// Spare slot, pages; `None`: as many as the program itself.
    pub spare_pages: Option<u32>,
    /// Configuration text, `key=value` lines.
    pub config: String,
    /// Files.
    pub blobs: Vec<Blob>,
    /// Capabilities; the position is the slot.
    pub capabilities: Vec<Capability>,
}

/// A file that a partition gets.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Name.
    pub name: String,
    /// Binary of the workspace, or a path with a slash.
    pub file: String,
    /// Line in the manifest.
    pub line: usize,
}

/// A capability.
#[derive(Clone, Debug)]
pub struct Capability {
    /// Name.
    pub name: String,
    /// Line in the manifest.
    pub line: usize,
    /// What it is a capability of.
    pub object: Object,
}

/// What a capability names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// Call a partition.
    Endpoint {
        /// Callee.
        partition: u16,
        /// Badge.
        badge: u32,
    },
    /// Notify a partition.
    Notification {
        /// Whom.
        partition: u16,
        /// Bits that may be set.
        bits: u64,
    },
    /// A timer.
    Timer {
        /// Index of the timer in the system.
        timer: u16,
        /// Bits that it sets in the holder.
        bits: u64,
    },
    /// An interrupt.
    Interrupt {
        /// Line.
        gsi: u16,
        /// Level triggered.
        level: bool,
        /// Active low.
        low: bool,
        /// Bits that it sets in the holder.
        bits: u64,
    },
    /// Ports.
    Ports {
        /// First.
        first: u64,
        /// Number.
        count: u64,
    },
    /// MSRs.
    Msrs {
        /// First.
        first: u64,
        /// Number.
        count: u64,
        /// [`portcullis_ipc::syscall::rights`] READ, WRITE.
        rights: u8,
    },
    /// A VM.
    Vm {
        /// Which.
        vm: u16,
        /// [`portcullis_ipc::syscall::rights`] RUN, ANSWER.
        rights: u8,
    },
    /// A partition as an object of control.
    Partition {
        /// Which.
        partition: u16,
        /// [`portcullis_ipc::syscall::rights`] STATUS, RESTART, KILL.
        rights: u8,
    },
    /// The log's reading end.
    Log,
    /// The wall clock.
    Clock,
}

impl Object {
    /// The number of the kind in the image ([`kind`]).
    pub fn kind(&self) -> u8 {
        match self {
            Self::Endpoint { .. } => kind::ENDPOINT,
            Self::Notification { .. } => kind::NOTIFICATION,
            Self::Timer { .. } => kind::TIMER,
            Self::Interrupt { .. } => kind::INTERRUPT,
            Self::Ports { .. } => kind::PORTS,
            Self::Msrs { .. } => kind::MSRS,
            Self::Vm { .. } => kind::VM,
            Self::Partition { .. } => kind::PARTITION,
            Self::Log => kind::LOG,
            Self::Clock => kind::CLOCK,
        }
    }
}

/// A VM.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Name.
    pub name: String,
    /// Line in the manifest.
    pub line: usize,
    /// Partition that serves its exits.
    pub vmexit: u16,
    /// Partition that serves its port.
    pub port: Option<u16>,
    /// Badge of the port calls.
    pub badge: u32,
    /// VMware's identity is shown.
    pub identity: bool,
    /// Platform version.
    pub platform: u16,
    /// Version of the virtual hardware.
    pub hardware_version: u8,
    /// Guest memory in 4 KiB pages.
    pub memory_pages: u64,
    /// XCR0 bits.
    pub xcr0: u64,
    /// RDTSC exits.
    pub intercept_rdtsc: bool,
    /// PAUSE exits; `None`: where there are several vCPUs, because one that spins then waits for another.
    pub intercept_pause: Option<bool>,
    /// vCPUs.
    pub vcpus: Vec<Vcpu>,
}

/// A vCPU.
#[derive(Clone, Copy, Debug)]
pub struct Vcpu {
    /// CPU.
    pub cpu: u16,
    /// Scheduling priority.
    pub priority: u8,
    /// Budget, microseconds a period.
    pub budget_us: u32,
    /// Period, microseconds.
    pub period_us: u32,
    /// The budget is a limit, too.
    pub cap: bool,
}

/// Ranks by name, lowest first.
pub const RANKS: [(&str, u8); 7] = [
    ("client", rank::CLIENT),
    ("vmexit", rank::VMEXIT),
    ("vmport-rpc", rank::VMPORT_RPC),
    ("acpi-mangler", rank::ACPI_MANGLER),
    ("migration", rank::MIGRATION),
    ("link", rank::LINK),
    ("supervisor", rank::SUPERVISOR),
];

/// Name of a rank.
pub fn rank_name(rank: u8) -> &'static str {
    RANKS.iter().find(|(_, number)| *number == rank).map_or("unknown", |(name, _)| name)
}
