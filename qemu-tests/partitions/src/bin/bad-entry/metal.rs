//! Capabilities: the VM `vm` with run, of two vCPUs, of which this partition is the vmexit.

use portcullis_ipc::exit::{Reason, group};
use portcullis_ipc::layout::GUEST_BASE;
use portcullis_ipc::record::cause;
use portcullis_ipc::syscall::{Resume, Status};
use portcullis_runtime::handle::{Vm, missing};
use portcullis_runtime::pages::exit_page;
use portcullis_runtime::start::Start;
use portcullis_runtime::syscall::{self, Returned};
use portcullis_test_partitions::bad_rounds::{CAUSE, EVENT, EntryRound, STATE, STATUS, TAKEN, Way, give_up};
use portcullis_test_partitions::guest_state::{SECOND_CR4, State, at};

portcullis_runtime::entry!(main);

/// Where the guest's one instruction stands.
const CODE: u64 = 0x1000;
const HLT: u8 = 0xf4;
/// CR4.PAE.
const PAE: u64 = 1 << 5;
/// Attributes of a code segment that is both of 64 and of 32 bits.
const LONG_AND_BIG: u64 = 0x69b;

struct Tester {
    vm: Vm,
    case: usize,
}

fn main(start: Start) -> ! {
    let Some(vm) = Vm::find("vm") else { missing("vm") };
    let round = EntryRound::of(start.generation);
    let tester = Tester { vm, case: round.state << 4 | usize::from(round.vcpu) << 3 | round.way as usize };
    let before = if start.generation == 1 { cause::NONE } else { cause::BAD_GUEST_STATE };
    if start.cause != before {
        give_up(CAUSE, tester.case, start.cause.into());
    }
    for vcpu in 0..vm.vcpus {
        tester.is_reset(vcpu);
    }
    tester.enter_badly(&round)
}

impl Tester {
    fn demand(&self, returned: Returned, wanted: Status) {
        if returned.status() != Some(wanted) {
            give_up(STATUS, self.case, returned.raw);
        }
    }

    /// The vCPU is stopped, and shows nothing but the state that it had at the very start.
    fn is_reset(&self, vcpu: u16) {
        let id = self.vm.vcpu(vcpu);
        self.demand(syscall::vcpu_recall(id), Status::NotStopped);
        // What the page shows must come from the core.
        State::second().write(vcpu, 0);
        self.demand(syscall::vcpu_fetch(id, group::ALL, exit_page(vcpu)), Status::Ok);
        if let Some(offset) = State::reset().difference(&State::read(vcpu)) {
            give_up(STATE, self.case, offset as u64);
        }
    }

    fn resume(&self, vcpu: u16, word: u64) {
        self.demand(syscall::vcpu_resume(self.vm.vcpu(vcpu), word, 0), Status::Ok);
    }

    /// Waits for an exit of `vcpu` with `reason`.
    fn exited(&self, vcpu: u16, reason: Reason) {
        let event = syscall::wait(0);
        let seen = State::read(vcpu).word(at::REASON) as u32;
        if event.status() != Some(Status::Exited) || event.value != u64::from(vcpu) || seen != reason as u32 {
            give_up(EVENT, self.case, event.raw << 8 | u64::from(seen));
        }
    }

    /// Resumes the round's vCPU with a state that the processor must refuse; the instance ends here.
    fn enter_badly(&self, round: &EntryRound) -> ! {
        let vcpu = round.vcpu;
        let other = vcpu ^ 1;
        State::first().write(other, group::ALL);
        self.resume(other, Resume::PARK);
        match round.way {
            Way::Stopped => {}
            Way::Parked => self.resume(vcpu, Resume::PARK),
            Way::Answer | Way::AnswerAndWait => {
                self.resume(vcpu, Resume::PARK);
                self.demand(syscall::vcpu_recall(self.vm.vcpu(vcpu)), Status::Ok);
                self.exited(vcpu, Reason::Recall);
            }
            Way::Ran => {
                place_guest();
                State::real(CODE).write(vcpu, group::ALL);
                self.resume(vcpu, Resume::ENTER);
                self.exited(vcpu, Reason::Hlt);
            }
        }
        refused_state(round.state).write(vcpu, group::ALL);
        let event = if matches!(round.way, Way::AnswerAndWait | Way::Ran) {
            syscall::vcpu_resume(self.vm.vcpu(vcpu), Resume::ENTER | Resume::THEN_WAIT, 0)
        } else {
            self.resume(vcpu, Resume::ENTER);
            syscall::wait(0)
        };
        give_up(TAKEN, self.case, event.raw)
    }
}

/// States inside the allowed sets that no processor enters (APM volume 2, 15.5.1).
fn refused_state(number: usize) -> State {
    let mut state = State::second();
    if number == 0 {
        // Long mode and paging without PAE.
        state.put(at::CR4, SECOND_CR4 & !PAE);
    } else {
        let code = at::SEGMENTS + 16;
        state.put(code, state.word(code) & !(0xfff << 16) | LONG_AND_BIG << 16);
    }
    state
}

fn place_guest() {
    let place = core::ptr::with_exposed_provenance_mut::<u8>((GUEST_BASE + CODE) as usize);
    // SAFETY: guest memory is mapped writable for the life of the instance and borrowed by nobody.
    unsafe { place.write_volatile(HLT) };
}
