//! `build`: compiles core, services and, on request, the tests' partitions and guests for bare metal,
//! and keeps their unstripped ELFs in the symbol store.

use crate::elf_file::{self, Program};
use crate::toolchain::{self, Toolchain};
use crate::workspace::{self, root};
use crate::{guest, process, setup};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// Level of the log statements that are compiled in: error, warn, info, debug, trace or off.
    #[arg(long, default_value = "info")]
    pub log_level: String,
    /// Build the tests' partitions and guests too.
    #[arg(long)]
    pub tests: bool,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No toolchain.
    #[error(transparent)]
    Toolchain(#[from] toolchain::Error),
    /// Cargo failed.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// What cargo printed about the workspace is not what it prints.
    #[error("`cargo metadata` printed something unexpected: use a cargo of the workspace's rust-version or later")]
    Metadata,
    /// A built ELF cannot be read.
    #[error(transparent)]
    Elf(#[from] elf_file::Error),
    /// The symbol store cannot be written.
    #[error("{path} cannot be written: {reason}")]
    Store {
        /// The path.
        path: String,
        /// What the system said.
        reason: std::io::Error,
    },
    /// A log level that does not exist.
    #[error("`{0}` is not a log level: use error, warn, info, debug, trace or off")]
    LogLevel(String),
}

/// A bare-metal binary of the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// Package.
    pub package: String,
    /// Binary.
    pub name: String,
    /// Directory of the package, relative to the root.
    pub directory: PathBuf,
}

/// Runs the verb.
pub fn command(args: &Args) -> anyhow::Result<()> {
    setup::ensure(&[setup::Need::Toolchain])?;
    for path in compile(&args.log_level, |binary| args.tests || !binary.is_test())? {
        match Program::read(&path) {
            Ok(program) => println!("{:>8} bytes of code  {}", program.text_bytes(), workspace::display(&path)),
            Err(_) => println!("{:>8} bytes (flat)     {}", bytes_of(&path), workspace::display(&path)),
        }
    }
    Ok(())
}

fn bytes_of(path: &Path) -> u64 {
    path.metadata().map_or(0, |data| data.len())
}

/// Waits until no other process of this checkout puts an image together, and keeps them waiting as long as the file is
/// held: what is compiled for one log level is not to end up in the image of another.
pub fn alone() -> Result<std::fs::File, Error> {
    let path = workspace::out_dir().join("build.lock");
    let failed = |reason| Error::Store { path: workspace::display(&path), reason };
    std::fs::create_dir_all(workspace::out_dir()).map_err(failed)?;
    let lock = std::fs::File::create(&path).map_err(failed)?;
    if lock.try_lock().is_err() {
        eprintln!("waiting for another build in this checkout");
        lock.lock().map_err(failed)?;
    }
    Ok(lock)
}

/// Compiles core and services, and the tests' binaries that a system names. Returns the files.
pub fn for_system(log_level: &str, names: &[&str]) -> Result<Vec<PathBuf>, Error> {
    // Core and services are always built as one set: features of shared dependencies stay the same.
    compile(log_level, |binary| !binary.is_test() || names.contains(&binary.name.as_str()))
}

/// Compiles the bare-metal binaries that `wanted` picks. Returns the files.
pub fn compile(log_level: &str, wanted: impl Fn(&Binary) -> bool) -> Result<Vec<PathBuf>, Error> {
    if !["error", "warn", "info", "debug", "trace", "off"].contains(&log_level) {
        return Err(Error::LogLevel(log_level.to_owned()));
    }
    let toolchain = Toolchain::detect()?;
    let binaries: Vec<Binary> = binaries(&toolchain)?.into_iter().filter(|binary| wanted(binary)).collect();
    let mut command = toolchain.for_metal("build", log_level);
    for binary in &binaries {
        command.args(["--package", &binary.package, "--bin", &binary.name]);
    }
    // The first build compiles the core library too and takes minutes: cargo then shows what it does.
    if binaries.iter().any(|binary| !workspace::metal_elf(&binary.name).exists()) {
        eprintln!("building core, services and guests for bare metal; the first time this takes some minutes");
    } else {
        command.arg("--quiet");
    }
    process::run(&mut command, "the bare-metal build")?;
    let files: Vec<PathBuf> = binaries.iter().map(|binary| workspace::metal_elf(&binary.name)).collect();
    for file in &files {
        store_symbols(file)?;
    }
    Ok(files)
}

