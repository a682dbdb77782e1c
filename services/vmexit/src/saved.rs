//! The durable state, version 1: blocks of words that lie one after the other in the state region and are
//! changed in place (R13). What an exit changed is one transaction, committed before the exit is answered;
//! an exit that is given again is answered from the record in its vCPU's block and not done twice.

use crate::apic::ioapic::{self, Ioapic};
use crate::apic::lapic::{self, Lapic};
use crate::uart::Uart;
use portcullis_ipc::limits::VCPUS_PER_VM;
use portcullis_runtime::journal::{Journal, Refused};
use portcullis_runtime::state::Words;
use postcard_schema::Schema;
use postcard_schema::key::Key;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of the state.
pub const VERSION: u32 = 1;
/// Schema hash of the state.
pub const SCHEMA: u64 = u64::from_le_bytes(Key::for_path::<Shape>("vmexit/state").to_bytes());

/// Values of [`Board::power`].
pub mod power {
    /// The machine is to start as soon as all its vCPUs are stopped: at first, and after a reset.
    pub const STARTING: u64 = 0;
    /// It runs.
    pub const RUNNING: u64 = 1;
    /// It is off for good.
    pub const OFF: u64 = 2;
    /// It is off because the processor refused a vCPU's state, and `link` is to be told.
    pub const REFUSED: u64 = 3;
    /// Its devices are reset, its guest is being loaded.
    pub const LOADING: u64 = 4;
}

/// Values of [`Board::untold`]: 0 for none; else the kind in bits 0-31, its value above.
pub mod untold {
    use portcullis_ipc::proto::link::VmEventKind;

    /// The word of an event.
    pub fn word(kind: VmEventKind) -> u64 {
        match kind {
            VmEventKind::PowerOff => 1,
            VmEventKind::Reset => 2,
            VmEventKind::Stopped => 3,
            VmEventKind::TestExit(value) => 4 | u64::from(value) << 32,
        }
    }

    /// The event of a word.
    pub fn event(word: u64) -> Option<VmEventKind> {
        match word as u32 {
            0 => None,
            1 => Some(VmEventKind::PowerOff),
            2 => Some(VmEventKind::Reset),
            4 => Some(VmEventKind::TestExit((word >> 32) as u32)),
            _ => Some(VmEventKind::Stopped),
        }
    }
}

/// Values of [`Vcpu::life`].
pub mod life {
    /// Waits for a start-up.
    pub const WAITING: u64 = 0;
    /// Runs.
    pub const RUNNING: u64 = 1;
    /// Waits for an interrupt.
    pub const HALTED: u64 = 2;
    /// Stopped for good.
    pub const STOPPED: u64 = 3;
}

/// Bits of [`Vcpu::pending`].
pub mod pending {
    /// NMI.
    pub const NMI: u64 = 1;
    /// INIT.
    pub const INIT: u64 = 2;
    /// Start-up after the INIT.
    pub const STARTUP: u64 = 4;
    /// Page at which the start-up enters.
    pub const PAGE: u64 = 0xff << PAGE_SHIFT;
    /// Shift of the page.
    pub const PAGE_SHIFT: u32 = 8;
}

/// Values of [`Vcpu::start`]: the kind in bits 0-7, the address above.
pub mod start {
    /// Where the loader says.
    pub const BOOT: u64 = 0;
    const REAL_MODE: u64 = 1;
    const MAILBOX: u64 = 2;
    const KIND: u64 = 0xff;
    const SHIFT: u32 = 8;

    /// Real mode at `address`.
    pub const fn real_mode(address: u64) -> u64 {
        address << SHIFT | REAL_MODE
    }

    /// 64-bit mode at `address`, below 2^56.
    pub const fn mailbox(address: u64) -> u64 {
        address << SHIFT | MAILBOX
    }

    /// Whether it is one of the mailbox.
    pub const fn is_mailbox(start: u64) -> bool {
        start & KIND == MAILBOX
    }

