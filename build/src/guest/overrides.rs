//! A user's wishes put into a system before its image is made: another kernel, RAM disk or command line,
//! more vCPUs, other memory. They go to the first VM and the services that serve it.

use super::kernel::{self, Entry, Kernel};
use super::{cache, resolve};
use crate::manifest::{Blob, Partition, System, Vcpu};
use crate::workspace;
use portcullis_ipc::layout::PAGE;
use portcullis_ipc::limits::VCPUS_PER_VM;
use portcullis_ipc::ram;
use std::path::{Path, PathBuf};

/// What is to be other than the manifest says; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Kernel: a bzImage, or an ELF that can be entered by PVH or multiboot 1.
    pub kernel: Option<PathBuf>,
    /// How it is entered; without it the best way that fits.
    pub entry: Option<Entry>,
    /// Initial RAM disks; several are concatenated. A kernel of the user's own gets these and no other.
    pub initrd: Vec<PathBuf>,
    /// Text after the manifest's kernel command line; it wins where both set the same.
    pub append: Option<String>,
    /// Number of vCPUs. They share the budgets that the manifest gives its VM.
    pub vcpus: Option<usize>,
    /// Guest memory, MiB.
    pub memory_mib: Option<u64>,
    /// Directory for the files that are made; without it that of the system's image.
    pub place: Option<PathBuf>,
}

/// Why a wish cannot be fulfilled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system has no VM.
    #[error("the system {0} has no VM to change; name another with --system")]
    NoVm(String),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The distribution's kernel.
    #[error(transparent)]
    Guest(#[from] super::Error),
    /// Writing the kernel that was taken out of a bzImage.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// The RAM disk cannot be read.
    #[error("--initrd {file} cannot be read ({reason}); name a cpio archive, compressed or not")]
    Initrd {
        /// The file.
        file: String,
        /// What the system said.
        reason: std::io::Error,
    },
    /// Several RAM disks for a kernel that does not take them as one.
    #[error("--initrd: a multiboot kernel gets its file as a module, and one only: name it once")]
    Modules,
    /// Too many vCPUs, or none.
    #[error("a VM has 1 to {VCPUS_PER_VM} vCPUs, not {0}")]
    Vcpus(usize),
    /// An odd size of memory.
    #[error("guest memory is an even number of MiB from 2 to {MOST_MIB}, not {0}")]
    Memory(u64),
    /// Kernel and RAM disk do not fit.
    #[error(
        "{given} MiB of guest memory are too little: kernel and initial RAM disk take {needed} MiB; give --memory {needed} or more"
    )]
    TooLittle {
        /// MiB that it has.
        given: u64,
        /// MiB that it needs at least.
        needed: u64,
    },
    /// The command line is longer than a kernel takes.
    #[error(
        "--append: the kernel command line has {0} bytes with the manifest's own, and Linux takes {MOST_COMMAND_LINE}: shorten it"
    )]
    LongLine(usize),
    /// A line end in the command line.
    #[error("--append: the kernel command line is one line; remove the line end")]
    Line,
}

const MOST_MIB: u64 = ram::MOST >> 20;
const MIB: u64 = 1 << 20;
/// Memory that a kernel needs besides itself and two copies of its RAM disk, before it runs a program.
const LEAST_FREE: u64 = 48 * MIB;

/// Bytes of a command line that Linux takes on x86 (COMMAND_LINE_SIZE without the zero at the end).
pub const MOST_COMMAND_LINE: usize = 2047;

/// The configuration key of the kernel's command line.
const APPEND: &str = "guest.append";
/// The configuration key of the way of entering.
const ENTRY: &str = "guest.entry";

