//! What became of the VMs, on its way to the host: a bounded queue for each VM. A host that does not listen
//! holds no VM up: when the queue is full the newest event takes the place of the one before it, and the gap
//! in the sequence says so.

use arrayvec::ArrayVec;
use portcullis_ipc::proto::control::VmNotice;
use portcullis_ipc::proto::link::{VmEvent, VmEventKind};

/// Events of one VM that wait at most.
pub const WAITING: usize = 4;

/// An event that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    sequence: u64,
    kind: VmEventKind,
    /// Where the VM's console output stood then: it is told before the event.
    after: u64,
}

/// The events of one VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Sequence of the last event that was taken.
    pub sequence: u64,
    /// Those that wait.
    pub waiting: ArrayVec<Waiting, WAITING>,
}

impl Events {
    /// Takes an event unless its sequence says that it was taken before; says whether it was new. `after` is
    /// the position at which the VM's console output ends.
    pub fn take(&mut self, event: &VmEvent, after: u64) -> bool {
        if event.sequence <= self.sequence {
            return false;
        }
        self.sequence = event.sequence;
        if self.waiting.is_full() {
            self.waiting.pop();
        }
        // There is room for one now.
        let _ = self.waiting.try_push(Waiting { sequence: event.sequence, kind: event.kind, after });
        true
    }

    /// The first event that waits, as the notice for the host, if the console output up to position `told` has
    /// left and the event came no later.
    pub fn notice(&self, vm: u8, told: u64) -> Option<VmNotice> {
        let first = self.waiting.first().filter(|first| first.after <= told)?;
        Some(VmNotice { vm, sequence: first.sequence, kind: first.kind })
    }

    /// The notice of this sequence has left.
    pub fn sent(&mut self, sequence: u64) {
        self.waiting.retain(|waiting| waiting.sequence != sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use VmEventKind::{PowerOff, Reset};

    fn event(sequence: u64, kind: VmEventKind) -> VmEvent {
        VmEvent { sequence, kind }
    }

    #[test]
    fn an_event_is_taken_once_and_leaves_once_after_what_was_said_before() {
        let mut events = Events::default();
        assert!(events.take(&event(1, Reset), 5));
        assert!(!events.take(&event(1, Reset), 5));
        assert!(events.take(&event(2, PowerOff), 9));
        assert_eq!(events.notice(3, 4), None);
        assert_eq!(events.notice(3, 5), Some(VmNotice { vm: 3, sequence: 1, kind: Reset }));
        events.sent(1);
        assert!(!events.take(&event(1, Reset), 5));
        assert_eq!(events.notice(3, 9), Some(VmNotice { vm: 3, sequence: 2, kind: PowerOff }));
        events.sent(2);
        assert_eq!(events.notice(3, 9), None);
    }

    #[test]
    fn of_more_events_than_fit_the_newest_stays() {
        let mut events = Events::default();
        (1..=20).for_each(|sequence| assert!(events.take(&event(sequence, Reset), 0)));
        assert!(events.take(&event(21, PowerOff), 0));
        let waiting: Vec<u64> = events.waiting.iter().map(|one| one.sequence).collect();
        assert_eq!(waiting, [1, 2, 3, 21]);
        assert_eq!(events.waiting.last().map(|one| one.kind), Some(PowerOff));
    }
}
