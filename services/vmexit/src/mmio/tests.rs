//! Encodings with what they leave in registers, flags and on the bus.

use super::{Bus, Done, Stop, execute};
use crate::memory::GuestMemory;
use crate::memory::tests::Plain;
use crate::paging::{Miss, PageFault};
use crate::tests::page;
use iced_x86::{Decoder, DecoderOptions};
use portcullis_ipc::exit::{ExitPage, Reason, gpr, segment};
use proptest::prelude::*;

/// Bytes of memory; the page after it is a device's.
const MEMORY: u64 = 0x2_0000;
/// A page of a device, between pages that are nobody's.
const DEVICE: u64 = 0x4000_0000;
const RAX: u64 = 0x1122_3344_5566_7788;

/// What happened at the device: reads, and writes with their value, by offset in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trace {
    R(u64),
    W(u64, u32),
}
use Trace::{R, W};

struct Board {
    memory: Plain,
    words: [u32; 4],
    trace: Vec<Trace>,
    /// Value of an access of this exit that was made before a restart.
    record: Option<u64>,
    accesses: u32,
}

impl Board {
    fn new() -> Self {
        let words = [0x8040_20f1, 0x1122_3344, 0, 0];
        Self { memory: Plain::new(MEMORY as usize), words, trace: Vec::new(), record: None, accesses: 0 }
    }
}

impl Bus for Board {
    type Memory = Plain;

    fn memory(&mut self) -> &mut Plain {
        &mut self.memory
    }
    fn claims(&self, address: u64) -> bool {
        [DEVICE, MEMORY].contains(&(address & !0xfff))
    }
    fn read(&mut self, address: u64) -> u32 {
        assert_eq!(address % 4, 0);
        self.trace.push(R(address & 0xfff));
        self.words.get((address & 0xfff) as usize / 4).copied().unwrap_or(0)
    }
    fn write(&mut self, address: u64, value: u32) {
        assert_eq!(address % 4, 0);
        self.trace.push(W(address & 0xfff, value));
        if let Some(word) = self.words.get_mut((address & 0xfff) as usize / 4) {
            *word = value;
        }
    }
    fn once(&mut self, access: impl FnOnce(&mut Self) -> u64) -> u64 {
        self.accesses += 1;
        match self.record {
            Some(value) => value,
            None => access(self),
        }
    }
}

/// Ring 0, flat, without paging; RDI is the device, RSI and RBX some memory.
fn cpu(code_bits: u32) -> ExitPage {
    let mut page = page(Reason::NestedFault);
    if code_bits == 64 {
        // Long mode needs paging; the tables lie at 0x10000 and map one to one by GiB.
        (page.cr0, page.cr3, page.cr4, page.efer) = (0x8000_0011, 0x1_0000, 0x20, 0x500);
    }
    page.registers[gpr::RAX] = RAX;
    page.registers[gpr::RCX] = 5;
    page.registers[gpr::RDX] = 0xfedc_ba98_7654_3210;
    page.registers[gpr::RBX] = 0x8000;
    page.registers[gpr::RSI] = 0x8000;
    page.registers[gpr::RDI] = DEVICE;
    page
}

fn board() -> Board {
    let mut board = Board::new();
    board.memory.put(0x1_0000, &0x1_1003u64.to_le_bytes());
    for gib in 0..4u64 {
        board.memory.put(0x1_1000 + 8 * gib as usize, &(gib << 30 | 0x83).to_le_bytes());
    }
    board.memory.put(0x8000, b"abcdefgh");
    board
}

fn run(page: &mut ExitPage, code_bits: u32, code: &[u8], board: &mut Board) -> Result<Done, Stop> {
    let instruction = Decoder::with_ip(code_bits, code, page.rip, DecoderOptions::AMD).decode();
    assert_eq!(instruction.len(), code.len(), "{code:x?}");
    execute(page, &instruction, code_bits, board)
}

/// Code width, code, RAX after, arithmetic flags after (before: none), bus.
type Case = (u32, &'static [u8], u64, u64, &'static [Trace]);

