//! Capabilities: timers `kill` and `watch`; notification `go` to the client; endpoint `ledger`; the console; the
//! victims as partitions with status and kill. A victim named `relay` or `ledger` is killed while
//! an exchange runs, every other one while a guest keeps it busy. Configuration: `rounds` for each
//! victim, `guest-step` in TSC ticks, `distinct`, how many instants must differ.

use alloc::vec::Vec;
use core::fmt::Write;
use portcullis_ipc::image::kind;
use portcullis_ipc::limits::PAYLOAD;
use portcullis_ipc::proto::Request;
use portcullis_ipc::record::{phase, state};
use portcullis_ipc::syscall::{Id, Status, control};
use portcullis_runtime::call::{Incoming, Reply};
use portcullis_runtime::endpoint::Endpoint;
use portcullis_runtime::handle::{Notifier, Partition, Timer, endpoint, missing};
use portcullis_runtime::message;
use portcullis_runtime::pages::info;
use portcullis_runtime::start::Start;
use portcullis_runtime::syscall::{self, Returned};
use portcullis_runtime::time::{ticks, tsc};
use portcullis_test_partitions::console::Console;
use portcullis_test_partitions::proto::{Done, Ledger, Noted, Totals};

extern crate alloc;

portcullis_runtime::entry!(main);

/// Longest time that an exchange may take, kill and restart included, microseconds.
const PATIENCE_US: u64 = 3_000_000;
/// Time in which a guest goes on after its service was killed, microseconds: from the first to the second, another one
/// in each round, so that kills come while the service still starts and long after.
const SETTLE_US: (u64, u64) = (100, 1_500);

/// How many times as many rounds a victim gets at most that was not hit in each phase yet.
const MOST: u64 = 8;

/// Exchanges without a kill, by which the span of the sweep is measured.
const CALIBRATIONS: u64 = 4;

/// What can be seen at an end, with the name that the histogram prints.
const PHASES: [(&str, u8); 7] = [
    ("waiting", phase::WAITING),
    ("own-work", phase::OWN_WORK),
    ("own-work-calling", phase::OWN_WORK | phase::CALLING),
    ("serving-call", phase::SERVING_CALL),
    ("serving-call-calling", phase::SERVING_CALL | phase::CALLING),
    ("serving-exit", phase::SERVING_EXIT),
    ("serving-exit-calling", phase::SERVING_EXIT | phase::CALLING),
];

struct Victim {
    partition: Partition,
    slot: u16,
    generation: u32,
    hits: [u32; PHASES.len()],
    /// Kills that found it frozen already.
    missed: u32,
}

impl Victim {
    fn exchanges(&self) -> bool {
        matches!(self.partition.name, "relay" | "ledger")
    }

    /// Kills the present instance; returns its phase, and `None` when it had ended by itself.
    fn kill(&mut self) -> Option<u8> {
        let mut returned = control_kill(self.slot, self.generation);
        if returned.status() == Some(Status::Dead) {
            self.generation = returned.value as u32;
            returned = control_kill(self.slot, self.generation);
        }
        if !returned.ok() {
            self.missed += 1;
            return None;
        }
        let status = self.partition.status()?;
        if let Some(hits) =
            PHASES.iter().position(|(_, phase)| *phase == status.phase).and_then(|index| self.hits.get_mut(index))
        {
            *hits += 1;
        }
        Some(status.phase)
    }

    /// A phase in which it must be hit and was not.
    fn lacks(&self) -> Option<&'static str> {
        let demanded: &[u8] = match self.partition.name {
            "relay" => &[phase::WAITING, phase::OWN_WORK, phase::SERVING_CALL, phase::SERVING_CALL | phase::CALLING],
            "ledger" => &[phase::WAITING, phase::SERVING_CALL],
            name if name.starts_with("vmexit") => {
                &[phase::WAITING, phase::SERVING_EXIT, phase::SERVING_EXIT | phase::CALLING]
            }
            "vmport-rpc" => &[phase::WAITING, phase::SERVING_CALL],
            "link" => &[phase::WAITING],
            _ => &[],
        };
        let missed = |((_, phase), hits): &(&(&str, u8), u32)| demanded.contains(phase) && *hits == 0;
        PHASES.iter().zip(self.hits).find(missed).map(|((label, _), _)| *label)
    }
}

