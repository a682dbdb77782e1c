//! The guest's own page tables: one-to-one over the first 4 GiB for long, PAE and 32-bit paging, open
//! to ring 3, and a window of 4 KiB pages for instructions that straddle a page.

use crate::memory::poke;
use core::arch::{asm, global_asm};

/// Virtual address of the window; its pages are absent until [`map_window`].
pub const WINDOW: u64 = 0x4000_0000;

global_asm!(
    ".section .bss.paging, \"aw\", @nobits",
    ".balign 4096",
    "paging_tables: .skip 10 * 4096",
    ".section .text.paging, \"ax\"",
    "paging_address: .quad paging_tables",
);

unsafe extern "C" {
    static paging_address: u64;
}

const PAGE: u64 = 0x1000;
const PRESENT_WRITE_USER: u64 = 7;
const LARGE: u64 = 0x87;

// Pages of `paging_tables`.
const ROOT: u64 = 0;
const POINTERS: u64 = 1;
const DIRECTORIES: u64 = 2;
const WINDOW_TABLE: u64 = 6;
const PAE_ROOT: u64 = 7;
const ROOT32: u64 = 8;
const WINDOW_TABLE32: u64 = 9;

fn table(index: u64) -> u64 {
    // SAFETY: the word is constant, written by the assembly above.
    let base = unsafe { paging_address };
    base + index * PAGE
}

/// CR3 of long-mode paging.
pub fn root() -> u64 {
    table(ROOT)
}

/// CR3 of PAE paging.
pub fn root_pae() -> u64 {
    table(PAE_ROOT)
}

/// CR3 of 32-bit paging (with CR4.PSE).
pub fn root32() -> u64 {
    table(ROOT32)
}

/// Fills the tables and makes the long-mode ones current.
pub fn init() {
    poke(table(ROOT), table(POINTERS) | PRESENT_WRITE_USER);
    for gib in 0..4 {
        poke(table(POINTERS) + gib * 8, table(DIRECTORIES + gib) | PRESENT_WRITE_USER);
        poke(table(PAE_ROOT) + gib * 8, table(DIRECTORIES + gib) | 1);
    }
    for index in 0..2048 {
        poke(table(DIRECTORIES) + index * 8, (index << 21) | LARGE);
    }
    for index in 0..1024u64 {
        poke(table(ROOT32) + index * 4, ((index << 22) | LARGE) as u32);
    }
    poke(table(DIRECTORIES) + (WINDOW >> 21) * 8, table(WINDOW_TABLE) | PRESENT_WRITE_USER);
    poke(table(ROOT32) + (WINDOW >> 22) * 4, (table(WINDOW_TABLE32) | PRESENT_WRITE_USER) as u32);
    flush();
}

/// Maps page `index` (0 to 511) of the window to a frame, in all three sets of tables; `None` takes the page
/// away.
pub fn map_window(index: u64, frame: Option<u64>) {
    let entry = frame.map_or(0, |frame| frame | PRESENT_WRITE_USER);
    poke(table(WINDOW_TABLE) + index * 8, entry);
    poke(table(WINDOW_TABLE32) + index * 4, entry as u32);
    flush();
}

/// Sets the entry of a GiB, 4 to 511, in the long-mode tables.
pub fn set_pointer(gib: u64, entry: u64) {
    poke(table(POINTERS) + gib * 8, entry);
}

/// Makes the long-mode tables current anew.
pub fn flush() {
    // SAFETY: the tables map everything that is in use one to one.
    unsafe { asm!("mov cr3, {}", in(reg) root(), options(nostack)) };
}