fn check(table: &[Case]) {
    for &(code_bits, code, rax, flags, trace) in table {
        let (mut page, mut board) = (cpu(code_bits), board());
        assert_eq!(run(&mut page, code_bits, code, &mut board), Ok(Done::Whole), "{code:x?}");
        assert_eq!(page.registers[gpr::RAX], rax, "{code:x?}: {:#x}", page.registers[gpr::RAX]);
        assert_eq!(page.rflags & 0x8d5, flags, "{code:x?}: {:#x}", page.rflags);
        assert_eq!(board.trace, trace, "{code:x?}");
        assert_eq!(board.accesses, 1, "{code:x?}");
    }
}

#[test]
fn moves_of_every_width() {
    check(&[
        (32, &[0x8b, 0x07], 0x8040_20f1, 0, &[R(0)]),
        (64, &[0x8b, 0x07], 0x8040_20f1, 0, &[R(0)]),
        (64, &[0x48, 0x8b, 0x07], 0x1122_3344_8040_20f1, 0, &[R(0), R(4)]),
        (64, &[0x66, 0x8b, 0x07], RAX & !0xffff | 0x20f1, 0, &[R(0)]),
        (64, &[0x8a, 0x07], RAX & !0xff | 0xf1, 0, &[R(0)]),
        (64, &[0x8a, 0x67, 0x03], RAX & !0xff00 | 0x8000, 0, &[R(0)]),
        (64, &[0x8b, 0x47, 0x02], 0x3344_8040, 0, &[R(0), R(4)]),
        (64, &[0x0f, 0xb6, 0x07], 0xf1, 0, &[R(0)]),
        (64, &[0x0f, 0xb7, 0x47, 0x02], 0x8040, 0, &[R(0)]),
        (64, &[0x0f, 0xbe, 0x07], 0xffff_fff1, 0, &[R(0)]),
        (64, &[0x48, 0x0f, 0xbf, 0x47, 0x02], 0xffff_ffff_ffff_8040, 0, &[R(0)]),
        (64, &[0x66, 0x0f, 0xbe, 0x07], RAX & !0xffff | 0xfff1, 0, &[R(0)]),
        (64, &[0x48, 0x63, 0x07], 0xffff_ffff_8040_20f1, 0, &[R(0)]),
        (64, &[0x0f, 0x38, 0xf0, 0x07], 0xf120_4080, 0, &[R(0)]),
        (64, &[0x66, 0x0f, 0x38, 0xf0, 0x07], RAX & !0xffff | 0xf120, 0, &[R(0)]),
        (64, &[0x0f, 0x38, 0xf1, 0x07], RAX, 0, &[W(0, 0x8877_6655)]),
        (64, &[0x89, 0x07], RAX, 0, &[W(0, 0x5566_7788)]),
        (64, &[0x48, 0x89, 0x07], RAX, 0, &[W(0, 0x5566_7788), W(4, 0x1122_3344)]),
        (64, &[0x48, 0x0f, 0xc3, 0x07], RAX, 0, &[W(0, 0x5566_7788), W(4, 0x1122_3344)]),
        (64, &[0xc7, 0x07, 1, 0, 0, 0x80], RAX, 0, &[W(0, 0x8000_0001)]),
        (64, &[0x48, 0xc7, 0x07, 1, 0, 0, 0x80], RAX, 0, &[W(0, 0x8000_0001), W(4, 0xffff_ffff)]),
        // A register is written as a whole or not at all.
        (64, &[0x66, 0x89, 0x07], RAX, 0, &[]),
        (64, &[0x88, 0x07], RAX, 0, &[]),
        (64, &[0x8c, 0x1f], RAX, 0, &[]),
        (64, &[0x89, 0x47, 0x02], RAX, 0, &[]),
        (32, &[0xa1, 0, 0, 0, 0x40], 0x8040_20f1, 0, &[R(0)]),
        (64, &[0xa1, 0, 0, 0, 0x40, 0, 0, 0, 0], 0x8040_20f1, 0, &[R(0)]),
        (16, &[0x67, 0x66, 0x8b, 0x07], 0x8040_20f1, 0, &[R(0)]),
        (16, &[0x67, 0x8b, 0x07], RAX & !0xffff | 0x20f1, 0, &[R(0)]),
    ]);
    // What crosses from memory into a device and from a device into nothing.
    let (mut page, mut board) = (cpu(32), board());
    page.registers[gpr::RDI] = MEMORY - 4;
    board.memory.put(MEMORY as usize - 4, &[1, 2, 3, 4]);
    assert_eq!(run(&mut page, 32, &[0x8b, 0x47, 0x02], &mut board), Ok(Done::Whole));
    assert_eq!(page.registers[gpr::RAX], 0x20f1_0403);
    page.registers[gpr::RDI] = DEVICE + 0xffe;
    assert_eq!(run(&mut page, 32, &[0x8b, 0x07], &mut board), Ok(Done::Whole));
    assert_eq!(page.registers[gpr::RAX], 0xffff_0000);
    assert_eq!(board.trace, [R(0), R(0xffc)]);
}

