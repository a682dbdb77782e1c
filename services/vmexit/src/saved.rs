//! The durable state, version 1: blocks of words that lie one after the other in the state region and are
//! changed in place (R13). What an exit changed is one transaction, committed before the exit is answered;
//! an exit that is given again is answered from the record in its vCPU's block and not done twice.

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
pub const SCHEMA: u64 = u64::from_le_bytes(Key::for_path::<Durable>("vmexit/state").to_bytes());

/// What is remembered of the VM as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Schema)]
#[repr(C)]
pub struct Board {
    /// Events that `link` was told.
    pub events: u64,
}

/// What is remembered of one vCPU besides what the core keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Schema)]
#[repr(C)]
pub struct Vcpu {
    /// Sequence of the last exit with an effect.
    pub sequence: u64,
    /// Value that it read.
    pub value: u64,
    /// CR8.
    pub cr8: u64,
}

/// Everything that outlives an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Schema)]
pub struct Durable {
    /// The VM as a whole.
    pub board: Board,
    /// The serial port.
    pub uart: Uart,
    /// By vCPU.
    pub vcpus: [Vcpu; VCPUS_PER_VM],
}

/// A block of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// The VM as a whole.
    Board,
    /// The serial port.
    Uart,
    /// The vCPU of this number.
    Vcpu(usize),
}

/// Blocks that were changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched(u32);

impl Touched {
    /// Adds a block.
    pub fn add(&mut self, block: Block) {
        self.0 |= match block {
            Block::Board => 1,
            Block::Uart => 2,
            Block::Vcpu(number) => 1 << 8 << (number % VCPUS_PER_VM),
        };
    }

    /// No block was changed.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Numbers of the vCPUs whose blocks were changed.
    fn vcpus(self) -> impl Iterator<Item = usize> {
        (0..VCPUS_PER_VM).filter(move |number| self.0 >> 8 >> number & 1 != 0)
    }
}

const BOARD_WORDS: usize = size_of::<Board>() / 8;
const UART_WORDS: usize = size_of::<Uart>() / 8;
const VCPU_WORDS: usize = size_of::<Vcpu>() / 8;
const BOARD: usize = 0;
const UART: usize = BOARD + BOARD_WORDS;
const VCPUS: usize = UART + UART_WORDS;
/// Words that the state takes.
pub const WORDS: usize = VCPUS + VCPUS_PER_VM * VCPU_WORDS;

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
        for (number, vcpu) in state.vcpus.iter_mut().enumerate() {
            journal.load_block(VCPUS + number * VCPU_WORDS, words_mut(vcpu));
        }
        state
    }

    /// Makes the blocks that were `touched` durable, all of them or none.
    pub fn commit<W: Words>(&self, journal: &mut Journal<W>, touched: Touched) -> Result<(), Refused> {
        if touched.0 & 1 != 0 {
            journal.stage_block(BOARD, words(&self.board));
        }
        if touched.0 & 2 != 0 {
            journal.stage_block(UART, words(&self.uart));
        }
        for number in touched.vcpus() {
            if let Some(vcpu) = self.vcpus.get(number) {
                journal.stage_block(VCPUS + number * VCPU_WORDS, words(vcpu));
            }
        }
        journal.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Region;
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
        state.vcpus[1] = Vcpu { sequence: 70_000, value: 0xff, cr8: 2 };
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
        assert_eq!(SCHEMA, 0xc233_665c_495c_06f3);
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
