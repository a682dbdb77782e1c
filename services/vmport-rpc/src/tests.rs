//! The whole of the channels against models: what a guest sees, call by call, and what an end at any store
//! leaves behind.

mod calls;
mod kept;
mod random;

use crate::channels::{Channels, Outside};
use crate::store::Store;
use portcullis_runtime::journal::Journal;
use portcullis_runtime::state::Words;

/// Words of the region under test: room for messages of 512 KiB.
pub const WORDS: usize = 70_000;
/// Guestinfo entries under test.
pub const KEYS: usize = 16;

/// Memory that keeps the order of its stores.
#[derive(Clone)]
pub struct Region {
    pub words: Vec<u64>,
    pub stores: Vec<(usize, u64)>,
}

impl Region {
    pub fn new() -> Self {
        Self { words: vec![0; WORDS], stores: Vec::new() }
    }
}

impl Words for Region {
    fn words(&self) -> usize {
        self.words.len()
    }
    fn load(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }
    fn store(&mut self, index: usize, value: u64) {
        if let Some(word) = self.words.get_mut(index) {
            *word = value;
            self.stores.push((index, value));
        }
    }
}

/// The state that an instance finds in `region`.
pub fn open(region: Region) -> Store<Region> {
    let (journal, _) = Journal::open(region, "test", 1, 1).unwrap();
    Store::open(journal, KEYS).unwrap()
}

pub fn store() -> Store<Region> {
    open(Region::new())
}

pub fn channels() -> Channels<Region> {
    Channels { store: store() }
}

/// The outside: a clock that stands, and entropy that counts.
#[derive(Default)]
pub struct Model {
    pub second: u32,
    pub entropy: u64,
    pub lines: Vec<Vec<u8>>,
    pub told: Vec<(&'static str, Vec<u8>)>,
    pub refused: Vec<Vec<u8>>,
}

impl Outside for Model {
    fn second(&self) -> u32 {
        self.second
    }
    fn entropy(&mut self) -> u64 {
        self.entropy += 1;
        self.entropy
    }
    fn log(&mut self, line: &[u8]) {
        self.lines.push(line.to_vec());
    }
    fn told(&mut self, what: &'static str, value: &[u8]) {
        self.told.push((what, value.to_vec()));
    }
    fn told_structure(&mut self, what: &'static str, bytes: usize) {
        self.told.push((what, format!("({bytes} bytes)").into_bytes()));
    }
    fn refused(&mut self, name: &[u8]) {
        self.refused.push(name.to_vec());
    }
}
