//! VMs and vCPUs.

use super::{DONE, Decoded, Outcome};
use crate::fault::Misuse;
use crate::object::{VcpuState, Work};
use crate::state::Core;
use portcullis_ipc::exit::group;
use portcullis_ipc::image::kind;
use portcullis_ipc::port::{ANSWER_BYTES, Answer};
use portcullis_ipc::ram::Ram;
use portcullis_ipc::record::misuse;
use portcullis_ipc::syscall::{Resume, Status, VcpuId, rights};
use portcullis_ipc::{layout, limits};

impl Core {
    /// The vCPU that the first argument names, for a `vmexit` that may run it.
    fn own_vcpu(&self, caller: u8) -> Result<u8, Misuse> {
        let partition = &self.partitions[caller];
        let id = VcpuId(partition.thread.frame.rdi);
        let vm = partition.slots.get(id.slot().into(), kind::VM, rights::RUN)?.object as u8;
        if id.0 >> 32 != 0 {
            return Err(Misuse(misuse::ARGUMENT));
        }
        self.vms[vm].vcpus().nth(id.index().into()).ok_or(Misuse(misuse::ARGUMENT))
    }

    /// A vCPU whose state the service may read and write: it answers its exit, or it is stopped.
    fn is_open(&self, caller: u8, vcpu: u8) -> bool {
        match self.vcpus[vcpu].state {
            VcpuState::Stopped | VcpuState::Parked => true,
            VcpuState::Exited => self.partitions[caller].thread.work == Work::Exit(vcpu),
            VcpuState::Ready | VcpuState::Port => false,
        }
    }

    pub(super) fn sys_vcpu_resume(&mut self, caller: u8) -> Decoded {
        let vcpu = self.own_vcpu(caller)?;
        let frame = &self.partitions[caller].thread.frame;
        let (word, mask) = (Resume(frame.rsi), frame.rdx);
        if !self.is_open(caller, vcpu) {
            return Ok(Outcome::Value(Status::NotStopped, 0));
        }
        let answers = self.partitions[caller].thread.work == Work::Exit(vcpu);
        if word.then_wait() && !answers {
            self.may_wait(caller)?;
        }
        let access = match word.action() {
            Resume::PORT => Some(self.port_access(vcpu, word).ok_or(Misuse(misuse::ARGUMENT))?),
            Resume::ENTER | Resume::PARK | Resume::STOP | Resume::YIELD => None,
            _ => return Err(Misuse(misuse::ARGUMENT)),
        };
        self.commit(vcpu)?;
        if answers {
            self.partitions[caller].thread.work = Work::Own;
        }
        match word.action() {
            Resume::PARK => self.park(vcpu),
            Resume::STOP => self.stop(vcpu),
            _ => self.make_ready(vcpu),
        }
        if let Some(access) = access {
            self.port_exit(vcpu, access);
        }
        if word.action() == Resume::YIELD {
            self.yield_to_sibling(vcpu);
        }
        if word.then_wait() {
            if answers {
                self.partitions[caller].thread.work = Work::None;
                self.partitions[caller].thread.mask = mask;
                self.offer(caller);
            } else {
                self.wait(caller, mask);
            }
            return Ok(Outcome::Later);
        }
        if answers {
            self.activate(caller);
        }
        DONE
    }

    pub(super) fn sys_vcpu_fetch(&mut self, caller: u8) -> Decoded {
        let vcpu = self.own_vcpu(caller)?;
        let groups = self.partitions[caller].thread.frame.rsi;
        if groups & !u64::from(group::ALL) != 0 {
            return Err(Misuse(misuse::ARGUMENT));
        }
        if !self.is_open(caller, vcpu) {
            return Ok(Outcome::Value(Status::NotStopped, 0));
        }
        self.fill_groups(vcpu, groups as u32);
        DONE
    }

    pub(super) fn sys_vcpu_recall(&mut self, caller: u8) -> Decoded {
        let vcpu = self.own_vcpu(caller)?;
        if self.vcpus[vcpu].state == VcpuState::Stopped {
            return Ok(Outcome::Value(Status::NotStopped, 0));
        }
        self.recall(vcpu);
        DONE
    }

    pub(super) fn sys_vm_protect(&mut self, caller: u8) -> Decoded {
        let partition = &self.partitions[caller];
        let frame = &partition.thread.frame;
        let (address, pages, wanted) = (frame.rsi, frame.rdx, frame.r10());
        let vm = partition.slots.get(frame.rdi, kind::VM, rights::RUN)?.object as u8;
        let memory = Ram::new(self.vms[vm].pages << 12);
        let fits = pages <= limits::STATE_PAGES as u64 && memory.holds(address, (pages << 12).max(1));
        if address & 0xfff != 0 || !fits || wanted > 7 {
            return Err(Misuse(misuse::ARGUMENT));
        }
        let done = self.protect_guest(vm, address, pages, wanted as u8);
        Ok(Outcome::Value(if done { Status::Ok } else { Status::Full }, 0))
    }

    pub(super) fn sys_vm_answer(&mut self, caller: u8) -> Decoded {
        let partition = &self.partitions[caller];
        let index = partition.thread.frame.rsi;
        let vm = partition.slots.get(partition.thread.frame.rdi, kind::VM, rights::ANSWER)?.object as u8;
        let bytes = partition.thread.message.read::<[u8; ANSWER_BYTES], { layout::SEND + 32 }>();
        let answer = decode_answer(&bytes).ok_or(Misuse(misuse::PAYLOAD))?;
        let answers = &mut self.vms[vm].answers;
        let place = answers.place(index).ok_or(Misuse(misuse::ARGUMENT))?;
        answers[place] = answer;
        DONE
    }
}

fn decode_answer(bytes: &[u8; ANSWER_BYTES]) -> Option<Answer> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    let [low, high, highest_cpl, used] = *head;
    (highest_cpl <= 3 && used <= 1).then_some(Answer {
        command: [low, high],
        highest_cpl,
        used,
        reply: crate::port::decode_reply(rest.first_chunk()?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_ipc::port::PortReply;

    #[test]
    fn an_answer_decodes_as_postcard_wrote_it_and_refuses_what_it_cannot_mean() {
        let mut bytes = [0u8; ANSWER_BYTES];
        bytes[0] = 10;
        bytes[2] = 3;
        bytes[3] = 1;
        bytes[4] = 0b11;
        bytes[5..9].copy_from_slice(&6u32.to_le_bytes());
        let answer = decode_answer(&bytes).unwrap();
        assert_eq!(answer.command, [10, 0]);
        assert_eq!(answer.reply, PortReply { mask: 3, values: [[6, 0, 0, 0], [0; 4], [0; 4], [0; 4], [0; 4], [0; 4]] });
        bytes[2] = 4;
        assert!(decode_answer(&bytes).is_none());
        bytes[2] = 3;
        bytes[4] = 0x40;
        assert!(decode_answer(&bytes).is_none());
    }
}
