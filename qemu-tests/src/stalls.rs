//! A busy host made on purpose: the emulator stands still again and again, while the clocks that it shows go on.

use rustix::process::{Pid, Signal, kill_process};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long it stands still each time: longer than a period of any budget and than any call limit on test.
const STALL: Duration = Duration::from_millis(120);
/// How long it runs between two stalls, milliseconds, in turn: a stall then hits the system in all that it does.
const RUNS: [u64; 7] = [3, 31, 7, 19, 11, 43, 5];
/// Stalls after which the host is busy no more.
const STALLS: usize = 200;

/// A host that is busy until this is dropped.
pub struct Busy {
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Busy {
    /// Lets process `emulator` stand still now and then from here on.
    pub fn host(emulator: u32) -> Self {
        let (over, wait) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let Some(process) = Pid::from_raw(emulator.cast_signed()) else { return };
            let remains = |signal, time| {
                // One that has ended meanwhile is not a failure.
                let _ = kill_process(process, signal);
                wait.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
            };
            RUNS.into_iter()
                .cycle()
                .take(STALLS)
                .all(|run| remains(Signal::CONT, Duration::from_millis(run)) && remains(Signal::STOP, STALL));
            remains(Signal::CONT, Duration::ZERO);
        });
        Self { over: Some(over), thread: Some(thread) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.over = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}
