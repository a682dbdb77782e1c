//! Switches between the tasks of a small machine.

mod entry;
mod killed;
mod paged;
mod refused;
mod switches;

use crate::machine::Machine;
use crate::memory::load;
use crate::tests::{CODE, Model, machine, page};
use portcullis_ipc::exit::{ExitPage, Reason, Segment, gpr, group, segment, shadow};
use portcullis_ipc::syscall::Resume;

const CALL: u64 = 0;
const IRET: u64 = 1;
const JUMP: u64 = 2;
const GATE: u64 = 3;

const GDT: u64 = 0x2000;
/// The task that the machine is in.
const OLD: u64 = 0x3000;
/// A task of 32 bits, ring 0.
const NEW: u64 = 0x3100;
/// A task of 16 bits, ring 0.
const HALF: u64 = 0x3180;
const LDT: u64 = 0x3200;
/// Where the new tasks' stack ends.
const STACK: u32 = 0x5000;
const ENTRY: u32 = 0x1800;

const RING0: u16 = 0x08;
const DATA: u16 = 0x10;
const OLD_TASK: u16 = 0x18;
const NEW_TASK: u16 = 0x20;
const HALF_TASK: u16 = 0x28;
const TABLE: u16 = 0x30;
const RING3: u16 = 0x3b;
const USER: u16 = 0x43;
const ABSENT: u16 = 0x48;
const ABSENT_TASK: u16 = 0x50;
const SHORT_TASK: u16 = 0x58;
const ABSENT_TABLE: u16 = 0x60;
const ABSENT_CODE: u16 = 0x68;
const BEYOND: u16 = 0x70;
/// Of the LDT.
const PRIVATE: u16 = 0x04;

/// Access bytes, flags and limits as the GDT holds them.
const DESCRIPTORS: [(u16, u64, u64, u64); 12] = [
    (RING0, 0, 0xc9a, 0xf_ffff),
    (DATA, 0, 0xc92, 0xf_ffff),
    (OLD_TASK, OLD, 0x8b, 0x67),
    (NEW_TASK, NEW, 0x89, 0x67),
    (HALF_TASK, HALF, 0x81, 0x2b),
    (TABLE, LDT, 0x82, 7),
    (RING3, 0, 0xcfa, 0xf_ffff),
    (USER, 0, 0xcf2, 0xf_ffff),
    (ABSENT, 0, 0xc12, 0xf_ffff),
    (ABSENT_TASK, NEW, 0x09, 0x67),
    (SHORT_TASK, NEW, 0x89, 0x66),
    (ABSENT_TABLE, LDT, 0x02, 7),
];

fn descriptor(base: u64, attributes: u64, limit: u64) -> [u8; 8] {
    let low = limit & 0xffff | (base & 0xff_ffff) << 16 | (attributes & 0xff) << 40;
    (low | (limit >> 16) << 48 | (attributes >> 8) << 52 | (base >> 24) << 56).to_le_bytes()
}

/// A machine in the old task whose next instruction, or whose page's event, switches.
struct Bench {
    machine: Machine<Model>,
    page: ExitPage,
}

