//! The timer: one-shot, periodic and TSC-deadline, computed from the TSC when somebody looks.
//!
//! Nothing counts in between. The count follows from the TSC at which it had its initial value; an
//! expiry becomes an interrupt when [`Lapic::expire`] finds it.

use super::{Clock, Effect, Lapic, MASKED, entry};

/// Shortest distance between two interrupts of a periodic timer: 1/10,000 s. A shorter period counts on,
/// and its interrupts come together, as they do when a processor is too slow for them.
const MOST_PER_SECOND: u64 = 10_000;

/// What the mode bits of the timer's entry say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    OneShot,
    Periodic,
    Deadline,
    /// The reserved code: nothing runs.
    Stopped,
}

const fn mode(entry: u64) -> Mode {
    match entry >> 17 & 3 {
        0 => Mode::OneShot,
        1 => Mode::Periodic,
        2 => Mode::Deadline,
        _ => Mode::Stopped,
    }
}

impl Clock {
    /// The guest's TSC.
    fn guest(&self) -> u64 {
        self.now.wrapping_add(self.offset)
    }

    /// Steps of the count since host TSC `start`, with divider `divider`.
    fn steps(&self, start: u64, divider: u64) -> u128 {
        let elapsed = (self.now.wrapping_sub(start) as i64).max(0) as u128;
        elapsed * u128::from(self.lapic_hz) / (u128::from(self.tsc_hz.max(1)) * u128::from(divider))
    }

    /// TSC ticks that `steps` of the count take, rounded up.
    fn ticks(&self, steps: u128, divider: u64) -> u64 {
        let scaled = steps.saturating_mul(u128::from(divider)).saturating_mul(self.tsc_hz.into());
        u64::try_from(scaled.div_ceil(self.lapic_hz.max(1).into())).unwrap_or(u64::MAX)
    }
}

impl Lapic {
    fn mode(&self) -> Mode {
        let [timer, ..] = self.table;
        mode(timer)
    }

    fn timer_masked(&self) -> bool {
        let [timer, ..] = self.table;
        timer & MASKED != 0
    }

    fn divider(&self) -> u64 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        1 << ((code + 1) & 7)
    }

    /// The current count.
    pub(super) fn count(&self, clock: &Clock) -> u32 {
        let initial = u128::from(self.initial);
        if self.counting == 0 || initial == 0 {
            return 0;
        }
        let steps = clock.steps(self.start, self.divider());
        (match self.mode() {
            Mode::OneShot => initial.saturating_sub(steps),
            Mode::Periodic => initial - steps % initial,
            Mode::Deadline | Mode::Stopped => 0,
        }) as u32
    }

    /// Host TSC at which [`Self::expire`] has something to do; may lie in the past. `None` while nothing
    /// runs that would interrupt.
    pub fn deadline(&self, clock: &Clock) -> Option<u64> {
        if self.timer_masked() || !self.enabled() {
            return None;
        }
        match self.mode() {
            Mode::OneShot | Mode::Periodic if self.counting == 0 => None,
            Mode::OneShot => Some(self.start.wrapping_add(clock.ticks(self.initial.into(), self.divider()))),
            Mode::Periodic => {
                let period = clock.ticks(self.initial.into(), self.divider()).max(1);
                let together = (clock.tsc_hz / MOST_PER_SECOND).div_ceil(period).max(1);
                let steps = u128::from(together) * u128::from(self.initial);
                Some(self.start.wrapping_add(clock.ticks(steps, self.divider())))
            }
            Mode::Deadline if self.deadline == 0 => None,
            Mode::Deadline => Some(clock.now.saturating_add(self.deadline.saturating_sub(clock.guest()))),
            Mode::Stopped => None,
        }
    }

    /// Requests the timer's interrupt if it is due; says whether the timer expired.
    pub fn expire(&mut self, clock: &Clock) -> bool {
        let expired = match self.mode() {
            Mode::OneShot if self.counting != 0 => {
                let over = clock.steps(self.start, self.divider()) >= u128::from(self.initial);
                self.counting = u64::from(!over);
                over
            }
            Mode::Periodic if self.counting != 0 => {
                let initial = u128::from(self.initial.max(1));
                let whole = clock.steps(self.start, self.divider()) / initial * initial;
                self.start = self.start.wrapping_add(clock.ticks(whole, self.divider()));
                whole > 0
            }
            Mode::Deadline if self.deadline != 0 && clock.guest() >= self.deadline => {
                self.deadline = 0;
                true
            }
            _ => false,
        };
        if expired {
            self.local(entry::TIMER);
        }
        expired
    }

    /// Writes the initial count: the count starts from there, or stops at 0.
    pub(super) fn set_initial(&mut self, value: u32, clock: &Clock) -> Effect {
        if self.mode() == Mode::Deadline {
            return Effect::None;
        }
        self.expire(clock);
        self.initial = value.into();
        self.start = clock.now;
        self.counting = u64::from(value != 0);
        Effect::Timer
    }

    /// Writes the divide configuration; a running count goes on from where it is.
    pub(super) fn set_divide(&mut self, value: u64, clock: &Clock) -> Effect {
        self.expire(clock);
        let done = self.initial.saturating_sub(self.count(clock).into());
        self.divide = value;
        if self.counting != 0 {
            self.start = clock.now.wrapping_sub(clock.ticks(done.into(), self.divider()));
        }
        Effect::Timer
    }

    /// Writes the timer's entry. What was due before belongs to the entry before; a change from or to
    /// the TSC deadline stops whatever ran.
    pub(super) fn set_timer(&mut self, value: u64, clock: &Clock) -> Effect {
        self.expire(clock);
        let was = self.mode();
        let [timer, ..] = &mut self.table;
        *timer = value;
        let now = self.mode();
        let counts = |mode| matches!(mode, Mode::OneShot | Mode::Periodic);
        if was != now && !(counts(was) && counts(now)) {
            (self.counting, self.deadline) = (0, 0);
        }
        Effect::Timer
    }

    /// IA32_TSC_DEADLINE.
    pub(super) fn tsc_deadline(&self) -> u64 {
        self.deadline
    }

    /// Writes IA32_TSC_DEADLINE: arms the timer, or stops it with 0. Without effect in another mode. One
    /// that is past already expires at once.
    pub(super) fn set_tsc_deadline(&mut self, value: u64, clock: &Clock) -> Effect {
        if self.mode() != Mode::Deadline || !self.enabled() {
            return Effect::None;
        }
        self.deadline = value;
        self.expire(clock);
        Effect::Timer
    }
}
