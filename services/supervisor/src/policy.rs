//! When an ended partition is started again: at once the first time, then after a delay that doubles up
//! to a cap, until it stayed up long enough to be trusted anew.
//!
//! Pure: time comes in as TSC ticks, decisions go out. Nothing here makes a system call.

/// The limits of the policy; times in TSC ticks.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Delay before the second restart in a row.
    pub base: u64,
    /// Longest delay.
    pub cap: u64,
    /// A partition that stayed up this long starts with no restarts in a row.
    pub stable: u64,
    /// Restarts in a row after which a partition is given up; 0: never.
    pub give_up: u32,
}

impl Limits {
    /// Delay before the restart that follows `row` restarts in a row.
    pub fn delay(&self, row: u32) -> u64 {
        match row {
            0 => 0,
            _ => self.base.saturating_mul(1 << (row - 1).min(62)).min(self.cap),
        }
    }
}

/// What the supervisor sees of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It runs or waits.
    Alive,
    /// It ended and can be restarted.
    Ended,
    /// It was given up.
    Gone,
}

/// What the supervisor does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Restart it now.
    Restart,
    /// Look again at this TSC value.
    Wait(u64),
    /// Give it up.
    Abandon,
}

/// What the supervisor remembers of one partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Child {
    /// Restarts without a stable time between them.
    row: u32,
    /// TSC of the last restart, or of the supervisor's own start when that was later.
    last: Option<u64>,
    /// An end was seen; the restart may be made from this TSC value on.
    due: Option<u64>,
    /// How the last instance ended, and how many in a row ended so.
    alike: (Way, u32),
}

/// How an instance ended: cause and phase of its record.
pub type Way = (u8, u8);

/// So many ends alike in a row are no accident: each instance is given the same piece of work.
pub const ALIKE: u32 = 3;

impl Child {
    /// A partition that was restarted `restarts` times since boot, as a supervisor that starts at `now`
    /// finds it. It does not know when: it takes the restarts for restarts in a row, which can only
    /// delay, never hurry. It gives nothing up for what it does not know: one more restart is always made.
    pub fn found(restarts: u32, now: u64, limits: &Limits) -> Self {
        let last = (restarts > 0).then_some(now);
        let most = limits.give_up.checked_sub(1).unwrap_or(u32::MAX);
        Self { row: restarts.min(most), last, ..Self::default() }
    }

    /// Restarts in a row.
    pub fn row(&self) -> u32 {
        self.row
    }

    /// An end was seen, and [`Child::look`] has judged it: how many in a row ended this way, this one included.
    pub fn alike(&mut self, way: Way) -> u32 {
        let (before, count) = self.alike;
        let count = if self.row > 0 && before == way { count.saturating_add(1) } else { 1 };
        self.alike = (way, count);
        count
    }

    /// Whether an end was seen that is not yet answered by a restart.
    pub fn pending(&self) -> bool {
        self.due.is_some()
    }

    /// Decides about a partition seen in this state at `now`.
    pub fn look(&mut self, seen: Seen, now: u64, limits: &Limits) -> Action {
        if seen != Seen::Ended {
            self.due = None;
            return Action::Nothing;
        }
        let due = match self.due {
            Some(due) => due,
            None => {
                if self.last.is_some_and(|last| now.saturating_sub(last) >= limits.stable) {
                    self.row = 0;
                }
                if limits.give_up > 0 && self.row >= limits.give_up {
                    return Action::Abandon;
                }
                let due = now.saturating_add(limits.delay(self.row));
                self.due = Some(due);
                due
            }
        };
        if now >= due { Action::Restart } else { Action::Wait(due) }
    }

    /// The restart was made at `now`.
    pub fn restarted(&mut self, now: u64) {
        self.row = self.row.saturating_add(1);
        self.last = Some(now);
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { base: 10, cap: 100, stable: 1000, give_up: 0 };

    #[test]
    fn the_first_restart_is_at_once_and_the_delay_doubles_up_to_the_cap() {
        let mut child = Child::default();
        let mut now = 0;
        let mut delays = Vec::new();
        for _ in 0..7 {
            let delay = match child.look(Seen::Ended, now, &LIMITS) {
                Action::Restart => 0,
                Action::Wait(due) => due - now,
                other => panic!("{other:?}"),
            };
            delays.push(delay);
            now += delay;
            assert_eq!(child.look(Seen::Ended, now, &LIMITS), Action::Restart);
            child.restarted(now);
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 100, 100]);
    }

    #[test]
    fn a_stable_time_makes_the_next_restart_immediate_again() {
        let mut child = Child::default();
        child.look(Seen::Ended, 0, &LIMITS);
        child.restarted(0);
        assert_eq!(child.look(Seen::Ended, 999, &LIMITS), Action::Wait(1009));
        child.restarted(1009);
        assert_eq!(child.look(Seen::Ended, 2009, &LIMITS), Action::Restart);
    }

