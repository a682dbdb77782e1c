//! Keeps words in all vector registers and leaves for its `vmexit` again and again.
#![no_std]
#![no_main]

use core::arch::asm;
use guests::report::Report;

guests::entry!(long64, main);

const SECRET: u64 = 0x5ec2_e75e_c2e7_5ec2;

extern "C" fn main(_memory: u64) -> ! {
    Report::new("vectors").note(format_args!("holds words in its vector registers from here"));
    // SAFETY: the loop never ends, reads a port that nobody claims, and uses registers alone.
    unsafe {
        asm!(
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "movq xmm\\n, rax",
            "punpcklqdq xmm\\n, xmm\\n",
            ".endr",
            "2: in al, dx",
            "jmp 2b",
            in("rax") SECRET, in("dx") 0x1234u16, options(nomem, nostack, noreturn)
        )
    }
}
