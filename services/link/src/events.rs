//! What became of the VMs, on its way to the host: a bounded queue for each VM. A host that does not listen
//! holds no VM up: when the queue is full the newest event takes the place of the one before it, and the gap
//! in the sequence says so.

use portcullis_ipc::proto::control::VmNotice;
use portcullis_ipc::proto::link::{VmEvent, VmEventKind};
use postcard_schema::Schema;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Events of one VM that wait at most.
pub const WAITING: usize = 4;

/// An event that waits, as the state region holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Schema)]
#[repr(C)]
pub struct Waiting {
    /// 0: none.
    sequence: u64,
    /// Where the VM's console output stood then: it is told before the event.
    after: u64,
    /// Number of the kind, and above it, from bit 32, its value.
    kind: u64,
}

/// The events of one VM, as the state region holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Schema)]
#[repr(C)]
pub struct Events {
    /// Sequence of the last event that was taken.
    pub sequence: u64,
    /// Those that wait, oldest first.
    waiting: [Waiting; WAITING],
}

fn to_word(kind: VmEventKind) -> u64 {
    match kind {
        VmEventKind::PowerOff => 0,
        VmEventKind::Reset => 1,
        VmEventKind::Stopped => 2,
        VmEventKind::TestExit(value) => 3 | u64::from(value) << 32,
    }
}

fn from_word(word: u64) -> VmEventKind {
    match word as u32 {
        0 => VmEventKind::PowerOff,
        1 => VmEventKind::Reset,
        3 => VmEventKind::TestExit((word >> 32) as u32),
        _ => VmEventKind::Stopped,
    }
}

impl Events {
    /// Takes an event unless its sequence says that it was taken before; says whether it was new. `after` is
    /// the position at which the VM's console output ends.
    pub fn take(&mut self, event: &VmEvent, after: u64) -> bool {
        if event.sequence <= self.sequence {
            return false;
        }
        self.sequence = event.sequence;
        let free = self.waiting.iter().position(|one| one.sequence == 0).unwrap_or(WAITING - 1);
        if let Some(place) = self.waiting.get_mut(free) {
            *place = Waiting { sequence: event.sequence, after, kind: to_word(event.kind) };
        }
        true
    }

    /// The first event that waits, as the notice for the host, if the console output up to position `told` has
    /// left and the event came no later.
    pub fn notice(&self, vm: u8, told: u64) -> Option<VmNotice> {
        let [first, ..] = &self.waiting;
        let ready = first.sequence != 0 && first.after <= told;
        ready.then(|| VmNotice { vm, sequence: first.sequence, kind: from_word(first.kind) })
    }

    /// The notice of this sequence has left.
    pub fn sent(&mut self, sequence: u64) {
        let [first, rest @ ..] = self.waiting;
        if first.sequence == sequence {
            let (used, last) = self.waiting.split_at_mut(WAITING - 1);
            for (to, from) in used.iter_mut().zip(rest) {
                *to = from;
            }
            last.fill(Waiting::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use VmEventKind::{PowerOff, Reset, Stopped, TestExit};

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
        events.sent(1);
        assert!(!events.take(&event(1, Reset), 5));
        assert_eq!(events.notice(3, 9), Some(VmNotice { vm: 3, sequence: 2, kind: PowerOff }));
        events.sent(2);
        assert_eq!(events.notice(3, u64::MAX), None);
    }

    #[test]
    fn of_more_events_than_fit_the_newest_stays() {
        let mut events = Events::default();
        (1..=20).for_each(|sequence| assert!(events.take(&event(sequence, Reset), 0)));
        assert!(events.take(&event(21, PowerOff), 0));
        for (sequence, kind) in [(1, Reset), (2, Reset), (3, Reset), (21, PowerOff)] {
            assert_eq!(events.notice(0, 0), Some(VmNotice { vm: 0, sequence, kind }));
            events.sent(sequence);
        }
        assert_eq!(events.notice(0, 0), None);
    }

    #[test]
    fn every_kind_comes_back_with_its_value() {
        for kind in [PowerOff, Reset, Stopped, TestExit(u32::MAX), TestExit(0)] {
            assert_eq!(from_word(to_word(kind)), kind);
        }
        assert_eq!(from_word(99), Stopped);
    }
}