    /// The address.
    pub const fn address(start: u64) -> u64 {
        start >> SHIFT
    }
}

/// What is remembered of the VM as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Schema)]
#[repr(C)]
pub struct Board {
    /// Events that `link` was told.
    pub events: u64,
    /// [`power`].
    pub power: u64,
    /// Cell of the CMOS clock that its data port shows.
    pub clock_index: u64,
    /// Number of the event that told the last reset, 0 for none.
    pub reset: u64,
    /// An event that `link` is told after what the guest wrote before it: [`untold`].
    pub untold: u64,
}

/// What is remembered of one vCPU besides what the core keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Schema)]
#[repr(C)]
pub struct Vcpu {
    /// Sequence of the last exit with an effect.
    pub sequence: u64,
    /// Value that it read.
    pub value: u64,
    /// Sequence of the last exit at whose end an event was injected.
    pub injected: u64,
    /// That event.
    pub event: u64,
    /// [`life`].
    pub life: u64,
    /// [`pending`].
    pub pending: u64,
    /// Where it entered last, or is to enter: [`start`].
    pub start: u64,
    /// Sequence of the exit that ended in that entry, or in the wait for it.
    pub restarted: u64,
    /// What the guest's TSC is ahead of the host's.
    pub tsc_offset: u64,
}

/// How far a load has come: `progress`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Schema)]
#[repr(C)]
pub struct Load {
    /// Bytes of the image's files that are checked, counted through all files in turn.
    pub checked: u64,
    /// CRC-32 of those of the file under way.
    pub crc: u64,
    /// Bytes of this load that are in guest memory, in the order in which it writes them.
    pub written: u64,
}

/// How often one exit was given to an instance after it had ended the instance before: `watch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Schema)]
#[repr(C)]
pub struct Given {
    /// Sequence of the exit.
    pub sequence: u64,
    /// How far the load had come then: an exit that gets on with it ends somewhere.
    pub load: u64,
    /// Instances.
    pub times: u64,
}

/// Triple faults without a pause: `watch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Schema)]
#[repr(C)]
pub struct Falls {
    /// TSC of the host when the machine started last.
    pub began: u64,
    /// Triple faults in a row, each soon after a start.
    pub times: u64,
}

impl Load {
    /// Makes it durable, and nothing else.
    pub fn commit<W: Words>(&self, journal: &mut Journal<W>) -> Result<(), Refused> {
        journal.stage_block(LOAD, words(self));
        journal.commit()
    }
}

/// Everything that outlives an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// The VM as a whole.
    pub board: Board,
    /// The serial port.
    pub uart: Uart,
    /// The IOAPIC.
    pub ioapic: Ioapic,
    /// By vCPU.
    pub vcpus: [Vcpu; VCPUS_PER_VM],
    /// By vCPU.
    pub lapics: [Lapic; VCPUS_PER_VM],
    /// The load of the guest.
    pub load: Load,
    /// By vCPU.
    pub given: [Given; VCPUS_PER_VM],
    /// Triple faults.
    pub falls: Falls,
}

/// The shape of [`Durable`], by which its schema is known.
#[derive(Schema)]
#[expect(dead_code, reason = "a shape has no values")]
struct Shape {
    board: Board,
    uart: Uart,
    ioapic: [u64; ioapic::WORDS],
    vcpus: [Vcpu; VCPUS_PER_VM],
    lapics: [[u64; lapic::WORDS]; VCPUS_PER_VM],
    load: Load,
    given: [Given; VCPUS_PER_VM],
    falls: Falls,
}

/// A block of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// The VM as a whole.
    Board,
    /// The serial port.
    Uart,
    /// The IOAPIC.
    Ioapic,
    /// The load of the guest.
    Load,
    /// Triple faults.
    Falls,
    /// What this vCPU was given again.
    Given(usize),
    /// The vCPU of this number.
    Vcpu(usize),
    /// The local APIC of this number.
    Lapic(usize),
}

