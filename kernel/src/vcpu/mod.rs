//! vCPUs, the same for both vendors: the control block and what a service may write into it, exits and their delivery,
//! entry, nested tables. What a processor does its own way is in `svm` and `vmx`.

pub mod block;
mod check;
mod exit;
mod groups;
pub mod machine;
pub mod nested;
mod run;

pub use check::UNSETTLED;
pub use groups::TRAP;
pub use machine::{Machine, Vendor};

/// An instruction for each general register of a guest but RAX, RSP and RSI; `at` is its place in
/// [`crate::object::Vcpu::registers`].
macro_rules! each_guest_register {
    ($instruction:literal) => {
        concat!(
            ".set at, 8\n.irp register, rcx, rdx, rbx, rbp, rdi, r8, r9, r10, r11, r12, r13, r14, r15\n",
            $instruction,
            "\n.set at, at + 8\n.if (at == 32) | (at == 48)\n.set at, at + 8\n.endif\n.endr"
        )
    };
}
pub(crate) use each_guest_register;