impl Bench {
    fn new(source: u64, selector: u16) -> Self {
        let mut bench = Self { machine: machine(), page: page(Reason::TaskSwitch) };
        for (selector, base, attributes, limit) in DESCRIPTORS {
            bench.put(GDT + u64::from(selector & !7), &descriptor(base, attributes, limit));
        }
        bench.put(GDT + u64::from(ABSENT_CODE), &descriptor(0, 0xc1a, 0xf_ffff));
        bench.put(LDT, &descriptor(0x400, 0x492, 0xffff));
        let code: &[u8] = match source {
            CALL => &[0x9a, 0, 0, 0, 0, 0, 0],
            IRET => &[0xcf],
            JUMP => &[0xea, 0, 0, 0, 0, 0, 0],
            _ => &[0xcd, 0x40],
        };
        bench.put(CODE, code);
        let code = [(28, 0x7000), (32, ENTRY), (36, 0x0202), (40, 0xa0), (56, STACK), (68, 0xd1)];
        code.into_iter().for_each(|(at, value)| bench.field(at, value));
        bench.selectors([DATA, RING0, DATA, DATA, 0, PRIVATE]);
        bench.field(96, TABLE.into());
        let half = [(14, ENTRY), (16, 0x0202), (18, 0xa0), (26, STACK), (32, 0xd1)];
        let selectors = [(34, DATA), (36, RING0), (38, DATA), (40, DATA), (42, 0)];
        half.into_iter().for_each(|(at, value)| bench.put(HALF + at, &(value as u16).to_le_bytes()));
        selectors.into_iter().for_each(|(at, value)| bench.put(HALF + at, &value.to_le_bytes()));

        bench.page.qualification = [selector.into(), u64::from(selector) | source << 30, 0];
        bench.page.segments[segment::GDTR] = Segment { base: GDT, limit: 0x6f, ..Segment::default() };
        bench.page.segments[segment::LDTR] = Segment::default();
        bench.page.segments[segment::TR] = Segment { selector: OLD_TASK, attributes: 0x8b, limit: 0x67, base: OLD };
        for (index, one) in bench.page.segments.iter_mut().take(6).enumerate() {
            one.selector = 0x100 + 8 * index as u16;
        }
        bench.page.registers = core::array::from_fn(|index| 0xffff_ffff_1111_0000 | index as u64);
        bench.page.rflags = 0x47;
        bench
    }

    fn put(&mut self, address: u64, bytes: &[u8]) {
        self.machine.host.memory.put(address as usize, bytes);
    }

    /// Sets a field of the new task.
    fn field(&mut self, at: u64, value: u32) {
        self.put(NEW + at, &value.to_le_bytes());
    }

    /// Sets ES, CS, SS, DS, FS, GS of the new task.
    fn selectors(&mut self, selectors: [u16; 6]) {
        (72..).step_by(4).zip(selectors).for_each(|(at, selector)| self.field(at, selector.into()));
    }

    fn word(&self, address: u64) -> u64 {
        load::<4>(&self.machine.host.memory, address)
    }

    fn half(&self, address: u64) -> u64 {
        self.word(address & !3) >> (8 * (address & 2)) & 0xffff
    }

    /// Access byte of a descriptor of the GDT.
    fn access(&self, selector: u16) -> u64 {
        self.word(GDT + u64::from(selector & !7) + 4) >> 8 & 0xff
    }

    fn exit(&mut self) -> u64 {
        self.machine.exited(0, &mut self.page)
    }

    fn selectors_now(&self) -> [u16; 6] {
        core::array::from_fn(|index| self.page.segments[index].selector)
    }

    /// The vCPU is in the new task, with its registers and segments, and only what had to be fetched was changed.
    fn assert_entered(&self) {
        let page = &self.page;
        assert_eq!((page.rip, page.registers[gpr::RAX], page.registers[gpr::RDI]), (ENTRY.into(), 0xa0, 0xd1));
        assert_eq!(page.registers[8], 0xffff_ffff_1111_0008);
        assert_eq!(page.segments[segment::CS].attributes, 0xc9b);
        assert_eq!((page.segments[segment::SS].attributes, page.segments[segment::SS].limit), (0xc93, u32::MAX));
        assert_eq!((page.cpl, page.cr0 & 8, page.shadow & shadow::INTERRUPT), (0, 8, 0));
        let changed = group::GENERAL | group::FLOW | group::CONTROL | group::SEGMENTS | group::EVENT;
        assert_eq!(page.dirty & !group::DEBUG, changed);
        assert_eq!(page.dirty & !(page.valid | group::ALWAYS | group::EVENT), 0);
    }

    fn assert_saved(&self, next: u64, flags: u64) {
        assert_eq!((self.word(OLD + 32), self.word(OLD + 36)), (next, flags));
        for index in 0..8 {
            assert_eq!(self.word(OLD + 40 + 4 * index), 0x1111_0000 | index);
        }
        for index in 0..6 {
            assert_eq!(self.word(OLD + 72 + 4 * index), 0x100 + 8 * index);
        }
        assert_eq!((self.word(OLD + 28), self.word(OLD + 96)), (0, 0), "static fields");
    }
}
