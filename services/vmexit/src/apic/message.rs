//! An interrupt message: what goes over the bus between the IOAPIC and the local APICs.

/// Whom a message addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The sender.
    Myself,
    /// Every vCPU.
    All,
    /// Every vCPU but the sender.
    Others,
    /// The vCPU with this APIC id.
    Physical(u32),
    /// The vCPUs whose logical id matches.
    Logical(u32),
}

/// What a message does to those it addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Interrupt `vector` for each.
    Fixed,
    /// Interrupt `vector` for the one that runs at the lowest priority.
    LowestPriority,
    /// NMI.
    Nmi,
    /// INIT.
    Init,
    /// Start-up: real mode at page `vector`.
    Startup,
}

impl Mode {
    /// From the three bits of a register. SMI, ExtINT and the reserved code are refused: there is neither
    /// a system management mode nor an 8259.
    pub fn of(bits: u64) -> Option<Self> {
        match bits & 7 {
            0 => Some(Self::Fixed),
            1 => Some(Self::LowestPriority),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::Startup),
            _ => None,
        }
    }
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whom.
    pub destination: Destination,
    /// What.
    pub mode: Mode,
    /// Vector, or page number of [`Mode::Startup`].
    pub vector: u8,
    /// Level-triggered: its end is told to the IOAPIC.
    pub level: bool,
}

impl Message {
    /// The message that a value of the interrupt command register sends; `None` where the manual calls the
    /// combination invalid, and for the INIT de-assert that modern processors ignore.
    pub fn of_command(command: u64, x2apic: bool) -> Option<Self> {
        let mode = Mode::of(command >> 8)?;
        let destination = match command >> 18 & 3 {
            1 => Destination::Myself,
            2 => Destination::All,
            3 => Destination::Others,
            _ if x2apic => wide(command),
            _ => narrow((command >> 56) as u8, command & 1 << 11 != 0),
        };
        let (level, asserted) = (command & 1 << 15 != 0, command & 1 << 14 != 0);
        let event = matches!(mode, Mode::Nmi | Mode::Init | Mode::Startup);
        let to_self =
            matches!(destination, Destination::Myself) || destination == Destination::All && command >> 18 & 3 == 2;
        if event && to_self || mode == Mode::Init && level && !asserted {
            return None;
        }
        // IPIs are edges whatever the trigger bit says.
        Some(Self { destination, mode, vector: command as u8, level: false })
    }
}

/// A destination of 32 bits, as x2APIC mode writes it.
fn wide(command: u64) -> Destination {
    match ((command >> 32) as u32, command & 1 << 11 != 0) {
        (u32::MAX, _) => Destination::All,
        (id, true) => Destination::Logical(id),
        (id, false) => Destination::Physical(id),
    }
}

/// A destination of 8 bits, as xAPIC mode and the IOAPIC write it.
pub fn narrow(id: u8, logical: bool) -> Destination {
    match (id, logical) {
        (u8::MAX, false) => Destination::All,
        (id, true) => Destination::Logical(id.into()),
        (id, false) => Destination::Physical(id.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_names_destination_mode_and_vector() {
        use Destination::{All, Logical, Myself, Others, Physical};
        let table: [(u64, bool, Option<(Destination, Mode, u8)>); 17] = [
            (0x0300_0000_0000_0031, false, Some((Physical(3), Mode::Fixed, 0x31))),
            (0x0300_0000_0000_0831, false, Some((Logical(3), Mode::Fixed, 0x31))),
            (0xff00_0000_0000_0031, false, Some((All, Mode::Fixed, 0x31))),
            (0xff00_0000_0000_0831, false, Some((Logical(0xff), Mode::Fixed, 0x31))),
            (0x0000_0003_0000_0031, true, Some((Physical(3), Mode::Fixed, 0x31))),
            (0xffff_ffff_0000_0831, true, Some((All, Mode::Fixed, 0x31))),
            (0x0001_0002_0000_0831, true, Some((Logical(0x1_0002), Mode::Fixed, 0x31))),
            (0x0300_0000_0004_0031, false, Some((Myself, Mode::Fixed, 0x31))),
            (0x0008_0131, false, Some((All, Mode::LowestPriority, 0x31))),
            (0x000c_0400, false, Some((Others, Mode::Nmi, 0))),
            (0x0100_0000_0000_c500, false, Some((Physical(1), Mode::Init, 0))),
            (0x0100_0000_0000_8500, false, None),
            (0x0100_0000_0000_0699, false, Some((Physical(1), Mode::Startup, 0x99))),
            (0x0008_0500, false, None),
            (0x0004_0400, false, None),
            (0x0200, false, None),
            (0x0700, true, None),
        ];
        for (command, x2apic, expected) in table {
            let found = Message::of_command(command, x2apic).map(|one| (one.destination, one.mode, one.vector));
            assert_eq!(found, expected, "{command:#x}");
        }
    }

    #[test]
    fn an_init_to_everybody_by_address_is_not_an_init_by_shorthand() {
        let message = Message::of_command(0xff00_0000_0000_c500, false);
        assert_eq!(message.map(|one| one.destination), Some(Destination::All));
    }
}