fn control_kill(slot: u16, generation: u32) -> Returned {
    syscall::partition_control(Id::new(slot, generation), control::KILL)
}

/// The round that is under way.
#[derive(Default)]
struct Round {
    victim: usize,
    number: u64,
    offset: u64,
    start: u64,
    killed: bool,
    /// Phase at which the kill found the victim.
    phase: Option<u8>,
    done: Option<Done>,
}

struct Sweeper {
    console: Console,
    kill: Timer,
    watch: Timer,
    go: Option<Notifier>,
    ledger: Option<Endpoint>,
    rounds: u64,
    /// Ticks that an undisturbed exchange takes; 0 until it was measured.
    span: u64,
    calibrated: u64,
    guest_step: u64,
    victims: Vec<Victim>,
    round: Round,
    sequence: u64,
    sum: u64,
    instants: Vec<u64>,
    dead_seen: u64,
}

fn main(_start: Start) -> ! {
    let (Some(kill), Some(watch)) = (Timer::find("kill"), Timer::find("watch")) else { missing("kill, watch") };
    let number = |key, otherwise| info().number(key).unwrap_or(otherwise);
    let victim = |partition: Partition| Victim {
        partition,
        slot: info().slot(partition.name, kind::PARTITION).map_or(0, |found| found.slot),
        generation: 1,
        hits: [0; PHASES.len()],
        missed: 0,
    };
    let sweeper = Sweeper {
        console: Console::find(),
        kill,
        watch,
        go: Notifier::find("go"),
        ledger: endpoint("ledger"),
        rounds: number("rounds", 300),
        span: 0,
        calibrated: 0,
        guest_step: number("guest-step", 37),
        victims: Partition::all().map(victim).collect(),
        round: Round::default(),
        sequence: 0,
        sum: 0,
        instants: Vec::new(),
        dead_seen: 0,
    };
    sweeper.run()
}

impl Sweeper {
    fn run(mut self) -> ! {
        self.begin();
        let mut event = syscall::wait(u64::MAX);
        loop {
            let called = event.status() == Some(Status::Called);
            if called {
                self.round.done = take_done();
            } else {
                self.notified(event.value);
            }
            let exchange_over = self.exchanges() && self.round.killed && self.round.done.is_some();
            if exchange_over {
                self.judge_exchange();
                self.advance();
            }
            event = if called {
                let mut reply = Reply::default();
                reply.put(&Noted);
                message::send(&reply.header(Done::KEY, false), reply.payload());
                syscall::reply_wait(u64::MAX)
            } else {
                syscall::wait(u64::MAX)
            };
        }
    }

    fn exchanges(&self) -> bool {
        self.victims.get(self.round.victim).is_some_and(Victim::exchanges)
    }

    /// Starts the round: the exchange, and the timer that ends it with a kill.
    fn begin(&mut self) {
        let exchanges = self.exchanges();
        self.round.offset = if exchanges {
            // A tenth beyond the end: the kill must find everyone waiting, too.
            self.round.number * (self.span + self.span / 10) / self.rounds
        } else {
            self.round.number * self.guest_step
        };
        (self.round.killed, self.round.phase, self.round.done) = (false, None, None);
        self.round.start = tsc();
        self.watch.set(self.round.start + ticks(PATIENCE_US));
        if exchanges && self.calibrated < CALIBRATIONS {
            self.round.killed = true;
        } else {
            self.kill.set(self.round.start + self.round.offset);
        }
        if exchanges {
            self.sequence += 1;
            self.sum = self.sum.wrapping_add(self.sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            if let Some(go) = &mut self.go {
                go.notify();
            }
        }
    }

    fn advance(&mut self) {
        if self.exchanges() && self.calibrated < CALIBRATIONS {
            self.calibrated += 1;
            self.span = tsc() - self.round.start;
            return self.begin();
        }
        self.round.number += 1;
        // How far a guest has its service at an instant is chance: the sweep goes on until it has met all of it.
        let lacks = self.victims.get(self.round.victim).is_some_and(|victim| victim.lacks().is_some());
        let most = if lacks && !self.exchanges() { self.rounds * MOST } else { self.rounds };
        if self.round.number >= most {
            self.report();
            self.round.number = 0;
            self.round.victim += 1;
            if self.round.victim == self.victims.len() {
                self.verdict();
            }
        }
        self.begin();
    }

    fn notified(&mut self, bits: u64) {
        if bits & self.kill.bits != 0 && !self.round.killed {
            let Some(victim) = self.victims.get_mut(self.round.victim) else {
                return;
            };
            self.round.phase = victim.kill();
            self.round.killed = true;
            self.instants.push((self.round.victim as u64) << 48 | (tsc() - self.round.start));
            if !self.exchanges() {
                let (least, most) = SETTLE_US;
                let settle = least + self.round.number * 97 % (most - least);
                self.watch.set(tsc() + ticks(settle));
            }
        } else if bits & self.watch.bits != 0 {
            let (number, offset) = (self.round.number, self.round.offset);
            let name = self.name();
            if self.exchanges() || !self.round.killed {
                self.console.fail(format_args!("{name}: round {number}, kill at {offset}, did not end"));
            }
            let status = self.victims.get(self.round.victim).and_then(|victim| victim.partition.status());
            let alive = status.is_some_and(|status| status.state == state::ALIVE);
            self.console.demand(alive, format_args!("{name}: not restarted after round {number}"));
            self.advance();
        }
    }

    fn name(&self) -> &'static str {
        self.victims.get(self.round.victim).map_or("", |victim| victim.partition.name)
    }

