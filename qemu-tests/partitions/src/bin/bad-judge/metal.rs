//! Capabilities: partition `bad-entry` or `bad-state` with status and restart (no supervisor has it), and any
//! others with status, which must never end; timer `tick`; the console. Configuration: `rounds` and `first-vcpu`,
//! the number of the VM's first vCPU among all, for `bad-entry`.

use portcullis_ipc::record::{Status, state};
use portcullis_runtime::handle::{Partition, Timer, missing};
use portcullis_runtime::pages::info;
use portcullis_runtime::start::Start;
use portcullis_runtime::syscall;
use portcullis_runtime::time::{ticks, tsc};
use portcullis_test_partitions::bad_rounds::{DONE, EntryRound, GivenUp, STATE, StateRound};
use portcullis_test_partitions::console::Console;
use portcullis_test_partitions::refused_state::{REFUSED, TAKEN};

portcullis_runtime::entry!(main);

/// Time between two looks, microseconds.
const LOOK_US: u64 = 200;
/// Looks until an end must have come.
const LOOKS: u32 = 10_000;
const SUBJECTS: [&str; 2] = ["bad-entry", "bad-state"];

struct Judge {
    console: Console,
    tick: Timer,
    subject: Partition,
}

fn main(_start: Start) -> ! {
    let subject = Partition::all().find(|partition| SUBJECTS.contains(&partition.name));
    let Some(subject) = subject else { missing("bad-entry or bad-state") };
    let Some(tick) = Timer::find("tick") else { missing("tick") };
    let mut judge = Judge { console: Console::find(), tick, subject };
    if subject.name == "bad-entry" { judge.entries() } else { judge.states() }
}

impl Judge {
    fn entries(&mut self) -> ! {
        let number = |key, otherwise| info().number(key).unwrap_or(otherwise) as u32;
        let (rounds, first) = (number("rounds", 200), number("first-vcpu", 0) as u8);
        for generation in 1..=rounds {
            let round = EntryRound::of(generation);
            let status = self.end(generation);
            if !round.fits(&status, first) {
                self.wrong(generation, &status, format_args!("{round:?}"));
            }
            self.others_live();
            self.restart(&status, generation);
        }
        self.console.line(format_args!("bad-entry: {rounds} refused entries, each with its fault record"));
        self.passed()
    }

    fn states(&mut self) -> ! {
        let mut generation = 1;
        while let Some(round) = StateRound::of(generation) {
            let status = self.end(generation);
            if !round.fits(&status) {
                self.wrong(generation, &status, format_args!("{} (exited: {})", name(round.case), round.exited));
            }
            self.others_live();
            self.restart(&status, generation);
            generation += 1;
        }
        let status = self.end(generation);
        let done = GivenUp::read(&status).is_some_and(|given_up| given_up.reason == DONE);
        if !done {
            let case = GivenUp::read(&status).and_then(|given_up| TAKEN.get(given_up.case as usize));
            self.wrong(generation, &status, format_args!("taken: {}", case.map_or("", |case| case.name)));
        }
        self.console.line(format_args!("bad-state: {} refused twice, {} taken", REFUSED.len(), TAKEN.len()));
        self.passed()
    }

    /// Says so. The run goes on: the guest beside this must still come to its end.
    fn passed(&mut self) -> ! {
        self.console.line(format_args!("TEST PASS {}", self.subject.name));
        loop {
            syscall::wait(0);
        }
    }

    /// The fault record of the instance of `generation`, once it has ended.
    fn end(&mut self, generation: u32) -> Status {
        for _ in 0..LOOKS {
            if let Some(status) = self.subject.status()
                && status.state == state::FROZEN
            {
                return status;
            }
            self.tick.set(tsc() + ticks(LOOK_US));
            syscall::wait(self.tick.bits);
        }
        self.console.fail(format_args!("{}: generation {generation} did not end", self.subject.name))
    }

    fn wrong(&mut self, generation: u32, status: &Status, wanted: core::fmt::Arguments<'_>) -> ! {
        let name = self.subject.name;
        if let Some(given_up) = GivenUp::read(status) {
            let what = if given_up.reason == STATE { "first word that differs" } else { "detail" };
            self.console.fail(format_args!(
                "{name}: generation {generation}, {wanted}: gave up, reason {:#x} case {} {what} {:#x}",
                given_up.reason, given_up.case, given_up.detail,
            ));
        }
        self.console.fail(format_args!(
            "{name}: generation {generation}, {wanted}: cause {} detail {} code {} phase {:#x}",
            status.cause,
            status.detail,
            u32::from_le_bytes(status.code),
            status.phase,
        ))
    }

    fn others_live(&mut self) {
        for partition in Partition::all().filter(|partition| partition.name != self.subject.name) {
            let status = partition.status().unwrap_or_default();
            let lives = status.state == state::ALIVE && status.restarts == [0; 4];
            self.console.demand(lives, format_args!("{}: ended, cause {}", partition.name, status.cause));
        }
    }

    fn restart(&mut self, status: &Status, generation: u32) {
        let next = u32::from_le_bytes(status.generation);
        let counted = next == generation + 1;
        self.console.demand(counted, format_args!("{}: {next} follows {generation}", self.subject.name));
        self.console.demand(
            self.subject.restart(next),
            format_args!("{}: no restart after generation {generation}", self.subject.name),
        );
    }
}

fn name(case: usize) -> &'static str {
    REFUSED.get(case).map_or("", |case| case.name)
}
