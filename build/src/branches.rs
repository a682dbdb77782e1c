//! Finds branches of a program whose target comes from a register or from memory: a processor may run ahead to
//! wherever it was trained to (R14). Returns are not counted.

use elf::ElfBytes;
use elf::abi::STT_FUNC;
use elf::endian::LittleEndian;
use iced_x86::{Decoder, DecoderOptions, FlowControl};
use std::path::Path;

/// Part of the names of functions that may have some: formatting, which runs at boot and when the core stops.
const FORMATTING: &str = "3fmt";

/// Functions outside formatting with such a branch, and its address.
///
/// # Errors
/// The file cannot be read as an ELF with symbols.
pub fn indirect(path: &Path) -> anyhow::Result<Vec<(String, u64)>> {
    in_functions(path, branches)
}

/// What `scan` finds in the code, at its address, of each function outside formatting, with the function's name.
///
/// # Errors
/// The file cannot be read as an ELF with symbols.
pub fn in_functions(path: &Path, scan: impl Fn(&[u8], u64) -> Vec<u64>) -> anyhow::Result<Vec<(String, u64)>> {
    let data = std::fs::read(path)?;
    let elf = ElfBytes::<LittleEndian>::minimal_parse(&data)?;
    let (symbols, names) = elf.symbol_table()?.ok_or_else(|| anyhow::anyhow!("it has no symbols"))?;
    let mut found = Vec::new();
    for symbol in symbols.iter().filter(|symbol| symbol.st_symtype() == STT_FUNC && symbol.st_size > 0) {
        let name = names.get(symbol.st_name as usize)?;
        if name.contains(FORMATTING) {
            continue;
        }
        let header = elf.section_headers().and_then(|all| all.get(symbol.st_shndx.into()).ok());
        let (bytes, _) = elf.section_data(&header.ok_or_else(|| anyhow::anyhow!("{name} is in no section"))?)?;
        let begin = symbol.st_value.saturating_sub(header.map_or(0, |header| header.sh_addr)) as usize;
        let code = bytes.get(begin..).and_then(|rest| rest.get(..symbol.st_size as usize));
        let code = code.ok_or_else(|| anyhow::anyhow!("{name} is longer than its section"))?;
        found.extend(scan(code, symbol.st_value).into_iter().map(|address| (name.to_owned(), address)));
    }
    Ok(found)
}

/// Addresses of the branches in `code`, which begins at `address`.
fn branches(code: &[u8], address: u64) -> Vec<u64> {
    Decoder::with_ip(64, code, address, DecoderOptions::NONE)
        .into_iter()
        .filter(|one| matches!(one.flow_control(), FlowControl::IndirectBranch | FlowControl::IndirectCall))
        .map(|one| one.ip())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_by_register_and_memory_are_found_and_others_are_not() {
        // call rel32; jmp [rcx+rax*8]; ret; call [rip+1]; jnz; call rdx; sysret
        let code: [&[u8]; 7] = [
            &[0xe8, 0, 0, 0, 0],
            &[0xff, 0x24, 0xc1],
            &[0xc3],
            &[0xff, 0x15, 1, 0, 0, 0],
            &[0x75, 0],
            &[0xff, 0xd2],
            &[0x48, 0x0f, 0x07],
        ];
        assert_eq!(branches(&code.concat(), 0x1000), [0x1005, 0x1009, 0x1011]);
    }

    #[test]
    fn this_test_itself_has_some_and_each_is_named() {
        let own = std::env::current_exe().unwrap();
        let found = indirect(&own).unwrap();
        assert!(found.iter().any(|(name, _)| !name.is_empty()) && found.iter().all(|(name, _)| !name.contains("3fmt")));
    }
}
