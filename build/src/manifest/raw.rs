//! The manifest as it stands in the file: TOML tables with the place of every value, nothing checked
//! but names and types of keys.

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use toml::Spanned;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// `[system]`.
    pub system: Spanned<SystemTable>,
    /// `[[partition]]`, in the order that gives the indices.
    #[serde(default)]
    pub partition: Vec<Spanned<PartitionTable>>,
    /// `[[vm]]`, in the order that gives the indices.
    #[serde(default)]
    pub vm: Vec<Spanned<VmTable>>,
}

/// `[system]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemTable {
    /// Name: the directory of the image.
    pub name: Spanned<String>,
    /// Fixed slice of round robin among equals, microseconds.
    #[serde(default = "default_slice")]
    pub slice_us: Spanned<u32>,
    /// Restarts of the supervisor by the core.
    #[serde(default)]
    pub supervisor: SupervisorTable,
    /// Mitigations that are turned off, by name.
    #[serde(default)]
    pub mitigations_off: Vec<Spanned<String>>,
    /// Command line of the core, for the ISO and as the runner's default.
    #[serde(default)]
    pub command_line: Option<Spanned<String>>,
}

fn default_slice() -> Spanned<u32> {
    Spanned::new(0..0, 10_000)
}

/// How often the core restarts a dead supervisor.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupervisorTable {
    /// Restarts...
    pub restarts: u32,
    /// ... within this many milliseconds.
    pub window_ms: u32,
}

impl Default for SupervisorTable {
    fn default() -> Self {
        Self { restarts: 3, window_ms: 10_000 }
    }
}

/// `[[partition]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionTable {
    /// Name, by which others refer to it.
    pub name: Spanned<String>,
    /// Binary of the workspace, or a path to an ELF (with a slash) from the root of the checkout.
    pub elf: Spanned<String>,
    /// Rank by name.
    pub rank: Spanned<String>,
    /// Scheduling priority, 1 to 255, higher first.
    pub priority: Spanned<u32>,
    /// CPU of its thread.
    #[serde(default)]
    pub cpu: Option<Spanned<u32>>,
    /// Stack, bytes.
    pub stack: Spanned<Bytes>,
    /// Heap, bytes.
    #[serde(default)]
    pub heap: Option<Spanned<Bytes>>,
    /// Budget for its own work in each period, microseconds.
    pub budget_us: Spanned<u32>,
    /// Period, microseconds.
    pub period_us: Spanned<u32>,
    /// The budget is a limit, too.
    #[serde(default)]
    pub cap: bool,
    /// Reserve that it lends to a payer whose budget runs out while it works for that one, microseconds.
    pub reserve_us: Spanned<u32>,
    /// Execution time within which it answers, microseconds.
    pub call_limit_us: Spanned<u32>,
    /// State region, bytes.
    #[serde(default)]
    pub state: Option<Spanned<Bytes>>,
    /// Version of the state it writes.
    #[serde(default)]
    pub state_version: Option<Spanned<u32>>,
    /// Oldest version of the state it reads.
    #[serde(default)]
    pub state_reads_from: Option<Spanned<u32>>,
    /// Bytes that the state region of a replacement may have at most.
    #[serde(default)]
    pub state_limit: Option<Spanned<Bytes>>,
    /// Spare slot for a replacement, bytes.
    #[serde(default)]
    pub replacement: Option<Spanned<Bytes>>,
    /// Configuration text.
    #[serde(default)]
    pub config: BTreeMap<String, Spanned<toml::Value>>,
    /// Files mapped read-only.
    #[serde(default)]
    pub blobs: Vec<Spanned<BlobTable>>,
    /// `[[partition.capability]]`, in the order that gives the slots.
    #[serde(default)]
    pub capability: Vec<Spanned<CapabilityTable>>,
}

/// A file of a partition.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobTable {
    /// Name by which the partition finds it.
    pub name: Spanned<String>,
    /// Binary of the workspace, or a path (with a slash) from the root of the checkout.
    pub file: Spanned<String>,
}

