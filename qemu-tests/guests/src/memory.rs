//! Plain access to memory and ports. A guest owns its whole machine: every address of its RAM and
//! every port is its own, which is what makes these functions callable without `unsafe`.

use core::arch::asm;

/// Reads a value at an address.
pub fn peek<T: Copy>(address: u64) -> T {
    // SAFETY: the guest owns all memory and touches it by address from this one thread only.
    unsafe { (address as *const T).read_volatile() }
}

/// Writes a value at an address.
pub fn poke<T: Copy>(address: u64, value: T) {
    // SAFETY: as in `peek`; callers write only to the scratch areas and tables of `machine`.
    unsafe { (address as *mut T).write_volatile(value) }
}

/// Writes bytes at an address.
pub fn place(address: u64, bytes: &[u8]) {
    for (offset, &byte) in bytes.iter().enumerate() {
        poke(address + offset as u64, byte);
    }
}

/// Reads a byte from a port.
pub fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: a port read changes no memory of this program.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a byte to a port.
pub fn outb(port: u16, value: u8) {
    // SAFETY: a port write changes no memory of this program.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: RDTSC has no effect but its result.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// CPUID leaf `leaf`, sub-leaf 0: EAX, EBX, ECX, EDX.
pub fn cpuid(leaf: u32) -> [u32; 4] {
    let answer = core::arch::x86_64::__cpuid_count(leaf, 0);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}
