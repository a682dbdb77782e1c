//! `image`: checks a manifest and writes its image: the core's ELF for PVH boot, the bundle, and on
//! request a GRUB ISO that boots both by multiboot2 under BIOS and UEFI.

use crate::bundle::{self, Bundle, ReadPartition};
use crate::manifest::{self, System};
use crate::{build, guest, process, setup, workspace};
use anyhow::Context;
use portcullis_ipc::layout::PAGE;
use portcullis_ipc::syscall::rights;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The core's binary.
pub const CORE: &str = "portcullis-kernel";

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// System manifest.
    #[arg(default_value_os_t = workspace::demo_manifest())]
    pub manifest: PathBuf,
    /// Show what a bundle holds, instead of writing one.
    #[arg(long, value_name = "BUNDLE")]
    pub show: Option<PathBuf>,
    /// Directory of the image; default: out/<name of the system>.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Do not write the ISO.
    #[arg(long)]
    pub no_iso: bool,
    /// Command line of the core in the ISO, instead of the manifest's.
    #[arg(long)]
    pub command_line: Option<String>,
    /// Level of the log statements that are compiled in.
    #[arg(long, default_value = "info")]
    pub log_level: String,
}

/// An image on disk.
#[derive(Clone, Debug)]
pub struct Image {
    /// The system it holds.
    pub system: System,
    /// The core's ELF as it ships: boots by PVH and multiboot2.
    pub core: PathBuf,
    /// The bundle: module 0.
    pub bundle: PathBuf,
    /// RAM that the system needs besides its firmware and its core, bytes.
    pub needs: u64,
}

/// RAM beyond what a system itself needs, MiB: firmware, core, page tables, and what alignment wastes.
const HEADROOM_MIB: u64 = 128;

impl Image {
    /// RAM of a machine for this system, MiB: `least`, or more where the system needs more.
    pub fn memory_mib(&self, least: u32) -> u32 {
        memory_mib(self.needs, least)
    }
}

fn memory_mib(needs: u64, least: u32) -> u32 {
    let needed = ((needs >> 20) + HEADROOM_MIB).next_multiple_of(64);
    least.max(u32::try_from(needed).unwrap_or(u32::MAX))
}

/// RAM that guests, state regions, writable segments, page tables and the bundle itself take.
fn needs(bundle: &Bundle) -> u64 {
    let own = |one: &ReadPartition| {
        let writable = one.segments.iter().filter(|segment| segment.rights & rights::WRITE != 0);
        writable.map(|segment| u64::from(segment.pages)).sum::<u64>()
            + u64::from(one.record.state_pages + one.record.spare_pages)
    };
    let pages = u64::from(bundle.head.pool_pages)
        + bundle.partitions.iter().map(own).sum::<u64>()
        + bundle.vms.iter().map(|vm| vm.record.memory_pages).sum::<u64>();
    bundle.head.length + pages * PAGE as u64
}

/// Runs the verb.
pub fn command(args: &Args) -> anyhow::Result<()> {
    if let Some(path) = &args.show {
        let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", workspace::display(path)))?;
        let bundle = Bundle::read(&bytes).with_context(|| workspace::display(path))?;
        print!("{}", bundle::show(&bundle));
        return Ok(());
    }
    let image = make(&args.manifest, args.out.as_deref(), &args.log_level)?;
    println!("core    {}", workspace::display(&image.core));
    println!("bundle  {}", workspace::display(&image.bundle));
    if !args.no_iso {
        let line = args.command_line.as_ref().unwrap_or(&image.system.command_line);
        println!("iso     {}", workspace::display(&iso(&image, line, &[])?));
    }
    Ok(())
}

/// Checks a manifest, compiles what it names, and writes core and bundle into `out` (default: a
/// directory of the system's name under `out/`).
pub fn make(manifest: &Path, out: Option<&Path>, log_level: &str) -> anyhow::Result<Image> {
    let system = manifest::load(manifest)?;
    setup::ensure(&[setup::Need::Toolchain])?;
    let _building = build::alone()?;
    build::for_system(log_level, &names(&system))?;
    assemble(manifest, system, out)
}

/// The binaries of the workspace that a system names.
pub fn names(system: &System) -> Vec<&str> {
    let partitions = system.partitions.iter();
    partitions.flat_map(|one| one.blobs.iter().map(|blob| blob.file.as_str()).chain([one.elf.as_str()])).collect()
}

/// Writes core and bundle of a system whose binaries are compiled.
pub fn assemble(manifest: &Path, system: System, out: Option<&Path>) -> anyhow::Result<Image> {
    let file = workspace::display(manifest);
    guest::ensure(&names(&system))?;
    let inputs = bundle::inputs(&file, &system, build::resolve)?;
    let bytes = bundle::write(&file, &system, &inputs)?;
    let directory = out.map_or_else(|| workspace::out_dir().join(&system.name), Path::to_owned);
    let (core, path) = (directory.join("core.elf"), directory.join("bundle.img"));
    write_file(&path, &bytes)?;
    build::ship(&workspace::metal_elf(CORE), &core)?;
    let needs = needs(&Bundle::read(&bytes)?);
    Ok(Image { system, core, bundle: path, needs })
}

