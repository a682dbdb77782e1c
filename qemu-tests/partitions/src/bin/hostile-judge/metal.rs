//! Capabilities: partition `hostile` with status and kill; notification `go` to a client whose exchanges, one for
//! each look, show that others live on; timer `tick`; the console. Called by `hostile` (its progress) and by the client
//! (`Done`). Configuration: `operations`; `late`, TSC ticks by which the own timer may be late.

use portcullis_ipc::image::kind;
use portcullis_ipc::limits::PAYLOAD;
use portcullis_ipc::proto::Request;
use portcullis_ipc::record::{Status as Record, state};
use portcullis_ipc::syscall::{Id, Status, control};
use portcullis_runtime::call::{Incoming, Reply};
use portcullis_runtime::handle::{Notifier, Partition, Timer, missing};
use portcullis_runtime::pages::info;
use portcullis_runtime::start::Start;
use portcullis_runtime::time::{ticks, tsc};
use portcullis_runtime::{message, syscall};
use portcullis_test_partitions::console::Console;
use portcullis_test_partitions::proto::{Done, Noted, Progress};
use portcullis_test_partitions::secret::secret;

portcullis_runtime::entry!(main);

/// Time between two looks, microseconds.
const LOOK_US: u64 = 20_000;
/// Looks without any exchange of the client until the test fails.
const STALLED: u32 = 200;
/// Looks without progress until the hostile partition, which sleeps for ever by its own doing, is killed.
const ASLEEP: u32 = 5;
/// Words of the secret that lie in this partition's memory.
const SECRETS: usize = 256;

struct Judge {
    console: Console,
    tick: Timer,
    go: Notifier,
    hostile: Partition,
    slot: u16,
    due: u64,
    latest: u64,
    exchanges: u64,
    exchanges_seen: u64,
    stalled: u32,
    restarts: u32,
    asleep: u32,
    killed: u32,
    printed: u64,
}

fn main(_start: Start) -> ! {
    let Some(tick) = Timer::find("tick") else { missing("tick") };
    let Some(go) = Notifier::find("go") else { missing("go") };
    let Some(hostile) = Partition::all().find(|partition| partition.name == "hostile") else { missing("hostile") };
    let slot = info().slot("hostile", kind::PARTITION).map_or(0, |found| found.slot);
    let secrets = core::hint::black_box([secret(); SECRETS]);
    let judge = Judge {
        console: Console::find(),
        tick,
        go,
        hostile,
        slot,
        due: 0,
        latest: 0,
        exchanges: 0,
        exchanges_seen: 0,
        stalled: 0,
        restarts: 0,
        asleep: 0,
        killed: 0,
        printed: 0,
    };
    judge.run(&secrets)
}

impl Judge {
    fn run(mut self, secrets: &[u64; SECRETS]) -> ! {
        let (seed, wanted) = (info().number("seed").unwrap_or(1), info().number("operations").unwrap_or(1_000_000));
        self.console.line(format_args!("hostile: seed {seed}, {wanted} operations"));
        self.arm();
        let mut event = syscall::wait(u64::MAX);
        loop {
            event = match event.status() {
                Some(Status::Called) => {
                    self.called(wanted, secrets);
                    let mut reply = Reply::default();
                    reply.put(&Noted);
                    message::send(&reply.header(0, false), reply.payload());
                    syscall::reply_wait(u64::MAX)
                }
                Some(Status::Notified) => {
                    if event.value & self.tick.bits != 0 {
                        self.look();
                    }
                    syscall::wait(u64::MAX)
                }
                _ => self.console.fail(format_args!("hostile: the judge was told {:#x}", event.raw)),
            };
        }
    }

    fn arm(&mut self) {
        self.due = tsc() + ticks(LOOK_US);
        self.tick.set(self.due);
    }

    fn called(&mut self, wanted: u64, secrets: &[u64; SECRETS]) {
        let mut buffer = [0; PAYLOAD];
        let header = message::received_header();
        let call = Incoming { header, payload: message::received(header.length.into(), &mut buffer) };
        if header.key == Done::KEY {
            self.exchanges += 1;
        } else if header.key == Progress::KEY
            && let Ok(progress) = call.decode::<Progress>()
        {
            self.progress(&progress, wanted, secrets);
        }
    }

    fn progress(&mut self, progress: &Progress, wanted: u64, secrets: &[u64; SECRETS]) {
        self.asleep = 0;
        let (operations, leaks) = (progress.operations, progress.leaks);
        let intact = core::hint::black_box(secrets).iter().all(|word| *word == secret());
        self.console.demand(intact, format_args!("hostile: the judge's memory changed after {operations}"));
        self.console.demand(leaks == 0, format_args!("hostile: saw a secret, {leaks} times, after {operations}"));
        if operations >= self.printed + wanted / 10 || operations >= wanted {
            self.printed = operations;
            let record = self.record();
            self.console.line(format_args!(
                "hostile: {operations} operations, generator {:#x}, {} restarts, {} killed asleep, {} exchanges beside it, tick late by {} at most",
                progress.state,
                u32::from_le_bytes(record.restarts),
                self.killed,
                self.exchanges,
                self.latest,
            ));
        }
        if operations >= wanted {
            let late = info().number("late").unwrap_or(u64::MAX);
            self.console
                .demand(self.latest <= late, format_args!("hostile: tick late by {}, allowed {late}", self.latest));
            self.console.demand(self.exchanges > 0, format_args!("hostile: nobody else lived"));
            self.console.pass("hostile");
        }
    }

    fn record(&self) -> Record {
        self.hostile.status().unwrap_or_default()
    }

    fn look(&mut self) {
        self.latest = self.latest.max(tsc().saturating_sub(self.due));
        self.stalled = if self.exchanges > self.exchanges_seen { 0 } else { self.stalled + 1 };
        self.exchanges_seen = self.exchanges;
        self.console.demand(
            self.stalled < STALLED,
            format_args!("hostile: exchanges beside it stand still at {}", self.exchanges),
        );
        let record = self.record();
        let restarts = u32::from_le_bytes(record.restarts);
        self.asleep = if restarts == self.restarts { self.asleep + 1 } else { 0 };
        self.restarts = restarts;
        if self.asleep > ASLEEP && record.state == state::ALIVE {
            let generation = u32::from_le_bytes(record.generation);
            if syscall::partition_control(Id::new(self.slot, generation), control::KILL).ok() {
                self.killed += 1;
            }
            self.asleep = 0;
        }
        self.go.notify();
        self.arm();
    }
}
