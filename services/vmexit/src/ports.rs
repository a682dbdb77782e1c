//! Which port belongs to whom. A port that nobody claims reads all ones and ignores writes, whatever its
//! width.

use crate::config::Config;
use crate::uart;

/// Keyboard controller's command and status port; the command pulses the reset line. The status says that neither
/// buffer holds anything: a kernel that waits until it may give a command does not wait for ever.
const KEYBOARD: u16 = 0x64;
const KEYBOARD_RESET: u32 = 0xfe;
/// Reset control; bit 2 resets.
const RESET_CONTROL: u16 = 0xcf9;
const RESET_NOW: u32 = 1 << 2;
/// Sleep control and status of hardware-reduced ACPI: bits 2-4 the state, bit 5 goes there.
const SLEEP_CONTROL: u16 = 0x600;
const SLEEP_STATUS: u16 = 0x601;
const SLEEP: u32 = 0x3c;
/// S5: off.
const SLEEP_OFF: u32 = 0x34;
/// Interval timer, which is not there: channels 0 to 2 and the command. Channel 2 reads 0, because a kernel that
/// calibrates by it takes all ones for a count and reads 100,000 of them.
const TIMER: u16 = 0x40;
const TIMER_LAST: u16 = 0x43;
const TIMER_CHANNEL_2: u16 = 0x42;
/// System control: the gate of that channel. Reads as a timer that ran out and no error, and with the signal that
/// turns at each refresh of memory, by which old programs measure short times.
const SYSTEM_CONTROL: u16 = 0x61;
const TIMER_DONE: u8 = 1 << 5;
const REFRESH: u8 = 1 << 4;
/// Turns of that signal a second.
const REFRESHES: u128 = 66_288;
/// CMOS clock: index and data.
pub const CLOCK_INDEX: u16 = 0x70;
/// CMOS clock: data.
pub const CLOCK_DATA: u16 = 0x71;

/// Ports below are looked up in a table of blocks.
const TABLED: u32 = 0x1000;
const BLOCK_SHIFT: u32 = 3;

/// What an access to a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody's.
    None,
    /// It touches devices whose registers are bytes.
    Bytes,
    /// A write that resets the machine.
    Reset,
    /// A write that switches it off.
    Off,
    /// A write to the test exit port.
    TestExit,
}

/// The device behind a port, by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Nobody's.
    None,
    /// Register of the serial port.
    Serial(u16),
    /// Index of the CMOS clock.
    ClockIndex,
    /// Data of the CMOS clock.
    ClockData,
    /// System control.
    SystemControl,
    /// The interval timer that is not there reads this.
    NoTimer(u8),
    /// A register that always reads this and ignores writes.
    Constant(u8),
}

/// What system control reads at a TSC value.
pub fn system_control(tsc: u64, tsc_hz: u64) -> u8 {
    let turns = u128::from(tsc) * REFRESHES / u128::from(tsc_hz.max(1));
    TIMER_DONE | if turns & 1 == 0 { 0 } else { REFRESH }
}

impl Device {
    /// The device at a port.
    pub fn at(port: u32) -> Self {
        match u16::try_from(port) {
            Ok(port @ uart::FIRST..uart::END) => Self::Serial(port - uart::FIRST),
            Ok(CLOCK_INDEX) => Self::ClockIndex,
            Ok(CLOCK_DATA) => Self::ClockData,
            Ok(TIMER_CHANNEL_2) => Self::NoTimer(0),
            Ok(TIMER..=TIMER_LAST) => Self::NoTimer(u8::MAX),
            Ok(KEYBOARD | SLEEP_CONTROL | SLEEP_STATUS) => Self::Constant(0),
            Ok(SYSTEM_CONTROL) => Self::SystemControl,
            _ => Self::None,
        }
    }
}

/// The ports that somebody claims, to be asked quickly: a bit for each block of eight.
#[derive(Clone, Copy, Debug)]
pub struct Claimed {
    blocks: [u64; (TABLED >> BLOCK_SHIFT) as usize / 64],
    exit_port: Option<u16>,
}

impl Claimed {
    /// Those of a machine.
    pub fn new(config: &Config) -> Self {
        let mut claimed = Self { blocks: [0; _], exit_port: config.exit_port };
        for port in 0..TABLED {
            let special = port == u32::from(RESET_CONTROL);
            let block = port >> BLOCK_SHIFT;
            if (special || Device::at(port) != Device::None)
                && let Some(word) = claimed.blocks.get_mut(block as usize / 64)
            {
                *word |= 1 << (block % 64);
            }
        }
        claimed
    }

