//! What the user wants other than the manifest says: kernel, initial RAM disk, command line, vCPUs, memory,
//! guestinfo. It all goes to the first VM and its services.

use super::EXIT_PASS;
use crate::guest::kernel::Entry;
use crate::guest::overrides::{Overrides, config, set_blob, set_config};
use crate::image::write_file;
use crate::manifest::{Partition, System};
use anyhow::{Context, anyhow, bail, ensure};
use portcullis_ipc::guestinfo;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// How a guest's kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// By the address in an ELF's PVH note.
    Pvh,
    /// By the 32-bit Linux boot protocol.
    Linux32,
    /// By multiboot 1.
    Multiboot,
}

/// How a guest starts its further processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Start {
    /// INIT and STARTUP from its local APIC.
    Sipi,
    /// The mailbox that the MADT names.
    Mailbox,
}

/// The user's wishes.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "The guest, where it is to be other than the manifest says")]
pub struct Options {
    /// Kernel: a bzImage, or an ELF with a PVH note or a multiboot header.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initial RAM disk; several are concatenated. A kernel of your own has none unless you name it.
    #[arg(long, value_name = "FILE")]
    initrd: Vec<PathBuf>,
    /// Text after the manifest's kernel command line; together they have 2,047 bytes at most.
    #[arg(long, value_name = "TEXT")]
    append: Option<String>,
    /// vCPUs; they share the manifest's budget.
    #[arg(long, value_name = "N")]
    vcpus: Option<usize>,
    /// Guest memory: MiB, or a number with M or G.
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Guestinfo that is there when the guest starts: KEY=VALUE, or KEY=@FILE for a file's content.
    #[arg(long, value_name = "KEY=VALUE")]
    guestinfo: Vec<String>,
    /// How the kernel is entered; default: the best way that fits.
    #[arg(long, value_enum)]
    entry: Option<By>,
    /// How the guest starts its further processors.
    #[arg(long, value_enum, value_name = "HOW")]
    ap_start: Option<Start>,
    /// Port with which the guest ends its run, and the value that means success there; default: the manifest's port,
    /// and 0x10.
    #[arg(long, value_name = "PORT[:VALUE]")]
    exit_port: Option<ExitPort>,
}

/// The port with which a guest ends its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitPort {
    port: u16,
    /// What it writes there when all is well.
    success: u32,
}

impl FromStr for ExitPort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        let (port, success) = text.split_once(':').map_or((text, None), |(port, value)| (port, Some(value)));
        let port = number(port).and_then(|port| u16::try_from(port).ok());
        let success = success.map_or(Some(EXIT_PASS.into()), number);
        port.zip(success)
            .map(|(port, success)| Self { port, success })
            .ok_or("a port is wanted, such as 0xf4, or 0xf4:1")
    }
}

impl Options {
    /// Wishes for guestinfo only: each KEY=VALUE or KEY=@FILE.
    pub fn with_guestinfo(guestinfo: &[String]) -> Self {
        Self { guestinfo: guestinfo.to_vec(), ..Self::default() }
    }

    /// The value with which the guest says that all is well.
    pub fn success(&self) -> u32 {
        self.exit_port.map_or(EXIT_PASS.into(), |exit| exit.success)
    }

    /// Puts the wishes into `system`; the files that they take are made in `place`.
    pub fn apply(&self, system: &mut System, place: &Path) -> anyhow::Result<()> {
        let overrides = Overrides {
            kernel: self.kernel.clone(),
            entry: self.entry.map(|entry| match entry {
                By::Pvh => Entry::Pvh,
                By::Linux32 => Entry::Linux32,
                By::Multiboot => Entry::Multiboot,
            }),
            initrd: self.initrd.clone(),
            append: self.append.clone(),
            vcpus: self.vcpus,
            memory_mib: self.memory.as_deref().map(mebibytes).transpose()?,
            place: Some(place.to_owned()),
        };
        overrides.apply(system)?;
        if let Some(start) = self.ap_start {
            let value = match start {
                Start::Sipi => "sipi",
                Start::Mailbox => "mailbox",
            };
            set_config(vmexit(system).context("--ap-start: the system has no VM")?, "ap-start", value);
        }
        if let Some(exit) = self.exit_port {
            let partition = vmexit(system).context("--exit-port: the system has no VM")?;
            set_config(partition, "guest.exit-port", &format!("{:#x}", exit.port));
        }
        if self.guestinfo.is_empty() { Ok(()) } else { self.set_guestinfo(system, place) }
    }

    fn set_guestinfo(&self, system: &mut System, place: &Path) -> anyhow::Result<()> {
        let entries = self.guestinfo.iter().map(|text| entry(text)).collect::<anyhow::Result<Vec<_>>>()?;
        let bytes: usize = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        let most = guestinfo::TOTAL_BYTES;
        ensure!(bytes <= most, "--guestinfo: {bytes} bytes of keys and values, and a VM holds {most}: leave some out");
        let port = system.vms.first().and_then(|vm| vm.port).map_or(usize::MAX, usize::from);
        let partition = system.partitions.get_mut(port);
        let partition = partition.context("--guestinfo: the system has no VM with the port; name another --system")?;
        let keys = entries.iter().map(|(key, _)| key).collect::<BTreeSet<_>>().len();
        let most = config(partition, "guestinfo.keys").and_then(|text| text.parse().ok()).unwrap_or(guestinfo::KEYS);
        ensure!(
            keys <= most,
            "--guestinfo: {keys} keys, and a VM of this system has {most}: leave some out, or raise guestinfo.keys"
        );
        let mut blob = Vec::new();
        let pairs = entries.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
        guestinfo::write(pairs, &mut blob).map_err(|(_, invalid)| invalid)?;
        let file = place.join("guestinfo");
        write_file(&file, &blob)?;
        set_blob(partition, "guestinfo", &file);
        Ok(())
    }
}

