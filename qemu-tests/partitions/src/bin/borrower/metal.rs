use portcullis_ipc::checksum::crc32;
use portcullis_ipc::limits::PAYLOAD;
use portcullis_ipc::message::Header;
use portcullis_ipc::syscall::Status;
use portcullis_runtime::lease::Borrowed;
use portcullis_runtime::start::Start;
use portcullis_runtime::{message, syscall};
use portcullis_test_partitions::leases::{Action, Order, pattern};

portcullis_runtime::entry!(main);

/// Where leases are copied to and from: it does not start at a page, and runs over its end.
struct Buffer([u8; 3 * 4096]);
/// First byte used of the buffer.
const FIRST: usize = 4091;

fn main(_start: Start) -> ! {
    let mut buffer = Buffer([0; 3 * 4096]);
    let mut old = None;
    syscall::wait(u64::MAX);
    loop {
        let header = message::received_header();
        let mut payload = [0; PAYLOAD];
        message::received(16, &mut payload);
        let order = payload.first_chunk().map_or(Order::from_bytes(&[0; 16]), Order::from_bytes);
        // The header says four leases whatever the call carries: what is not there is the core's to notice.
        let named = Borrowed::of(&Header { leases: 4, ..header }, order.index);
        let lease = if order.action == Action::ReadOld { old } else { named };
        let part = buffer.0.get_mut(FIRST..FIRST + order.length as usize).unwrap_or_default();
        let done = match (lease, order.action) {
            (None, _) => Err(Status::BadLease),
            (Some(lease), Action::Write) => {
                for (index, byte) in part.iter_mut().enumerate() {
                    *byte = pattern(order.seed, order.offset.wrapping_add(index as u64));
                }
                lease.write(order.offset, part)
            }
            (Some(lease), _) => {
                part.fill(0);
                lease.read(order.offset, part)
            }
        };
        old = named;
        let mut reply = [0; 8];
        reply[0] = done.map_or_else(|status| status as u8, |()| Status::Ok as u8);
        reply[4..].copy_from_slice(&crc32(0, part).to_le_bytes());
        message::send(&Header { length: 8, ..Header::default() }, &reply);
        syscall::reply_wait(u64::MAX);
    }
}
