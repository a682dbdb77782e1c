//! What a machine's firmware leaves in guest memory before the kernel starts: tables of ACPI and SMBIOS, which
//! `acpi-mangler` builds, and the mailbox page.

use crate::config::{ApStart, Config};
use crate::loader::{Error, put};
use crate::memory::GuestMemory;
use portcullis_ipc::proto::acpi::{BuildTables, WINDOW, WINDOW_BYTES};

/// Page by which further processors are started, where the manifest chooses so.
pub const MAILBOX: u32 = 0xe_f000;

/// The machine as the tables describe it; `None` when the guest is given none.
pub fn describe(config: &Config, memory: u64, vcpus: u32) -> Option<BuildTables> {
    let mailbox = config.lapic && config.ap_start == ApStart::Mailbox;
    let machine = BuildTables {
        platform: config.platform,
        hardware: config.hardware,
        base: WINDOW,
        memory,
        vcpus: u8::try_from(vcpus).unwrap_or(u8::MAX),
        acpi: config.acpi,
        smbios: config.smbios,
        lapic: config.lapic,
        ioapic: config.ioapic,
        serial: true,
        clock: true,
        mailbox: mailbox.then_some(MAILBOX),
        uuid: config.uuid,
    };
    (config.acpi || config.smbios).then_some(machine)
}

/// Where a processor starts in real mode, and what stands there: code that writes 6 to port 0xcf9, by which the
/// machine is reset, and halts. Linux on hardware-reduced ACPI without EFI restarts a machine by going there.
const ENTRY: u64 = 0xf_fff0;
const RESET: [u8; 9] = [0xb0, 0x06, 0xba, 0xf9, 0x0c, 0xee, 0xf4, 0xeb, 0xfd];

/// Puts the place of the tables and of the mailbox into its first state: what a guest wrote there before a
/// reset is gone. Zeros, but for the processor's first instruction.
pub fn clear(memory: &mut impl GuestMemory) -> Result<(), Error> {
    let (window, length) = (u64::from(WINDOW), u64::from(WINDOW_BYTES));
    if !memory.zero(window, length) {
        return Err(Error::Memory { needed: window + length, have: memory.size() });
    }
    put(memory, ENTRY, &RESET)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::Plain;
    use crate::tests::CONFIG;

    #[test]
    fn the_tables_describe_the_machine_of_the_manifest() {
        assert_eq!(describe(&CONFIG, 1 << 20, 1), None);
        let config = Config { acpi: true, lapic: true, ap_start: ApStart::Mailbox, uuid: [7; 16], ..CONFIG };
        let machine = describe(&config, 64 << 20, 3).unwrap();
        assert_eq!(machine.hardware, 13);
        assert_eq!((machine.platform, machine.base, machine.memory, machine.vcpus), (1, 0xe_0000, 64 << 20, 3));
        assert_eq!((machine.acpi, machine.smbios, machine.lapic, machine.ioapic), (true, false, true, false));
        assert_eq!((machine.mailbox, machine.uuid), (Some(MAILBOX), [7; 16]));
        let sipi = Config { ap_start: ApStart::Sipi, ..config };
        assert_eq!(describe(&sipi, 64 << 20, 3).unwrap().mailbox, None);
        let bare = Config { lapic: false, ..config };
        assert_eq!(describe(&bare, 64 << 20, 3).unwrap().mailbox, None, "nobody would watch it");
    }

    #[test]
    fn the_window_is_zeroed_but_for_the_reset_code_and_nothing_else() {
        let mut memory = Plain::new(0x10_1000);
        memory.0.fill(7);
        clear(&mut memory).unwrap();
        assert_eq!((memory.0[0xd_ffff], memory.0[0x10_0000]), (7, 7));
        assert!(memory.0[0xe_0000..0xf_fff0].iter().all(|byte| *byte == 0));
        assert_eq!(memory.0[0xf_fff0..0xf_fff9], RESET);
        assert!(memory.0[0xf_fff9..0x10_0000].iter().all(|byte| *byte == 0));
        assert!(clear(&mut Plain::new(0xf_0000)).is_err());
    }
}
