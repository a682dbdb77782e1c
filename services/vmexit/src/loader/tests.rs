//! All entry methods, given files that nobody made by hand.

use super::elf::tests::{file, note};
use super::*;
use crate::memory::tests::Plain;
use proptest::prelude::*;

const MEMORY: usize = 8 << 20;

fn config(entry: Entry) -> Config {
    Config { entry, ..crate::tests::CONFIG }
}

fn xen() -> Vec<u8> {
    let notes = note("Xen", 18, &0x10_0000_u64.to_le_bytes());
    file(true, 0, &[(0x10_0000, 0, 0x1000, &[0x90; 64]), (0x20_0000, 0, 0x10_0000, &[0x90; 64])], &notes)
}

fn loaded(entry: Entry, kernel: &[u8], memory: usize) -> Result<Start, Error> {
    let guest = Guest { kernel, initrd: &[1; 5000], append: "a b", rsdp: 0xe_0000 };
    load(&mut Plain::new(memory), &config(entry), &guest)
}

#[test]
fn auto_takes_the_method_that_the_file_fits() {
    let multiboot = multiboot::tests::kernel();
    let linux = linux32::tests::bzimage();
    for (kernel, entry) in [(xen(), Entry::Pvh), (linux, Entry::Linux32), (multiboot, Entry::Multiboot)] {
        assert_eq!(method(&kernel), Ok(entry));
        assert_eq!(loaded(Entry::Auto, &kernel, MEMORY), loaded(entry, &kernel, MEMORY));
    }
    let plain = file(true, 0, &[(0x10_0000, 0, 16, &[])], &[]);
    for kernel in [&plain[..], &[0; 100], b"#!/bin/sh\n", &[]] {
        assert_eq!(method(kernel), Err(Error::NoMethod));
    }
}

#[test]
fn memory_above_the_limit_is_refused() {
    /// More memory than a test can have.
    struct Large(u64);
    impl GuestMemory for Large {
        fn size(&self) -> u64 {
            self.0
        }
        fn read(&self, _: u64, _: &mut [u8]) -> bool {
            false
        }
        fn write(&mut self, _: u64, _: &[u8]) -> bool {
            true
        }
        fn zero(&mut self, _: u64, _: u64) -> bool {
            true
        }
        fn exchange(&mut self, _: u64, _: usize, _: u64, _: u64) -> bool {
            false
        }
    }
    let kernel = xen();
    let guest = Guest { kernel: &kernel, ..Guest::default() };
    let config = Config { lapic: true, ..config(Entry::Pvh) };
    let have = ram::MOST + (2 << 20);
    assert_eq!(load(&mut Large(have), &config, &guest), Err(Error::TooMuchMemory { have }));
    for bytes in [(3 << 30) - (2 << 20), 3 << 30, (3 << 30) + (2 << 20), 7 << 29, 8 << 30, ram::MOST] {
        assert!(load(&mut Large(bytes), &config, &guest).is_ok(), "{bytes:#x}");
    }
}

/// Guest memory that notices a write outside itself or over the place of the tables.
struct Watched {
    memory: Plain,
    stray: bool,
}

impl GuestMemory for Watched {
    fn size(&self) -> u64 {
        self.memory.size()
    }
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        self.memory.read(address, bytes)
    }
    fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
        let end = address.saturating_add(bytes.len() as u64);
        self.stray |= address < map::HIGH && end > map::LOW_END && !bytes.is_empty();
        let done = self.memory.write(address, bytes);
        self.stray |= !done;
        done
    }
    fn zero(&mut self, address: u64, length: u64) -> bool {
        let done = self.memory.zero(address, length);
        self.stray |= !done;
        done
    }
    fn exchange(&mut self, _: u64, _: usize, _: u64, _: u64) -> bool {
        false
    }
}

fn entry() -> impl Strategy<Value = Entry> {
    prop::sample::select(vec![Entry::Auto, Entry::Pvh, Entry::Linux32, Entry::Multiboot])
}

proptest! {
    /// A file of one of the forms with bytes changed anywhere in its heads.
    #[test]
    fn a_hostile_kernel_is_loaded_into_ram_or_refused(
        form in 0..3_usize,
        entry in entry(),
        changes in prop::collection::vec((0..0x280_usize, prop::sample::select(vec![0, 1, 0x7f, 0x80, 0xff_u8])), 0..12),
        initrd in 0..0x1000_usize,
    ) {
        let mut kernel = [xen(), linux32::tests::bzimage(), multiboot::tests::kernel()][form].clone();
        for (at, value) in changes {
            if let Some(byte) = kernel.get_mut(at) {
                *byte = value;
            }
        }
        let initrd = vec![1; initrd];
        let guest = Guest { kernel: &kernel, initrd: &initrd, append: "a", rsdp: 0xe_0000 };
        let mut memory = Watched { memory: Plain::new(MEMORY), stray: false };
        let start = load(&mut memory, &config(entry), &guest);
        prop_assert!(!memory.stray);
        if let Err(error) = start {
            prop_assert!(error.to_string().len() < TEXT);
        }
    }

    #[test]
    fn any_bytes_are_loaded_into_ram_or_refused(
        kernel in prop::collection::vec(any::<u8>(), 0..0x600),
        entry in entry(),
    ) {
        let guest = Guest { kernel: &kernel, ..Guest::default() };
        let mut memory = Watched { memory: Plain::new(MEMORY), stray: false };
        let _ = load(&mut memory, &config(entry), &guest);
        prop_assert!(!memory.stray);
    }
}
