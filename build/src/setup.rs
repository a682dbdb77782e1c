//! `setup`: says what the other verbs need and is missing, then installs it. The other verbs call
//! [`ensure`] for what they need themselves.
//!
//! On Debian everything comes from its own archive; where rustup may download, the bare-metal target
//! comes from it. Nothing else is changed on the machine.

use crate::emulator::qemu;
use crate::process;
use crate::toolchain::{self, Toolchain};
use std::path::Path;
use std::process::Command;

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// Only say what is missing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Something that a verb needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A compiler for bare metal and its linker.
    Toolchain,
    /// rustfmt and clippy for the bare-metal toolchain.
    Lints,
    /// QEMU.
    Qemu,
    /// Bochs with its BIOS, a second one, and those of their video cards.
    Bochs,
    /// OVMF, to boot by UEFI.
    Ovmf,
    /// GRUB's image maker for BIOS and UEFI.
    Grub,
    /// Graphviz.
    Graphviz,
    /// iasl and dmidecode, which read the firmware tables back.
    FirmwareTools,
}

impl Need {
    /// Everything.
    pub const ALL: [Self; 8] = [
        Self::Toolchain,
        Self::Lints,
        Self::Qemu,
        Self::Bochs,
        Self::Ovmf,
        Self::Grub,
        Self::Graphviz,
        Self::FirmwareTools,
    ];

    /// What it is for, after "to".
    fn purpose(self) -> &'static str {
        match self {
            Self::Toolchain => "compile core and services for bare metal",
            Self::Lints => "check format and lints in `test`",
            Self::Qemu => "run systems, with AMD-V emulated",
            Self::Bochs => "run systems, with VT-x emulated, in `test` and by `run --emulator bochs`",
            Self::Ovmf => "boot by UEFI",
            Self::Grub => "make CD images for BIOS and UEFI",
            Self::Graphviz => "draw manifests with `graph`",
            Self::FirmwareTools => "read a guest's firmware tables back in `test`",
        }
    }

    /// What is missing of it, as Debian packages; empty when nothing is.
    fn missing(self) -> Vec<&'static str> {
        let program = |name: &str| process::find(name.as_ref()).is_some();
        let file = |path: &str| Path::new(path).exists();
        let mut packages = Vec::new();
        let mut need = |present: bool, package: &[&'static str]| {
            if !present {
                packages.extend_from_slice(package);
            }
        };
        match self {
            Self::Toolchain => {
                need(program("cc"), &["gcc"]);
                need(program("ld") && program("strip"), &["binutils"]);
                need(toolchain_found(), &["rustc-web", "cargo-web", "rust-web-src"]);
            }
            Self::Lints => {
                let detected = Toolchain::detect().map(|toolchain| toolchain.choice().debian);
                let debian = debian_compiles(detected, toolchain::rustup_may_install());
                let both = |name: &str| program(name) && (!debian || file(&format!("/usr/bin/{name}")));
                need(both("cargo-clippy"), &["rust-web-clippy"]);
                need(both("cargo-fmt"), &["rustfmt-web"]);
            }
            Self::Qemu => need(qemu::program::is_there(), &["qemu-system-x86"]),
            Self::Bochs => {
                // Bochs wants one display library of four; this one is the smallest. None is used.
                need(program("bochs"), &["bochs", "bochs-term"]);
                need(file("/usr/share/bochs/BIOS-bochs-latest"), &["bochsbios"]);
                need(file("/usr/share/vgabios/vgabios.bin"), &["vgabios"]);
                need(file("/usr/share/seabios/bios.bin"), &["seabios"]);
            }
            Self::Ovmf => need(file("/usr/share/OVMF/OVMF_CODE_4M.fd"), &["ovmf"]),
            Self::Grub => {
                need(program("grub-mkrescue"), &["grub-common"]);
                need(file("/usr/lib/grub/i386-pc"), &["grub-pc-bin"]);
                need(file("/usr/lib/grub/x86_64-efi"), &["grub-efi-amd64-bin"]);
                need(program("xorriso"), &["xorriso"]);
                need(program("mformat"), &["mtools"]);
                need(program("faketime"), &["faketime"]);
            }
            Self::Graphviz => need(program("dot"), &["graphviz"]),
            Self::FirmwareTools => {
                need(program("iasl"), &["acpica-tools"]);
                // Debian installs it where a user's PATH does not lead.
                need(program("dmidecode") || file("/usr/sbin/dmidecode"), &["dmidecode"]);
            }
        }
        packages
    }
}

