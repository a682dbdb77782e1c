//! Bochs's configuration for a machine. Nothing is started here.

use crate::emulator::machine::{Bios, Machine};
use std::path::{Path, PathBuf};

/// Instructions that make a second of the machine's time; the TSC counts instructions. As many as with QEMU's
/// `-icount`, so that a budget pays for the same work. Bochs does about a twentieth in a second of the host's, but three
/// times as much while the processor is halted.
pub const PER_SECOND: u32 = 1_000_000_000;

/// The files of a BIOS: the BIOS itself, and that of the video card.
pub const fn firmware(bios: Bios) -> [&'static str; 2] {
    match bios {
        Bios::Bochs => ["/usr/share/bochs/BIOS-bochs-latest", "/usr/share/vgabios/vgabios.bin"],
        Bios::Seabios => ["/usr/share/seabios/bios.bin", "/usr/share/seabios/vgabios-stdvga.bin"],
    }
}

/// Memory that Bochs takes for a machine at most, MiB; of a larger machine the rest is in a file of its own.
const MOST_OWN_MIB: u32 = 2048;

/// The configuration: `iso` in the CD drive, the terminals as COM1 and COM2.
pub fn text(machine: &Machine, iso: &Path, com: [&PathBuf; 2]) -> String {
    let iso = std::path::absolute(iso).unwrap_or_else(|_| iso.to_owned());
    let [bios, video] = firmware(machine.target.bios);
    let memory = machine.memory_mib;
    let own = memory.min(MOST_OWN_MIB);
    // Each exit of a guest is an "error" of the processor; that many lines are for those who ask for the log.
    let processor = if machine.log.is_some() { "report" } else { "ignore" };
    [
        "config_interface: textconfig".to_owned(),
        "display_library: rfb, options=\"timeout=0\"".to_owned(),
        format!(
            "cpu: model={}, count=1, ips={PER_SECOND}, reset_on_triple_fault=1, ignore_bad_msrs=0",
            machine.target.processor
        ),
        format!("memory: guest={memory}, host={own}"),
        format!("romimage: file={bios}, options=fastboot"),
        format!("vgaromimage: file={video}"),
        "pci: enabled=1, chipset=i440fx".to_owned(),
        format!("ata0-master: type=cdrom, path=\"{}\", status=inserted", iso.display()),
        "boot: cdrom".to_owned(),
        format!("com1: enabled=1, mode=term, dev={}", com[0].display()),
        format!("com2: enabled=1, mode=term, dev={}", com[1].display()),
        // Only a panic ends Bochs: after a triple fault or a reset the machine is there to be looked at.
        "panic: action=fatal".to_owned(),
        format!("error: action=report, cpu0={processor}"),
        // The handler of the signal that stops the machine reports, too; a report of its own in the middle of another
        // would wait for itself for ever. So only those are on that are needed: CPUID's leaves and resets.
        "info: action=ignore, cpu0=report, pc_system=report".to_owned(),
        // Bytes for the exit port arrive as reports of the device that owns all free ports.
        "debug: action=ignore, unmapped=report".to_owned(),
        "clock: sync=none".to_owned(),
        "sound: driver=dummy".to_owned(),
        "speaker: enabled=0".to_owned(),
    ]
    .join("\n")
        + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::machine::{Boot, Kind, Target};

    #[test]
    fn the_configuration_names_processor_bios_and_lines() {
        let target = Target { bios: Bios::Seabios, ..Target::new(Kind::Bochs, Some("ryzen")) };
        let mut machine = Machine { target, ..Machine::new(Boot::IsoBios("a.iso".into()), 64) };
        let com = [PathBuf::from("/dev/pts/7"), PathBuf::from("/dev/pts/8")];
        let quiet = text(&machine, Path::new("/a b.iso"), [&com[0], &com[1]]);
        for part in
            ["model=ryzen,", "guest=64,", "seabios/bios.bin,", "\"/a b.iso\"", "dev=/dev/pts/8\n", "cpu0=ignore"]
        {
            assert!(quiet.contains(part), "{part} is not in {quiet}");
        }
        machine.memory_mib = 3264;
        assert!(text(&machine, Path::new("/a"), [&com[0], &com[1]]).contains("guest=3264, host=2048\n"));
        machine.log = Some("log".into());
        assert!(text(&machine, Path::new("/a"), [&com[0], &com[1]]).contains("cpu0=report"));
    }
}