const CF: u64 = 1;
const PF: u64 = 4;
const AF: u64 = 0x10;
const ZF: u64 = 0x40;
const SF: u64 = 0x80;
const OF: u64 = 0x800;

#[test]
fn operations_on_memory() {
    check(&[
        (64, &[0x81, 0x0f, 0xff, 0, 0, 0], RAX, SF | PF, &[R(0), W(0, 0x8040_20ff)]),
        (64, &[0x83, 0x27, 0xf0], RAX, SF | PF, &[R(0), W(0, 0x8040_20f0)]),
        (64, &[0x31, 0x07], RAX, SF, &[R(0), W(0, 0xd526_5779)]),
        (64, &[0x01, 0x07], RAX, SF, &[R(0), W(0, 0xd5a6_9879)]),
        (64, &[0x83, 0x2f, 0xf2], RAX, SF | CF | PF | AF, &[R(0), W(0, 0x8040_20ff)]),
        (64, &[0x29, 0x07], RAX, OF | AF | PF, &[R(0), W(0, 0x2ad9_a969)]),
        (64, &[0xf0, 0x83, 0x07, 0x0f], RAX, SF | AF | PF, &[R(0), W(0, 0x8040_2100)]),
        (64, &[0xff, 0x07], RAX, SF, &[R(0), W(0, 0x8040_20f2)]),
        (64, &[0xff, 0x0f], RAX, SF | PF, &[R(0), W(0, 0x8040_20f0)]),
        (64, &[0xf7, 0x17], RAX, 0, &[R(0), W(0, 0x7fbf_df0e)]),
        (64, &[0xf7, 0x1f], RAX, CF | PF | AF, &[R(0), W(0, 0x7fbf_df0f)]),
        (64, &[0x85, 0x07], RAX, 0, &[R(0)]),
        (64, &[0xf7, 0x07, 0, 0, 0, 0x80], RAX, SF | PF, &[R(0)]),
        (64, &[0xf6, 0x07, 1], RAX, 0, &[R(0)]),
        (64, &[0x39, 0x07], RAX, OF | AF | PF, &[R(0)]),
        (64, &[0x81, 0x3f, 0xf1, 0x20, 0x40, 0x80], RAX, ZF | PF, &[R(0)]),
        (64, &[0x87, 0x07], 0x8040_20f1, 0, &[R(0), W(0, 0x5566_7788)]),
        (64, &[0x48, 0x87, 0x07], 0x1122_3344_8040_20f1, 0, &[R(0), R(4), W(0, 0x5566_7788), W(4, 0x1122_3344)]),
        (64, &[0xf0, 0x0f, 0xc1, 0x07], 0x8040_20f1, SF, &[R(0), W(0, 0xd5a6_9879)]),
        (64, &[0xf0, 0x0f, 0xb1, 0x17], 0x8040_20f1, CF | SF | OF, &[R(0), W(0, 0x8040_20f1)]),
    ]);
}

#[test]
fn operations_on_a_register() {
    check(&[
        (64, &[0x0b, 0x07], 0xd566_77f9, SF | PF, &[R(0)]),
        (64, &[0x23, 0x07], 0x0040_2080, 0, &[R(0)]),
        (64, &[0x3b, 0x07], RAX, CF | SF | OF, &[R(0)]),
        (64, &[0x2a, 0x07], RAX & !0xff | 0x97, CF | SF, &[R(0)]),
        (64, &[0x02, 0x07], RAX & !0xff | 0x79, CF | OF, &[R(0)]),
    ]);
}

