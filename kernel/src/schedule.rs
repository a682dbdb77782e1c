//! Who runs, and who pays. The payer is the account of the highest priority that has work and budget;
//! what runs is found by following the payer's chain: a vCPU that waits for its `vmexit` runs that one's
//! thread, a thread that waits for a callee runs the callee. So a call runs on its caller's budget and
//! priority, and a caller that finds the callee busy helps it along, without any queue being sorted.

use crate::arch::{apic, cpu, time};
use crate::object::account::of_vcpu;
use crate::object::partition::Life;
use crate::object::{VcpuState, Work};
use crate::state::{Core, NOBODY};
use portcullis_ipc::limits;
use portcullis_ipc::record::cause;
use zerocopy::FromZeros;

/// What a CPU does until the next entry into the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromZeros)]
#[repr(u8)]
pub enum Runner {
    /// Nothing: wait for an interrupt.
    Idle,
    /// A partition's thread.
    Thread(u8),
    /// A guest.
    Vcpu(u8),
}

/// Time as the scheduler uses it, in TSC ticks.
#[derive(FromZeros)]
pub struct Clock {
    /// When the present runner started or was charged last.
    pub since: u64,
    /// When the local APIC's timer will fire, `u64::MAX` if it is stopped.
    pub armed: u64,
    /// Length of a slice.
    pub slice: i64,
    /// Turns given so far.
    pub turns: u64,
    /// TSC frequency, to convert.
    pub tsc_hz: u64,
    /// LAPIC ticks for a TSC tick, times 2^32.
    pub ratio: u64,
    /// The timer fired or a budget ended: the short way of `dispatch` is closed.
    pub look: bool,
    /// Earliest end of a throttled account's period, `u64::MAX` if none is throttled.
    pub refill: u64,
    /// The runner changed since the last charge, so the time since then is nobody's in particular.
    pub mixed: bool,
}

impl Clock {
    /// Ticks of `microseconds`.
    pub fn ticks(&self, microseconds: u64) -> u64 {
        time::scale(microseconds, self.tsc_hz, 1_000_000)
    }

    fn arm(&mut self, now: u64, deadline: u64) {
        let delta = deadline.saturating_sub(now).max(1);
        let counts = (u128::from(delta).wrapping_mul(self.ratio.into()) >> 32).clamp(1, 0xffff_fff0);
        self.armed = deadline;
        apic::one_shot(counts as u32);
    }
}

impl Core {
    /// Charge the time since the last charge to the payer, and to the runner if it alone ran in it. What a
    /// thread is not charged for is less than a slice, because the timer ends each.
    pub fn charge(&mut self, now: u64) {
        let ticks = i64::try_from(now.wrapping_sub(self.clock.since)).unwrap_or(i64::MAX);
        self.clock.since = now;
        let account = &mut self.accounts[self.payer];
        let overdrawn = account.left <= 0;
        account.charge(ticks);
        let overdrawn = overdrawn && self.serves(self.runner).is_some();
        if core::mem::take(&mut self.clock.mixed) {
            return;
        }
        if let Runner::Thread(index) = self.runner {
            let thread = &mut self.partitions[index].thread;
            thread.used = thread.used.saturating_add(ticks);
            if overdrawn {
                thread.reserve_left = thread.reserve_left.saturating_sub(ticks);
            }
        }
    }

    /// Follow the chain of `payer` to what must run for it; `None` if it ends at a partition that is not
    /// alive.
    #[inline(always)]
    pub fn resolve(&self, payer: u8) -> Option<Runner> {
        let mut node = if (payer as usize) < limits::PARTITIONS {
            payer
        } else if payer == NOBODY {
            return None;
        } else {
            let index = payer.wrapping_sub(limits::PARTITIONS as u8);
            let vcpu = &self.vcpus[index];
            match vcpu.state {
                VcpuState::Ready => return Some(Runner::Vcpu(index)),
                VcpuState::Exited => self.vms[vcpu.vm].vmexit,
                VcpuState::Port => self.vms[vcpu.vm].vmport.get()?,
                _ => return None,
            }
        };
        // INV-UPHILL: ranks rise along a chain (R11, checked at boot), so it ends.
        loop {
            let partition = &self.partitions[node];
            if partition.life != Life::Alive {
                return None;
            }
            match partition.thread.calling.get() {
                Some(callee) => node = callee,
                None if partition.thread.work == Work::None => return None,
                None => return Some(Runner::Thread(node)),
            }
        }
    }

    /// The thread that works on the payer's own request, so that its reserve stands behind the payer's budget.
    /// `None` when the payer pays for itself, or only helps a callee along that still works for another: the
    /// end of a helper's budget is nobody's fault but its own.
    fn serves(&self, runner: Runner) -> Option<u8> {
        let Runner::Thread(index) = runner else { return None };
        let mut node = self.payer;
        if usize::from(node) >= limits::PARTITIONS {
            let vcpu = node.wrapping_sub(limits::PARTITIONS as u8);
            let vm = &self.vms[self.vcpus[vcpu].vm];
            let (server, work) = match self.vcpus[vcpu].state {
                VcpuState::Exited => (vm.vmexit, Work::Exit(vcpu)),
                VcpuState::Port => (vm.vmport.get()?, Work::Port(vcpu)),
                _ => return None,
            };
            if self.partitions[server].thread.work != work {
                return None;
            }
            node = server;
        } else if node == index {
            return None;
        }
        while node != index {
            let callee = self.partitions[node].thread.calling.get()?;
            if self.partitions[callee].thread.work != Work::Call(node) {
                return None;
            }
            node = callee;
        }
        Some(index)
    }