/// Whether Debian's toolchain compiles for bare metal: as `detected`, or, where no toolchain is there yet, because
/// rustup may not bring one and so `setup` installs Debian's. Its rustfmt and clippy are missing with it, then.
fn debian_compiles(detected: Result<bool, toolchain::Error>, rustup: bool) -> bool {
    detected.unwrap_or(!rustup)
}

fn toolchain_found() -> bool {
    !matches!(Toolchain::detect(), Err(toolchain::Error::NoCore { .. }))
}

/// Why something could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Packages are missing and this user cannot install them.
    #[error("{} missing: run `{command}`", list(.packages))]
    NeedsRoot {
        /// Packages.
        packages: Vec<&'static str>,
        /// The command.
        command: String,
    },
    /// Packages are missing and the machine has no apt-get.
    #[error("{} missing, and this machine has no apt-get: install them with its own package manager (the names are Debian's)", list(.packages))]
    NoPackageManager {
        /// Packages.
        packages: Vec<&'static str>,
    },
    /// Installing failed.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// Installed, and still not there.
    #[error("{} installed, but still not usable: look at what the package manager printed above", list(.packages))]
    StillMissing {
        /// Packages.
        packages: Vec<&'static str>,
    },
}

fn list(packages: &[&str]) -> String {
    let verb = if packages.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", packages.join(", "))
}

/// Runs the verb.
pub fn command(args: &Args) -> anyhow::Result<()> {
    let packages = missing(&Need::ALL);
    if packages.is_empty() {
        println!("setup: nothing is missing");
        return Ok(());
    }
    if args.dry_run {
        say(&Need::ALL, "would install");
        return Ok(());
    }
    Ok(ensure(&Need::ALL)?)
}

/// Installs what is missing of `needs`, after saying what; does nothing when nothing is.
pub fn ensure(needs: &[Need]) -> Result<(), Error> {
    if needs.contains(&Need::Toolchain) && !toolchain_found() && toolchain::rustup_may_install() {
        eprintln!("setup: installing the target x86_64-unknown-none with rustup");
        let mut command = Command::new("rustup");
        command.stdout(std::io::stderr());
        process::run(command.args(["target", "add", "x86_64-unknown-none"]), "rustup")?;
    }
    let packages = missing(needs);
    if packages.is_empty() {
        return Ok(());
    }
    if process::find("apt-get".as_ref()).is_none() {
        return Err(Error::NoPackageManager { packages });
    }
    let root = process::output(Command::new("id").arg("-u"), "id").is_ok_and(|text| text.trim() == "0");
    let sudo = !root && process::output(Command::new("sudo").args(["-n", "true"]), "sudo").is_ok();
    if !root && !sudo {
        let command = format!("sudo apt-get install --no-install-recommends {}", packages.join(" "));
        return Err(Error::NeedsRoot { packages, command });
    }
    say(needs, "installing");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(if root { "apt-get" } else { "sudo" });
        // Standard output may be a script's.
        command.stdout(std::io::stderr());
        if sudo {
            command.args(["-n", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        }
        command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
        command
    };
    process::run(&mut apt(&["update", "-q"]), "apt-get update")?;
    let mut install = apt(&["install", "-q", "-y", "--no-install-recommends"]);
    process::run(install.args(&packages), "apt-get install")?;
    let packages = missing(needs);
    if packages.is_empty() { Ok(()) } else { Err(Error::StillMissing { packages }) }
}

/// Says what happens to the packages that are missing, and what each is for.
fn say(needs: &[Need], what: &str) {
    for need in needs {
        let packages = need.missing();
        if !packages.is_empty() {
            eprintln!("setup: {what} {} to {}", packages.join(" "), need.purpose());
        }
    }
}

/// Debian packages of what is missing, each once.
pub fn missing(needs: &[Need]) -> Vec<&'static str> {
    let mut packages: Vec<&'static str> = Vec::new();
    for package in needs.iter().flat_map(|need| need.missing()) {
        if !packages.contains(&package) {
            packages.push(package);
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_bare_machine_the_lints_are_those_of_the_toolchain_that_will_be_installed() {
        let nothing = || Err(toolchain::Error::NoCore { command: "" });
        assert!(debian_compiles(nothing(), false));
        assert!(!debian_compiles(nothing(), true));
        assert!(debian_compiles(Ok(true), false) && !debian_compiles(Ok(false), false));
    }

    #[test]
    fn errors_are_one_line_and_name_the_command() {
        let error = Error::NeedsRoot { packages: vec!["ovmf"], command: "sudo apt-get install ovmf".to_owned() };
        assert_eq!(error.to_string(), "ovmf is missing: run `sudo apt-get install ovmf`");
    }
}
