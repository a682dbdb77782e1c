//! Instruction bytes: fetched once, at most 15, through the guest's own page tables, and decoded.

use crate::memory::GuestMemory;
use crate::paging::{Access, Miss, Translation};
use crate::registers::{bits, linear};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};
use portcullis_ipc::exit::{ExitPage, segment};

/// Longest instruction.
pub const LONGEST: usize = 15;
const PAGE: u64 = 4096;

/// Bytes at the current instruction.
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    buffer: [u8; 16],
    length: usize,
    /// Width of the code in bits.
    pub bits: u32,
}

impl Bytes {
    /// Fetches the bytes at CS:RIP; the groups CONTROL and SEGMENTS are valid. A second page that is not
    /// there only shortens them: the instruction may end before it.
    pub fn fetch(memory: &mut impl GuestMemory, page: &ExitPage) -> Result<Self, Miss> {
        let translation = Translation::of(page);
        let code_bits = bits(page);
        let start = linear(page, segment::CS, page.rip, code_bits);
        let first = (PAGE - start % PAGE).min(LONGEST as u64);
        let physical = translation.translate(memory, start, Access::Fetch)?;
        if !memory.holds(physical, first) {
            return Ok(Self { buffer: [0; 16], length: 0, bits: code_bits });
        }
        let mut bytes = Self { buffer: window(memory, physical), length: first as usize, bits: code_bits };
        if bytes.length < LONGEST {
            let next = linear(page, segment::CS, page.rip.wrapping_add(first), code_bits);
            let tail = bytes.buffer.get_mut(bytes.length..LONGEST).unwrap_or_default();
            match translation.translate(memory, next, Access::Fetch) {
                Ok(physical) if memory.read(physical, tail) => bytes.length = LONGEST,
                Err(Miss::Busy) => return Err(Miss::Busy),
                Ok(_) | Err(Miss::Fault(_)) => {}
            }
        }
        Ok(bytes)
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }

    /// Decodes them; `None` when they are not an instruction.
    pub fn decode(&self, rip: u64) -> Option<Instruction> {
        let mut decoder = Decoder::with_ip(self.bits, self.as_slice(), rip, DecoderOptions::AMD);
        let instruction = decoder.decode();
        (!instruction.is_invalid()).then_some(instruction)
    }
}

/// The fifteen bytes from `address` on, and one more; of what lies beyond the address's page nothing is
/// said. Each byte is read once.
fn window(memory: &impl GuestMemory, address: u64) -> [u8; 16] {
    let skip = 8 * (address & 7) as u32;
    let next = |count| if address % PAGE / 8 + count < PAGE / 8 { memory.word(address + 8 * count) } else { 0 };
    let low = u128::from(next(0)) | u128::from(next(1)) << 64;
    let high = if skip > 8 { u128::from(next(2)) << (128 - skip) } else { 0 };
    (low >> skip | high).to_le_bytes()
}

/// An instruction that exits: its plain form, without prefixes, and its name for the decoder.
pub struct Expected {
    /// Opcode bytes, little endian, in as many low bits as `length` says.
    opcode: u32,
    /// Bytes of the plain form; 0 when it has no fixed length.
    length: usize,
    /// Name.
    pub mnemonic: Mnemonic,
}

impl Expected {
    const fn new<const N: usize>(bytes: [u8; N], mnemonic: Mnemonic) -> Self {
        let (mut opcode, mut index) = (0, 0);
        while index < N {
            opcode |= (bytes[index] as u32) << (8 * index);
            index += 1;
        }
        Self { opcode, length: N, mnemonic }
    }

    /// Whether `bytes` begin with the plain form.
    fn matches(&self, bytes: &Bytes) -> bool {
        let [a, b, c, d, ..] = bytes.buffer;
        let differing = u32::from_le_bytes([a, b, c, d]) ^ self.opcode;
        (1..=bytes.length).contains(&self.length) && u64::from(differing) << (64 - 8 * self.length) == 0
    }
}

macro_rules! expected {
    ($($(#[$doc:meta])* $name:ident: $opcode:expr, $mnemonic:ident;)*) => {
        $($(#[$doc])* pub const $name: Expected = Expected::new($opcode, Mnemonic::$mnemonic);)*
    };
}

expected! {
    /// CPUID.
    CPUID: [0x0f, 0xa2], Cpuid;
    /// INT1.
    INT1: [0xf1], Int1;
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
    /// RDPMC.
    RDPMC: [0x0f, 0x33], Rdpmc;
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

/// Length of the current instruction if it is one of `candidates`, and which. The plain form is compared;
/// anything else, prefixes above all, goes through the decoder.
pub fn length(bytes: &Bytes, rip: u64, candidates: &[Expected]) -> Option<(usize, Mnemonic)> {
    if let Some(plain) = candidates.iter().find(|one| one.matches(bytes)) {
        return Some((plain.length, plain.mnemonic));
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
        for start in 0x1000..0x1020 {
            let code: [u8; LONGEST] = core::array::from_fn(|index| index as u8 + 1);
            assert_eq!(at(start, &code).as_slice(), code, "{start:#x}");
            assert_eq!(at(start + 0xfe0, &code).as_slice(), code, "{start:#x} + 0xfe0");
        }
        let mut memory = Plain::new(0x1000);
        assert!(Bytes::fetch(&mut memory, &real_mode(0x5000)).unwrap().as_slice().is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_not_without_harm(code in prop::array::uniform15(any::<u8>()), bits in 0usize..3) {
            let mut buffer = [0; 16];
            buffer[..LONGEST].copy_from_slice(&code);
            let bytes = Bytes { buffer, length: LONGEST, bits: [16, 32, 64][bits] };
            if let Some(instruction) = bytes.decode(0) {
                prop_assert!((1..=LONGEST).contains(&instruction.len()));
            }
        }
    }
}
