//! The supervisor at work: status in, policy asked, restart out.

use crate::policy::{ALIKE, Action, Child, Limits, Seen};
use arrayvec::ArrayVec;
use portcullis_ipc::limits::PARTITIONS;
use portcullis_ipc::record::{Status, cause, state};
use portcullis_runtime::handle::{Partition, Timer, missing};
use portcullis_runtime::pages::info;
use portcullis_runtime::serve::{Service, serve};
use portcullis_runtime::start::Start;
use portcullis_runtime::time::{ticks, tsc};

portcullis_runtime::entry!(main);

fn main(start: Start) -> ! {
    let Some(timer) = Timer::find("backoff") else { missing("backoff") };
    let limits = limits();
    let mut supervisor = Supervisor { timer, limits, children: ArrayVec::new() };
    for partition in Partition::all() {
        let restarts = partition.status().map_or(0, |status| u32::from_le_bytes(status.restarts));
        let _ = supervisor.children.try_push((partition, Child::found(restarts, tsc(), &limits)));
    }
    let watched = supervisor.children.len();
    defmt::info!("supervisor ready, generation {=u32}, {=usize} partitions", start.generation, watched);
    supervisor.look_at_all();
    serve(start, &mut supervisor)
}

fn limits() -> Limits {
    let info = info();
    let time = |key, otherwise| ticks(info.number(key).unwrap_or(otherwise));
    Limits {
        base: time("restart.base", 10_000),
        cap: time("restart.cap", 5_000_000),
        stable: time("restart.stable", 10_000_000),
        give_up: info.number("restart.give-up").unwrap_or(0) as u32,
    }
}

struct Supervisor {
    timer: Timer,
    limits: Limits,
    children: ArrayVec<(Partition, Child), PARTITIONS>,
}

impl Service for Supervisor {
    fn notified(&mut self, _bits: u64) {
        self.look_at_all();
    }
}

impl Supervisor {
    /// Looks at every child once and arms the timer for the earliest restart that must wait.
    fn look_at_all(&mut self) {
        let mut next = 0;
        for (partition, child) in &mut self.children {
            let Some(status) = partition.status() else {
                continue;
            };
            if let Some(due) = look_at(partition, child, &status, &self.limits)
                && (next == 0 || due < next)
            {
                next = due;
            }
        }
        self.timer.set(next);
    }
}

/// Serves one child; returns when to look again.
fn look_at(partition: &Partition, child: &mut Child, status: &Status, limits: &Limits) -> Option<u64> {
    let seen = match status.state {
        state::FROZEN => Seen::Ended,
        state::GONE => Seen::Gone,
        _ => Seen::Alive,
    };
    let fresh = !child.pending();
    let now = tsc();
    let action = child.look(seen, now, limits);
    if seen == Seen::Ended && fresh {
        log_end(partition.name, status);
        let alike = child.alike((status.cause, status.phase));
        if alike >= ALIKE {
            defmt::error!(
                "{=str} ended so {=u32} times in a row: the same work is given to each instance, and none ends it",
                partition.name,
                alike
            );
        }
    }
    let generation = u32::from_le_bytes(status.generation);
    match action {
        Action::Nothing => None,
        Action::Wait(due) => Some(due),
        Action::Restart if partition.restart(generation) => {
            child.restarted(now);
            defmt::info!(
                "restarted {=str} as generation {=u32}, {=u32} in a row",
                partition.name,
                generation,
                child.row()
            );
            None
        }
        Action::Restart => Some(now.saturating_add(limits.base)),
        Action::Abandon => {
            defmt::error!("gave up {=str} after {=u32} restarts in a row", partition.name, child.row());
            partition.abandon(generation);
            None
        }
    }
}

fn log_end(name: &str, status: &Status) {
    let why = match status.cause {
        cause::EXCEPTION => "exception",
        cause::MISUSE => "misuse of a system call",
        cause::KILLED => "killed",
        cause::HUNG => "hung",
        cause::ABORTED => "gave up",
        cause::BAD_GUEST_STATE => "refused guest state",
        cause::ABANDONED => "abandoned",
        _ => "unknown cause",
    };
    defmt::warn!(
        "{=str} ended: {=str}, detail {=u8}, code {=u32:#x}, phase {=u8:#x}, rip {=u64:#x}, address {=u64:#x}",
        name,
        why,
        status.detail,
        u32::from_le_bytes(status.code),
        status.phase,
        u64::from_le_bytes(status.rip),
        u64::from_le_bytes(status.address)
    );
}
