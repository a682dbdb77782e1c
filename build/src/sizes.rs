//! `sizes`: counts the core's code, text and `unsafe`, and the memory of core and services, and fails
//! when a budget is exceeded.

use crate::bundle::{self, Bundle};
use crate::dependencies::Graph;
use crate::elf_file::Program;
use crate::manifest::{self, System};
use crate::source::{Count, Sources};
use crate::toolchain::Toolchain;
use crate::{bounds, branches};
use crate::{build, image, setup, workspace};
use portcullis_ipc::layout::{BLOB_BASE, PAGE};
use portcullis_ipc::syscall::rights;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Code lines of the core with both vendors' virtualization extensions.
pub const CODE_LINES: u64 = 6_600;
/// Bytes of the core's text.
pub const TEXT_BYTES: u64 = 66 << 10;
/// Lines with `unsafe` in 1,000 lines of the core.
pub const UNSAFE_PER_1000: u64 = 20;
/// Bytes of core and services with one VM of one vCPU; guest memory and guest files apart.
pub const MEMORY_BYTES: u64 = 4 << 20;

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// System manifest whose memory is counted.
    #[arg(default_value_os_t = workspace::demo_manifest())]
    pub manifest: PathBuf,
    /// Level of the log statements that are compiled in.
    #[arg(long, default_value = "info")]
    pub log_level: String,
    /// Print the core's files with their lines, largest first.
    #[arg(long)]
    pub files: bool,
}

/// A budget that was exceeded.
#[derive(Debug, thiserror::Error)]
#[error("{0} exceeded: make it smaller, or change the budget in SPECIFICATION.md and here with the reason")]
pub struct Exceeded(String);

/// One figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was counted.
    pub name: String,
    /// The number.
    pub value: u64,
    /// Its budget.
    pub budget: Option<u64>,
}

impl Figure {
    fn is_exceeded(&self) -> bool {
        self.budget.is_some_and(|budget| self.value > budget)
    }
}

/// Runs the verb.
pub fn command(args: &Args) -> anyhow::Result<()> {
    setup::ensure(&[setup::Need::Toolchain])?;
    let system = manifest::load(&args.manifest)?;
    build::for_system(&args.log_level, &image::names(&system))?;
    let figures = measure(&args.manifest)?;
    print(&figures);
    if args.files {
        print_files();
    }
    check(&figures)?;
    Ok(())
}

fn print_files() {
    let core = Sources::read(&workspace::root().join("kernel/src"));
    let mut files: Vec<_> = core.by_file().collect();
    files.sort_by_key(|(_, count)| std::cmp::Reverse(count.code));
    for (file, count) in files {
        println!("{:>6} code {:>4} unsafe  {}", count.code, count.with_unsafe, workspace::display(file));
    }
}

/// Prints the figures beside their budgets.
pub fn print(figures: &[Figure]) {
    println!("{:<58} {:>10} {:>10}", "", "value", "budget");
    for figure in figures {
        let budget = figure.budget.map_or("-".to_owned(), |budget| budget.to_string());
        let mark = if figure.is_exceeded() { "  EXCEEDED" } else { "" };
        println!("{:<58} {:>10} {budget:>10}{mark}", figure.name, figure.value);
    }
}

/// Fails with the names of the budgets that are exceeded.
pub fn check(figures: &[Figure]) -> Result<(), Exceeded> {
    let exceeded: Vec<&str> =
        figures.iter().filter(|figure| figure.is_exceeded()).map(|figure| figure.name.as_str()).collect();
    if exceeded.is_empty() { Ok(()) } else { Err(Exceeded(exceeded.join(", "))) }
}

/// Measures everything; the binaries of the system are compiled already.
pub fn measure(path: &Path) -> anyhow::Result<Vec<Figure>> {
    let graph = Graph::read(true)?;
    let system = manifest::load(path)?;
    let core = Program::read(&workspace::metal_elf(image::CORE))?;
    let file = workspace::display(path);
    let inputs = bundle::inputs(&file, &system, build::resolve)?;
    let bytes = bundle::write(&file, &system, &inputs)?;
    let mut figures = code_figures(&graph, &core);
    let indirect = branches::indirect(&core.path)?;
    for (name, address) in &indirect {
        println!("the core branches where memory or a register says at {address:#x}, in {name}");
    }
    figures.push(figure("indirect branches of the core outside formatting", indirect.len() as u64, Some(0)));
    let mut unmasked = branches::in_functions(&core.path, bounds::unmasked)?;
    unmasked.retain(|(name, _)| !name.contains(bounds::BOOT));
    for (name, address) in &unmasked {
        println!("only a branch keeps the access at {address:#x} within its table, in {name}");
    }
    figures.push(figure("accesses of the core that only a branch bounds", unmasked.len() as u64, Some(0)));
    figures.extend(service_figures(&graph, &system)?);
    figures.extend(memory_figures(&memory(&core, &Bundle::read(&bytes)?)));
    Ok(figures)
}

fn figure(name: &str, value: u64, budget: Option<u64>) -> Figure {
    Figure { name: name.to_owned(), value, budget }
}

