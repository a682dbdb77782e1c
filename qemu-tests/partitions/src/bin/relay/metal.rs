use portcullis_ipc::proto::{Refusal, Request};
use portcullis_runtime::call::{CallError, Incoming, Reply};
use portcullis_runtime::endpoint::Endpoint;
use portcullis_runtime::handle::{endpoint, missing};
use portcullis_runtime::serve::{Service, serve};
use portcullis_runtime::start::Start;
use portcullis_test_partitions::proto::Append;

portcullis_runtime::entry!(main);

/// Rounds of the work that a notification brings: long enough to be hit by a kill.
const WORK: u64 = 300;

struct Relay {
    ledger: Endpoint,
    work: u64,
}

impl Service for Relay {
    fn called(&mut self, call: &Incoming<'_>, reply: &mut Reply) -> Result<(), Refusal> {
        if call.header.key != Append::KEY {
            return Err(Refusal::Unsupported);
        }
        let entry: Append = call.decode()?;
        let mut dead = 0;
        loop {
            match self.ledger.call(&entry) {
                Ok(mut appended) => {
                    appended.dead = dead;
                    reply.put(&appended);
                    return Ok(());
                }
                Err(CallError::Dead) => dead += 1,
                Err(_) => return Err(Refusal::Full),
            }
        }
    }

    fn notified(&mut self, bits: u64) {
        for round in 0..WORK {
            self.work = core::hint::black_box(self.work.rotate_left(5) ^ bits ^ round);
        }
    }
}

fn main(start: Start) -> ! {
    let Some(ledger) = endpoint("ledger") else { missing("ledger") };
    serve(start, &mut Relay { ledger, work: 0 })
}
