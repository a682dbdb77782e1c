//! The mailbox by which a guest starts its further processors (ACPI 6.4, multiprocessor wake-up). Its page is
//! write-protected, so that each write exits: it is done on the guest's behalf, and then the command is
//! looked at.

use crate::config::ApStart;
use crate::firmware::MAILBOX;
use crate::host::Host;
use crate::machine::Machine;
use crate::memory::{GuestMemory, load};
use crate::saved::{life, start};

const PAGE: u64 = 0x1000;
/// Offsets in the page: command, 2 bytes; APIC id, 4; address at which the processor enters, 8.
const COMMAND: u64 = 0;
const ID: u64 = 4;
const VECTOR: u64 = 8;
/// The command: wake up.
const WAKE: u64 = 1;
/// Addresses that a start may have: the page tables map these. Memory from 4 GiB on is not among them: a guest maps it by
/// tables of its own, as kernels do, whose first code on a further processor lies below 1 MiB.
const REACHABLE: u64 = 1 << 32;

impl<H: Host> Machine<H> {
    /// Whether the guest has a mailbox.
    pub(crate) fn watches_mailbox(&self) -> bool {
        self.config.lapic && self.config.ap_start == ApStart::Mailbox
    }

    /// Whether a guest-physical address lies in the mailbox.
    pub(crate) fn is_mailbox(&self, address: u64) -> bool {
        self.watches_mailbox() && address.wrapping_sub(MAILBOX.into()) < PAGE
    }

    /// The guest wrote to the mailbox, by an exit that is given `again` or not. A command that names a processor that
    /// waits is obeyed and cleared; any other stays, as the specification has it.
    pub(crate) fn mailbox_written(&mut self, again: bool) {
        let base = u64::from(MAILBOX);
        let memory = self.host.memory();
        let command = load::<4>(memory, base + COMMAND) & 0xffff;
        let id = load::<4>(memory, base + ID) as usize;
        let address = load::<8>(memory, base + VECTOR);
        if command != WAKE || address >= REACHABLE {
            return;
        }
        if id >= usize::from(self.vcpus()) {
            return;
        }
        let target = self.durable.vcpus.get(id).copied().unwrap_or_default();
        let place = start::mailbox(address);
        if target.life == life::WAITING {
            self.start_at(id, place);
            self.commit();
        } else if !again || target.start != place {
            return;
        }
        // Obeyed, now or the time before.
        self.host.memory().write(base + COMMAND, &[0; 2]);
    }
}
