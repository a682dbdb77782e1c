use portcullis_ipc::proto::{Refusal, Request};
use portcullis_runtime::call::{Incoming, Reply};
use portcullis_runtime::serve::{Service, serve};
use portcullis_runtime::start::Start;
use portcullis_test_partitions::ledger::Book;
use portcullis_test_partitions::proto::{Append, Totals};

portcullis_runtime::entry!(main);

struct Ledger {
    book: Book,
}

impl Service for Ledger {
    fn called(&mut self, call: &Incoming<'_>, reply: &mut Reply) -> Result<(), Refusal> {
        match call.header.key {
            Append::KEY => reply.put(&self.book.append(&call.decode()?)),
            Totals::KEY => reply.put(&self.book.totals()),
            _ => return Err(Refusal::Unsupported),
        }
        Ok(())
    }
}

fn main(start: Start) -> ! {
    serve(start, &mut Ledger { book: Book::open() })
}
