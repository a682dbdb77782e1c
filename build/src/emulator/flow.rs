//! How much of what a machine says may wait to be looked at: a machine that talks faster is read no further, so that it
//! does not fill the memory.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes that wait at most, besides the piece that was read last.
pub const MOST: usize = 16 << 20;

/// Bytes on their way from the readers of a machine's lines to whoever listens.
#[derive(Default)]
pub struct Flow {
    waiting: Mutex<usize>,
    room: Condvar,
}

impl Flow {
    fn waiting(&self) -> MutexGuard<'_, usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room and takes it for `bytes`.
    pub fn take(&self, bytes: usize) {
        let mut waiting = self.waiting();
        while *waiting >= MOST {
            waiting = self.room.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        *waiting = waiting.saturating_add(bytes);
    }

    /// `bytes` were looked at.
    pub fn give(&self, bytes: usize) {
        let mut waiting = self.waiting();
        *waiting = waiting.saturating_sub(bytes);
        self.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};

    /// A machine that says as much as it may: each piece of 1 MiB is told once it has room.
    fn talk(flow: &Arc<Flow>, pieces: usize) -> Receiver<()> {
        let (told, pieces_told) = channel();
        let flow = Arc::clone(flow);
        std::thread::spawn(move || {
            for _ in 0..pieces {
                flow.take(1 << 20);
                assert!(*flow.waiting() <= MOST);
                told.send(()).unwrap();
            }
        });
        pieces_told
    }

    #[test]
    fn what_waits_is_bounded_and_goes_on_as_it_is_looked_at() {
        let flow = Arc::new(Flow::default());
        let told = talk(&flow, 100);
        for _ in 0..100 {
            told.recv().unwrap();
            flow.give(1 << 20);
        }
        assert!(told.recv().is_err());
        assert_eq!(*flow.waiting(), 0);
    }
}
