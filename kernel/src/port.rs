//! Port 0x5658: the one decode that the core makes of what a guest says, and the answer table.
//!
//! The core compares port, magic and command, and copies registers; what a command means, only
//! `vmport-rpc` knows. Only the low 32 bits of registers are ever changed, but that a 4-byte IN clears the
//! upper half of RAX, as the architecture says.

use crate::object::vm::Access;
use crate::object::{VcpuState, Vm};
use crate::state::{Core, Index};
use crate::vcpu::block::at;
use crate::vmx;
use portcullis_ipc::exit::group;
use portcullis_ipc::port::{Answer, MAGIC, PORT, PORT_REPLY_BYTES, PortCall, PortReply, register};
use portcullis_ipc::syscall::Resume;
use zerocopy::{FromBytes, IntoBytes};

/// A reply as postcard wrote it; `None` if its mask names a register that does not exist.
pub fn decode_reply(bytes: &[u8; PORT_REPLY_BYTES]) -> Option<PortReply> {
    PortReply::read_from_bytes(bytes).ok().filter(|reply| reply.mask < 1 << 6)
}

/// The answer of `vm` to `command`, if its table has one.
#[inline]
fn look_up(vm: &Vm, command: [u8; 2]) -> Option<&Answer> {
    let mut answers = vm.answers.iter().map(|(_, answer)| answer);
    answers.find(|answer| answer.used != 0 && answer.command == command)
}

/// The general registers after `reply` to `access`; `rax` apart, because SVM keeps it apart.
#[inline]
fn apply(registers: &mut [u64; 16], rax: u64, reply: &PortReply, access: &Access) -> u64 {
    let [eax, ebx, ecx, edx, esi, edi] = reply.values;
    let [_, rcx, rdx, rbx, _, _, rsi, rdi, ..] = registers;
    let set = |place: &mut u64, value: [u8; 4], index: usize| {
        let low = place.as_mut_bytes().first_chunk_mut();
        if let Some(low) = low.filter(|_| reply.mask & 1 << index != 0) {
            *low = value;
        }
    };
    set(rbx, ebx, register::EBX);
    set(rcx, ecx, register::ECX);
    set(rdx, edx, register::EDX);
    set(rsi, esi, register::ESI);
    set(rdi, edi, register::EDI);
    if !access.input {
        return rax;
    }
    let eax = if reply.mask & 1 == 0 { rax as u32 } else { u32::from_le_bytes(eax) };
    match access.width {
        4 => eax.into(),
        2 => rax & !0xffff | u64::from(eax & 0xffff),
        _ => rax & !0xff | u64::from(eax & 0xff),
    }
}

impl Core {
    /// Whether an access to `port` by `vcpu` is the core's to decode: exact port, magic in EAX, and the VM
    /// has the port.
    #[inline]
    pub fn is_backdoor(&self, vcpu: u8, port: u16) -> bool {
        port == PORT && self.rax(vcpu) as u32 == MAGIC && self.vms[self.vcpus[vcpu].vm].vmport != Index::NONE
    }

    /// The access that `vmexit` found to have raised a #GP; `None` if the registers do not make it one.
    pub fn port_access(&mut self, vcpu: u8, word: Resume) -> Option<Access> {
        let [_, _, rdx, ..] = self.vcpus[vcpu].registers;
        let length = word.length();
        let legal = matches!(word.width(), 1 | 2 | 4) && (1..=15).contains(&length);
        (legal && self.is_backdoor(vcpu, rdx as u16)).then(|| Access {
            width: word.width(),
            input: word.is_input(),
            next_rip: self.instruction_after(vcpu, self.vcpus[vcpu].control.word(at::RIP), length),
        })
    }

