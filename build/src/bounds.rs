//! Finds accesses of a program that only a branch keeps within a table: the value of a register is compared with a constant,
//! an unsigned branch decides, and the register then makes an address without an AND in between. A processor that runs
//! ahead of the branch makes the access with any value that ring 3 or a guest chose (R14).
//!
//! Each function is read from its start to its end in the order of its bytes, as compilers lay out a check and what it
//! guards.

use iced_x86::{
    ConditionCode, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};
use std::collections::BTreeSet;

/// Registers that a call may change (System V ABI).
const CHANGED_BY_CALLS: [Register; 9] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
];

/// Part of the names of what runs before there is a partition or a guest.
pub const BOOT: &str = "portcullis_kernel4boot";

/// Addresses of such accesses in `code`, the function at `address`.
pub fn unmasked(code: &[u8], address: u64) -> Vec<u64> {
    let mut found = Vec::new();
    let mut scan = Scan {
        factory: InstructionInfoFactory::new(),
        compared: None,
        bounded: BTreeSet::new(),
        small: BTreeSet::new(),
    };
    for instruction in Decoder::with_ip(64, code, address, DecoderOptions::NONE) {
        if scan.step(&instruction) {
            found.push(instruction.ip());
        }
    }
    found
}

struct Scan {
    factory: InstructionInfoFactory,
    /// Register that the last comparison compared with a constant.
    compared: Option<Register>,
    /// Registers that only a branch has bounded, and what was computed from them.
    bounded: BTreeSet<Register>,
    /// Registers whose value was made small before any check: a byte, the number of a bit, what is left by a mask.
    small: BTreeSet<Register>,
}

impl Scan {
    /// Takes one instruction; whether it makes an access as described above.
    fn step(&mut self, one: &Instruction) -> bool {
        let uses = |register: Register, set: &BTreeSet<Register>| set.contains(&register.full_register());
        let address = one.op_kinds().any(|kind| kind == OpKind::Memory)
            && (uses(one.memory_base(), &self.bounded) || uses(one.memory_index(), &self.bounded));
        let access = address && !matches!(one.mnemonic(), Mnemonic::Lea | Mnemonic::Nop);
        match one.flow_control() {
            FlowControl::ConditionalBranch => {
                let unsigned = matches!(
                    one.condition_code(),
                    ConditionCode::a | ConditionCode::ae | ConditionCode::b | ConditionCode::be
                );
                if let Some(register) = self.compared.filter(|_| unsigned) {
                    self.bounded.insert(register);
                }
                return access;
            }
            FlowControl::Call | FlowControl::IndirectCall => {
                CHANGED_BY_CALLS.iter().for_each(|register| _ = self.bounded.remove(register));
                return access;
            }
            FlowControl::Next => {}
            // What follows is reached from elsewhere.
            _ => self.bounded.clear(),
        }
        if one.mnemonic() == Mnemonic::Cmp {
            let constant = !matches!(one.op1_kind(), OpKind::Register | OpKind::Memory);
            let register = (one.op0_kind() == OpKind::Register && constant).then(|| one.op0_register());
            let wide = register.filter(|register| register.size() > 1).map(Register::full_register);
            self.compared = wide.filter(|register| !self.small.contains(register));
            return access;
        }
        if one.rflags_modified() != 0 {
            self.compared = None;
        }
        self.pass_on(one);
        access
    }

