//! What is wrong with a manifest: one type a kind of error, one line each when printed.

use std::fmt;
use std::ops::Range;

/// One finding: where, which rule, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// File as the user named it.
    pub file: String,
    /// Line from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{}:{}: {}: {}", self.file, self.line, self.problem.rule(), self.problem)
    }
}

/// All findings of one manifest: at least one.
#[derive(Debug)]
pub struct Findings(pub Vec<Finding>);

impl fmt::Display for Findings {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        for (index, finding) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(formatter)?;
            }
            write!(formatter, "{finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Findings {}

/// Line (from 1) of a byte offset.
pub fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}

/// Collects findings while a manifest is checked.
pub struct Report<'a> {
    file: &'a str,
    text: &'a str,
    findings: Vec<Finding>,
}

impl<'a> Report<'a> {
    /// A report on `text`, named `file` in what it prints.
    pub fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, findings: Vec::new() }
    }

    /// Line of a place in the text.
    pub fn line(&self, span: &Range<usize>) -> usize {
        line_of(self.text, span.start)
    }

    /// Notes a problem at a place in the text.
    pub fn at(&mut self, span: &Range<usize>, problem: Problem) {
        let line = self.line(span);
        self.at_line(line, problem);
    }

    /// Notes a problem at a line.
    pub fn at_line(&mut self, line: usize, problem: Problem) {
        self.findings.push(Finding { file: self.file.to_owned(), line, problem });
    }

    /// True when nothing was noted.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// The value, or what was noted, in the order of the lines.
    pub fn into_result<T>(mut self, value: T) -> Result<T, Findings> {
        if self.findings.is_empty() {
            return Ok(value);
        }
        self.findings.sort_by_key(|finding| finding.line);
        Err(Findings(self.findings))
    }
}