    /// Serve a port access: from the answer table, or by a call to `vmport-rpc`. `true` if it is served.
    #[inline(always)]
    pub fn port_exit(&mut self, vcpu: u8, access: Access) -> bool {
        let rax = self.rax(vcpu);
        let state = &mut self.vcpus[vcpu];
        let [_, rcx, ..] = state.registers;
        if let Some(answer) = look_up(&self.vms[state.vm], (rcx as u16).to_le_bytes())
            && (answer.highest_cpl >= 3 || vmx::level(state) <= answer.highest_cpl.into())
        {
            let rax = apply(&mut state.registers, rax, &answer.reply, &access);
            self.finish_port(vcpu, rax, access.next_rip);
            return true;
        }
        self.call_port(vcpu, access.width, access.input, access.next_rip);
        false
    }

    #[inline(never)]
    fn call_port(&mut self, vcpu: u8, width: u8, input: bool, next_rip: u64) {
        self.pull_slowly(vcpu, group::FLOW);
        let state = &mut self.vcpus[vcpu];
        let Some(server) = self.vms[state.vm].vmport.get() else { return };
        state.state = VcpuState::Port;
        state.sequence = state.sequence.wrapping_add(1);
        state.access = Access { width, input, next_rip };
        self.ask(server, vcpu.wrapping_add(48));
    }

    /// `vmport-rpc` answered.
    pub fn end_port_call(&mut self, vcpu: u8, reply: &PortReply) {
        let rax = self.rax(vcpu);
        let state = &mut self.vcpus[vcpu];
        let access = state.access;
        let rax = apply(&mut state.registers, rax, reply, &access);
        self.finish_port(vcpu, rax, access.next_rip);
        self.make_ready(vcpu);
    }

    /// The port call of `vcpu`.
    pub fn port_call(&self, vcpu: u8) -> PortCall {
        let state = &self.vcpus[vcpu];
        let [_, rcx, rdx, rbx, _, rbp, rsi, rdi, ..] = state.registers;
        PortCall {
            sequence: state.sequence.to_le_bytes(),
            vcpu: state.index,
            width: state.access.width,
            input: state.access.input.into(),
            cpl: vmx::level(state) as u8,
            registers: [self.rax(vcpu), rbx, rcx, rdx, rsi, rdi, rbp].map(|value| (value as u32).to_le_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_ipc::exit::gpr;
    use zerocopy::FromZeros;

    const FULL: u64 = 0x1111_2222_3333_4444;

    fn access(width: u8, input: bool) -> Access {
        Access { width, input, next_rip: 0 }
    }

    #[test]
    fn a_reply_changes_low_halves_only_and_eax_by_width_and_direction() {
        let reply = PortReply::UNCHANGED.with(register::EAX, 0xa1b2_c3d4).with(register::EBX, 7).with(register::EDI, 9);
        let table = [
            (access(4, true), 0xa1b2_c3d4),
            (access(2, true), 0x1111_2222_3333_c3d4),
            (access(1, true), 0x1111_2222_3333_44d4),
            (access(4, false), FULL),
            (access(2, false), FULL),
        ];
        for (access, rax) in table {
            let mut registers = [FULL; 16];
            assert_eq!(apply(&mut registers, FULL, &reply, &access), rax, "{access:?}");
            for (index, value) in registers.iter().enumerate() {
                let expected = match index {
                    gpr::RBX => 0x1111_2222_0000_0007,
                    gpr::RDI => 0x1111_2222_0000_0009,
                    _ => FULL,
                };
                assert_eq!(*value, expected, "register {index}");
            }
        }
    }

    #[test]
    fn an_eax_that_the_reply_keeps_is_read_like_any_other() {
        let reply = PortReply::UNCHANGED.with(register::ECX, 1);
        for (width, rax) in [(4, FULL & 0xffff_ffff), (2, FULL), (1, FULL)] {
            assert_eq!(apply(&mut [FULL; 16], FULL, &reply, &access(width, true)), rax);
        }
    }

    #[test]
    fn an_answer_is_found_by_its_command() {
        let mut vm = Vm::new_zeroed();
        vm.answers[3] = Answer { command: [45, 0], highest_cpl: 0, used: 1, reply: PortReply::UNKNOWN };
        assert!(look_up(&vm, [45, 0]).is_some());
        assert!(look_up(&vm, [45, 1]).is_none());
        assert!(look_up(&vm, [0, 0]).is_none(), "a free entry answers nothing");
    }
}