#[test]
fn bits() {
    check(&[
        (64, &[0x0f, 0xba, 0x27, 4], RAX, CF, &[R(0)]),
        (64, &[0x0f, 0xba, 0x27, 1], RAX, 0, &[R(0)]),
        (64, &[0x0f, 0xba, 0x2f, 1], RAX, 0, &[R(0), W(0, 0x8040_20f3)]),
        (64, &[0x0f, 0xba, 0x37, 31], RAX, CF, &[R(0), W(0, 0x0040_20f1)]),
        (64, &[0x0f, 0xba, 0x3f, 0x20], RAX, CF, &[R(0), W(0, 0x8040_20f0)]),
    ]);
    // A number in a register reaches beside the operand, in both directions.
    for (number, offset, expected) in [(5u64, 0, 0x8040_20d1), (34, 4, 0x1122_3340), (u64::from(u32::MAX), 0xffc, 0)] {
        let (mut page, mut board) = (cpu(64), board());
        page.registers[gpr::RCX] = number;
        page.registers[gpr::RDI] = if offset == 0xffc { DEVICE + 0x1000 } else { DEVICE };
        assert_eq!(run(&mut page, 64, &[0x0f, 0xb3, 0x0f], &mut board), Ok(Done::Whole));
        assert_eq!(board.trace, [R(offset), W(offset, expected)], "{number}");
    }
}

#[test]
fn addresses_of_every_kind() {
    let low: fn(&mut ExitPage) = |page| {
        page.segments[segment::DS].base = DEVICE;
        page.registers[gpr::RBX] = 0xffff_fff0;
        page.registers[gpr::RSI] = 0x14;
    };
    let fs: fn(&mut ExitPage) = |page| {
        page.segments[segment::FS].base = DEVICE - 0x10;
        page.registers[gpr::RBX] = 0x14;
    };
    let table: [(u32, &[u8], fn(&mut ExitPage), u64); 8] = [
        (16, &[0x8b, 0x00], low, 4),
        (16, &[0x8b, 0x06, 0x04, 0x00], low, 4),
        (32, &[0x8b, 0x04, 0x33], low, 4),
        (32, &[0x67, 0x8b, 0x00], low, 4),
        (32, &[0x64, 0x8b, 0x03], fs, 4),
        (64, &[0x64, 0x8b, 0x03], fs, 4),
        (64, &[0x8b, 0x44, 0xcf, 0xdc], |_| {}, 4),
        (64, &[0x8b, 0x05, 0xfe, 0xef, 0xff, 0x3f], |_| {}, 4),
    ];
    for (code_bits, code, change, offset) in table {
        let (mut page, mut board) = (cpu(code_bits), board());
        change(&mut page);
        assert_eq!(run(&mut page, code_bits, code, &mut board), Ok(Done::Whole), "{code:x?}");
        assert_eq!(board.trace, [R(offset)], "{code:x?}");
    }
}

#[test]
fn an_access_of_an_exit_that_was_given_again_is_not_made_again() {
    let table: [(&[u8], u64, u64); 4] = [
        (&[0x48, 0x8b, 0x07], 77, 0),
        (&[0x48, 0x89, 0x07], RAX, 0),
        (&[0x48, 0x83, 0x2f, 77], RAX, ZF | PF),
        (&[0x48, 0x87, 0x07], 77, 0),
    ];
    for (code, rax, flags) in table {
        let (mut page, mut board) = (cpu(64), board());
        board.record = Some(77);
        assert_eq!(run(&mut page, 64, code, &mut board), Ok(Done::Whole));
        assert_eq!((page.registers[gpr::RAX], page.rflags & 0x8d5), (rax, flags), "{code:x?}");
        assert_eq!(board.trace, [], "{code:x?}");
    }
}

/// The part of a split operand that is memory is written from the record, not from what was written before.
#[test]
fn a_split_operand_is_changed_once() {
    let (mut first, mut board) = (cpu(32), board());
    first.registers[gpr::RDI] = MEMORY - 2;
    board.memory.put(MEMORY as usize - 2, &[0xff, 0xff]);
    board.words[0] = 0;
    let mut again = first;
    assert_eq!(run(&mut first, 32, &[0xff, 0x07], &mut board), Ok(Done::Whole));
    board.record = Some(0xffff);
    assert_eq!(run(&mut again, 32, &[0xff, 0x07], &mut board), Ok(Done::Whole));
    assert_eq!(board.memory.0[MEMORY as usize - 2..], [0, 0]);
    assert_eq!(first.rflags, again.rflags);
}