/// Kinds of error in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file is not TOML of the expected shape.
    #[error("{0}")]
    Syntax(String),
    /// A table that the core holds at a fixed size is too small.
    #[error("{what}: {wanted}, but the limit is {limit}; use fewer")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// The number wanted.
        wanted: u64,
        /// The limit.
        limit: u64,
    },
    /// A value outside its range.
    #[error("`{key}` is {value}: {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// A key that this kind of capability does not have.
    #[error("a capability of kind `{kind}` has no key `{key}`; remove it")]
    ForeignKey {
        /// Kind.
        kind: String,
        /// Key.
        key: &'static str,
    },
    /// A key that this kind of capability must have.
    #[error("a capability of kind `{kind}` needs the key `{key}`; add it")]
    MissingKey {
        /// Kind.
        kind: String,
        /// Key.
        key: &'static str,
    },
    /// A name that is used twice.
    #[error("the {what} name `{name}` is used twice; rename one")]
    DuplicateName {
        /// Partition, VM, capability or blob.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A reference to something that is not there.
    #[error("no {what} is named `{name}`; it is one of: {known}")]
    Unresolved {
        /// Partition or VM.
        what: &'static str,
        /// The name.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A file that cannot be read.
    #[error("{0}")]
    File(String),
    /// A call that does not go up.
    #[error(
        "`{caller}` (rank {caller_rank}) cannot call `{callee}` (rank {callee_rank}): calls go strictly up; notify it and let it call"
    )]
    CallNotUp {
        /// Caller.
        caller: String,
        /// Its rank.
        caller_rank: &'static str,
        /// Callee.
        callee: String,
        /// Its rank.
        callee_rank: &'static str,
    },
    /// The supervisor must not call.
    #[error("the supervisor `{0}` never calls: remove its endpoint")]
    SupervisorCalls(String),
    /// Not exactly one supervisor.
    #[error("{0} partitions have the rank `supervisor`; exactly one must")]
    Supervisors(usize),
    /// The supervisor serves a VM, and so parses outside input.
    #[error("the supervisor `{0}` parses no outside input: let another partition serve the VM or hold the ports")]
    SupervisorServes(String),
    /// A thing that has one holder is given twice.
    #[error("{what} is already held by `{holder}`; one partition holds it")]
    HeldTwice {
        /// The thing.
        what: String,
        /// Who has it.
        holder: String,
    },
    /// A port or MSR that the core keeps.
    #[error("{what} cannot be given away: {reason}; remove it")]
    Protected {
        /// The port or MSR.
        what: String,
        /// Whose it is.
        reason: &'static str,
    },
    /// A DMA-capable device.
    #[error("{what} belongs to a device that can reach all memory by DMA ({device}) and no IOMMU is driven; remove it")]
    Dma {
        /// The range.
        what: String,
        /// The device.
        device: &'static str,
    },
    /// Port and another identity.
    #[error("VM `{vm}` has VMware's port or identity and the identity of `{other}` too; choose one")]
    IdentityConflict {
        /// VM.
        vm: String,
        /// The other hypervisor.
        other: String,
    },
    /// Port and nested virtualization.
    #[error("VM `{0}` has the port and shows the guest a virtualization extension; turn one off")]
    NestedConflict(String),
    /// Port and a passed-through range.
    #[error("VM `{0}` has the port, and ports 0x5658-0x5659 lie in a range passed through to it; turn one off")]
    PassthroughConflict(String),
    /// Passthrough is not in the image format.
    #[error("VM `{0}`: image format version 1 carries no passed-through ranges; remove them")]
    NoPassthrough(String),
    /// A vmexit of two VMs, or without the right.
    #[error("`{vmexit}` serves VM `{vm}` and {what}")]
    VmServer {
        /// Partition.
        vmexit: String,
        /// VM.
        vm: String,
        /// What is wrong and what to do.
        what: &'static str,
    },
    /// A CPU has more promised than it has.
    #[error("budgets on CPU {cpu} add up to {percent} %; lower them to 100 % or less")]
    Overcommitted {
        /// CPU.
        cpu: u16,
        /// Sum, rounded up.
        percent: u64,
    },
    /// An account could use more than its period at once.
    #[error(
        "{payer} has a budget of {budget_us} us in {period_us} us and can be lent the reserve of {lender}, {reserve_us} us, which is more than its period; lower one of them"
    )]
    Reserve {
        /// Who pays.
        payer: String,
        /// Its budget.
        budget_us: u32,
        /// Who lends.
        lender: String,
        /// The reserve.
        reserve_us: u32,
        /// The payer's period.
        period_us: u32,
    },
    /// A segment that is writable and executable.
    #[error("`{elf}`: the segment at {address:#x} is writable and executable; link it with separate segments")]
    WritableExecutable {
        /// File.
        elf: String,
        /// Address.
        address: u64,
    },
    /// Two segments in one page, or stack or heap on a segment.
    #[error("`{elf}`: the segments at {first:#x} and {second:#x} share a page; link them page aligned")]
    Overlap {
        /// File.
        elf: String,
        /// Address of one.
        first: u64,
        /// Address of the other.
        second: u64,
    },
    /// A segment outside the addresses of a partition.
    #[error("`{elf}`: {address:#x} lies outside the addresses of a partition ({low:#x} to {high:#x}); link it there")]
    OutsideRange {
        /// File.
        elf: String,
        /// Address.
        address: u64,
        /// First address allowed.
        low: u64,
        /// End of the addresses allowed.
        high: u64,
    },
    /// An ELF that cannot be loaded flat.
    #[error("`{elf}`: {reason}")]
    Elf {
        /// File.
        elf: String,
        /// What is wrong and what to do.
        reason: String,
    },
}

impl Problem {
    /// The rule of the design, or the part of the format, that is broken.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Syntax(_)
            | Self::Value { .. }
            | Self::ForeignKey { .. }
            | Self::MissingKey { .. }
            | Self::DuplicateName { .. }
            | Self::NoPassthrough(_)
            | Self::File(_)
            | Self::Elf { .. } => "format",
            Self::Limit { .. } => "R2",
            Self::Unresolved { .. } | Self::HeldTwice { .. } | Self::Protected { .. } | Self::VmServer { .. } => "R3",
            Self::WritableExecutable { .. } | Self::Overlap { .. } | Self::OutsideRange { .. } => "R7",
            Self::CallNotUp { .. } | Self::SupervisorCalls(_) | Self::Supervisors(_) | Self::SupervisorServes(_) => {
                "R11"
            }
            Self::Dma { .. } => "R15",
            Self::IdentityConflict { .. } | Self::NestedConflict(_) | Self::PassthroughConflict(_) => "port",
            Self::Overcommitted { .. } | Self::Reserve { .. } => "time",
        }
    }
}