/// Blocks that were changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched(u32);

impl Touched {
    const fn bit(block: Block) -> u32 {
        match block {
            Block::Board => 1,
            Block::Uart => 2,
            Block::Ioapic => 4,
            Block::Load => 8,
            Block::Falls => 16,
            Block::Given(number) => 1 << 24 << (number % VCPUS_PER_VM),
            Block::Vcpu(number) => 1 << 8 << (number % VCPUS_PER_VM),
            Block::Lapic(number) => 1 << 16 << (number % VCPUS_PER_VM),
        }
    }

    /// Adds a block.
    pub fn add(&mut self, block: Block) {
        self.0 |= Self::bit(block);
    }

    /// Whether a block was changed.
    pub fn has(self, block: Block) -> bool {
        self.0 & Self::bit(block) != 0
    }

    /// No block was changed.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

const BOARD: usize = 0;
const UART: usize = BOARD + size_of::<Board>() / 8;
const IOAPIC: usize = UART + size_of::<Uart>() / 8;
const VCPUS: usize = IOAPIC + ioapic::WORDS;
const VCPU_WORDS: usize = size_of::<Vcpu>() / 8;
const LAPICS: usize = VCPUS + VCPUS_PER_VM * VCPU_WORDS;
const LOAD: usize = LAPICS + VCPUS_PER_VM * lapic::WORDS;
const GIVEN: usize = LOAD + size_of::<Load>() / 8;
const GIVEN_WORDS: usize = size_of::<Given>() / 8;
const FALLS: usize = GIVEN + VCPUS_PER_VM * GIVEN_WORDS;
/// Words that the state takes.
pub const WORDS: usize = FALLS + size_of::<Falls>() / 8;

fn words<T: IntoBytes + Immutable>(block: &T) -> &[u64] {
    // Every block is made of whole aligned words.
    <[u64]>::ref_from_bytes(block.as_bytes()).unwrap_or(&[])
}

fn words_mut<T: IntoBytes + FromBytes>(block: &mut T) -> &mut [u64] {
    <[u64]>::mut_from_bytes(block.as_mut_bytes()).unwrap_or(&mut [])
}

impl Durable {
    /// The state that the journal holds.
    pub fn load<W: Words>(journal: &Journal<W>) -> Self {
        let mut state = Self::default();
        journal.load_block(BOARD, words_mut(&mut state.board));
        journal.load_block(UART, words_mut(&mut state.uart));
        journal.load_block(IOAPIC, words_mut(&mut state.ioapic));
        for (number, vcpu) in state.vcpus.iter_mut().enumerate() {
            journal.load_block(VCPUS + number * VCPU_WORDS, words_mut(vcpu));
        }
        for (number, one) in state.lapics.iter_mut().enumerate() {
            journal.load_block(LAPICS + number * lapic::WORDS, words_mut(one));
        }
        journal.load_block(LOAD, words_mut(&mut state.load));
        for (number, given) in state.given.iter_mut().enumerate() {
            journal.load_block(GIVEN + number * GIVEN_WORDS, words_mut(given));
        }
        journal.load_block(FALLS, words_mut(&mut state.falls));
        state
    }

