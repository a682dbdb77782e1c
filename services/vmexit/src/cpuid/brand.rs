//! The name of the processor (leaves 0x8000_0002 to 0x8000_0004). Under VMware a guest reads that of the host's
//! processor. An emulator names itself there, and programs that look for a hypervisor believe it: a guest with
//! VMware's identity does not see such a name.

/// First and last leaf.
pub const FIRST: u32 = 0x8000_0002;
/// Last leaf.
pub const LAST: u32 = 0x8000_0004;
/// Bytes of a leaf.
const LEAF: usize = 16;
/// Words by which emulators and hypervisors name their processor ("QEMU TCG CPU version 2.5+", "Common KVM processor").
const NOT_SILICON: [&[u8]; 6] = [b"QEMU", b"KVM", b"TCG", b"Bochs", b"Virtual CPU", b"emulat"];
/// What is shown instead.
const PLAIN: &[u8] = b"Processor";

/// The answer to `leaf`.
pub fn shown(leaf: u32, vmware: bool, host: impl Fn(u32, u32) -> [u32; 4]) -> [u32; 4] {
    let words = |leaf| host(leaf, 0).map(u32::to_le_bytes);
    let name = [words(FIRST), words(FIRST + 1), words(LAST)];
    let name = name.as_flattened().as_flattened();
    let named = |word: &[u8]| name.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
    if !vmware || !NOT_SILICON.iter().any(|word| named(word)) {
        return host(leaf, 0);
    }
    let start = leaf.wrapping_sub(FIRST) as usize * LEAF;
    let byte = |at: usize| PLAIN.get(start + at).copied().unwrap_or(0);
    [0, 4, 8, 12].map(|at| u32::from_le_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name that a guest reads from a processor with this name.
    fn read(name: &str, vmware: bool) -> String {
        let mut bytes = [0; 3 * LEAF];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        let host = |leaf: u32, _| {
            let at = (leaf - FIRST) as usize * LEAF;
            [0, 4, 8, 12].map(|word| u32::from_le_bytes(bytes[at + word..at + word + 4].try_into().unwrap()))
        };
        let shown = [FIRST, FIRST + 1, LAST].map(|leaf| shown(leaf, vmware, host).map(u32::to_le_bytes));
        String::from_utf8(shown.as_flattened().as_flattened().to_vec()).unwrap().trim_end_matches('\0').to_owned()
    }

    #[test]
    fn with_the_identity_no_name_tells_of_an_emulator() {
        for name in ["QEMU TCG CPU version 2.5+", "QEMU Virtual CPU version 2.5+", "Common 32-bit KVM processor"] {
            assert_eq!(read(name, true), "Processor");
            assert_eq!(read(name, false), name);
        }
    }

    #[test]
    fn the_name_of_silicon_is_shown() {
        for name in ["AMD EPYC 7763 64-Core Processor", "Intel(R) Xeon(R) Gold 6430 CPU @ 2.10GHz", ""] {
            assert_eq!(read(name, true), name);
        }
    }
}
