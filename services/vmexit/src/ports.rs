//! Which port belongs to whom. A port that nobody claims reads all ones and ignores writes, whatever its
//! width.

use crate::config::Config;
use crate::uart;

/// Keyboard controller's command port; the command pulses the reset line.
const KEYBOARD: u16 = 0x64;
const KEYBOARD_RESET: u32 = 0xfe;
/// Reset control; bit 2 resets.
const RESET_CONTROL: u16 = 0xcf9;
const RESET_NOW: u32 = 1 << 2;

/// What an access to a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody's.
    None,
    /// It touches the serial port.
    Serial,
    /// A write that resets the machine.
    Reset,
    /// A write to the test exit port.
    TestExit,
}

/// Whether an access of `width` bytes at `port` touches anything that is claimed. Short, because almost
/// every unclaimed access passes here.
#[inline(always)]
pub fn may_be_claimed(config: &Config, port: u16, width: u32) -> bool {
    let end = u32::from(port) + width;
    let serial = end > u32::from(uart::FIRST) && port < uart::FIRST + uart::COUNT;
    serial || port == KEYBOARD || port == RESET_CONTROL || Some(port) == config.exit_port
}

/// Who claims the access. `write` is the value written, `None` for a read.
pub fn claim(config: &Config, port: u16, width: u32, write: Option<u32>) -> Claim {
    let end = u32::from(port) + width;
    if end > u32::from(uart::FIRST) && port < uart::FIRST + uart::COUNT {
        return Claim::Serial;
    }
    match write {
        Some(value) if port == KEYBOARD && value & 0xff == KEYBOARD_RESET => Claim::Reset,
        Some(value) if port == RESET_CONTROL && value & RESET_NOW != 0 => Claim::Reset,
        Some(_) if Some(port) == config.exit_port => Claim::TestExit,
        _ => Claim::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config = Config { identity: false, port: false, xcr0: 1, ..crate::tests::CONFIG };

    #[test]
    fn each_port_has_its_owner() {
        let table = [
            (0x3f8, 1, None, Claim::Serial),
            (0x3ff, 1, Some(0), Claim::Serial),
            (0x400, 1, None, Claim::None),
            (0x3f7, 1, None, Claim::None),
            (0x3f7, 2, None, Claim::Serial),
            (0x3f5, 4, None, Claim::Serial),
            (0x3f4, 4, None, Claim::None),
            (0x64, 1, Some(0xfe), Claim::Reset),
            (0x64, 1, Some(0xd1), Claim::None),
            (0x64, 1, None, Claim::None),
            (0xcf9, 1, Some(0x6), Claim::Reset),
            (0xcf9, 1, Some(0x2), Claim::None),
            (0xf4, 1, Some(0), Claim::TestExit),
            (0xf4, 1, None, Claim::None),
            (0x80, 1, Some(1), Claim::None),
            (0x5658, 4, None, Claim::None),
            (0xffff, 4, None, Claim::None),
        ];
        for (port, width, write, expected) in table {
            assert_eq!(claim(&CONFIG, port, width, write), expected, "{port:#x} {width} {write:?}");
            let may = may_be_claimed(&CONFIG, port, width);
            assert!(may || expected == Claim::None, "{port:#x}");
        }
        let plain = Config { exit_port: None, ..CONFIG };
        assert_eq!(claim(&plain, 0xf4, 1, Some(0)), Claim::None);
    }

    #[test]
    fn the_quick_test_never_misses_a_claim() {
        for port in 0..=u16::MAX {
            for width in [1, 2, 4] {
                let claimed = [None, Some(0xfe), Some(0xff)]
                    .iter()
                    .any(|write| claim(&CONFIG, port, width, *write) != Claim::None);
                assert!(!claimed || may_be_claimed(&CONFIG, port, width), "{port:#x}");
            }
        }
    }
}