    /// Makes the blocks that were `touched` durable, all of them or none.
    pub fn commit<W: Words>(&self, journal: &mut Journal<W>, touched: Touched) -> Result<(), Refused> {
        if touched.has(Block::Board) {
            journal.stage_block(BOARD, words(&self.board));
        }
        if touched.has(Block::Uart) {
            journal.stage_block(UART, words(&self.uart));
        }
        if touched.has(Block::Ioapic) {
            journal.stage_block(IOAPIC, words(&self.ioapic));
        }
        for (number, (vcpu, one)) in self.vcpus.iter().zip(&self.lapics).enumerate() {
            if touched.has(Block::Vcpu(number)) {
                journal.stage_block(VCPUS + number * VCPU_WORDS, words(vcpu));
            }
            if touched.has(Block::Lapic(number)) {
                journal.stage_block(LAPICS + number * lapic::WORDS, words(one));
            }
        }
        if touched.has(Block::Load) {
            journal.stage_block(LOAD, words(&self.load));
        }
        for (number, given) in self.given.iter().enumerate().filter(|(number, _)| touched.has(Block::Given(*number))) {
            journal.stage_block(GIVEN + number * GIVEN_WORDS, words(given));
        }
        if touched.has(Block::Falls) {
            journal.stage_block(FALLS, words(&self.falls));
        }
        journal.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Region;
    use portcullis_ipc::proto::link::VmEventKind;
    use proptest::prelude::*;

    const ALL: Touched = Touched(u32::MAX);

    fn example() -> Durable {
        let mut state = Durable::default();
        state.uart.write(7, 0x55);
        state.uart.write(3, 3);
        b"login: ".iter().for_each(|&byte| state.uart.write(0, byte));
        state.uart.sequence = 300;
        state.uart.fix_message();
        state.uart.give(b"ro");
        state.uart.received = 2;
        state.board.events = 1;
        state.board.power = power::RUNNING;
        state.board.clock_index = 0x32;
        state.board.reset = 1;
        state.board.untold = untold::word(VmEventKind::TestExit(7));
        state.vcpus[1] = Vcpu {
            sequence: 70_000,
            value: 0xff,
            injected: 69_999,
            event: 0x8000_0031,
            life: life::HALTED,
            pending: pending::NMI,
            start: start::real_mode(0x9_9000),
            restarted: 3,
            tsc_offset: 5,
        };
        state.lapics[1] = Lapic::reset(1, false);
        state.load = Load { checked: 0x2_0000_0000, crc: 0x1234_5678, written: 77 };
        state.given[1] = Given { sequence: 70_000, load: 78, times: 2 };
        state.falls = Falls { began: 0x1111, times: 3 };
        state
    }

    #[test]
    fn the_state_comes_back_and_its_bytes_are_those_of_version_1() {
        let state = example();
        let mut journal = Region::new().open();
        state.commit(&mut journal, ALL).unwrap();
        assert_eq!(Durable::load(&journal), state);
        let content: Vec<u8> = (0..WORDS).flat_map(|index| journal.load(index).to_le_bytes()).collect();
        assert_eq!(content, include_bytes!("../golden/state-1.bin"));
        assert_eq!(SCHEMA, 0xdd4c1e4cb14a1100);
    }

    #[test]
    fn every_event_comes_back_from_its_word() {
        for kind in [VmEventKind::PowerOff, VmEventKind::Reset, VmEventKind::Stopped, VmEventKind::TestExit(0x1_0001)] {
            assert_eq!(untold::event(untold::word(kind)), Some(kind));
        }
        assert_eq!(untold::event(0), None);
    }

    #[test]
    fn only_what_was_touched_is_written() {
        let mut journal = Region::new().open();
        let mut touched = Touched::default();
        touched.add(Block::Vcpu(1));
        example().commit(&mut journal, touched).unwrap();
        let loaded = Durable::load(&journal);
        assert_eq!(loaded.uart, Uart::default());
        assert_eq!(loaded.vcpus, example().vcpus);
    }

    proptest! {
        #[test]
        fn any_words_are_a_usable_state(words in prop::collection::vec(any::<u64>(), WORDS)) {
            let mut journal = Region::new().open();
            words.iter().enumerate().for_each(|(index, word)| journal.store(index, *word));
            let mut state = Durable::load(&journal);
            for offset in 0..8 {
                state.uart.read(offset);
                state.uart.write(offset, 0x55);
            }
            state.uart.fix_message();
            let _ = state.uart.message();
            state.uart.message_taken();
        }
    }
}
