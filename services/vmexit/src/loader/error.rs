//! Why a guest is not loaded: what is wrong, and what to do about it, in one line.

use super::space::What;
use core::fmt;
use portcullis_ipc::ram;

/// Why a guest is not loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The manifest gives the partition no blob of this name.
    NoBlob(&'static str),
    /// The blob's bytes are not those that the image builder put there.
    Checksum(&'static str),
    /// The kernel file contradicts itself; what it is in.
    Corrupt(&'static str),
    /// The file has the form of one entry method but lacks something that the method needs.
    Unusable(&'static str),
    /// No entry method fits.
    NoMethod,
    /// The kernel has more loadable segments than the loader takes.
    Segments {
        /// As many as it has.
        found: usize,
    },
    /// `acpi-mangler` does not build the firmware's tables; why.
    Tables(&'static str),
    /// `acpi-mangler` did not answer in time.
    TablesLate,
    /// Guest memory ends too early.
    Memory {
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        have: u64,
    },
    /// More guest memory than a VM can have.
    TooMuchMemory {
        /// Bytes there are.
        have: u64,
    },
    /// Something must lie where there is no RAM.
    NotRam(What, u64, u64),
    /// Two things must lie in the same place.
    Overlap(What, What, u64, u64),
    /// The initial RAM disk fits nowhere.
    Initrd {
        /// Its bytes.
        bytes: u64,
        /// Largest free stretch below the limit of the kernel.
        room: u64,
    },
    /// The command line is longer than the kernel or the loader takes.
    CommandLine {
        /// Its bytes.
        bytes: usize,
        /// Bytes at most.
        most: usize,
    },
}

impl Error {
    /// Whether another try may do better.
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::TablesLate)
    }
}

/// Most loadable segments of a kernel.
pub const SEGMENTS: usize = 16;

/// A number of bytes in MiB, rounded up.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

impl fmt::Display for Error {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoBlob(name) => {
                write!(to, "no blob \"{name}\": add it to the blobs of this partition in the manifest")
            }
            Self::Checksum(name) => {
                write!(to, "blob \"{name}\" is corrupt, its CRC-32C differs: build the image anew")
            }
            Self::Corrupt(place) => write!(to, "kernel is corrupt, {place}: fetch or build it again"),
            Self::Unusable(why) => write!(to, "kernel cannot be entered: {why}"),
            Self::NoMethod => write!(
                to,
                "no entry method fits the kernel: no ELF file with the Xen note PHYS32_ENTRY (Linux: CONFIG_PVH), no \
                 bzImage, no multiboot 1 header in 8 KiB; give a bzImage or a vmlinux with CONFIG_PVH=y"
            ),
            Self::Segments { found } => {
                write!(to, "kernel has {found} loadable segments, {SEGMENTS} are taken at most: link it with fewer")
            }
            Self::Tables(why) => {
                write!(to, "no firmware tables, acpi-mangler {why}: see its log, or set acpi and smbios to off")
            }
            Self::TablesLate => write!(to, "no firmware tables yet, acpi-mangler does not answer: see its log"),
            Self::Memory { needed, have } => {
                write!(to, "guest needs {} MiB of memory and has {} MiB: give the VM more", mib(needed), have >> 20)
            }
            Self::TooMuchMemory { have } => {
                write!(to, "VM has {} MiB of memory, {} MiB are the most: give it less", have >> 20, ram::MOST >> 20)
            }
            Self::NotRam(what, start, end) => {
                write!(to, "{what} wants {start:#x} to {end:#x}, which is not RAM: link the kernel elsewhere")
            }
            Self::Overlap(what, other, start, end) => {
                write!(to, "{what} wants {start:#x} to {end:#x}, where {other} is: link the kernel elsewhere")
            }
            Self::Initrd { bytes, room } => write!(
                to,
                "initrd has {} MiB, room is for {} MiB: give the VM more memory or a smaller initrd",
                mib(bytes),
                room >> 20
            ),
            Self::CommandLine { bytes, most } => {
                write!(to, "command line has {bytes} bytes, the kernel takes {most}: shorten guest.append")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_one_line_that_says_what_to_do() {
        let kernel = What::Kernel;
        let all = [
            Error::NoBlob("kernel"),
            Error::Checksum("initrd"),
            Error::Corrupt("ELF head"),
            Error::Unusable("it is a zImage; give a bzImage"),
            Error::NoMethod,
            Error::Segments { found: 17 },
            Error::Tables("was given up"),
            Error::Memory { needed: (74 << 20) + 1, have: 64 << 20 },
            Error::TooMuchMemory { have: ram::MOST + 1 },
            Error::NotRam(kernel, 0xa_0000, 0xb_0000),
            Error::Overlap(kernel, What::BootData, 0x6000, 0x7000),
            Error::Initrd { bytes: 1 << 20, room: 0 },
            Error::CommandLine { bytes: 5000, most: 4095 },
            Error::TablesLate,
        ];
        for error in all {
            let text = error.to_string();
            assert!(!text.contains('\n') && text.contains([':', ';']), "{text}");
            assert!(text.len() < super::super::TEXT, "{text}");
        }
        assert_eq!(all[7].to_string(), "guest needs 75 MiB of memory and has 64 MiB: give the VM more");
    }
}
