//! Who runs, and who pays. The payer is the account of the highest priority that has work and budget left in its
//! period. A budget is a guarantee: when no such account is there, those whose budget is used up share the slack in
//! turn, for free, whatever their priority, but for those whose budget is a cap, too. What runs is found by following the payer's chain: a vCPU that waits for its `vmexit` runs that one's
//! thread, a thread that waits for a callee runs the callee. So a call runs on its caller's budget and
//! priority, and a caller that finds the callee busy helps it along, without any queue being sorted.

use crate::arch::{apic, cpu};
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
    /// Priority at which the payer was chosen; 0 in the slack, and when idle.
    pub level: u8,
    /// LAPIC ticks for a TSC tick, times 2^32.
    pub ratio: u64,
    /// The timer fired: the short way of `dispatch` is closed.
    pub look: bool,
    /// Earliest end of the period of an account without budget, `u64::MAX` if there is none.
    pub refill: u64,
    /// The runner changed since the last charge, so the time since then is nobody's in particular.
    pub mixed: bool,
}

impl Core {
    /// Charge the time since the last charge: to the payer, and to the runner if it alone ran in it, else to the servers
    /// whose work took all of it. What a thread is not charged for is less than a slice, because the timer ends each.
    pub fn charge(&mut self, now: u64) {
        // The timer ends more than that: an SMI or an emulator's host that stands still is nobody's doing.
        let ticks = now.min(self.clock.armed).saturating_sub(self.clock.since);
        let ticks = i64::try_from(ticks).unwrap_or(i64::MAX);
        self.clock.since = now;
        let account = &mut self.accounts[self.payer];
        account.slice_left = account.slice_left.saturating_sub(ticks);
        if self.clock.level > 0 {
            account.left = account.left.saturating_sub(ticks);
        }
        if core::mem::take(&mut self.clock.mixed) {
            let mut server = self.first_server();
            while let Some(index) = server {
                let thread = &mut self.partitions[index].thread;
                // One whose work was not there at the charge before only leaves a mark.
                thread.used = if thread.used == 0 { 1 } else { thread.used.saturating_add(ticks) };
                if thread.used >= thread.call_limit {
                    self.freeze(index, cause::HUNG, 0, 0);
                }
                server = self.next_server(index);
            }
        } else if let Runner::Thread(index) = self.runner {
            let used = &mut self.partitions[index].thread.used;
            *used = used.saturating_add(ticks);
        }
    }

