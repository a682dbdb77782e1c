//! Whose frame is the next one on COM2. Brief frames and bulk take turns, and so do those of each sort among themselves,
//! so that nobody who always has something to send keeps anybody else from sending, and an answer waits for one frame
//! of bulk at most.

use portcullis_ipc::limits::VMS;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Which boot of the system this is.
    Hello,
    /// The reply to a request of the host.
    Reply,
    /// How much of the input of a console was taken.
    Taken(usize),
    /// What became of a VM.
    Event(usize),
    /// What a guest wrote.
    Console(usize),
    /// Log records.
    Log,
}

/// Kinds that are brief, and those that are not.
const BRIEF: usize = 2 + 2 * VMS;
const BULK: usize = VMS + 1;

const fn brief(place: usize) -> Kind {
    match place {
        0 => Kind::Hello,
        1 => Kind::Reply,
        place if place < 2 + VMS => Kind::Taken(place - 2),
        place => Kind::Event(place - 2 - VMS),
    }
}

const fn bulk(place: usize) -> Kind {
    if place < VMS { Kind::Console(place) } else { Kind::Log }
}

/// Who had the last turn.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    bulk_next: bool,
    brief: usize,
    bulk: usize,
}

impl Turns {
    /// A hello comes first.
    pub const fn new() -> Self {
        Self { bulk_next: false, brief: BRIEF - 1, bulk: BULK - 1 }
    }

    /// Gives the turn to the first in line that can `start` a frame; `false` when nobody can.
    pub fn next(&mut self, mut start: impl FnMut(Kind) -> bool) -> bool {
        (0..2).any(|_| {
            let is_bulk = self.bulk_next;
            self.bulk_next = !is_bulk;
            if is_bulk {
                pass(&mut self.bulk, BULK, |place| start(bulk(place)))
            } else {
                pass(&mut self.brief, BRIEF, |place| start(brief(place)))
            }
        })
    }
}

fn pass(turn: &mut usize, places: usize, mut start: impl FnMut(usize) -> bool) -> bool {
    (0..places).any(|_| {
        *turn = (*turn + 1) % places;
        start(*turn)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all() -> Vec<Kind> {
        (0..BRIEF).map(brief).chain((0..BULK).map(bulk)).collect()
    }

    /// The next `count` frames when these always have something.
    fn frames(busy: &[Kind], count: usize) -> Vec<Kind> {
        let mut turns = Turns::new();
        let mut frames = Vec::new();
        for _ in 0..count {
            turns.next(|kind| {
                let starts = busy.contains(&kind);
                frames.extend(starts.then_some(kind));
                starts
            });
        }
        frames
    }

    #[test]
    fn a_vm_that_always_has_an_event_holds_up_nobody() {
        let busy = [Kind::Event(0), Kind::Event(5), Kind::Console(0), Kind::Console(3), Kind::Log];
        let sent = frames(&busy, 60);
        let count = |kind| sent.iter().filter(|one| **one == kind).count();
        assert_eq!(busy.map(count), [15, 15, 10, 10, 10]);
        assert_eq!(frames(&[Kind::Event(2)], 3), [Kind::Event(2); 3]);
        assert!(frames(&[], 3).is_empty());
        assert_eq!(frames(&all(), 1), [Kind::Hello]);
    }

    proptest! {
        #[test]
        fn whoever_has_something_sends_it_within_a_round(
            busy in prop::sample::subsequence(all(), 1..BRIEF + BULK),
            start in 0usize..100,
        ) {
            let sent = frames(&busy, start + 2 * BRIEF);
            for kind in busy {
                prop_assert!(sent[start..].contains(&kind), "{:?}", kind);
            }
        }
    }
}
