//! The page that the core shows every partition: what machine it is on.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What is true for the machine, one page for all, read-only to partitions.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PlatformPage {
    /// [`PLATFORM_MAGIC`].
    pub magic: u32,
    /// ABI version, 1.
    pub abi: u32,
    /// TSC ticks per second.
    pub tsc_hz: u64,
    /// Local APIC timer ticks per second, before the divider.
    pub lapic_hz: u64,
    /// Wall clock, nanoseconds since 1970, at `wall_tsc`; 0 until `link` set it.
    pub wall_ns: u64,
    /// TSC value that belongs to `wall_ns`.
    pub wall_tsc: u64,
    /// Core version: major << 32 | minor << 16 | patch.
    pub core_version: u64,
    /// Vendor of the virtualization extension: 1 SVM, 2 VMX ([`crate::exit::vendor`]).
    pub vendor: u32,
    /// Mitigations in force, a bit mask as the boot log prints it.
    pub mitigations: u32,
    /// Build id of the core.
    pub core_build_id: [u8; 20],
    /// Mitigations that the processor needs and that it or its microcode lacks.
    pub lacking: u32,
}

/// "PLAT".
pub const PLATFORM_MAGIC: u32 = u32::from_le_bytes(*b"PLAT");

static_assertions::const_assert!(size_of::<PlatformPage>() <= 4096);
