//! What ends its `vmexit`, or its own machine, again and again: it is counted across instances, and at a limit of the
//! manifest the machine stops, with a line that says why. Without that the supervisor would restart for ever, and nobody
//! else would notice.

use crate::host::{Host, Note};
use crate::machine::{Machine, Step};
use crate::saved::{Block, Falls, Given, power};
use portcullis_ipc::exit::ExitPage;
use portcullis_ipc::proto::link::VmEventKind;
use portcullis_ipc::syscall::Resume;

/// A machine that ran for so many seconds before it fell is one that runs.
const STABLE: u64 = 60;

impl<H: Host> Machine<H> {
    /// The answer to the first exit that this instance is given of a vCPU, if the exit has ended so many instances in a row
    /// that it is not served any more. Whatever it does to an instance, it is counted before.
    pub(crate) fn too_often(&mut self, vcpu: u16, page: &mut ExitPage) -> Option<u64> {
        let (number, load) = (usize::from(vcpu), self.durable.load);
        let load = load.checked.wrapping_add(load.written);
        let given = self.durable.given.get_mut(number)?;
        let again = (given.sequence, given.load) == (page.sequence, load);
        let times = if again { given.times + 1 } else { 1 };
        *given = Given { sequence: page.sequence, load, times };
        self.touched.add(Block::Given(number));
        self.commit();
        let limit = self.config.exit_tries;
        if limit == 0 || times < limit || self.durable.board.power == power::OFF {
            return None;
        }
        let note = Note::Deadly { reason: page.reason, times, rip: page.rip, rflags: page.rflags };
        Some(self.power_off(vcpu, page, VmEventKind::Stopped, note).unwrap_or_else(|word| word))
    }

    /// The guest fell into a triple fault: it starts anew, or stops when it did nothing but fall so many times.
    pub(crate) fn triple_fault(&mut self, vcpu: u16, page: &mut ExitPage) -> Step {
        self.flush();
        self.once(vcpu, page.sequence, |machine| {
            let Falls { began, times } = machine.durable.falls;
            let soon = machine.host.tsc().wrapping_sub(began) < STABLE.saturating_mul(machine.rates.0);
            let times = if soon { times + 1 } else { 1 };
            machine.durable.falls.times = times;
            machine.touched.add(Block::Falls);
            let limit = machine.config.triple_faults;
            if limit != 0 && times >= limit {
                machine.host.note(Note::Falls(times));
                machine.off(VmEventKind::Stopped);
            } else {
                machine.start_over("triple fault");
            }
            0
        });
        Ok(Resume::STOP)
    }
}