    #[test]
    fn a_partition_is_given_up_only_after_the_configured_restarts() {
        let limits = Limits { give_up: 2, ..LIMITS };
        let mut child = Child::default();
        child.restarted(0);
        assert_eq!(child.look(Seen::Ended, 0, &limits), Action::Wait(10));
        child.restarted(10);
        assert_eq!(child.look(Seen::Ended, 10, &limits), Action::Abandon);
    }

    #[test]
    fn ends_alike_are_counted_until_one_differs_or_the_partition_stayed_up() {
        let mut child = Child::default();
        let (mut now, mut counts) = (0, Vec::new());
        for (way, pause) in
            [((4, 3), 0), ((4, 3), 10), ((4, 3), 20), ((1, 3), 40), ((4, 3), 80), ((4, 3), LIMITS.stable)]
        {
            now += pause;
            child.look(Seen::Ended, now, &LIMITS);
            counts.push(child.alike(way));
            child.restarted(now);
        }
        assert_eq!(counts, [1, 2, 3, 1, 1, 1]);
    }

    #[test]
    fn a_restarted_supervisor_never_hurries_a_partition_that_was_restarted_before() {
        assert_eq!(Child::found(0, 50, &LIMITS).look(Seen::Ended, 50, &LIMITS), Action::Restart);
        assert_eq!(Child::found(3, 50, &LIMITS).look(Seen::Ended, 50, &LIMITS), Action::Wait(90));
        assert_eq!(Child::found(u32::MAX, 50, &LIMITS).look(Seen::Ended, 50, &LIMITS), Action::Wait(150));
    }

    #[test]
    fn a_restarted_supervisor_gives_up_nobody_for_restarts_that_were_not_in_a_row() {
        let limits = Limits { give_up: 3, ..LIMITS };
        for restarts in [1, 2, 3, 100] {
            let mut child = Child::found(restarts, 5000, &limits);
            let Action::Wait(due) = child.look(Seen::Ended, 5001, &limits) else { panic!("{restarts}") };
            assert_eq!(child.look(Seen::Ended, due, &limits), Action::Restart, "{restarts}");
            child.restarted(due);
            // A loop still comes to its end.
            let mut more = 0;
            let mut now = due;
            while child.look(Seen::Ended, now, &limits) != Action::Abandon {
                now += limits.cap;
                assert_eq!(child.look(Seen::Ended, now, &limits), Action::Restart);
                child.restarted(now);
                more += 1;
            }
            assert!(more < limits.give_up, "{restarts}");
        }
    }

    #[test]
    fn what_runs_or_is_gone_is_left_alone() {
        let mut child = Child::default();
        assert_eq!(child.look(Seen::Alive, 0, &LIMITS), Action::Nothing);
        assert_eq!(child.look(Seen::Gone, 0, &LIMITS), Action::Nothing);
        assert!(!child.pending());
    }

    proptest! {
        /// Children end at random times; the supervisor wakes at every end and at the times it asked for.
        #[test]
        fn no_child_is_hurried_forgotten_or_starved_by_the_others(
            ends in prop::collection::vec((0usize..4, 1u64..300), 1..60)
        ) {
            let mut children = [Child::default(); 4];
            let mut ended = [None::<u64>; 4];
            let mut last = [None::<u64>; 4];
            let mut row = [0u32; 4];
            let mut now = 0;
            for (index, pause) in ends {
                let until = now + pause;
                // Every wake-up that was asked for happens in order, before the next end.
                loop {
                    let mut next = u64::MAX;
                    for at in 0..4 {
                        let seen = if ended[at].is_some() { Seen::Ended } else { Seen::Alive };
                        match children[at].look(seen, now, &LIMITS) {
                            Action::Restart => {
                                let end = ended[at].take().unwrap();
                                if last[at].is_some_and(|last| end - last >= LIMITS.stable) {
                                    row[at] = 0;
                                }
                                prop_assert!(now >= end + LIMITS.delay(row[at]), "hurried");
                                prop_assert!(now <= end + LIMITS.delay(row[at]), "late");
                                row[at] += 1;
                                last[at] = Some(now);
                                children[at].restarted(now);
                            }
                            Action::Wait(due) => {
                                prop_assert!(due > now && due <= now + LIMITS.cap);
                                next = next.min(due);
                            }
                            Action::Nothing => prop_assert!(ended[at].is_none(), "forgotten"),
                            Action::Abandon => prop_assert!(false, "given up"),
                        }
                    }
                    if next > until {
                        break;
                    }
                    now = next;
                }
                now = until;
                ended[index].get_or_insert(now);
            }
        }

        #[test]
        fn no_limits_make_the_arithmetic_overflow(
            base: u64, cap: u64, stable: u64, row in any::<u32>(), now: u64
        ) {
            let limits = Limits { base, cap, stable, give_up: 0 };
            let mut child = Child::found(row, now, &limits);
            match child.look(Seen::Ended, now, &limits) {
                Action::Wait(due) => prop_assert!(due > now),
                action => prop_assert_eq!(action, Action::Restart),
            }
        }
    }
}