/// A file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be written: {reason}")]
pub struct WriteError {
    path: String,
    reason: std::io::Error,
}

/// Writes a file and the directories above it.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let failed = |reason| WriteError { path: workspace::display(path), reason };
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
    std::fs::write(path, bytes).map_err(failed)
}

/// The time at which each ISO is made, so that the same image gives the same bytes.
const ISO_TIME: &str = "2026-01-01 00:00:00";
/// The same in seconds since 1970.
const ISO_EPOCH: &str = "1767225600";

/// Writes a GRUB ISO beside the image, with the core's command line; GRUB runs the commands `before` first.
pub fn iso(image: &Image, command_line: &str, before: &[String]) -> anyhow::Result<PathBuf> {
    setup::ensure(&[setup::Need::Grub])?;
    let directory = image.core.parent().unwrap_or(Path::new("."));
    let tree = directory.join("iso");
    let boot = tree.join("boot");
    let copy = |from: &Path, name: &str| {
        let to = boot.join(name);
        let bytes = std::fs::read(from).map_err(|reason| WriteError { path: workspace::display(from), reason })?;
        write_file(&to, &bytes)
    };
    copy(&image.core, "core.elf")?;
    copy(&image.bundle, "bundle.img")?;
    write_file(&boot.join("grub/grub.cfg"), grub_configuration(command_line, before)?.as_bytes())?;
    let path = directory.join("system.iso");
    // GRUB names the file system by the time, and the tools that it runs write times into it: theirs stands still.
    let mut command = Command::new("faketime");
    command.args(["-f", ISO_TIME, "grub-mkrescue", "-o"]).arg(&path).arg(&tree).env("TZ", "UTC");
    // Files keep their own times without this.
    command.env("SOURCE_DATE_EPOCH", ISO_EPOCH);
    // Its progress is of no use; what it says when it fails is.
    process::output(&mut command, "grub-mkrescue")?;
    Ok(path)
}

/// A command line that GRUB's language cannot carry.
#[derive(Debug, thiserror::Error)]
#[error("the command line holds a quote, backslash, dollar sign or line end, which GRUB would change: remove it")]
pub struct CommandLineError;

fn grub_configuration(command_line: &str, before: &[String]) -> Result<String, CommandLineError> {
    if command_line.contains(['"', '\'', '\\', '$', '\n']) {
        return Err(CommandLineError);
    }
    // Without a video driver GRUB complains on UEFI before it boots all the same.
    let first = ["set timeout=0".to_owned(), "insmod all_video".to_owned()];
    let entry = [
        "menuentry portcullis {".to_owned(),
        format!("    multiboot2 /boot/core.elf {command_line}").trim_end().to_owned(),
        "    module2 /boot/bundle.img bundle".to_owned(),
        "    boot".to_owned(),
        "}".to_owned(),
    ];
    Ok([&first, before, &entry].concat().join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_grows_with_what_its_system_needs() {
        assert_eq!(memory_mib(8 << 20, 256), 256);
        assert_eq!(memory_mib(600 << 20, 256), 768);
        assert_eq!(memory_mib(3 << 30, 256), 3072 + 128);
        assert_eq!(memory_mib(64 << 30, 256), 65536 + 128);
    }

    #[test]
    fn the_iso_boots_the_core_with_the_bundle_as_its_first_module() {
        let text = grub_configuration("trace=1", &["insmod wrmsr".to_owned()]).unwrap();
        assert!(text.contains("multiboot2 /boot/core.elf trace=1\n    module2 /boot/bundle.img"), "{text}");
        assert!(text.find("insmod wrmsr\n") < text.find("menuentry"), "{text}");
    }

    #[test]
    fn an_iso_made_later_and_elsewhere_is_equal_bit_for_bit() {
        let directory = tempfile::tempdir().unwrap();
        let system = crate::manifest::load(&workspace::demo_manifest()).unwrap();
        let made = ["one", "another place"].map(|place| {
            let file = |name: &str| directory.path().join(place).join(name);
            let (core, bundle) = (file("core.elf"), file("bundle.img"));
            write_file(&core, b"core").unwrap();
            write_file(&bundle, b"bundle").unwrap();
            let image = Image { system: system.clone(), core, bundle, needs: 0 };
            let path = iso(&image, "trace=1", &[]).unwrap();
            // The next one is made in another second.
            let second = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            let made_in = second();
            while second() == made_in {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            std::fs::read(path).unwrap()
        });
        assert!(made[0] == made[1]);
    }

    #[test]
    fn a_command_line_that_grub_would_change_is_refused() {
        assert!(grub_configuration("a=$b", &[]).is_err());
        assert!(grub_configuration("a=\"b\"", &[]).is_err());
    }
}
