//! The durable state, version 1: for each console its output, its input and its VM's events, as blocks of
//! words that are changed in place (R13), and after them the number of this boot, 0 where an earlier release left the
//! state. What one event changed of a console is one transaction.

use crate::console::Output;
use crate::events::Events;
use crate::input::Input;
use portcullis_ipc::limits::VMS;
use portcullis_runtime::journal::{Journal, Refused};
use portcullis_runtime::state::Words;
use postcard_schema::Schema;
use postcard_schema::key::Key;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of the state.
pub const VERSION: u32 = 1;
/// Schema hash of the state.
pub const SCHEMA: u64 = u64::from_le_bytes(Key::for_path::<Console>("link/state").to_bytes());
/// Words of one console.
const CONSOLE: usize = size_of::<Console>() / 8;
/// Where the number of this boot stands.
const SESSION: usize = VMS * CONSOLE;
/// Words of all.
pub const WORDS: usize = SESSION + 1;

/// One console and its VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Schema)]
#[repr(C)]
pub struct Console {
    /// What the guest wrote.
    pub output: Output,
    /// What the guest is to read.
    pub input: Input,
    /// What became of its VM.
    pub events: Events,
}

// A console changes in one transaction.
static_assertions::const_assert!(CONSOLE <= portcullis_runtime::journal::MOST);

/// Reads the consoles that an instance before left.
pub fn load<W: Words>(journal: &Journal<W>, consoles: &mut [Console]) {
    for (number, console) in consoles.iter_mut().enumerate() {
        // Every block is made of whole aligned words.
        if let Ok(words) = <[u64]>::mut_from_bytes(console.as_mut_bytes()) {
            journal.load_block(number * CONSOLE, words);
        }
        console.output.check();
        console.input.check();
    }
}

/// The number of this boot of the system, by which a host knows that what it counted before is void; `fresh` when none
/// was saved yet. Not 0.
pub fn session<W: Words>(journal: &mut Journal<W>, fresh: u64) -> u64 {
    match journal.load(SESSION) {
        0 => {
            journal.stage(SESSION, fresh | 1);
            // A region that is too small keeps nothing else either: the next instance begins anew.
            let _ = journal.commit();
            fresh | 1
        }
        session => session,
    }
}

/// Makes a console durable as it is.
///
/// # Errors
/// [`Refused`] when the state region is too small for it.
pub fn save<W: Words>(journal: &mut Journal<W>, number: usize, console: &Console) -> Result<(), Refused> {
    if let Ok(words) = <[u64]>::ref_from_bytes(console.as_bytes()) {
        journal.stage_block(number * CONSOLE, words);
    }
    journal.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_ipc::proto::link::{VmEvent, VmEventKind};
    use portcullis_runtime::journal::HEAD_WORDS;

    struct Region(Vec<u64>);

    impl Words for Region {
        fn words(&self) -> usize {
            self.0.len()
        }
        fn load(&self, index: usize) -> u64 {
            self.0.get(index).copied().unwrap_or(0)
        }
        fn store(&mut self, index: usize, value: u64) {
            if let Some(word) = self.0.get_mut(index) {
                *word = value;
            }
        }
    }

    fn open(words: usize) -> Journal<Region> {
        Journal::open(Region(vec![0; HEAD_WORDS + words]), "link", VERSION, SCHEMA).unwrap().0
    }

    fn example() -> Console {
        let mut console = Console::default();
        console.output.take(1, b"hello\n").unwrap();
        console.output.take(2, b"").unwrap();
        console.output.frame_sent();
        console.input.frame(0, b"root\r");
        console.input.read(2, &mut []);
        console.events.take(&VmEvent { sequence: 3, kind: VmEventKind::TestExit(0x10) }, 6);
        console
    }

    #[test]
    fn the_state_comes_back_and_its_bytes_are_those_of_version_1() {
        let console = example();
        let bytes = console.as_bytes();
        assert_eq!(bytes, include_bytes!("../golden/state-1.bin"));
        assert_eq!(SCHEMA, 0xad41_dcd8_5475_d04a);
        let mut journal = open(WORDS);
        save(&mut journal, VMS - 1, &console).unwrap();
        let mut consoles = [Console::default(); VMS];
        load(&journal, &mut consoles);
        assert_eq!(consoles[VMS - 1], console);
        assert_eq!(consoles[0], Console::default());
    }

    #[test]
    fn every_instance_of_a_boot_finds_the_number_of_the_first() {
        let mut journal = open(WORDS);
        save(&mut journal, VMS - 1, &example()).unwrap();
        assert_eq!(session(&mut journal, 0x1234), 0x1235);
        assert_eq!(session(&mut journal, 0x9999), 0x1235);
        assert_eq!(session(&mut open(WORDS), 0), 1);
        let mut consoles = [Console::default(); VMS];
        load(&journal, &mut consoles);
        assert_eq!(consoles[VMS - 1], example());
    }

    #[test]
    fn a_region_that_is_too_small_refuses_what_does_not_fit() {
        let mut journal = open(CONSOLE);
        assert_eq!(save(&mut journal, 0, &example()), Ok(()));
        assert_eq!(save(&mut journal, 1, &example()), Err(Refused));
    }
}