/// A capability. Which keys are allowed depends on the kind.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapabilityTable {
    /// Name by which the partition finds it.
    pub name: Spanned<String>,
    /// Kind.
    pub kind: Spanned<String>,
    /// Partition (endpoint, notification, partition).
    #[serde(default)]
    pub target: Option<Spanned<String>>,
    /// Badge that the callee sees (endpoint).
    #[serde(default)]
    pub badge: Option<Spanned<u32>>,
    /// Numbers of notification bits (notification, timer, interrupt).
    #[serde(default)]
    pub bits: Option<Spanned<Vec<u32>>>,
    /// Interrupt line (interrupt).
    #[serde(default)]
    pub gsi: Option<Spanned<u32>>,
    /// `edge` or `level` (interrupt).
    #[serde(default)]
    pub trigger: Option<Spanned<String>>,
    /// `high` or `low` (interrupt).
    #[serde(default)]
    pub polarity: Option<Spanned<String>>,
    /// First port or register (ports, msrs).
    #[serde(default)]
    pub first: Option<Spanned<u64>>,
    /// Number of ports or registers (ports, msrs).
    #[serde(default)]
    pub count: Option<Spanned<u64>>,
    /// VM (vm).
    #[serde(default)]
    pub vm: Option<Spanned<String>>,
    /// Rights by name (msrs, vm, partition).
    #[serde(default)]
    pub rights: Option<Spanned<Vec<String>>>,
}

/// `[[vm]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmTable {
    /// Name.
    pub name: Spanned<String>,
    /// Partition that serves its exits.
    pub vmexit: Spanned<String>,
    /// Partition that serves its port; without it the port is off.
    #[serde(default)]
    pub port: Option<Spanned<String>>,
    /// Badge of the port calls.
    #[serde(default)]
    pub badge: Option<Spanned<u32>>,
    /// The guest sees VMware's identity (CPUID, SMBIOS).
    #[serde(default)]
    pub identity: Option<Spanned<bool>>,
    /// Platform version: what the guest sees of the machine.
    #[serde(default)]
    pub platform: Option<Spanned<u32>>,
    /// Version of the virtual hardware, as VMware counts it.
    #[serde(default)]
    pub hardware_version: Option<Spanned<u32>>,
    /// Another hypervisor's identity that the guest sees, by name.
    #[serde(default)]
    pub other_identity: Option<Spanned<String>>,
    /// The guest sees a virtualization extension.
    #[serde(default)]
    pub nested: Option<Spanned<bool>>,
    /// Guest memory, bytes.
    pub memory: Spanned<Bytes>,
    /// XCR0 bits that the guest may set.
    #[serde(default)]
    pub xcr0: Option<Spanned<u64>>,
    /// RDTSC exits.
    #[serde(default)]
    pub intercept_rdtsc: Option<Spanned<bool>>,
    /// PAUSE exits; without it, where there are several vCPUs.
    #[serde(default)]
    pub intercept_pause: Option<Spanned<bool>>,
    /// vCPUs.
    pub vcpus: Vec<Spanned<VcpuTable>>,
    /// Real ports and memory that the guest would reach itself.
    #[serde(default)]
    pub passthrough: Vec<Spanned<PassthroughTable>>,
}

/// A vCPU.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VcpuTable {
    /// CPU.
    #[serde(default)]
    pub cpu: Option<Spanned<u32>>,
    /// Scheduling priority, 1 to 255, higher first.
    pub priority: Spanned<u32>,
    /// Budget in each period, microseconds.
    pub budget_us: Spanned<u32>,
    /// Period, microseconds.
    pub period_us: Spanned<u32>,
    /// The budget is a limit, too.
    #[serde(default)]
    pub cap: bool,
}

/// A range passed through to a guest.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassthroughTable {
    /// `ports` or `memory`.
    pub kind: Spanned<String>,
    /// First port or address.
    pub first: Spanned<u64>,
    /// Ports or bytes.
    pub count: Spanned<u64>,
}

/// A number of bytes: an integer, or text with the unit K, M or G (powers of 1024).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Bytes(pub u64);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Bytes;
            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a number of bytes such as 8192 or \"8K\", \"2M\", \"1G\"")
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Bytes, E> {
                u64::try_from(value).map(Bytes).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Bytes, E> {
                parse_bytes(value).map(Bytes).ok_or_else(|| E::invalid_value(de::Unexpected::Str(value), &self))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.char_indices().last()? {
        (end, 'K') => (&text[..end], 10),
        (end, 'M') => (&text[..end], 20),
        (end, 'G') => (&text[..end], 30),
        _ => (text, 0),
    };
    let value: u64 = digits.parse().ok()?;
    value.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::parse_bytes;

    #[test]
    fn units_are_powers_of_1024_and_overflow_is_refused() {
        assert_eq!(parse_bytes("8K"), Some(8192));
        assert_eq!(parse_bytes("2M"), Some(2 << 20));
        assert_eq!(parse_bytes("17"), Some(17));
        assert_eq!(parse_bytes("M"), None);
        assert_eq!(parse_bytes("99999999999999999G"), None);
    }
}