/// The partition that serves the first VM.
fn vmexit(system: &mut System) -> Option<&mut Partition> {
    let index = usize::from(system.vms.first()?.vmexit);
    system.partitions.get_mut(index)
}

/// A size in MiB.
fn mebibytes(text: &str) -> anyhow::Result<u64> {
    let (digits, factor) = match text.strip_suffix(['G', 'g']) {
        Some(digits) => (digits, 1024),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
    };
    let size = digits.parse().ok().and_then(|number: u64| number.checked_mul(factor));
    size.ok_or_else(|| anyhow!("--memory {text}: a number of MiB is wanted, or one with M or G, such as 512M"))
}

/// Key, prefix left out, and value of one `--guestinfo`.
fn entry(text: &str) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let Some((key, value)) = text.split_once('=') else {
        bail!("--guestinfo {text}: KEY=VALUE or KEY=@FILE is wanted");
    };
    let value = match value.strip_prefix('@') {
        Some(file) => std::fs::read(file).with_context(|| format!("--guestinfo {key}: {file} cannot be read"))?,
        None => value.as_bytes().to_vec(),
    };
    let key = guestinfo::strip_prefix(key.as_bytes()).unwrap_or(key.as_bytes()).to_vec();
    guestinfo::check((&key, &value)).with_context(|| format!("--guestinfo {text}"))?;
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system() -> System {
        crate::manifest::load(&crate::workspace::root().join("systems/debian.toml")).unwrap()
    }

    #[test]
    fn sizes_are_mebibytes_unless_they_say_otherwise() {
        for (text, size) in [("512", 512), ("512M", 512), ("2G", 2048), ("1g", 1024)] {
            assert_eq!(mebibytes(text).unwrap(), size, "{text}");
        }
        for text in ["", "M", "12K", "-1", "99999999999999999999", "18446744073709551615G"] {
            assert!(mebibytes(text).unwrap_err().to_string().contains("such as 512M"), "{text}");
        }
    }

    #[test]
    fn guestinfo_comes_from_the_line_or_from_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"a\0b\n").unwrap();
        let from_file = format!("guestinfo.userdata=@{}", file.path().display());
        assert_eq!(entry("key=a=b").unwrap(), (b"key".to_vec(), b"a=b".to_vec()));
        assert_eq!(entry(&from_file).unwrap(), (b"userdata".to_vec(), b"a\0b\n".to_vec()));
        for (text, part) in [
            ("key", "KEY=VALUE"),
            ("=value", "the key is empty"),
            ("key=", "the value is empty"),
            ("a b=c", "the key holds a blank"),
            ("key=@/no/such", "/no/such cannot be read"),
        ] {
            let error = format!("{:#}", entry(text).unwrap_err());
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn wishes_reach_the_services_of_the_vm() {
        let options = Options {
            guestinfo: vec!["a=b".into()],
            ap_start: Some(Start::Mailbox),
            memory: Some("256M".into()),
            vcpus: Some(2),
            ..Options::default()
        };
        let mut system = system();
        let place = tempfile::tempdir().unwrap();
        options.apply(&mut system, place.path()).unwrap();
        let vm = &system.vms[0];
        assert_eq!((vm.memory_pages, vm.vcpus.len()), (65536, 2));
        let vmexit = &system.partitions[usize::from(vm.vmexit)];
        assert!(vmexit.config.lines().any(|line| line == "ap-start=mailbox"), "{}", vmexit.config);
        let port = &system.partitions[usize::from(vm.port.unwrap())];
        let blob = port.blobs.iter().find(|blob| blob.name == "guestinfo").unwrap();
        assert!(std::fs::read(&blob.file).unwrap().starts_with(&guestinfo::MAGIC));
    }

    #[test]
    fn a_system_without_the_port_takes_no_guestinfo() {
        let mut system = system();
        system.vms[0].port = None;
        let options = Options { guestinfo: vec!["a=b".into()], ..Options::default() };
        let error = options.apply(&mut system, Path::new("/nowhere")).unwrap_err();
        assert!(error.to_string().contains("no VM with the port"));
    }

    #[test]
    fn more_keys_than_a_vm_has_are_refused_with_limit_and_count() {
        let place = tempfile::tempdir().unwrap();
        let applied = |keys: usize, times: usize| {
            let guestinfo = (0..keys * times).map(|number| format!("key{}=x", number % keys)).collect();
            Options { guestinfo, ..Options::default() }.apply(&mut system(), place.path())
        };
        // The same key again is the same key.
        assert!(applied(512, 2).is_ok());
        let text = applied(513, 1).unwrap_err().to_string();
        assert!(text.starts_with("--guestinfo: 513 keys, and a VM of this system has 512:"), "{text}");
    }

    #[test]
    fn an_exit_port_has_a_number_and_maybe_a_value_for_success() {
        let exit = |text: &str| text.parse::<ExitPort>().ok().map(|exit| (exit.port, exit.success));
        assert_eq!(exit("0xf4"), Some((0xf4, 0x10)));
        assert_eq!(exit("1281:0x21"), Some((0x501, 0x21)));
        for wrong in ["", "65536", "0xf4:", ":1", "f4"] {
            assert_eq!(exit(wrong), None, "{wrong}");
        }
        let options = Options { exit_port: "0x501:1".parse().ok(), ..Options::default() };
        let mut system = system();
        options.apply(&mut system, Path::new("/nowhere")).unwrap();
        assert!(vmexit(&mut system).unwrap().config.contains("guest.exit-port=0x501\n"));
        assert_eq!(options.success(), 1);
    }
}