impl Overrides {
    /// Puts the wishes into `system`.
    pub fn apply(&self, system: &mut System) -> Result<(), Error> {
        let vm = system.vms.first_mut().ok_or_else(|| Error::NoVm(system.name.clone()))?;
        if let Some(count) = self.vcpus {
            vm.vcpus = share(&vm.vcpus, count)?;
        }
        if let Some(mib) = self.memory_mib {
            if mib == 0 || mib % 2 != 0 || mib > MOST_MIB {
                return Err(Error::Memory(mib));
            }
            vm.memory_pages = mib * MIB / PAGE as u64;
        }
        let memory = vm.memory_pages * PAGE as u64;
        let place = self.place.clone().unwrap_or_else(|| workspace::out_dir().join(&system.name));
        let Some(vmexit) = system.partitions.get_mut(usize::from(vm.vmexit)) else {
            return Ok(());
        };
        if self.kernel.is_some() || self.entry.is_some() {
            self.set_kernel(vmexit, memory, &place)?;
        }
        if !self.initrd.is_empty() {
            let file = place.join("initrd");
            cache::write(&file, &joined(&self.initrd)?)?;
            set_blob(vmexit, "initrd", &file);
        }
        match &self.append {
            Some(text) => append(vmexit, text),
            None => Ok(()),
        }
    }

    fn set_kernel(&self, vmexit: &mut Partition, memory: u64, place: &Path) -> Result<(), Error> {
        let named = vmexit.blobs.iter().find(|blob| blob.name == "kernel").map(|blob| blob.file.clone());
        let path = match (&self.kernel, named) {
            (Some(path), _) => absolute(path),
            // The distribution's kernel entered another way: as its package has it.
            (None, Some(name)) if name == "debian-kernel" => {
                super::ensure(&["debian-bzimage"])?;
                resolve("debian-bzimage").unwrap_or_default()
            }
            (None, Some(name)) => crate::build::resolve(&name),
            (None, None) => return Ok(()),
        };
        let kernel = kernel::read(&path, self.entry)?;
        if self.kernel.is_some() {
            // The manifest's RAM disk belongs to the manifest's kernel.
            vmexit.blobs.retain(|blob| blob.name != "initrd");
        }
        if kernel.entry == Entry::Multiboot && self.initrd.len() > 1 {
            return Err(Error::Modules);
        }
        check_memory(&kernel, memory, &self.initrd)?;
        let file = place.join("kernel");
        cache::write(&file, &kernel.bytes)?;
        set_blob(vmexit, "kernel", &file);
        set_config(vmexit, ENTRY, &kernel.entry.to_string());
        Ok(())
    }
}

/// Appends text to the kernel's command line.
fn append(vmexit: &mut Partition, text: &str) -> Result<(), Error> {
    if text.contains('\n') {
        return Err(Error::Line);
    }
    let line = format!("{} {text}", config(vmexit, APPEND).unwrap_or_default());
    let line = line.trim();
    if line.len() > MOST_COMMAND_LINE {
        return Err(Error::LongLine(line.len()));
    }
    set_config(vmexit, APPEND, line);
    Ok(())
}

/// A path as the user means it: from where the command was given.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// `count` vCPUs with the budgets of those that are there, shared equally.
fn share(vcpus: &[Vcpu], count: usize) -> Result<Vec<Vcpu>, Error> {
    let (Some(&first), 1..=VCPUS_PER_VM) = (vcpus.first(), count) else {
        return Err(Error::Vcpus(count));
    };
    let budget: u32 = vcpus.iter().map(|vcpu| vcpu.budget_us).sum();
    let each = Vcpu { budget_us: (budget / count as u32).max(1), ..first };
    Ok(vec![each; count])
}

/// The RAM disks in one file, as Linux unpacks them: each begins at a multiple of four bytes.
fn joined(paths: &[PathBuf]) -> Result<Vec<u8>, Error> {
    let mut disk = Vec::new();
    for path in paths {
        let failed = |reason| Error::Initrd { file: workspace::display(path), reason };
        disk.resize(disk.len().next_multiple_of(4), 0);
        disk.extend(std::fs::read(absolute(path)).map_err(failed)?);
    }
    Ok(disk)
}

