//! Instruction bytes: fetched once, at most 15, through the guest's own page tables, and decoded.

use crate::memory::GuestMemory;
use crate::paging::{Access, PageFault, Translation};
use crate::registers::{bits, linear};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};
use portcullis_ipc::exit::{ExitPage, segment};

/// Longest instruction.
pub const LONGEST: usize = 15;
const PAGE: u64 = 4096;

/// Bytes at the current instruction.
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    buffer: [u8; LONGEST],
    length: usize,
    /// Width of the code in bits.
    pub bits: u32,
}

impl Bytes {
    /// Fetches the bytes at CS:RIP; the groups CONTROL and SEGMENTS are valid. A second page that is not
    /// there only shortens them: the instruction may end before it.
    pub fn fetch(memory: &mut impl GuestMemory, page: &ExitPage) -> Result<Self, PageFault> {
        let translation = Translation::of(page);
        let code_bits = bits(page);
        let start = linear(page, segment::CS, page.rip, code_bits);
        let first = (PAGE - start % PAGE).min(LONGEST as u64) as usize;
        let physical = translation.translate(memory, start, Access::Fetch)?;
        let mut bytes = Self { buffer: [0; LONGEST], length: 0, bits: code_bits };
        if physical.saturating_add(first as u64) > memory.size() {
            return Ok(bytes);
        }
        bytes.length = first;
        let (head, tail) = bytes.buffer.split_at_mut(first);
        copy(memory, physical, head);
        if !tail.is_empty() {
            let next = linear(page, segment::CS, page.rip.wrapping_add(first as u64), code_bits);
            let physical = translation.translate(memory, next, Access::Fetch);
            if physical.is_ok_and(|physical| memory.read(physical, tail)) {
                bytes.length = LONGEST;
            }
        }
        Ok(bytes)
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }

    /// Decodes them; `None` when they are no instruction.
    pub fn decode(&self, rip: u64) -> Option<Instruction> {
        let mut decoder = Decoder::with_ip(self.bits, self.as_slice(), rip, DecoderOptions::AMD);
        let instruction = decoder.decode();
        (!instruction.is_invalid()).then_some(instruction)
    }
}

/// Copies bytes that are memory, word by word: the frequent case of the fetch.
fn copy(memory: &impl GuestMemory, address: u64, bytes: &mut [u8]) {
    let skip = (address & 7) as usize;
    let mut words = [0; 24];
    for (index, to) in words.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        if index * 8 < skip + bytes.len() {
            *to = memory.word(address + index as u64 * 8).to_le_bytes();
        }
    }
    for (to, from) in bytes.iter_mut().zip(words.iter().skip(skip)) {
        *to = *from;
    }
}

/// An instruction that exits: its bytes without prefixes, and its name for the decoder.
pub struct Expected {
    /// Opcode bytes.
    pub opcode: &'static [u8],
    /// Name.
    pub mnemonic: Mnemonic,
}

