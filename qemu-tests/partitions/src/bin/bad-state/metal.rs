//! Capabilities: the VM `vm` with run, of one vCPU and XCR0 3 at most, of which this partition is the vmexit; its
//! guest is never entered. State region: word 0, sequence of the exit that was not answered.

use portcullis_ipc::exit::{Reason, group};
use portcullis_ipc::record::cause;
use portcullis_ipc::syscall::{Resume, Status, VcpuId};
use portcullis_runtime::handle::{Vm, missing};
use portcullis_runtime::pages::exit_page;
use portcullis_runtime::start::Start;
use portcullis_runtime::syscall::{self, Returned};
use portcullis_test_partitions::bad_rounds::{CAUSE, CHANGED, DONE, EVENT, STATE, STATUS, StateRound, TAKEN, give_up};
use portcullis_test_partitions::guest_state::{State, at};
use portcullis_test_partitions::refused_state::{REFUSED, TAKEN as GOOD};
use portcullis_test_partitions::words::{load, store};

portcullis_runtime::entry!(main);

/// Word of the state region.
const SEQUENCE: usize = 0;

struct Tester {
    vcpu: VcpuId,
    /// Number of the case that is under way.
    case: usize,
}

fn main(start: Start) -> ! {
    let Some(vm) = Vm::find("vm") else { missing("vm") };
    let mut tester = Tester { vcpu: vm.vcpu(0), case: 0 };
    match start.generation.checked_sub(1).filter(|last| *last > 0).and_then(StateRound::of) {
        Some(before) => tester.look_back(before, start.cause),
        None => tester.untouched(&State::reset()),
    }
    match StateRound::of(start.generation) {
        Some(round) => tester.refused(round),
        None => tester.taken(),
    }
}

impl Tester {
    fn demand(&self, returned: Returned, wanted: Status) {
        if returned.status() != Some(wanted) {
            give_up(STATUS, self.case, returned.raw);
        }
    }

    /// The vCPU's whole state is `wanted`.
    fn untouched(&self, wanted: &State) {
        self.demand(syscall::vcpu_fetch(self.vcpu, group::ALL, exit_page(0)), Status::Ok);
        if let Some(offset) = wanted.difference(&State::read(0)) {
            give_up(STATE, self.case, offset as u64);
        }
    }

    /// The end before this start has left the vCPU as it was, its exit included.
    fn look_back(&mut self, before: StateRound, ended: u8) {
        self.case = before.case;
        // What was taken was stopped with it; every round begins with a state of its own.
        if REFUSED.get(before.case).is_some_and(|case| case.code() == 0) {
            return;
        }
        if ended != cause::MISUSE {
            give_up(CAUSE, self.case, ended.into());
        }
        if before.exited {
            self.recalled();
            let again = State::read(0).word(at::SEQUENCE) == load(SEQUENCE);
            if !again {
                give_up(EVENT, self.case, 0xfff);
            }
        }
        self.untouched(&State::first());
        // The core has not taken the groups, so they are still dirty.
        State::first().write(0, 0);
        self.demand(syscall::vcpu_resume(self.vcpu, Resume::STOP, 0), Status::Ok);
    }

    /// Waits for the exit by recall.
    fn recalled(&self) {
        let event = syscall::wait(0);
        let reason = State::read(0).word(at::REASON) as u32;
        if event.status() != Some(Status::Exited) || event.value != 0 || reason != Reason::Recall as u32 {
            give_up(EVENT, self.case, event.raw << 8 | u64::from(reason));
        }
    }

    /// Gives the stopped vCPU a known state.
    fn prepare(&self) {
        State::first().write(0, group::ALL);
        self.demand(syscall::vcpu_resume(self.vcpu, Resume::STOP, 0), Status::Ok);
        self.untouched(&State::first());
    }

    /// Resumes with a state that must be refused; the instance ends here.
    fn refused(&mut self, round: StateRound) -> ! {
        self.case = round.case;
        self.prepare();
        if round.exited {
            self.demand(syscall::vcpu_resume(self.vcpu, Resume::PARK, 0), Status::Ok);
            self.demand(syscall::vcpu_recall(self.vcpu), Status::Ok);
            self.recalled();
            store(SEQUENCE, State::read(0).word(at::SEQUENCE));
        }
        if let Some(case) = REFUSED.get(round.case) {
            let mut state = State::second();
            (case.change)(&mut state);
            state.write(0, case.dirty);
            syscall::vcpu_resume(VcpuId(self.vcpu.0 | case.id), case.word, 0);
        }
        give_up(TAKEN, self.case, 0)
    }

    /// Resumes with every state that must be taken.
    fn taken(&mut self) -> ! {
        for (number, case) in GOOD.iter().enumerate() {
            self.case = number;
            self.prepare();
            let mut state = State::second();
            (case.change)(&mut state);
            state.write(0, case.dirty);
            self.demand(syscall::vcpu_resume(self.vcpu, case.word, 0), Status::Ok);
            self.demand(syscall::vcpu_fetch(self.vcpu, group::ALL, exit_page(0)), Status::Ok);
            let wanted = if case.dirty == 0 { State::first() } else { state };
            let seen = State::read(0);
            if let Some(offset) = wanted.difference(&seen) {
                give_up(CHANGED, self.case, offset as u64);
            }
            if seen.word(at::DIRTY) as u32 != 0 {
                give_up(CHANGED, self.case, at::DIRTY as u64);
            }
        }
        give_up(DONE, GOOD.len(), 0)
    }
}