fn check_memory(kernel: &Kernel, memory: u64, initrd: &[PathBuf]) -> Result<(), Error> {
    let disk: u64 = initrd.iter().filter_map(|path| path.metadata().ok()).map(|data| data.len()).sum();
    // Linux unpacks the RAM disk into memory of its own before it frees it.
    let needed = kernel.end + if kernel.entry == Entry::Multiboot { disk } else { 2 * disk + LEAST_FREE };
    if needed <= memory {
        return Ok(());
    }
    Err(Error::TooLittle { given: memory / MIB, needed: needed.div_ceil(2 * MIB) * 2 })
}

/// Gives a partition a file under a name, or another file under the name.
pub fn set_blob(partition: &mut Partition, name: &str, file: &Path) {
    let file = file.display().to_string();
    match partition.blobs.iter_mut().find(|blob| blob.name == name) {
        Some(blob) => blob.file = file,
        None => partition.blobs.push(Blob { name: name.to_owned(), file, line: partition.line }),
    }
}

/// The value of a key of a partition's configuration.
pub fn config<'a>(partition: &'a Partition, key: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.split_once('=').filter(|(found, _)| *found == key).map(|(_, value)| value);
    partition.config.lines().find_map(value)
}

/// Sets a key of a partition's configuration.
pub fn set_config(partition: &mut Partition, key: &str, value: &str) {
    let others: String = partition
        .config
        .lines()
        .filter(|line| line.split_once('=').is_none_or(|(found, _)| found != key))
        .map(|line| format!("{line}\n"))
        .collect();
    partition.config = format!("{others}{key}={value}\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest;

    fn system() -> System {
        manifest::load(&workspace::root().join("systems/debian.toml")).unwrap()
    }

    fn applied(overrides: &Overrides) -> Result<System, Error> {
        let mut system = system();
        overrides.apply(&mut system).map(|()| system)
    }

    #[test]
    fn no_wishes_change_nothing() {
        let changed = applied(&Overrides::default()).unwrap();
        assert_eq!(format!("{changed:?}"), format!("{:?}", system()));
    }

    #[test]
    fn vcpus_share_the_budget_of_the_template() {
        let system = applied(&Overrides { vcpus: Some(3), ..Overrides::default() }).unwrap();
        let whole = self::system().vms[0].vcpus[0].budget_us;
        assert_eq!(system.vms[0].vcpus.iter().map(|vcpu| vcpu.budget_us).collect::<Vec<_>>(), [whole / 3; 3]);
        for wrong in [0, VCPUS_PER_VM + 1] {
            let error = applied(&Overrides { vcpus: Some(wrong), ..Overrides::default() }).unwrap_err();
            assert!(matches!(error, Error::Vcpus(found) if found == wrong));
        }
    }

    #[test]
    fn memory_is_even_and_has_a_limit() {
        let memory = |mib| applied(&Overrides { memory_mib: Some(mib), ..Overrides::default() });
        for mib in [130, 3 << 10, (3 << 10) + 2, 8 << 10, MOST_MIB] {
            assert_eq!(memory(mib).unwrap().vms[0].memory_pages, mib * 256);
        }
        let error = memory(MOST_MIB + 2).unwrap_err();
        assert_eq!(error.to_string(), "guest memory is an even number of MiB from 2 to 65536, not 65538");
        for wrong in [0, 131, MOST_MIB + 2] {
            assert!(matches!(memory(wrong), Err(Error::Memory(_))), "{wrong}");
        }
    }

    #[test]
    fn text_is_appended_to_the_command_line() {
        let line = |append: Option<&str>| {
            let system = applied(&Overrides { append: append.map(str::to_owned), ..Overrides::default() }).unwrap();
            config(&system.partitions[usize::from(system.vms[0].vmexit)], APPEND).unwrap_or_default().to_owned()
        };
        assert!(line(None).starts_with("console=ttyS0"));
        assert_eq!(line(Some("a=1")), format!("{} a=1", line(None)));
        // As long as Linux takes it, and one byte more; the letter has two bytes.
        let given = line(None).len();
        for (more, fits) in [(MOST_COMMAND_LINE - given - 1, true), (MOST_COMMAND_LINE - given, false)] {
            let text = format!("{}{}", "x".repeat(more % 2), "\u{fc}".repeat(more / 2));
            let overrides = Overrides { append: Some(text.clone()), ..Overrides::default() };
            match applied(&overrides) {
                Ok(_) => assert!(fits && line(Some(&text)).ends_with(&text)),
                Err(error) => assert!(!fits && error.to_string().contains("has 2048 bytes"), "{error}"),
            }
        }
        let two = Overrides { append: Some("a\nguest.entry=raw".to_owned()), ..Overrides::default() };
        assert!(matches!(applied(&two), Err(Error::Line)));
    }

    #[test]
    fn a_missing_kernel_or_disk_is_one_line() {
        let missing = || Some(PathBuf::from("/no/such/file"));
        for overrides in [
            Overrides { kernel: missing(), ..Overrides::default() },
            Overrides { initrd: vec!["/no/such/file".into()], ..Overrides::default() },
        ] {
            let text = applied(&overrides).unwrap_err().to_string();
            assert!(text.contains("/no/such/file cannot be read") && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn several_disks_are_one_that_begins_each_at_a_multiple_of_four_whatever_their_names_are() {
        use std::os::unix::ffi::OsStrExt;
        let directory = tempfile::tempdir().unwrap();
        let names: [&[u8]; 2] = [b"plain", b"\xff not UTF-8"];
        let files: Vec<PathBuf> =
            names.iter().map(|name| directory.path().join(std::ffi::OsStr::from_bytes(name))).collect();
        for (file, text) in files.iter().zip(["12345", "678"]) {
            std::fs::write(file, text).unwrap();
        }
        let place = Some(directory.path().to_owned());
        let system = applied(&Overrides { initrd: files, place, ..Overrides::default() }).unwrap();
        let disk = system.partitions.iter().flat_map(|one| &one.blobs).find(|blob| blob.name == "initrd").unwrap();
        assert_eq!(std::fs::read(&disk.file).unwrap(), b"12345\0\0\x00678");
    }

    #[test]
    fn a_disk_that_is_a_directory_is_named_with_its_option() {
        let directory = tempfile::tempdir().unwrap();
        let initrd = vec![directory.path().to_owned()];
        let text = applied(&Overrides { initrd, ..Overrides::default() }).unwrap_err().to_string();
        assert!(text.starts_with(&format!("--initrd {} cannot be read", directory.path().display())), "{text}");
    }

    #[test]
    fn a_kernel_of_the_users_own_does_not_get_the_manifests_disk() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kernel");
        let header: Vec<u8> = [0x1bad_b002u32, 0x1_0000, 0u32.wrapping_sub(0x1bad_b002 + 0x1_0000)]
            .into_iter()
            .chain([0x10_0000, 0x10_0000, 0x10_1000, 0x10_1000, 0x10_0020])
            .flat_map(u32::to_le_bytes)
            .collect();
        std::fs::write(&file, [header, vec![0; 4096 - 32]].concat()).unwrap();
        let place = Some(directory.path().to_owned());
        let system = applied(&Overrides { kernel: Some(file), place, ..Overrides::default() }).unwrap();
        let blobs: Vec<&str> = system.partitions.iter().flat_map(|one| &one.blobs).map(|blob| &*blob.name).collect();
        assert!(blobs.contains(&"kernel") && !blobs.contains(&"initrd"), "{blobs:?}");
    }

    #[test]
    fn too_little_memory_says_how_much_is_needed() {
        let kernel = Kernel { entry: Entry::Pvh, bytes: Vec::new(), end: 74 * MIB };
        let error = check_memory(&kernel, 64 * MIB, &[]).unwrap_err();
        assert!(error.to_string().contains("give --memory 122 or more"), "{error}");
        assert!(check_memory(&kernel, 122 * MIB, &[]).is_ok());
    }
}