impl Binary {
    /// True for the tests' partitions and guests.
    pub fn is_test(&self) -> bool {
        self.directory.starts_with("qemu-tests")
    }
}

/// Bare-metal binaries of the workspace: those under `kernel/`, `services/`, `qemu-tests/partitions/`
/// and `qemu-tests/guests/`.
pub fn binaries(toolchain: &Toolchain) -> Result<Vec<Binary>, Error> {
    let mut command = toolchain.cargo("metadata");
    command.args(["--no-deps", "--format-version", "1"]);
    let text = process::output(&mut command, "`cargo metadata`")?;
    let value: Value = serde_json::from_str(&text).map_err(|_| Error::Metadata)?;
    let packages = value["packages"].as_array().ok_or(Error::Metadata)?;
    let mut binaries: Vec<Binary> = packages.iter().flat_map(binaries_of).collect();
    binaries.sort_by(|a, b| a.directory.cmp(&b.directory).then(a.name.cmp(&b.name)));
    Ok(binaries)
}

fn binaries_of(package: &Value) -> Vec<Binary> {
    let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
    let directory = manifest.parent().and_then(|path| path.strip_prefix(root()).ok()).unwrap_or(Path::new(""));
    let metal = ["kernel", "services", "qemu-tests/partitions", "qemu-tests/guests"];
    if !metal.iter().any(|prefix| directory.starts_with(prefix)) {
        return Vec::new();
    }
    let targets = package["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_binary =
        |target: &&Value| target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "bin"));
    let binary = |target: &Value| Binary {
        package: package["name"].as_str().unwrap_or_default().to_owned(),
        name: target["name"].as_str().unwrap_or_default().to_owned(),
        directory: directory.to_owned(),
    };
    targets.iter().filter(is_binary).map(binary).collect()
}

/// Keeps an unstripped ELF under its build id, so that a log of any age finds its symbols.
fn store_symbols(elf: &Path) -> Result<(), Error> {
    let Ok(program) = Program::read(elf) else {
        // A guest may be linked without a note; it has no log either.
        return Ok(());
    };
    let directory = workspace::symbols_dir();
    let target = directory.join(elf_file::hex(&program.build_id));
    let failed = |reason| Error::Store { path: workspace::display(&target), reason };
    std::fs::create_dir_all(&directory).map_err(failed)?;
    if target.exists() {
        return Ok(());
    }
    // Under another name first: a reader never sees half a file.
    let partial = target.with_extension("partial");
    std::fs::copy(elf, &partial).map_err(failed)?;
    std::fs::rename(&partial, &target).map_err(failed)
}

/// The file that a manifest names: a path from the root of the checkout, a part of the Debian guest, or a
/// binary of the workspace.
pub fn resolve(name: &str) -> PathBuf {
    if name.contains('/') {
        return root().join(name);
    }
    guest::resolve(name).unwrap_or_else(|| workspace::metal_elf(name))
}

/// A copy without symbols and debug information, as it ships; where `strip` is not installed, a plain copy.
pub fn ship(elf: &Path, to: &Path) -> Result<(), Error> {
    if process::find("strip".as_ref()).is_some() {
        let mut command = Command::new("strip");
        command.arg("--strip-all").arg("-o").arg(to).arg(elf);
        return Ok(process::run(&mut command, "strip")?);
    }
    let failed = |reason| Error::Store { path: workspace::display(to), reason };
    std::fs::copy(elf, to).map(|_| ()).map_err(failed)
}