    /// What `one` computes from a bounded register is bounded no better; an AND with a constant masks it.
    fn pass_on(&mut self, one: &Instruction) {
        let masks = one.mnemonic() == Mnemonic::And && !matches!(one.op1_kind(), OpKind::Register | OpKind::Memory);
        // What is loaded from memory is another value.
        let loads = one.op_kinds().any(|kind| kind == OpKind::Memory) && one.mnemonic() != Mnemonic::Lea;
        let used = self.factory.info(one);
        let full = |access: &[OpAccess]| -> Vec<Register> {
            let matching = used.used_registers().iter().filter(|used| access.contains(&used.access()));
            matching.map(|used| used.register().full_register()).collect()
        };
        let read = full(&[OpAccess::Read, OpAccess::ReadWrite, OpAccess::CondRead, OpAccess::ReadCondWrite]);
        let written = full(&[OpAccess::Write, OpAccess::ReadWrite, OpAccess::CondWrite, OpAccess::ReadCondWrite]);
        let taken = !masks && !loads && read.iter().any(|register| self.bounded.contains(register));
        let byte = one.mnemonic() == Mnemonic::Movzx
            && match one.op1_kind() {
                OpKind::Memory => one.memory_size().size() == 1,
                _ => one.op1_register().size() == 1,
            };
        let made_small = masks || byte || matches!(one.mnemonic(), Mnemonic::Tzcnt | Mnemonic::Bsf | Mnemonic::Popcnt);
        let copied = one.mnemonic() == Mnemonic::Mov && !loads && read.iter().any(|one| self.small.contains(one));
        for register in written {
            set(&mut self.bounded, register, taken);
            set(&mut self.small, register, made_small || copied);
        }
    }
}

/// Puts `register` into the set or takes it out.
fn set(registers: &mut BTreeSet<Register>, register: Register, member: bool) {
    if member {
        registers.insert(register);
    } else {
        registers.remove(&register);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_and_the_number_of_a_bit_are_small_without_a_check() {
        // movzx ecx, cl; tzcnt rcx, rdx; cmp cl, 63 in place of the 64-bit one
        assert!(unmasked(&[&[0x0f, 0xb6, 0xc9], CHECK, ACCESS].concat(), 0).is_empty());
        assert!(unmasked(&[&[0xf3, 0x48, 0x0f, 0xbc, 0xca], CHECK, ACCESS].concat(), 0).is_empty());
        assert!(unmasked(&[&[0x80, 0xf9, 0x3f, 0x77, 0x20], ACCESS].concat(), 0).is_empty());
    }

    /// cmp rcx, 63; ja +0x20
    const CHECK: &[u8] = &[0x48, 0x83, 0xf9, 0x3f, 0x77, 0x20];
    /// shl rcx, 5; movzx ecx, word [rcx + rdi + 4]
    const ACCESS: &[u8] = &[0x48, 0xc1, 0xe1, 0x05, 0x0f, 0xb7, 0x4c, 0x39, 0x04];

    #[test]
    fn an_access_that_only_a_branch_bounds_is_found() {
        assert_eq!(unmasked(&[CHECK, ACCESS].concat(), 0x1000), [0x100a]);
    }

    #[test]
    fn one_whose_register_was_masked_or_loaded_anew_is_not() {
        // and ecx, 63
        assert!(unmasked(&[CHECK, &[0x83, 0xe1, 0x3f], ACCESS].concat(), 0).is_empty());
        // mov rcx, [rdi]
        assert!(unmasked(&[CHECK, &[0x48, 0x8b, 0x0f], ACCESS].concat(), 0).is_empty());
        assert!(unmasked(ACCESS, 0).is_empty(), "nothing was compared");
        // jne does not check a bound.
        assert!(unmasked(&[&CHECK[..4], &[0x75, 0x20], ACCESS].concat(), 0).is_empty());
    }

    #[test]
    fn a_copy_is_bounded_no_better_and_a_call_forgets() {
        // mov rax, rcx; mov [rax * 8 + 0x220640], rdx
        let copy: &[u8] = &[0x48, 0x89, 0xc8, 0x48, 0x89, 0x14, 0xc5, 0x40, 0x06, 0x22, 0x00];
        assert_eq!(unmasked(&[CHECK, copy].concat(), 0), [9]);
        // call +0
        assert!(unmasked(&[CHECK, &[0xe8, 0, 0, 0, 0], ACCESS].concat(), 0).is_empty());
    }
}
