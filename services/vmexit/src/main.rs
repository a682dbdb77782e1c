//! `vmexit`: serves the exits of one VM: loads its guest, answers CPUID, MSRs and ports, emulates the
//! instructions that exit, and carries its serial port to a console.
//!
//! The service maps its guest's memory and nothing else: a guest that takes it over gains its own
//! memory, its own exit pages and the calls below. What it acknowledged to the guest lies in the state
//! region; an exit that is given again to a new instance is answered from the record.
//!
//! Not emulated: interval timer and 8259, which the guest's tables say are not there.
//!
//! Capabilities: the VM `vm` with the right `run`; the endpoint `link` (its badge names the console) and
//! the timer `uart` (sends a line that has no end after a while), without which the serial port goes
//! nowhere; the timer `lapic`, without which those of the local APICs never fire; the endpoint `vmport-rpc`,
//! which is told of resets; the endpoint `acpi-mangler`, without which the guest gets no firmware tables. The notification that
//! `link` sends tells of console input. Blobs: `kernel` and, if it wants one, `initrd`; or `guest`, a raw image
//! whose first byte is its first instruction. Configuration: `guest.entry` (auto, pvh, linux32, multiboot; raw:
//! real16, protected32, long64), `guest.append` (the kernel's command line), `guest.load` (of a raw image:
//! 0x7c00, else 0x100000), `guest.exit-port` (none); `lapic`, `ioapic`, `acpi`, `smbios` (on or off; on unless the
//! image is raw), `guest.exit-tries` (5; instances in a row that one exit may end before the machine stops) and
//! `guest.triple-faults` (10; in a row, each within a minute of a start, before it stops), 0 for no limit, `ap-start` (sipi or mailbox), `uuid` (made from the VM's name); `vm.identity`, `vm.platform`,
//! `vm.hardware`, `vm.port` and `vm.xcr0` come from the VM's own table in the manifest. It needs 16 KiB of stack, 32 for a bzImage as it is, and a state region of two
//! pages; memory for the decoder's tables it brings itself.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(test, allow(clippy::type_complexity, reason = "tables of cases"))]
#![cfg_attr(not(target_os = "none"), allow(dead_code, reason = "used by the bare-metal part"))]

extern crate alloc;

mod apic;
mod boot;
mod clock;
mod config;
mod console;
mod cpuid;
mod data;
mod delivery;
mod exception;
mod exits;
mod fetch;
mod firmware;
mod host;
mod interrupts;
mod life;
mod loader;
mod machine;
mod mailbox;
mod memory;
mod mmio;
mod msr;
mod paging;
mod ports;
mod progress;
mod registers;
mod saved;
mod segments;
mod startup;
mod tally;
mod uart;
mod watch;

#[cfg(test)]
mod tests;

#[cfg(target_os = "none")]
mod desk;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("vmexit is a partition of Portcullis: build an image with `cargo xtask build`");
}
