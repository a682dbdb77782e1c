//! The commands of VMware's port and their answers.
//!
//! A command whose answer depends on nothing but the machine goes into the answer table, so that the
//! core gives it. Everything else is answered here by the same rule, so that a guest sees no difference
//! between the two ways. Which answer a command without support must get is fixed by how its clients
//! test for it: -1 in EAX alone, with three exceptions.

use crate::clock::Wall;
use portcullis_ipc::port::{Answer, MAGIC, PortCall, PortReply, register};

/// Command numbers, in CX.
pub mod command {
    /// Processor speed, MHz.
    pub const GETMHZ: u16 = 1;
    /// Pointer position.
    pub const GETPTRLOCATION: u16 = 4;
    /// Version of the interface.
    pub const GETVERSION: u16 = 10;
    /// Four bytes of a removable device's record.
    pub const GETDEVICELISTELEMENT: u16 = 11;
    /// Preferences of the user interface.
    pub const GETGUIOPTIONS: u16 = 13;
    /// Connects or disconnects a removable device.
    pub const TOGGLEDEVICE: u16 = 12;
    /// Version of the virtual hardware.
    pub const GETHWVERSION: u16 = 17;
    /// Time, 32 bits of seconds.
    pub const GETTIME: u16 = 23;
    /// Forget ticks of the timer that are still to be delivered.
    pub const STOPCATCHUP: u16 = 24;
    /// Message channels.
    pub const MESSAGE: u16 = 30;
    /// TSC and local-APIC timer frequency.
    pub const GETHZ: u16 = 45;
    /// Time.
    pub const GETTIMEFULL: u16 = 46;
    /// Time, and how far the delivery of interrupts is behind it.
    pub const GETTIMEFULL_WITH_LAG: u16 = 55;
    /// Facts about the vCPU.
    pub const GET_VCPU_INFO: u16 = 68;
}

/// Version of the interface that GETVERSION returns.
const INTERFACE: u32 = 6;
/// Type of the product that GETVERSION returns: scalable server.
const PRODUCT: u32 = 2;
/// GET_VCPU_INFO: TSCs are synchronised (bit 1); x2APIC works without interrupt remapping (bit 3).
const VCPU: u32 = 1 << 1 | 1 << 3;
/// GETPTRLOCATION: (-100, -100), the pointer is not grabbed.
const NOT_GRABBED: u32 = 0xFF9C_FF9C;

/// GETGUIOPTIONS: the guest follows the host's clock.
const SYNCHRONIZES: u32 = 0x400;
/// Time family: how far a guest may be behind before it steps its clock, microseconds. The value that VMware
/// documents as its default.
const MOST_LAG: u32 = 1_000_000;

/// What changes while the machine runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// The time; `None` while nobody has set the clock.
    pub wall: Option<Wall>,
    /// The guest follows the host's clock.
    pub synchronizes: bool,
}

/// What the answers are made of.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// TSC ticks per second.
    pub tsc_hz: u64,
    /// Local APIC timer ticks per second, before the divider.
    pub lapic_hz: u64,
    /// Version of the virtual hardware, from 1.
    pub hardware: u32,
}

/// Commands in the answer table.
pub const TABLE: usize = 5;

impl Machine {
    /// The answer table. GETHZ belongs to the kernel alone; the rest answers every privilege level.
    pub fn table(&self) -> [Answer; TABLE] {
        [
            entry(command::GETVERSION, 3, self.version()),
            entry(command::GETHZ, 0, self.frequencies()),
            entry(command::GETHWVERSION, 3, self.hardware_version()),
            entry(command::GETMHZ, 3, eax(self.mhz())),
            entry(command::GET_VCPU_INFO, 3, eax(VCPU)),
        ]
    }