fn code_figures(graph: &Graph, core: &Program) -> Vec<Figure> {
    let (own, foreign) = code(graph);
    let in_1000 = (own.with_unsafe * 1000).div_ceil(own.code.max(1));
    vec![
        figure("code lines of the core (first-party, linked)", own.code, Some(CODE_LINES)),
        figure("code lines of its dependencies (whole crates)", foreign.code, None),
        figure("bytes of the core's text", core.text_bytes(), Some(TEXT_BYTES)),
        figure("lines with unsafe in the core", own.with_unsafe, None),
        figure("lines with unsafe in 1,000 of the core", in_1000, Some(UNSAFE_PER_1000)),
    ]
}

/// First-party code of the services, and all that the guests of this system rely on: core, services,
/// and what they share.
fn service_figures(graph: &Graph, system: &System) -> Result<Vec<Figure>, build::Error> {
    let binaries = build::binaries(&Toolchain::detect()?)?;
    let lines = |directory: &Path| Sources::read(&workspace::root().join(directory).join("src")).count().code;
    let mut figures = Vec::new();
    let mut services = 0;
    for binary in binaries.iter().filter(|binary| system.partitions.iter().any(|one| one.elf == binary.name)) {
        let code = lines(&binary.directory);
        services += code;
        figures.push(figure(&format!("code lines of {}", binary.name), code, None));
    }
    let shared = lines(Path::new("services/runtime")) + lines(Path::new("ipc"));
    let core = lines(Path::new("kernel"));
    figures.push(figure("code lines of what the services share (runtime, ipc)", shared, None));
    figures.push(figure("code lines that a guest relies on (all of the above)", core + services + shared, None));
    let metal: Vec<&str> = binaries.iter().filter(|one| !one.is_test()).map(|one| one.package.as_str()).collect();
    let foreign: BTreeMap<&Path, u64> = metal
        .iter()
        .flat_map(|name| graph.linked(name))
        .filter(|package| package.foreign)
        .map(|package| (package.directory.as_path(), lines(&package.directory)))
        .collect();
    figures.push(figure("code lines of all their dependencies (whole crates)", foreign.values().sum(), None));
    Ok(figures)
}

fn memory_figures(memory: &Memory) -> Vec<Figure> {
    vec![
        figure("bytes of the core in memory", memory.core, None),
        figure("bytes of the sealed image, guest files apart", memory.sealed, None),
        figure("bytes of the services' writable memory", memory.writable, None),
        figure("bytes of state regions and spare slots", memory.kept, None),
        figure("bytes of the page-table pool", memory.pool, None),
        figure("bytes of pages shared with the core", memory.shared, None),
        figure("bytes of core and services in memory", memory.total(), Some(MEMORY_BYTES)),
    ]
}

/// Code of the core that is ours, and that of its dependencies. Of a shared crate of ours the modules
/// count that the core reaches; of another's crate all of it.
fn code(graph: &Graph) -> (Count, Count) {
    let core = Sources::read(&workspace::root().join("kernel/src"));
    let (mut own, mut foreign) = (core.count(), Count::default());
    for package in graph.linked(image::CORE).into_iter().filter(|package| package.name != image::CORE) {
        let sources = Sources::read(&package.directory.join("src"));
        if package.foreign {
            foreign += sources.count();
        } else {
            own += sources.count_reached(&package.name.replace('-', "_"), &core);
        }
    }
    (own, foreign)
}

/// Memory of a system besides guest memory and guest files, bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    core: u64,
    sealed: u64,
    writable: u64,
    kept: u64,
    pool: u64,
    shared: u64,
}

impl Memory {
    fn total(&self) -> u64 {
        self.core + self.sealed + self.writable + self.kept + self.pool + self.shared
    }
}

/// Pages of a VM's control structures: VMCB, host save area, three of I/O and two of MSR permissions.
const VM_PAGES: u64 = 7;
/// Pages of a vCPU: control block, extended state, exit page.
const VCPU_PAGES: u64 = 3;

fn memory(core: &Program, bundle: &Bundle) -> Memory {
    let page = PAGE as u64;
    let mut memory = Memory { core: core.memory_bytes(), sealed: bundle.head.length, ..Memory::default() };
    memory.pool = u64::from(bundle.head.pool_pages) * page;
    // The platform page, and a message page for each partition.
    memory.shared = (1 + bundle.partitions.len() as u64) * page;
    for partition in &bundle.partitions {
        memory.kept += u64::from(partition.record.state_pages + partition.record.spare_pages) * page;
        for segment in &partition.segments {
            if segment.rights & rights::WRITE != 0 {
                memory.writable += u64::from(segment.pages) * page;
            }
            if segment.address >= BLOB_BASE {
                memory.sealed -= u64::from(segment.pages) * page;
            }
        }
    }
    for vm in &bundle.vms {
        memory.shared += (VM_PAGES + vm.vcpus.len() as u64 * VCPU_PAGES) * page;
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exceeded_budget_is_named() {
        let figure = |value| Figure { name: "code lines".to_owned(), value, budget: Some(10) };
        assert!(check(&[figure(10)]).is_ok());
        assert!(check(&[figure(11)]).unwrap_err().to_string().starts_with("code lines exceeded"));
    }
}
