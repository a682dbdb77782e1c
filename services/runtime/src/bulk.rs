//! Large pieces of memory, by the processor's widest means without vector registers: CRC32 of eight bytes, and the
//! string instructions.

use core::arch::asm;
use core::arch::x86_64::__cpuid;
use portcullis_ipc::file;

/// CPUID 1 ECX: the CRC32 instruction (SSE4.2; it works on general registers).
const CRC32_INSTRUCTION: u32 = 1 << 20;
/// Bytes that one round of the loop takes.
const ROUND: usize = 256;

/// CRC-32C of a file, `crc` being the result so far, 0 at the start: [`file::crc32c`] by the processor's instruction
/// where there is one.
pub fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    if __cpuid(1).ecx & CRC32_INSTRUCTION == 0 {
        return file::crc32c(crc, bytes);
    }
    let (rounds, rest) = bytes.as_chunks::<ROUND>();
    let mut sum = u64::from(!crc);
    if !rounds.is_empty() {
        // SAFETY: the processor has the instruction, and the loop reads `rounds`, which is not empty, from its first
        // byte to its last.
        unsafe {
            asm!(
                ".balign 16",
                "2:",
                "crc32 {sum}, qword ptr [{at}]",
                "crc32 {sum}, qword ptr [{at} + 8]",
                "crc32 {sum}, qword ptr [{at} + 16]",
                "crc32 {sum}, qword ptr [{at} + 24]",
                "crc32 {sum}, qword ptr [{at} + 32]",
                "crc32 {sum}, qword ptr [{at} + 40]",
                "crc32 {sum}, qword ptr [{at} + 48]",
                "crc32 {sum}, qword ptr [{at} + 56]",
                "crc32 {sum}, qword ptr [{at} + 64]",
                "crc32 {sum}, qword ptr [{at} + 72]",
                "crc32 {sum}, qword ptr [{at} + 80]",
                "crc32 {sum}, qword ptr [{at} + 88]",
                "crc32 {sum}, qword ptr [{at} + 96]",
                "crc32 {sum}, qword ptr [{at} + 104]",
                "crc32 {sum}, qword ptr [{at} + 112]",
                "crc32 {sum}, qword ptr [{at} + 120]",
                "crc32 {sum}, qword ptr [{at} + 128]",
                "crc32 {sum}, qword ptr [{at} + 136]",
                "crc32 {sum}, qword ptr [{at} + 144]",
                "crc32 {sum}, qword ptr [{at} + 152]",
                "crc32 {sum}, qword ptr [{at} + 160]",
                "crc32 {sum}, qword ptr [{at} + 168]",
                "crc32 {sum}, qword ptr [{at} + 176]",
                "crc32 {sum}, qword ptr [{at} + 184]",
                "crc32 {sum}, qword ptr [{at} + 192]",
                "crc32 {sum}, qword ptr [{at} + 200]",
                "crc32 {sum}, qword ptr [{at} + 208]",
                "crc32 {sum}, qword ptr [{at} + 216]",
                "crc32 {sum}, qword ptr [{at} + 224]",
                "crc32 {sum}, qword ptr [{at} + 232]",
                "crc32 {sum}, qword ptr [{at} + 240]",
                "crc32 {sum}, qword ptr [{at} + 248]",
                "add {at}, {round}",
                "cmp {at}, {end}",
                "jne 2b",
                sum = inout(reg) sum,
                at = inout(reg) rounds.as_ptr() => _,
                end = in(reg) rounds.as_ptr_range().end,
                round = const ROUND,
                options(nostack, readonly),
            );
        }
    }
    file::crc32c(!(sum as u32), rest)
}

/// Copies `bytes` to `to`, eight at a time.
///
/// # Safety
/// As many bytes from `to` are writable memory that no Rust reference covers; other processors may access them.
pub unsafe fn copy(to: *mut u8, bytes: &[u8]) {
    // SAFETY: by the caller's promise; the direction flag is clear.
    unsafe {
        asm!(
            "rep movsq",
            "mov ecx, {rest:e}",
            "rep movsb",
            rest = in(reg) bytes.len() % 8,
            inout("rcx") bytes.len() / 8 => _,
            inout("rsi") bytes.as_ptr() => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Writes `length` zeros from `to` on, eight at a time.
///
/// # Safety
/// As for [`copy`].
pub unsafe fn zero(to: *mut u8, length: usize) {
    // SAFETY: by the caller's promise; the direction flag is clear.
    unsafe {
        asm!(
            "rep stosq",
            "mov ecx, {rest:e}",
            "rep stosb",
            rest = in(reg) length % 8,
            inout("rcx") length / 8 => _,
            inout("rdi") to => _,
            in("rax") 0_u64,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_instruction_and_the_table_agree(
            bytes in prop::collection::vec(any::<u8>(), 0..600), crc: u32, skip in 0..9_usize,
        ) {
            let bytes = bytes.get(skip..).unwrap_or_default();
            prop_assert_eq!(crc32c(crc, bytes), file::crc32c(crc, bytes));
        }

        #[test]
        fn exactly_the_bytes_asked_for_are_written(
            bytes in prop::collection::vec(any::<u8>(), 0..100), at in 0..20_usize,
        ) {
            let mut memory = [0xaa; 128];
            // SAFETY: the place lies in `memory`.
            unsafe { copy(memory.as_mut_ptr().wrapping_add(at), &bytes) };
            let end = at + bytes.len();
            prop_assert_eq!(&memory[at..end], &bytes[..]);
            prop_assert!(memory[..at].iter().chain(&memory[end..]).all(|byte| *byte == 0xaa));
            // SAFETY: the place lies in `memory`.
            unsafe { zero(memory.as_mut_ptr().wrapping_add(at), bytes.len()) };
            prop_assert!(memory[at..end].iter().all(|byte| *byte == 0));
            prop_assert!(memory[..at].iter().chain(&memory[end..]).all(|byte| *byte == 0xaa));
        }
    }
}