    /// The answer to a call that the table did not answer. Message channels are not answered here.
    pub fn answer(&self, call: &PortCall, now: &Now) -> PortReply {
        let number = call.register(register::ECX) as u16;
        let entry = self.table().into_iter().find(|entry| entry.command == number.to_le_bytes());
        if let Some(entry) = entry {
            return if call.cpl <= entry.highest_cpl { entry.reply } else { PortReply::UNKNOWN };
        }
        match number {
            command::GETGUIOPTIONS => eax(if now.synchronizes { SYNCHRONIZES } else { 0 }),
            command::GETDEVICELISTELEMENT | command::TOGGLEDEVICE => eax(0),
            command::GETPTRLOCATION => eax(NOT_GRABBED),
            // No tick is ever kept back, so there is nothing to forget.
            command::STOPCATCHUP => PortReply::UNCHANGED,
            command::GETTIME => now.wall.map_or(PortReply::UNKNOWN, time),
            command::GETTIMEFULL => now.wall.map_or(PortReply::UNKNOWN, full_time),
            command::GETTIMEFULL_WITH_LAG => {
                now.wall.map_or(PortReply::UNKNOWN, |wall| full_time(wall).with(register::EDI, 0))
            }
            // No channel can be opened: every operation fails, which is ECX 0 as a whole.
            command::MESSAGE => PortReply::UNCHANGED.with(register::ECX, 0),
            _ => PortReply::UNKNOWN,
        }
    }

    fn version(&self) -> PortReply {
        eax(INTERFACE).with(register::EBX, MAGIC).with(register::ECX, PRODUCT)
    }

    fn frequencies(&self) -> PortReply {
        // A guest takes 0 for "calibrate it yourself", for which it has no other timer.
        let lapic = u32::try_from(self.lapic_hz).unwrap_or(u32::MAX).max(1);
        eax(self.tsc_hz as u32).with(register::EBX, (self.tsc_hz >> 32) as u32).with(register::ECX, lapic)
    }

    fn hardware_version(&self) -> PortReply {
        eax(self.hardware).with(register::EBX, MAGIC)
    }

    fn mhz(&self) -> u32 {
        u32::try_from(self.tsc_hz / 1_000_000).unwrap_or(u32::MAX).clamp(1, i32::MAX as u32)
    }
}

/// UTC: no time zone is added.
fn time(wall: Wall) -> PortReply {
    let reply = eax(wall.seconds as u32).with(register::EBX, wall.microseconds);
    reply.with(register::ECX, MOST_LAG).with(register::EDX, 0)
}

/// EAX keeps the magic, by which the guest knows that the command is there.
fn full_time(wall: Wall) -> PortReply {
    let reply = PortReply::UNCHANGED.with(register::EBX, wall.microseconds).with(register::ECX, MOST_LAG);
    reply.with(register::ESI, (wall.seconds >> 32) as u32).with(register::EDX, wall.seconds as u32)
}

fn eax(value: u32) -> PortReply {
    PortReply::UNCHANGED.with(register::EAX, value)
}

