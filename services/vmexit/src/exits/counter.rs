//! RDPMC: the three counters that VMware has beside those of the processor, on a VM that has its port. They are
//! readable in every ring, whatever CR4 says. Of the processor's own AMD's have 0 to 3 without saying so (APM
//! volume 2, 13.2.1): they read 0 in ring 0; CR4.PCE, which would let other rings read them, cannot be set. Intel's
//! have none without an architectural version, which CPUID leaf 0xA denies (SDM volume 3, 20.2). All others raise #GP.

use crate::cpuid::Vendor;
use crate::fetch::{self, Bytes, length};
use crate::host::Host;
use crate::machine::{Machine, Step};
use crate::paging::Miss;
use crate::registers::{after, finish};
use portcullis_ipc::exit::{ExitPage, event, gpr, group};
use portcullis_ipc::syscall::Resume;

/// TSC of the host.
const HOST_TSC: u32 = 0x1_0000;
/// Nanoseconds of real time.
const REAL: u32 = 0x1_0001;
/// Nanoseconds of the time that the guest sees.
const APPARENT: u32 = 0x1_0002;
/// Counters that every processor of AMD's has.
const LEGACY: u32 = 4;
const NS_PER_KHZ_TICK: u128 = 1_000_000;

impl<H: Host> Machine<H> {
    /// Serves RDPMC where it is intercepted.
    pub(crate) fn rdpmc(&mut self, vcpu: u16, page: &mut ExitPage) -> Step {
        let legacy = self.vendor == Vendor::Amd && page.cpl == 0 && (page.registers[gpr::RCX] as u32) < LEGACY;
        if !legacy && !self.has_counter(page) {
            return self.refuse(page);
        }
        let (next, _) = self.next(vcpu, page, &[fetch::RDPMC], group::TIME)?;
        Ok(self.count(page, next))
    }

    /// Serves the RDPMC that raised this #GP(0) in ring 1, 2 or 3, if one did.
    pub(crate) fn counter_behind_protection(&mut self, vcpu: u16, page: &mut ExitPage) -> Option<u64> {
        if page.cpl == 0 || page.event & event::VALID != 0 || !self.has_counter(page) {
            return None;
        }
        self.host.fetch(vcpu, page, group::CONTROL | group::SEGMENTS | group::TIME);
        let bytes = match Bytes::fetch(self.host.memory(), page) {
            Ok(bytes) => bytes,
            // Bytes that cannot be fetched any more are no RDPMC: the guest gets its #GP.
            Err(Miss::Fault(_)) => return None,
            Err(Miss::Busy) => return Some(Resume::ENTER),
        };
        let (length, _) = length(&bytes, page.rip, &[fetch::RDPMC])?;
        Some(self.count(page, after(page, length, bytes.bits)))
    }

    fn has_counter(&self, page: &ExitPage) -> bool {
        self.config.port && matches!(page.registers[gpr::RCX] as u32, HOST_TSC | REAL | APPARENT)
    }

    fn count(&mut self, page: &mut ExitPage, next: u64) -> u64 {
        let tsc = self.host.tsc();
        let khz = u128::from(self.identity.tsc_khz.max(1));
        let nanoseconds = |ticks: u64| (u128::from(ticks) * NS_PER_KHZ_TICK / khz) as u64;
        let value = match page.registers[gpr::RCX] as u32 {
            HOST_TSC => tsc,
            REAL => nanoseconds(tsc),
            APPARENT => nanoseconds(tsc.wrapping_add(page.tsc_offset)),
            // One of the processor's: nothing is counted.
            _ => 0,
        };
        page.registers[gpr::RAX] = value & 0xffff_ffff;
        page.registers[gpr::RDX] = value >> 32;
        page.dirty |= group::GENERAL;
        finish(page, next);
        Resume::ENTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{CODE, Model, machine, page, put};
    use portcullis_ipc::exit::Reason;
    use portcullis_ipc::exit::event::exception;

    /// Value of a counter, `None` for #GP; the model's TSC stands at 1,000,000 and counts 1000 a millisecond.
    fn read(machine: &mut Machine<Model>, mut page: ExitPage, counter: u64, code: &[u8]) -> Option<u64> {
        put(machine, &page, code);
        page.registers[gpr::RCX] = counter;
        page.tsc_offset = 0_u64.wrapping_sub(1000);
        assert_eq!(machine.exited(0, &mut page), Resume::ENTER);
        if page.event == exception(13, Some(0)) {
            assert_eq!(page.rip, CODE);
            return None;
        }
        assert_eq!(page.rip, CODE + code.len() as u64);
        Some(page.registers[gpr::RDX] << 32 | page.registers[gpr::RAX])
    }

    fn cases() -> [Option<u64>; 5] {
        [Some(1_000_000), Some(1_000_000_000), Some(999_000_000), None, None]
    }

    const COUNTERS: [u64; 5] = [0x1_0000, 0x1_0001, 0x1_0002, 0x1_0003, 4];

    #[test]
    fn amds_own_counters_read_0_in_ring_0_and_intels_are_not_there() {
        let value = |vendor, cpl, counter| {
            let mut machine = machine();
            machine.vendor = vendor;
            let page = ExitPage { cpl, ..page(Reason::Rdpmc) };
            read(&mut machine, page, counter, &[0x0f, 0x33])
        };
        for counter in 0..4 {
            assert_eq!(value(Vendor::Amd, 0, counter), Some(0));
            assert_eq!(value(Vendor::Amd, 3, counter), None, "CR4.PCE is clear");
            assert_eq!(value(Vendor::Intel, 0, counter), None);
        }
        assert_eq!(value(Vendor::Amd, 0, 4), None);
    }

    #[test]
    fn ring_0_reads_the_three_counters() {
        let values = COUNTERS.map(|counter| read(&mut machine(), page(Reason::Rdpmc), counter, &[0x0f, 0x33]));
        assert_eq!(values, cases());
    }

    #[test]
    fn the_other_rings_read_them_behind_their_protection_fault() {
        let mut fault = page(Reason::Exception);
        (fault.qualification[0], fault.cpl) = (13, 3);
        for code in [&[0x0f, 0x33][..], &[0x66, 0x0f, 0x33]] {
            for ring in 1..=3 {
                fault.cpl = ring;
                assert_eq!(COUNTERS.map(|counter| read(&mut machine(), fault, counter, code)), cases(), "ring {ring}");
            }
        }
        assert_eq!(read(&mut machine(), fault, 0x1_0000, &[0x0f, 0x32]), None, "another instruction");
        fault.cpl = 0;
        assert_eq!(read(&mut machine(), fault, 0x1_0000, &[0x0f, 0x33]), None, "ring 0 has an exit of its own");
    }

    #[test]
    fn without_the_port_there_is_no_counter() {
        let mut machine = machine();
        machine.config.port = false;
        assert_eq!(read(&mut machine, page(Reason::Rdpmc), 0x1_0000, &[0x0f, 0x33]), None);
    }
}