    /// The partition that a vCPU waits for, and what its request is to that one.
    #[inline(always)]
    fn server(&self, vcpu: u8) -> Option<(u8, Work)> {
        let vm = &self.vms[self.vcpus[vcpu].vm];
        match self.vcpus[vcpu].state {
            VcpuState::Exited => Some((vm.vmexit, Work::Exit(vcpu))),
            VcpuState::Port => Some((vm.vmport.get()?, Work::Port(vcpu))),
            _ => None,
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
            let vcpu = payer.wrapping_sub(limits::PARTITIONS as u8);
            if self.vcpus[vcpu].state == VcpuState::Ready {
                return Some(Runner::Vcpu(vcpu));
            }
            self.server(vcpu)?.0
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

    /// The thread that works on the payer's own request, if one does.
    fn first_server(&self) -> Option<u8> {
        if usize::from(self.payer) < limits::PARTITIONS {
            return self.next_server(self.payer);
        }
        let (server, work) = self.server(self.payer.wrapping_sub(limits::PARTITIONS as u8))?;
        (self.partitions[server].thread.work == work).then_some(server)
    }

    /// The thread that works on the call of `caller`, if one does.
    fn next_server(&self, caller: u8) -> Option<u8> {
        let callee = self.partitions[caller].thread.calling.get()?;
        (self.partitions[callee].thread.work == Work::Call(caller)).then_some(callee)
    }

    /// Whether thread `index` works for the payer, so that its reserve stands after the payer's budget. It does not when the
    /// payer pays for itself, or only helps a callee along that still works for another.
    fn serves(&self, index: u8) -> bool {
        let mut server = self.first_server();
        while let Some(node) = server
            && node != index
        {
            server = self.next_server(node);
        }
        server.is_some()
    }

    fn pick(&mut self, now: u64) {
        let (mut best, mut highest) = (NOBODY, (0, false, 0));
        for index in bits(self.active) {
            let account = &mut self.accounts[index];
            account.refill(now);
            let level = if account.left > 0 { account.priority } else { 0 };
            if level == 0 {
                self.clock.refill = self.clock.refill.min(account.period_end);
            }
            // Who owes goes last: the others lack the time that it was lent.
            let order = (level, level > 0 || !account.owes(), !account.turn);
            if order > highest && (level > 0 || !account.capped) && self.resolve(index).is_some() {
                (best, highest) = (index, order);
            }
        }
        if self.accounts[best].slice_left <= 0 {
            self.accounts[best].slice_left = self.clock.slice;
        }
        (self.payer, self.clock.level) = (best, highest.0);
        self.reschedule = false;
    }

    /// vCPU `vcpu`, which pays, waits for another: the next of its VM that has work takes over its turn, the rest of its slice,
    /// and the budget that pays for it, if its priority and its cap are the same. The VM as a whole gives nothing up.
    #[inline(never)]
    pub fn yield_to_sibling(&mut self, vcpu: u8) {
        let (vm, own) = (&self.vms[self.vcpus[vcpu].vm], of_vcpu(vcpu));
        let all = 1u64.wrapping_shl(vm.vcpu_count.into()).wrapping_sub(1).wrapping_shl(of_vcpu(vm.first_vcpu).into());
        let others = (self.active & all & !1u64.wrapping_shl(own.into())).rotate_right(own.into());
        let kind = |index| (self.accounts[index].priority, self.accounts[index].capped);
        let mut equals = bits(others).map(|place| own.wrapping_add(place)).filter(|index| kind(*index) == kind(own));
        let Some(next) = equals.next().filter(|_| self.payer == own) else { return };
        self.charge(cpu::tsc());
        let account = &mut self.accounts[own];
        let (turn, slice) = (account.turn, account.slice_left);
        let given = slice.min(account.left).max(0);
        account.left = account.left.wrapping_sub(given);
        let sibling = &mut self.accounts[next];
        (sibling.turn, sibling.slice_left) = (turn, slice);
        sibling.left = sibling.left.wrapping_add(given);
        self.yield_slice();
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
        if index != self.payer && self.accounts[index].priority > self.clock.level {
            self.reschedule = true;
        }
    }

    /// Account `index` has no work left.
    pub fn deactivate(&mut self, index: u8) {
        self.active &= !(1u64 << (index & 63));
        self.accounts[index].rested = true;
        if self.payer == index {
            self.reschedule = true;
        }
    }

    /// What runs next. The short way: the payer goes on, and the timer ends its slice and its budget, so who runs for it
    /// may change at no cost.
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
        self.clock.look = false;
        self.reschedule |= now >= self.accounts[self.payer].period_end;
        loop {
            let mut found = self.resolve(self.payer);
            if self.reschedule || found.is_none() {
                self.pick(now);
                found = self.resolve(self.payer);
            }
            let Some(runner) = found else {
                (self.runner, self.reschedule) = (Runner::Idle, true);
                self.set_timer(now, u64::MAX);
                return Runner::Idle;
            };
            self.runner = runner;
            let allowance = self.allowance(runner);
            if allowance > 0 {
                let deadline = now.saturating_add_signed(allowance).min(self.accounts[self.payer].period_end);
                self.set_timer(now, deadline);
                return runner;
            }
            self.exhaust(runner);
        }
    }

    /// Ticks that `runner` may run before the core must look again.
    fn allowance(&self, runner: Runner) -> i64 {
        let account = &self.accounts[self.payer];
        let mut ticks = account.slice_left.max(1);
        if self.clock.level > 0 {
            ticks = ticks.min(account.left);
        }
        if let Runner::Thread(index) = runner {
            let thread = &self.partitions[index].thread;
            ticks = ticks.min(thread.call_limit.saturating_sub(thread.used));
        }
        ticks
    }

    /// The call limit of `runner` or the payer's budget is used up: act on it.
    fn exhaust(&mut self, runner: Runner) {
        if let Runner::Thread(index) = runner {
            let thread = &self.partitions[index].thread;
            if thread.used >= thread.call_limit {
                self.freeze(index, cause::HUNG, 0, 0);
                return;
            }
            let reserve = thread.reserve;
            if self.serves(index) && self.accounts[self.payer].borrow_reserve(reserve) {
                return;
            }
        }
        self.reschedule = true;
    }

    /// Let the local APIC fire at `deadline`, and in time for the next timer and the next refill.
    pub fn set_timer(&mut self, now: u64, deadline: u64) {
        let deadline = self.timers.next().min(self.clock.refill).min(deadline);
        if deadline < self.clock.armed {
            self.clock.armed = deadline;
            let ticks = u128::from(deadline.saturating_sub(now));
            let counts = ticks.wrapping_mul(self.clock.ratio.into()) >> 32;
            apic::one_shot(counts.clamp(1, 0xffff_fff0) as u32);
        }
    }

    /// The local APIC's timer fired: expire timers, refill accounts, end the slice.
    pub fn tick(&mut self) {
        let now = cpu::tsc();
        self.charge(now);
        self.clock.armed = u64::MAX;
        self.clock.look = true;
        while let Some((holder, bits)) = self.timers.expired(now) {
            self.notify(holder, bits);
        }
        if now >= self.clock.refill {
            // Those that still have no budget say so again in `pick`.
            self.clock.refill = u64::MAX;
            self.reschedule = true;
        }
        if self.accounts[self.payer].slice_left <= 0 {
            self.yield_slice();
        }
    }

    /// Account of vCPU `index` has work.
    pub fn activate_vcpu(&mut self, index: u8) {
        self.activate(of_vcpu(index));
    }
}

/// The members of a set of numbers below 64, the lowest first.
pub fn bits(mut set: u64) -> impl Iterator<Item = u8> {
    core::iter::from_fn(move || {
        let lowest = set.trailing_zeros() as u8;
        set &= set.wrapping_sub(1);
        (lowest < 64).then_some(lowest)
    })
}

#[cfg(test)]
mod tests;