    /// Whether an access of `width` bytes at `port` may touch anything that is claimed. Short, because
    /// almost every unclaimed access passes here.
    #[inline(always)]
    pub fn may_have(&self, port: u16, width: u32) -> bool {
        let first = u32::from(port);
        self.block(first) || self.block(first + width.saturating_sub(1)) || Some(port) == self.exit_port
    }

    #[inline(always)]
    fn block(&self, port: u32) -> bool {
        let block = port >> BLOCK_SHIFT;
        self.blocks.get(block as usize / 64).is_some_and(|word| word >> (block % 64) & 1 != 0)
    }
}

/// Who claims the access. `write` is the value written, `None` for a read.
pub fn claim(config: &Config, port: u16, width: u32, write: Option<u32>) -> Claim {
    match write {
        Some(value) if port == KEYBOARD && value & 0xff == KEYBOARD_RESET => return Claim::Reset,
        Some(value) if port == RESET_CONTROL && value & RESET_NOW != 0 => return Claim::Reset,
        Some(value) if port == SLEEP_CONTROL && value & SLEEP == SLEEP_OFF => return Claim::Off,
        Some(_) if Some(port) == config.exit_port => return Claim::TestExit,
        _ => {}
    }
    let bytes = (0..width).any(|byte| Device::at(u32::from(port) + byte) != Device::None);
    if bytes { Claim::Bytes } else { Claim::None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config = Config { identity: false, port: false, xcr0: 1, ..crate::tests::CONFIG };

    #[test]
    fn each_port_has_its_owner() {
        let table = [
            (0x3f8, 1, None, Claim::Bytes),
            (0x3ff, 1, Some(0), Claim::Bytes),
            (0x400, 1, None, Claim::None),
            (0x3f7, 1, None, Claim::None),
            (0x3f7, 2, None, Claim::Bytes),
            (0x3f5, 4, None, Claim::Bytes),
            (0x3f4, 4, None, Claim::None),
            (0x42, 1, None, Claim::Bytes),
            (0x43, 1, Some(0), Claim::Bytes),
            (0x44, 1, Some(0), Claim::None),
            (0x61, 1, None, Claim::Bytes),
            (0x64, 1, Some(0xfe), Claim::Reset),
            (0x64, 1, Some(0xd1), Claim::Bytes),
            (0x64, 1, None, Claim::Bytes),
            (0x60, 1, None, Claim::None),
            (0x70, 1, Some(0), Claim::Bytes),
            (0x6e, 4, None, Claim::Bytes),
            (0x72, 1, None, Claim::None),
            (0x600, 1, Some(0x34), Claim::Off),
            (0x600, 1, Some(0x20), Claim::Bytes),
            (0x600, 1, Some(0x14), Claim::Bytes),
            (0x601, 1, Some(0x80), Claim::Bytes),
            (0xcf9, 1, Some(0x6), Claim::Reset),
            (0xcf9, 1, Some(0x2), Claim::None),
            (0xf4, 1, Some(0), Claim::TestExit),
            (0xf4, 1, None, Claim::None),
            (0x80, 1, Some(1), Claim::None),
            (0x5658, 4, None, Claim::None),
            (0xffff, 4, None, Claim::None),
        ];
        let claimed = Claimed::new(&CONFIG);
        for (port, width, write, expected) in table {
            assert_eq!(claim(&CONFIG, port, width, write), expected, "{port:#x} {width} {write:?}");
            let may = claimed.may_have(port, width);
            assert!(may || expected == Claim::None, "{port:#x}");
        }
        let plain = Config { exit_port: None, ..CONFIG };
        assert_eq!(claim(&plain, 0xf4, 1, Some(0)), Claim::None);
    }

    #[test]
    fn system_control_shows_the_refresh_of_memory_every_15_microseconds() {
        let values = [0, 15_000, 16_000, 30_000, 31_000].map(|tsc| system_control(tsc, 1_000_000_000));
        assert_eq!(values, [0x20, 0x20, 0x30, 0x30, 0x20]);
        assert_eq!(system_control(u64::MAX, 0) & !REFRESH, TIMER_DONE);
    }

    #[test]
    fn the_quick_test_never_misses_a_claim_and_spares_almost_every_other_port() {
        let claimed = Claimed::new(&CONFIG);
        let mut slow = 0;
        for port in 0..=u16::MAX {
            for width in [1, 2, 4] {
                let owned = [None, Some(0xfe), Some(0xff), Some(0x34)]
                    .iter()
                    .any(|write| claim(&CONFIG, port, width, *write) != Claim::None);
                assert!(!owned || claimed.may_have(port, width), "{port:#x}");
                slow += u32::from(!owned && claimed.may_have(port, width));
            }
        }
        assert!(slow < 250, "{slow}");
    }
}