    /// What was acknowledged must be there exactly once, and whoever waited must have heard of the end.
    fn judge_exchange(&mut self) {
        let Some(done) = self.round.done else { return };
        let (name, offset, sequence) = (self.name(), self.round.offset, self.sequence);
        self.dead_seen += u64::from(done.dead + done.relay_dead);
        self.console.demand(
            done.sequence == sequence && done.failed == 0,
            format_args!("{name} at {offset}: exchange {} of {sequence}, {} failures", done.sequence, done.failed),
        );
        let wanted = Ledger { last: sequence, effects: sequence, sum: self.sum };
        let found = self.ledger.as_mut().and_then(|ledger| ledger.call_idempotent(&Totals).ok()).unwrap_or_default();
        self.console.demand(
            found == wanted,
            format_args!("{name} at {offset}: ledger {} effects {}, wanted {sequence}", found.last, found.effects),
        );
        let serving = self.round.phase.is_some_and(|phase| phase & !phase::CALLING == phase::SERVING_CALL);
        let heard = if name == "relay" { done.dead } else { done.relay_dead };
        self.console.demand(!serving || heard > 0, format_args!("{name} at {offset}: its caller saw no dead code"));
    }

    fn report(&mut self) {
        let Some(victim) = self.victims.get(self.round.victim) else {
            return;
        };
        // A console line has no way to fail.
        let _ = write!(self.console, "sweep {}:", victim.partition.name);
        for ((name, _), hits) in PHASES.iter().zip(victim.hits) {
            if hits > 0 {
                let _ = write!(self.console, " {name} {hits}");
            }
        }
        self.console.line(format_args!(" missed {}", victim.missed));
    }

    fn verdict(&mut self) -> ! {
        let wanted = info().number("distinct").unwrap_or(500) as usize;
        self.instants.sort_unstable();
        self.instants.dedup();
        let distinct = self.instants.len();
        self.console.line(format_args!(
            "sweep: {distinct} instants, {} exchanges of {} ticks, {} dead codes",
            self.sequence, self.span, self.dead_seen
        ));
        self.console.demand(distinct >= wanted, format_args!("{distinct} distinct instants, wanted {wanted}"));
        for index in 0..self.victims.len() {
            let Some(victim) = self.victims.get(index) else {
                continue;
            };
            let (name, lacks) = (victim.partition.name, victim.lacks());
            self.console.demand(lacks.is_none(), format_args!("{name} was never hit at {}", lacks.unwrap_or_default()));
        }
        self.console.pass("sweep")
    }
}

fn take_done() -> Option<Done> {
    let mut buffer = [0; PAYLOAD];
    let header = message::received_header();
    let payload = message::received(header.length.into(), &mut buffer);
    let call = Incoming { header, payload };
    (header.key == Done::KEY).then(|| call.decode().ok()).flatten()
}