#[test]
fn strings_touch_a_device_once_an_exit() {
    // Code, RSI, RDI and RCX after, RAX after, bus.
    type Row = (&'static [u8], [u64; 3], u64, &'static [Trace]);
    let table: [Row; 7] = [
        (&[0xab], [0x8000, DEVICE + 4, 5], RAX, &[W(0, 0x5566_7788)]),
        (&[0xf3, 0xab], [0x8000, DEVICE + 4, 4], RAX, &[W(0, 0x5566_7788)]),
        (&[0xa5], [0x8004, DEVICE + 4, 5], RAX, &[W(0, 0x6463_6261)]),
        (&[0xf3, 0x48, 0xa5], [0x8008, DEVICE + 8, 4], RAX, &[W(0, 0x6463_6261), W(4, 0x6867_6665)]),
        (&[0xf2, 0xa4], [0x8001, DEVICE + 1, 4], RAX, &[]),
        (&[0x67, 0xf3, 0xab], [0x8000, DEVICE + 4, 4], RAX, &[W(0, 0x5566_7788)]),
        (&[0xf3, 0xaa], [0x8000, DEVICE + 1, 4], RAX, &[]),
    ];
    for (code, [rsi, rdi, rcx], rax, trace) in table {
        let (mut page, mut board) = (cpu(64), board());
        let done = if rcx == 5 { Done::Whole } else { Done::Part };
        assert_eq!(run(&mut page, 64, code, &mut board), Ok(done), "{code:x?}");
        let registers = [gpr::RSI, gpr::RDI, gpr::RCX, gpr::RAX].map(|index| page.registers[index]);
        assert_eq!(registers, [rsi, rdi, rcx, rax], "{code:x?}");
        assert_eq!((&*board.trace, board.accesses), (trace, 1), "{code:x?}");
    }
}

#[test]
fn strings_from_a_device() {
    let (mut page, mut board) = (cpu(64), board());
    page.registers[gpr::RSI] = DEVICE + 4;
    page.registers[gpr::RDI] = 0x9000;
    page.rflags |= 1 << 10;
    assert_eq!(run(&mut page, 64, &[0xf3, 0xa5], &mut board), Ok(Done::Part));
    assert_eq!(run(&mut page, 64, &[0xad], &mut board), Ok(Done::Whole));
    assert_eq!(board.memory.0[0x9000..0x9004], 0x1122_3344u32.to_le_bytes());
    assert_eq!([gpr::RSI, gpr::RDI, gpr::RCX].map(|index| page.registers[index]), [DEVICE - 4, 0x8ffc, 4]);
    assert_eq!((page.registers[gpr::RAX], board.trace), (0x8040_20f1, vec![R(4), R(0)]));
}

#[test]
fn strings_run_over_nothing_in_bounded_pieces_and_end_where_memory_begins() {
    let (mut page, mut board) = (cpu(64), board());
    page.registers[gpr::RDI] = DEVICE + 0x1000;
    page.registers[gpr::RCX] = 1000;
    let mut exits = 0;
    while run(&mut page, 64, &[0xf3, 0xaa], &mut board) == Ok(Done::Part) {
        exits += 1;
    }
    assert_eq!((exits, page.registers[gpr::RCX], page.registers[gpr::RDI]), (3, 0, DEVICE + 0x1000 + 1000));
    // Single-stepped, each element has its own trap.
    page.registers[gpr::RCX] = 2;
    page.rflags |= 1 << 8;
    assert_eq!(run(&mut page, 64, &[0xf3, 0xaa], &mut board), Ok(Done::Part));
    // From nothing into memory; then only memory is left, which is the guest's own business.
    let mut page = cpu(32);
    (page.registers[gpr::RSI], page.registers[gpr::RDI]) = (u64::from(u32::MAX) - 1, 0x9000);
    assert_eq!(run(&mut page, 32, &[0xf3, 0xa4], &mut board), Ok(Done::Part));
    assert_eq!((page.registers[gpr::RCX], &board.memory.0[0x9000..0x9003]), (3, &[0xff, 0xff, 0][..]));
    assert_eq!(run(&mut page, 32, &[0xf3, 0xa4], &mut board), Err(Stop::Memory));
}