    fn pick(&mut self, now: u64) {
        let mut best = NOBODY;
        let mut key = (0u8, u64::MAX);
        let mut rest = self.active;
        while rest != 0 {
            let index = rest.trailing_zeros() as u8;
            rest &= rest.wrapping_sub(1);
            let account = &mut self.accounts[index];
            if account.left <= 0 && !account.refill(now) {
                self.throttle(index);
                continue;
            }
            let (priority, turn) = (account.priority, account.turn);
            let better = priority > key.0 || priority == key.0 && turn < key.1;
            if better && self.resolve(index).is_some() {
                key = (priority, turn);
                best = index;
            }
        }
        if self.accounts[best].slice_left <= 0 {
            self.accounts[best].slice_left = self.clock.slice;
        }
        self.payer = best;
        self.reschedule = false;
    }

    /// Give up the rest of the payer's slice: equals come first.
    pub fn yield_slice(&mut self) {
        self.clock.turns = self.clock.turns.wrapping_add(1);
        let account = &mut self.accounts[self.payer];
        account.turn = self.clock.turns;
        account.slice_left = 0;
        self.reschedule = true;
    }

    /// Work came for account `index`: it takes part in the choice.
    pub fn activate(&mut self, index: u8) {
        self.active |= 1u64 << (index & 63);
        if self.payer == NOBODY || self.accounts[index].priority > self.accounts[self.payer].priority {
            self.reschedule = true;
        }
    }

    /// Account `index` has no work left.
    pub fn deactivate(&mut self, index: u8) {
        self.active &= !(1u64 << (index & 63));
        if self.payer == index {
            self.reschedule = true;
        }
    }

    /// What runs next. The short way: the payer goes on, it had budget when the core looked last, and the timer
    /// ends its slice, so who runs for it may change at no cost.
    #[inline(always)]
    pub fn dispatch(&mut self) -> Runner {
        if !self.reschedule
            && !self.clock.look
            && let Some(runner) = self.resolve(self.payer)
        {
            if runner != self.runner {
                self.clock.mixed = true;
                self.runner = runner;
            }
            return runner;
        }
        self.choose()
    }

    /// Charge for what ran, choose the payer anew if asked, act on what is used up, and set the timer.
    #[inline(never)]
    fn choose(&mut self) -> Runner {
        let now = cpu::tsc();
        self.charge(now);
        loop {
            let runner = match self.resolve(self.payer) {
                Some(runner) if !self.reschedule => runner,
                _ => {
                    self.pick(now);
                    match self.resolve(self.payer) {
                        Some(runner) => runner,
                        None => {
                            self.runner = Runner::Idle;
                            self.reschedule = true;
                            self.set_timer(now, i64::MAX);
                            return Runner::Idle;
                        }
                    }
                }
            };
            self.runner = runner;
            let allowance = self.allowance(runner);
            if allowance > 0 {
                self.clock.look = self.accounts[self.payer].left <= 0;
                self.set_timer(now, allowance);
                return runner;
            }
            self.exhaust(now, runner);
        }
    }

    /// Ticks that `runner` may run before the core must look again.
    fn allowance(&self, runner: Runner) -> i64 {
        let account = &self.accounts[self.payer];
        let mut ticks = account.slice_left.max(1);
        match self.serves(runner) {
            Some(index) if account.left <= 0 => ticks = self.partitions[index].thread.reserve_left,
            _ => ticks = ticks.min(account.left),
        }
        if let Runner::Thread(index) = runner {
            let thread = &self.partitions[index].thread;
            ticks = ticks.min(thread.call_limit.saturating_sub(thread.used));
        }
        ticks
    }

    /// The payer's budget, the reserve or the call limit of `runner` is used up: act on it.
    fn exhaust(&mut self, now: u64, runner: Runner) {
        if let Runner::Thread(index) = runner {
            let thread = &self.partitions[index].thread;
            if thread.used >= thread.call_limit {
                self.freeze(index, cause::HUNG, 0, 0);
                return;
            }
            if self.accounts[self.payer].left <= 0 && self.accounts[self.payer].refill(now) {
                return;
            }
            if self.serves(runner).is_some() {
                self.freeze(index, cause::HUNG, 1, 0);
                return;
            }
        }
        self.throttle(self.payer);
    }

    fn set_timer(&mut self, now: u64, allowance: i64) {
        let mut deadline = self.timers.next();
        if allowance != i64::MAX {
            deadline = deadline.min(now.saturating_add_signed(allowance));
        }
        deadline = deadline.min(self.clock.refill);
        if deadline < self.clock.armed {
            self.clock.arm(now, deadline);
        }
    }

    fn throttle(&mut self, index: u8) {
        let account = &mut self.accounts[index];
        account.throttled = true;
        self.clock.refill = self.clock.refill.min(account.period_end);
        self.reschedule = true;
    }

    /// The local APIC's timer fired: expire timers, refill accounts, end the slice.
    pub fn tick(&mut self) {
        let now = cpu::tsc();
        self.clock.armed = u64::MAX;
        self.charge(now);
        self.clock.look = true;
        while let Some((holder, bits)) = self.timers.expired(now) {
            self.notify(holder, bits);
        }
        if now >= self.clock.refill {
            // Those that are throttled still say so again in `pick`.
            self.clock.refill = u64::MAX;
            self.reschedule = true;
        }
        if self.accounts[self.payer].slice_left <= 0 {
            self.yield_slice();
        }
    }

    /// A timer was armed: the local APIC must fire in time for it.
    pub fn clock_changed(&mut self) {
        let deadline = self.timers.next();
        if deadline < self.clock.armed {
            self.clock.arm(cpu::tsc(), deadline);
        }
    }

    /// Account of vCPU `index` has work.
    pub fn activate_vcpu(&mut self, index: u8) {
        self.activate(of_vcpu(index));
    }
}
