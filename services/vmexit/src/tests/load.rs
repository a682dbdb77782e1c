//! Loads that are cut off: the next instance goes on where the one before ended (R13).

use super::{CONFIG, IDENTITY, Model, RATES, page, port_page};
use crate::config::{Config, Entry};
use crate::host::Note;
use crate::loader::Error;
use crate::machine::Machine;
use crate::memory::tests::Plain;
use crate::progress::ZEROS;
use crate::saved::power;
use portcullis_ipc::exit::{ExitPage, Reason, gpr};
use portcullis_ipc::proto::link::VmEventKind;
use portcullis_ipc::syscall::Resume;
use proptest::prelude::*;
use std::iter::{once, repeat_n};

/// RAM up to a little above 1 MiB.
const MEMORY: usize = 0x10_2000;
const INITRD: &[u8] = &[7; 333];
/// Effects of a load that is not cut off: more than there are.
const ALL: u32 = 2_000;

/// A flat multiboot kernel of 1003 bytes and as many zeros.
fn kernel() -> &'static [u8] {
    let (magic, flags, address) = (0x1bad_b002_u32, 1_u32 << 16, 0x10_0000_u32);
    let checksum = 0_u32.wrapping_sub(magic).wrapping_sub(flags);
    let header = [magic, flags, checksum, address, address, 0, address + 2006, address + 32];
    let mut file: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    file.extend((0..1003 - file.len()).map(|index| index as u8 | 1));
    file.leak()
}

fn over(model: Model) -> Machine<Model> {
    let config = Config { entry: Entry::Multiboot, append: "root=none", ..CONFIG };
    Machine::new(model, config, IDENTITY)
}

/// A machine that never ran, with `filling` in its memory.
fn cold(filling: u8) -> Model {
    let mut model = Model::cold();
    model.memory.plain = Plain(vec![filling; MEMORY]);
    model.files = vec![("kernel", kernel()), ("initrd", INITRD)];
    model.stopped = vec![0, 1];
    model
}

/// What a start came to: the machine, how vCPU 0 goes on and with what, and the lives that it took.
struct Started {
    machine: Machine<Model>,
    word: u64,
    page: ExitPage,
    lives: usize,
    /// Exits of vCPU 0 that were answered.
    exits: u64,
}

/// Starts the machine, by instances of so many effects.
fn start(mut model: Model, fuses: impl Iterator<Item = u32>) -> Started {
    let mut exits = 1;
    for (index, fuse) in fuses.enumerate() {
        model.live(fuse);
        let mut machine = over(model);
        machine.start(false);
        // Brought to an exit by this instance or one before, and given again until it is answered.
        while !machine.host.stopped.contains(&0) && !machine.host.killed() {
            let mut page = page(Reason::Recall);
            page.sequence = exits;
            machine.host.recalled.clear();
            let word = machine.exited(0, &mut page);
            let again = word == Resume::ENTER && machine.host.recalled.contains(&0);
            if !machine.host.killed() && !again {
                return Started { machine, word, page, lives: index + 1, exits };
            }
            exits += u64::from(!machine.host.killed());
        }
        model = machine.host;
    }
    panic!("no instance brought the start to its end");
}

fn assert_same(one: &Started, other: &Started, what: &str) {
    assert_eq!(one.word, Resume::ENTER, "{what}");
    let entry = |page: &ExitPage| (page.rip, page.registers, page.segments, page.cr0, page.dirty);
    assert_eq!(entry(&one.page), entry(&other.page), "{what}");
    // Not with `assert_eq`, which would print a megabyte.
    assert!(one.machine.host.memory.0 == other.machine.host.memory.0, "{what}: other bytes in memory");
    assert_eq!(one.machine.durable.board, other.machine.durable.board, "{what}");
}

#[test]
fn a_load_cut_at_any_store_ends_as_if_it_had_not_been_cut() {
    let whole = start(cold(0xa5), once(ALL));
    assert_eq!(whole.machine.host.memory.0[0x10_0000..][..1003], *kernel());
    assert_eq!(whole.machine.host.memory.0[0x10_1000..][..333], *INITRD);
    let zeros = start(cold(0), once(ALL));
    assert!(zeros.machine.host.memory.0 == whole.machine.host.memory.0, "nothing is left of what was there before");
    let cut = (1..ALL).take_while(|fuse| {
        let started = start(cold(0xa5), [*fuse, ALL].into_iter());
        assert_same(&started, &whole, &format!("cut at {fuse}"));
        started.lives == 2
    });
    assert!(cut.count() > 500, "it is cut at every store");
}