#[test]
fn faults_change_nothing() {
    let unmapped: fn(&mut ExitPage) = |page| page.registers[gpr::RDI] = 5 << 30;
    let uncanonical: fn(&mut ExitPage) = |page| page.registers[gpr::RDI] = 1 << 60;
    let stack: fn(&mut ExitPage) = |page| page.registers[gpr::RSP] = 1 << 60;
    let fault = |error| Stop::Missed(Miss::Fault(PageFault { address: 5 << 30, error }));
    let table: [(&[u8], fn(&mut ExitPage), Stop); 8] = [
        (&[0x8b, 0x07], unmapped, fault(0)),
        (&[0x89, 0x07], unmapped, fault(2)),
        (&[0xff, 0x07], unmapped, fault(2)),
        (&[0xf3, 0xaa], unmapped, fault(2)),
        (&[0x8b, 0x07], uncanonical, Stop::Exception(13)),
        (&[0x8b, 0x04, 0x24], stack, Stop::Exception(12)),
        (&[0x8b, 0x03], |_| {}, Stop::Memory),
        (&[0xa4], |page| page.registers[gpr::RDI] = 0x9000, Stop::Memory),
    ];
    for (code, change, expected) in table {
        let (mut page, mut board) = (cpu(64), board());
        change(&mut page);
        let before = page.registers;
        assert_eq!(run(&mut page, 64, code, &mut board), Err(expected), "{code:x?}");
        assert_eq!((page.registers, page.dirty, board.trace), (before, 0, vec![]), "{code:x?}");
    }
    let mut short = cpu(32);
    short.segments[segment::DS].limit = 0x3fff_ffff;
    assert_eq!(run(&mut short, 32, &[0x8b, 0x07], &mut board()), Err(Stop::Exception(13)));
}

#[test]
fn what_is_not_emulated_says_so() {
    let table: [&[u8]; 12] = [
        &[0x0f, 0x10, 0x07],
        &[0xff, 0x37],
        &[0x8f, 0x07],
        &[0x8e, 0x1f],
        &[0xff, 0x27],
        &[0xd1, 0x27],
        &[0x0f, 0xc7, 0x0f],
        &[0xd9, 0x07],
        &[0xa7],
        &[0xae],
        &[0x90],
        &[0x6b, 0x07, 3],
    ];
    for code in table {
        assert_eq!(run(&mut cpu(64), 64, code, &mut board()), Err(Stop::Unknown), "{code:x?}");
    }
}

proptest! {
    /// Any bytes, any registers, any page tables: nothing panics, and memory outside the board is not
    /// touched.
    #[test]
    fn any_instruction_ends_in_an_answer(
        code in prop::array::uniform15(any::<u8>()),
        bits in prop::sample::select(vec![16u32, 32, 64]),
        registers in prop::array::uniform16(any::<u64>()),
        control in prop::array::uniform4(any::<u64>()),
        words in prop::collection::vec(any::<u64>(), 64),
        near: bool, rflags: u64, cpl in 0u32..4
    ) {
        let (mut page, mut board) = (cpu(bits), board());
        page.registers = registers;
        if near {
            page.registers = registers.map(|value| DEVICE - 16 + value % 32);
        } else {
            [page.cr0, page.cr3, page.cr4, page.efer] = control;
            page.cr3 = control[1] % MEMORY;
            for (index, word) in words.iter().enumerate() {
                board.memory.put(index * 2048, &word.to_le_bytes());
            }
        }
        (page.rflags, page.cpl) = (rflags, cpl);
        let mut decoder = Decoder::with_ip(bits, &code, page.rip, DecoderOptions::AMD);
        let instruction = decoder.decode();
        let _ = execute(&mut page, &instruction, bits, &mut board);
        let _ = super::reach(&page, &mut board.memory, &instruction, bits);
        prop_assert_eq!(board.memory.size(), MEMORY);
    }
}