macro_rules! expected {
    ($($(#[$doc:meta])* $name:ident: $opcode:expr, $mnemonic:ident;)*) => {
        $($(#[$doc])* pub const $name: Expected = Expected { opcode: &$opcode, mnemonic: Mnemonic::$mnemonic };)*
    };
}

expected! {
    /// CPUID.
    CPUID: [0x0f, 0xa2], Cpuid;
    /// HLT.
    HLT: [0xf4], Hlt;
    /// RDMSR.
    RDMSR: [0x0f, 0x32], Rdmsr;
    /// WRMSR.
    WRMSR: [0x0f, 0x30], Wrmsr;
    /// RDTSC.
    RDTSC: [0x0f, 0x31], Rdtsc;
    /// RDTSCP.
    RDTSCP: [0x0f, 0x01, 0xf9], Rdtscp;
    /// WBINVD.
    WBINVD: [0x0f, 0x09], Wbinvd;
    /// WBNOINVD, which an older processor takes for WBINVD.
    WBNOINVD: [0xf3, 0x0f, 0x09], Wbnoinvd;
    /// INVD.
    INVD: [0x0f, 0x08], Invd;
    /// XSETBV.
    XSETBV: [0x0f, 0x01, 0xd1], Xsetbv;
    /// PAUSE.
    PAUSE: [0xf3, 0x90], Pause;
    /// INVLPG: its length depends on its operand.
    INVLPG: [], Invlpg;
}

/// Length of the current instruction if it is one of `candidates`, and which. The plain form is compared
/// byte by byte; anything else, prefixes above all, goes through the decoder.
pub fn length(bytes: &Bytes, rip: u64, candidates: &[Expected]) -> Option<(usize, Mnemonic)> {
    let plain = candidates.iter().find(|one| !one.opcode.is_empty() && bytes.as_slice().starts_with(one.opcode));
    if let Some(plain) = plain {
        return Some((plain.opcode.len(), plain.mnemonic));
    }
    let instruction = bytes.decode(rip)?;
    let mnemonic = instruction.mnemonic();
    candidates.iter().any(|one| one.mnemonic == mnemonic).then_some((instruction.len(), mnemonic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::Plain;
    use proptest::prelude::*;
    use zerocopy::FromZeros;

    fn real_mode(rip: u64) -> ExitPage {
        let mut page = ExitPage::new_zeroed();
        page.rip = rip;
        page
    }

    fn at(rip: u64, code: &[u8]) -> Bytes {
        let mut memory = Plain::new(0x3000);
        memory.put(rip as usize, code);
        Bytes::fetch(&mut memory, &real_mode(rip)).unwrap()
    }

    #[test]
    fn lengths_of_plain_and_prefixed_instructions() {
        let table: [(&[u8], &[Expected], Option<usize>); 9] = [
            (&[0x0f, 0xa2], &[CPUID], Some(2)),
            (&[0x66, 0x2e, 0x0f, 0xa2], &[CPUID], Some(4)),
            (&[0x3e; 13], &[CPUID], None),
            (&[0xf3, 0x90], &[PAUSE], Some(2)),
            (&[0xf3, 0x0f, 0x09], &[WBINVD, WBNOINVD, INVD], Some(3)),
            (&[0x0f, 0x01, 0x3d], &[INVLPG], Some(3)),
            (&[0x0f, 0x32], &[WRMSR], None),
            (&[0x0f, 0x01, 0xf9], &[RDTSC, RDTSCP], Some(3)),
            (&[0x67, 0xf4], &[HLT], Some(2)),
        ];
        for (code, candidates, expected) in table {
            let bytes = at(0x1000, code);
            assert_eq!(length(&bytes, 0x1000, candidates).map(|found| found.0), expected, "{code:x?}");
        }
        let mut longest = vec![0x3e; 13];
        longest.extend([0x0f, 0xa2]);
        assert_eq!(length(&at(0x1000, &longest), 0x1000, &[CPUID]).map(|found| found.0), Some(15));
    }

    #[test]
    fn bytes_are_fetched_across_a_page_and_end_where_memory_ends() {
        assert_eq!(at(0x1fff, &[0x0f, 0xa2]).as_slice()[..2], [0x0f, 0xa2]);
        assert_eq!(at(0x2ffe, &[0x0f, 0xa2]).as_slice(), [0x0f, 0xa2]);
        let mut memory = Plain::new(0x1000);
        assert!(Bytes::fetch(&mut memory, &real_mode(0x5000)).unwrap().as_slice().is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_not_without_harm(code in prop::array::uniform15(any::<u8>()), bits in 0usize..3) {
            let bytes = Bytes { buffer: code, length: LONGEST, bits: [16, 32, 64][bits] };
            if let Some(instruction) = bytes.decode(0) {
                prop_assert!((1..=LONGEST).contains(&instruction.len()));
            }
        }
    }
}
