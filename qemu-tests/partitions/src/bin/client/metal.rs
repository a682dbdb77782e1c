//! Capabilities: endpoint `relay`; notification `nudge` to the relay; with a sweeper the endpoint `sweeper`,
//! without one the console. Configuration without a sweeper: `rounds`, exchanges to make.

use portcullis_runtime::call::CallError;
use portcullis_runtime::endpoint::Endpoint;
use portcullis_runtime::handle::{Notifier, endpoint, missing};
use portcullis_runtime::start::Start;
use portcullis_runtime::{pages, syscall};
use portcullis_test_partitions::console::Console;
use portcullis_test_partitions::proto::{Append, Done};

portcullis_runtime::entry!(main);

struct Client {
    relay: Endpoint,
    nudge: Option<Notifier>,
    sequence: u64,
}

impl Client {
    /// One exchange: repeats until the ledger has acknowledged it.
    fn exchange(&mut self) -> Done {
        self.sequence += 1;
        let mut done = Done { sequence: self.sequence, dead: 0, relay_dead: 0, failed: 0 };
        if let Some(nudge) = &mut self.nudge {
            nudge.notify();
        }
        let entry = Append { sequence: self.sequence, value: value(self.sequence) };
        loop {
            match self.relay.call(&entry) {
                Ok(appended) if appended.last == self.sequence => {
                    done.relay_dead += appended.dead;
                    return done;
                }
                Err(CallError::Dead) => done.dead += 1,
                _ if done.failed == 1000 => return done,
                _ => done.failed += 1,
            }
        }
    }
}

/// The value that belongs to a sequence.
fn value(sequence: u64) -> u64 {
    sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn main(_start: Start) -> ! {
    let Some(relay) = endpoint("relay") else { missing("relay") };
    let mut client = Client { relay, nudge: Notifier::find("nudge"), sequence: 0 };
    let Some(mut sweeper) = endpoint("sweeper") else { alone(client) };
    loop {
        syscall::wait(u64::MAX);
        let done = client.exchange();
        // The sweeper is never killed.
        let _ = sweeper.call_idempotent(&done);
    }
}

fn alone(mut client: Client) -> ! {
    let mut console = Console::find();
    let rounds = pages::info().number("rounds").unwrap_or(100);
    for _ in 0..rounds {
        let done = client.exchange();
        console.demand(done.failed == 0, format_args!("exchange {}: {} failures", done.sequence, done.failed));
        console.demand(done.dead == 0, format_args!("exchange {}: {} dead codes", done.sequence, done.dead));
    }
    console.line(format_args!("{rounds} exchanges"));
    console.pass("exchange")
}
