use portcullis_runtime::start::Start;
use portcullis_runtime::syscall;
use portcullis_test_partitions::faults::table;

portcullis_runtime::entry!(main);

fn main(start: Start) -> ! {
    if let Some(fault) = table().get(start.generation as usize - 1) {
        (fault.run)();
    }
    loop {
        syscall::wait(0);
    }
}
