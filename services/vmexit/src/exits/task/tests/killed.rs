//! Exits that are given again, because the service was killed in the switch.

use super::super::Switch;
use super::paged::paged;
use super::*;
use crate::memory::GuestMemory;
use crate::memory::tests::Plain;
use portcullis_ipc::exit::event::exception;
use zerocopy::IntoBytes;

/// Guest memory that takes so many more bytes: the service was killed there.
struct Dying {
    memory: Plain,
    left: usize,
}

impl GuestMemory for Dying {
    fn size(&self) -> u64 {
        self.memory.size()
    }
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        self.memory.read(address, bytes)
    }
    fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
        let count = bytes.len().min(self.left);
        self.left -= count;
        self.memory.write(address, &bytes[..count])
    }
    fn zero(&mut self, _: u64, _: u64) -> bool {
        false
    }
    fn exchange(&mut self, address: u64, width: usize, old: u64, new: u64) -> bool {
        let lives = self.left >= width;
        self.left -= width.min(self.left);
        lives && self.memory.exchange(address, width, old, new)
    }
}

#[test]
fn a_kill_in_any_byte_that_is_stored_changes_nothing_of_the_switch() {
    let cases: [(u64, u16, fn(&mut Bench)); 7] = [
        (CALL, NEW_TASK, |_| {}),
        (JUMP, NEW_TASK, paged),
        (IRET, NEW_TASK, |bench| bench.put(GDT + u64::from(NEW_TASK), &descriptor(NEW, 0x8b, 0x67))),
        (GATE, NEW_TASK, |bench| bench.page.event = exception(13, Some(0x42))),
        (GATE, HALF_TASK, |bench| bench.page.event = exception(13, Some(0x42))),
        (CALL, NEW_TASK, |bench| bench.selectors([DATA, RING0, DATA, BEYOND, 0, 0])),
        (IRET, OLD_TASK, |_| {}),
    ];
    for (source, selector, change) in cases {
        let fresh = || {
            let mut bench = Bench::new(source, selector);
            change(&mut bench);
            bench
        };
        let mut whole = fresh();
        whole.exit();
        let mut bytes = 0;
        loop {
            let mut bench = fresh();
            let mut lost = bench.page;
            let switch: Switch = bench.machine.switch_of(0, &mut lost).unwrap();
            let memory = Plain(core::mem::take(&mut bench.machine.host.memory.0));
            let mut dying = Dying { memory, left: bytes };
            let _ = switch.carry_out(&mut lost, &mut dying);
            *bench.machine.host.memory = dying.memory;
            bench.exit();
            assert!(bench.page.as_bytes() == whole.page.as_bytes(), "{source} {selector:#x}: {bytes}");
            assert!(bench.machine.host.memory.0 == whole.machine.host.memory.0, "{source} {selector:#x}: {bytes}");
            if dying.left > 0 {
                break;
            }
            bytes += 1;
        }
        assert!(bytes > 60 || selector == HALF_TASK && bytes > 28, "{source} {selector:#x}: {bytes}");
    }
}
