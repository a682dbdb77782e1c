//! Looks at the processor from outside while one partition runs: of what a guest kept in its vector registers nothing
//! may be left there. CR0.TS keeps a partition from reading them, but not a processor from running ahead.

use anyhow::{Context, bail, ensure};
use portcullis_build::audit::Scene;
use portcullis_build::audit::subject::Kind;
use portcullis_build::emulator::Emulator;
use std::time::Duration;

/// Looks at the partition in ring 3 that make a verdict, after the guest was caught with something in its registers.
const LOOKS: u32 = 20;
/// Looks in all.
const TRIES: u32 = 20_000;
/// Time that the machine runs between two looks.
const STEP: Duration = Duration::from_micros(300);

/// What one look shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    cr3: u64,
    /// Privilege level.
    cpl: u64,
    /// A vector register holds something.
    vectors: bool,
}

/// Reads QEMU's listing of the registers of one processor.
fn look(listing: &str) -> Option<Look> {
    let value = |name: &str| {
        let word = listing.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
        u64::from_str_radix(word, 16).ok()
    };
    // YMM where AVX is on.
    let (_, vectors) = listing.split_once("MM00=")?;
    let vectors = vectors.split_whitespace().any(|word| {
        let digits = word.rsplit('=').next().unwrap_or(word);
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()) && digits.bytes().any(|byte| byte != b'0')
    });
    Some(Look { cr3: value("CR3")?, cpl: value("CPL")?, vectors })
}

/// Lets the machine of `scene` go on and looks at it while the partition `name` runs.
///
/// # Errors
/// Something of a guest's was in the registers, or the guest or the partition was never caught.
pub fn watch(emulator: &mut Emulator, scene: &Scene, name: &str) -> anyhow::Result<()> {
    let space = scene.subject.spaces.iter().find(|one| matches!(one.kind, Kind::Partition(_)) && one.name == name);
    let root = space.with_context(|| format!("the system has no partition {name}"))?.root;
    let (mut filled, mut seen) = (false, 0);
    for _ in 0..TRIES {
        let listing = emulator.registers_after(STEP)?;
        let look = look(&listing).context("the emulator's listing has no CR3, CPL or XMM00: was it updated?")?;
        let watched = look.cr3 & !0xfff == root && look.cpl == 3;
        filled |= look.vectors && !watched;
        ensure!(
            !(watched && look.vectors),
            "a guest's words are in the vector registers while {name} runs:\n{listing}"
        );
        seen += u32::from(filled && watched);
        if seen == LOOKS {
            return Ok(());
        }
    }
    bail!(
        "{name} was caught {seen} times of {LOOKS}; the guest's words were {}seen",
        if filled { "" } else { "never " }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_a_vector_register_are_seen_and_zeros_are_not() {
        let listing = |last: &str| {
            format!(
                "RIP=0000000040000000 RFL=00000202 [-------] CPL=3 II=0 A20=1 SMM=0 HLT=0\nCR0=8005003b CR2=0 \
                 CR3=0000000000301000 CR4=00340e20\nFCW=037f\nXMM00=0000000000000000 0000000000000000 \
                 XMM01=0000000000000000 {last}\n"
            )
        };
        let empty = Look { cr3: 0x30_1000, cpl: 3, vectors: false };
        assert_eq!(look(&listing("0000000000000000")), Some(empty));
        assert_eq!(look(&listing("0000000000000010")), Some(Look { vectors: true, ..empty }));
        assert_eq!(look("CR3=1 CPL=0"), None);
    }
}