#[test]
fn instances_too_short_for_a_load_end_in_a_loaded_guest_and_repeat_little() {
    let whole = start(cold(0), once(ALL));
    let words = whole.machine.host.memory.written;
    let started = start(cold(0), repeat_n(70, 1_000));
    assert_same(&started, &whole, "in short lives");
    assert!(started.lives > 10);
    let again = started.machine.host.memory.written - words;
    assert!(
        again <= started.lives * (ZEROS as usize / 8 + 1),
        "{again} of {words} words again in {} lives",
        started.lives
    );
}

#[test]
fn a_load_that_takes_long_is_done_by_many_exits_and_none_of_them_takes_long() {
    let whole = start(cold(0xa5), once(ALL));
    assert_eq!(whole.exits, 1);
    let mut slow = cold(0xa5);
    // A turn is a two-hundredth of a second: a hundred words.
    slow.ticks_per_word = RATES.0 / 200 / 100;
    let slow = start(slow, once(ALL));
    assert_same(&slow, &whole, "slow");
    let words = slow.machine.host.memory.written as u64;
    assert!(slow.exits > words / (100 + ZEROS / 8), "{words} words in {} exits", slow.exits);
    let twice = words - whole.machine.host.memory.written as u64;
    assert!(twice <= slow.exits, "a turn begins with the word in which the one before ended, and no earlier");
}

#[test]
fn a_slow_load_cut_at_any_store_ends_as_if_it_had_not_been_cut() {
    let whole = start(cold(0xa5), once(ALL));
    for fuse in (1..ALL).step_by(3) {
        let mut slow = cold(0xa5);
        slow.ticks_per_word = RATES.0 / 200 / 100;
        let started = start(slow, [fuse, ALL].into_iter());
        assert_same(&started, &whole, &format!("cut at {fuse}"));
        if started.lives == 1 {
            break;
        }
    }
}

#[test]
fn a_file_is_checked_once_however_often_it_is_loaded() {
    let mut machine = start(cold(0), once(ALL)).machine;
    let checked = machine.durable.load.checked;
    assert_eq!(checked, 1003 + 333);
    // A check from here on would find it.
    machine.host.damaged = Some("kernel");
    let again = reset(machine);
    assert_eq!(start(again, once(ALL)).machine.durable.load.checked, checked);
}

/// The guest wrote `0x5a` everywhere and resets its machine; all vCPUs stop.
fn reset(mut machine: Machine<Model>) -> Model {
    machine.host.memory.plain = Plain(vec![0x5a; MEMORY]);
    machine.host.stopped = Vec::new();
    let mut page = port_page(0x64, 1, false);
    (page.sequence, page.registers[gpr::RAX]) = (9, 0xfe);
    assert_eq!(machine.exited(0, &mut page), Resume::STOP);
    machine.host.stopped = vec![0, 1];
    machine.host
}

#[test]
fn a_reset_loads_everything_anew_wherever_it_is_cut() {
    let again = |fuses: &[u32]| {
        let first = start(cold(0xa5), [300, ALL].into_iter()).machine;
        start(reset(first), fuses.iter().copied())
    };
    let whole = again(&[ALL]);
    let fresh = start(cold(0x5a), once(ALL));
    assert!(whole.machine.host.memory.0 == fresh.machine.host.memory.0, "it is a load like the first");
    for fuse in (1..ALL).step_by(7) {
        let started = again(&[fuse, ALL]);
        assert_same(&started, &whole, &format!("cut at {fuse}"));
        if started.lives == 1 {
            break;
        }
    }
}

#[test]
fn a_damaged_file_is_found_wherever_its_check_is_cut_and_the_guest_does_not_start() {
    for damaged in ["kernel", "initrd"] {
        for fuse in 1..ALL {
            let mut model = cold(0xa5);
            model.damaged = Some(damaged);
            let Started { machine, word, lives, .. } = start(model, [fuse, ALL].into_iter());
            assert_eq!((word, machine.durable.board.power), (Resume::STOP, power::OFF));
            assert_eq!(machine.host.events, [(1, VmEventKind::Stopped)], "{damaged} cut at {fuse}");
            let told = machine.host.notes.iter().all(|note| *note == Note::NotLoaded(Error::Checksum(damaged)));
            assert!(told && !machine.host.notes.is_empty());
            assert_eq!(machine.host.memory.written, 0, "nothing of it is in memory");
            if lives == 1 {
                break;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn whatever_cuts_a_load_off_it_ends_the_same(fuses in prop::collection::vec(1..400_u32, 0..30)) {
        let whole = start(cold(0xa5), once(ALL));
        let started = start(cold(0xa5), fuses.into_iter().chain(once(ALL)));
        assert_same(&started, &whole, "cut");
    }
}