fn entry(command: u16, highest_cpl: u8, reply: PortReply) -> Answer {
    Answer { command: command.to_le_bytes(), highest_cpl, used: 1, reply }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { tsc_hz: 5_000_000_123, lapic_hz: 1_000_000_000, hardware: 13 };

    const NOW: Now = Now { wall: Some(Wall { seconds: 0x1_6543_2100, microseconds: 999_999 }), synchronizes: true };

    fn call(ecx: u32, cpl: u8) -> PortCall {
        let mut registers = [[0; 4]; 7];
        registers[register::EAX] = MAGIC.to_le_bytes();
        registers[register::EBX] = (!MAGIC).to_le_bytes();
        registers[register::ECX] = ecx.to_le_bytes();
        PortCall { sequence: [0; 8], vcpu: 0, width: 4, input: 1, cpl, registers }
    }

    /// Register values that a reply writes, in the order EAX to EDI.
    fn written(reply: PortReply) -> Vec<(usize, u32)> {
        let values = reply.values.iter().enumerate();
        let values = values.map(|(index, value)| (index, u32::from_le_bytes(*value)));
        values.filter(|(index, _)| reply.mask & 1 << index != 0).collect()
    }

    /// Test vectors 1, 3, 9 and 10 of the facts, and section 1.4's exceptions.
    #[test]
    fn each_command_writes_exactly_the_registers_that_its_clients_expect() {
        use register::{EAX, EBX, ECX, EDI, EDX, ESI};
        let magic = MAGIC;
        let table: &[(u32, u8, &[(usize, u32)])] = &[
            (0xFFFF_000A, 0, &[(EAX, 6), (EBX, magic), (ECX, 2)]),
            (0x0000_000A, 3, &[(EAX, 6), (EBX, magic), (ECX, 2)]),
            (0x4000, 0, &[(EAX, u32::MAX)]),
            (45, 0, &[(EAX, 0x2A05_F27B), (EBX, 1), (ECX, 1_000_000_000)]),
            (45, 3, &[(EAX, u32::MAX)]),
            (17, 3, &[(EAX, 13), (EBX, magic)]),
            (1, 3, &[(EAX, 5000)]),
            (68, 0, &[(EAX, 0xA)]),
            (13, 3, &[(EAX, 0x400)]),
            (12, 3, &[(EAX, 0)]),
            (24, 3, &[]),
            (23, 3, &[(EAX, 0x6543_2100), (EBX, 999_999), (ECX, 1_000_000), (EDX, 0)]),
            (46, 3, &[(EBX, 999_999), (ECX, 1_000_000), (EDX, 0x6543_2100), (ESI, 1)]),
            (55, 0, &[(EBX, 999_999), (ECX, 1_000_000), (EDX, 0x6543_2100), (ESI, 1), (EDI, 0)]),
            (11, 3, &[(EAX, 0)]),
            (4, 3, &[(EAX, 0xFF9C_FF9C)]),
            (0x0000_001E, 3, &[(ECX, 0)]),
            (0x0006_001E, 0, &[(ECX, 0)]),
            (0xFFFF, 0, &[(EAX, u32::MAX)]),
        ];
        for (ecx, cpl, expected) in table {
            assert_eq!(&written(MACHINE.answer(&call(*ecx, *cpl), &NOW)), expected, "{ecx:#x} at {cpl}");
        }
    }

    #[test]
    fn every_command_but_the_exceptions_is_unknown() {
        let known = [1, 4, 10, 11, 12, 13, 17, 23, 24, 30, 45, 46, 55, 68];
        for number in (0..=u16::MAX).filter(|number| !known.contains(number)) {
            assert_eq!(MACHINE.answer(&call(number.into(), 0), &NOW), PortReply::UNKNOWN);
        }
    }

    #[test]
    fn table_and_service_give_the_same_answer() {
        for entry in MACHINE.table() {
            let number = u16::from_le_bytes(entry.command);
            let reply = MACHINE.answer(&call(number.into(), entry.highest_cpl), &NOW);
            assert_eq!(reply, entry.reply);
        }
    }

    /// What a running guest sees never changes under it (R12): platform version 1.
    #[test]
    fn every_answer_is_that_of_platform_version_1() {
        let mut text = String::new();
        for number in 0..=104 {
            for cpl in [0, 3] {
                let reply = MACHINE.answer(&call(number, cpl), &NOW);
                if reply != PortReply::UNKNOWN {
                    text.push_str(&format!("{number} cpl {cpl} {:x?}\n", written(reply)));
                }
            }
        }
        assert_eq!(text, include_str!("../golden/answers-1.txt"));
    }

    #[test]
    fn without_a_clock_the_guest_is_told_that_there_is_none() {
        for number in [23, 46, 55] {
            assert_eq!(MACHINE.answer(&call(number, 0), &Now::default()), PortReply::UNKNOWN);
        }
        assert_eq!(written(MACHINE.answer(&call(13, 3), &Now::default())), [(register::EAX, 0)]);
    }

    #[test]
    fn no_frequency_makes_an_answer_that_means_unsupported() {
        let odd = Machine { tsc_hz: u64::MAX, lapic_hz: u64::MAX, hardware: 13 };
        assert!((odd.mhz() as i32) > 0);
        let none = Machine { tsc_hz: 0, lapic_hz: 0, hardware: 13 };
        assert!(none.mhz() > 0);
        assert_ne!(written(none.frequencies())[2].1, 0);
    }
}
