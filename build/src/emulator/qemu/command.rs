//! The QEMU command line that makes a machine. Nothing is started here.

use super::program;
use crate::emulator::machine::{BUILD, Boot, Machine, present};
use crate::emulator::{EXIT_PORT, Error, host, with_this_process};
use std::path::{Path, PathBuf};
use std::process::Command;

/// UEFI firmware, and the variables that it starts with.
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// The sockets of one run.
pub struct Sockets {
    /// COM1.
    pub com1: PathBuf,
    /// COM2.
    pub com2: PathBuf,
    /// Bytes written to [`EXIT_PORT`].
    pub exit: PathBuf,
    /// QMP.
    pub monitor: PathBuf,
}

impl Sockets {
    /// The sockets' places in `directory`.
    pub fn in_directory(directory: &Path) -> Self {
        let at = |name| directory.join(name);
        Self { com1: at("com1"), com2: at("com2"), exit: at("exit"), monitor: at("monitor") }
    }
}

/// The command that starts `machine`, frozen. UEFI's variables are copied to `directory`.
pub fn qemu(machine: &Machine, sockets: &Sockets, directory: &Path) -> Result<Command, Error> {
    let mut command = with_this_process(&[program::get().as_os_str()]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-S"]);
    command.args(["-machine", "q35", "-accel", "tcg", "-cpu", &machine.target.processor]);
    command.args(["-m", &format!("{}M", machine.memory_mib)]);
    // A reset or shutdown leaves the machine to be looked at.
    command.args(["-action", "reboot=shutdown,shutdown=pause,panic=pause"]);
    if machine.icount {
        command.args(["-icount", "shift=0,sleep=off"]);
    }
    for (name, path) in
        [("com1", &sockets.com1), ("com2", &sockets.com2), ("exit", &sockets.exit), ("monitor", &sockets.monitor)]
    {
        let path = escaped(path);
        command.args(["-chardev", &format!("socket,id={name},path={path}")]);
    }
    command.args(["-serial", "chardev:com1", "-serial", "chardev:com2"]);
    command.args(["-device", &format!("isa-debugcon,iobase={EXIT_PORT:#x},chardev=exit")]);
    command.args(["-mon", "chardev=monitor,mode=control"]);
    boot(&mut command, &machine.boot, directory)?;
    Ok(command)
}

fn boot(command: &mut Command, boot: &Boot, directory: &Path) -> Result<(), Error> {
    match boot {
        Boot::Pvh { core, bundle, command_line } => {
            present("the core", core, BUILD)?;
            command.arg("-kernel").arg(absolute(core));
            if let Some(bundle) = bundle {
                present("the image", bundle, BUILD)?;
                // QEMU splits the list of modules at commas.
                command.args(["-initrd", &escaped(&absolute(bundle))]);
            }
            if !command_line.is_empty() {
                command.args(["-append", command_line]);
            }
        }
        Boot::IsoBios(iso) => {
            present("the CD image", iso, BUILD)?;
            cd(command, iso);
        }
        Boot::IsoUefi(iso) => {
            present("the CD image", iso, BUILD)?;
            present("the UEFI firmware", Path::new(OVMF_CODE), "run `cargo xtask setup` (package ovmf)")?;
            let variables = directory.join("vars.fd");
            std::fs::copy(OVMF_VARS, &variables).map_err(host("copy the UEFI variables"))?;
            let drive = |file: &str, rest| format!("if=pflash,format=raw,file={file}{rest}");
            command.args(["-drive", &drive(OVMF_CODE, ",readonly=on")]);
            command.args(["-drive", &drive(&escaped(&variables), "")]);
            cd(command, iso);
        }
    }
    Ok(())
}

fn cd(command: &mut Command, iso: &Path) {
    command.arg("-cdrom").arg(absolute(iso)).args(["-boot", "d"]);
}

/// A file as QEMU finds it, which runs in another directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A path in an option list, where a comma is doubled.
pub(super) fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(machine: &Machine) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let sockets = Sockets::in_directory(Path::new("/s,1"));
        let command = qemu(machine, &sockets, directory.path()).unwrap();
        command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn counting_instructions_is_an_option_and_commas_in_paths_are_doubled() {
        let file = tempfile::NamedTempFile::with_suffix("a,b").unwrap();
        let core = file.path().to_path_buf();
        let boot = Boot::Pvh { core: core.clone(), bundle: Some(core), command_line: "x=1".into() };
        let mut machine = Machine::new(boot, 64);
        let plain = arguments(&machine);
        assert!(!plain.contains(&"-icount".into()));
        assert!(plain.iter().any(|a| a.ends_with("a,,b")));
        assert!(plain.contains(&"socket,id=com1,path=/s,,1/com1".into()));
        machine.icount = true;
        assert!(arguments(&machine).contains(&"shift=0,sleep=off".into()));
    }

    #[test]
    fn a_missing_image_is_one_line_with_the_fix() {
        let machine = Machine::new(Boot::IsoBios("/no/such.iso".into()), 64);
        let directory = tempfile::tempdir().unwrap();
        let error = qemu(&machine, &Sockets::in_directory(directory.path()), directory.path()).err().unwrap();
        let text = "the CD image /no/such.iso is not there: run `cargo xtask image`";
        assert_eq!(error.to_string(), text);
    }
}
