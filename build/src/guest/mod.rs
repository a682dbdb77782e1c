//! The Debian guest: kernel and initial RAM disk, made on demand from Debian's own packages, and the
//! user's own in their place.
//!
//! `apt` finds and downloads packages, `archive` unpacks them, `select` picks files, `cpio` writes the RAM
//! disk; `root` makes a whole Debian; `kernels` names Debian's kernels; `bzimage`, `payload` and `kernel` turn one into what the guest loader gets;
//! `overrides` puts a user's wishes into a system. A manifest names what is made here as it names a binary: [`resolve`].

pub mod apt;
pub mod archive;
pub mod bzimage;
pub mod cache;
pub mod cpio;
pub mod kernel;
pub mod kernels;
pub mod overrides;
pub mod payload;
pub mod root;
pub mod select;
pub mod tree;

use crate::workspace;
use apt::{Apt, Package};
use select::Architecture;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tree::{Node, Tree};

/// What can be made besides kernels, by the name that a manifest gives it, and its file.
const MADE: [(&str, &str); 5] = [
    (BZIMAGE, "vmlinux.bzImage"),
    ("debian-initrd", "initrd.cpio"),
    ("debian-tests", "tests.cpio"),
    ("debian-tests-i386", "tests-i386.cpio"),
    ("debian-root", root::FILE),
];

/// The kernel of the demonstration as its package has it.
const BZIMAGE: &str = "debian-bzimage";

/// Why there is no guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Packages.
    #[error(transparent)]
    Apt(#[from] apt::Error),
    /// A package's content.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// The choice of files.
    #[error(transparent)]
    Select(#[from] select::Error),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// Writing.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// A package has another shape.
    #[error("the package {0} {1}: the archive's packages have changed, and build/src/guest must follow")]
    Shape(String, &'static str),
    /// A script of the guest cannot be read.
    #[error("{path} cannot be read ({reason}); restore it from the repository")]
    Script {
        /// The file.
        path: String,
        /// What the system said.
        reason: std::io::Error,
    },
}

/// Where things are made.
fn directory() -> PathBuf {
    workspace::out_dir().join("guest")
}

/// The file of something that is made here; `None` for other names.
pub fn resolve(name: &str) -> Option<PathBuf> {
    let other = MADE.iter().find(|(made, _)| *made == name).map(|(_, file)| directory().join(file));
    other.or_else(|| kernel_named(name).filter(|one| one.name == name).map(kernels::Source::path))
}

/// The kernel that something of that name is made of.
fn kernel_named(name: &str) -> Option<kernels::Source> {
    let name = if name == BZIMAGE { kernels::USUAL.name } else { name };
    std::iter::once(kernels::USUAL).chain(kernels::OTHERS).find(|one| one.name == name)
}

/// Makes what is named and not up to date; other names are left alone.
pub fn ensure(names: &[&str]) -> Result<(), Error> {
    let mut kernels: Vec<kernels::Source> = names.iter().filter_map(|name| kernel_named(name)).collect();
    kernels.dedup();
    for kernel in kernels {
        with_current_lists(kernel.apt()?, |apt| kernel.make(apt))?;
    }
    let any = |some: &[&str]| names.iter().any(|name| some.contains(name));
    if any(&["debian-initrd", "debian-tests"]) {
        with_current_lists(Apt::knowing(&select::ROOTS)?, |apt| make_disks(apt, &select::AMD64))?;
    }
    if any(&["debian-tests-i386"]) {
        with_current_lists(Apt::of_part(apt::I386, &select::ROOTS)?, |apt| make_disks(apt, &select::I386))?;
    }
    if any(&["debian-root"]) {
        with_current_lists(Apt::knowing(&root::ROOTS)?, root::make)?;
    }
    Ok(())
}

/// Makes something, with lists fetched now if older ones do not do.
fn with_current_lists(apt: Apt, make: impl Fn(&Apt) -> Result<(), Error>) -> Result<(), Error> {
    match make(&apt) {
        // The archive deletes old versions: lists that still name them are too old.
        Err(Error::Apt(_)) if apt.may_be_stale() => make(&apt.again()?),
        done => done,
    }
}

/// Packages and versions that something was made of.
fn stamp(packages: &[Package]) -> String {
    packages.iter().map(|one| format!("{} {} {}\n", one.name, one.version, one.digest)).collect()
}

/// The initial RAM disk for users, and the one with the tests.
fn make_disks(apt: &Apt, architecture: &Architecture) -> Result<(), Error> {
    let file = |name: &str| directory().join(format!("{name}{}.cpio", architecture.suffix));
    let base = file("base");
    if !is_base_current(apt, architecture, &base)? {
        make_base(apt, architecture, &base)?;
    }
    let mut disk = std::fs::read(&base).map_err(|reason| Error::Script { path: workspace::display(&base), reason })?;
    disk.extend(cpio::write(&scripts()?));
    cache::write(&file("initrd"), &disk)?;
    disk.extend(cpio::write(&tests()?));
    Ok(cache::write(&file("tests"), &disk)?)
}

fn is_base_current(apt: &Apt, architecture: &Architecture, base: &Path) -> Result<bool, Error> {
    let Ok(text) = std::fs::read_to_string(base.with_extension("stamp")) else {
        return Ok(false);
    };
    let Some((rules, text)) = text.split_once('\n').filter(|_| base.is_file()) else {
        return Ok(false);
    };
    let names: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    // One that the archive no longer has is not an error: what replaced it is found below.
    Ok(rules == architecture.rules() && apt.show(&names).is_ok_and(|packages| stamp(&packages) == text))
}

/// The part that comes from packages.
fn make_base(apt: &Apt, architecture: &Architecture, base: &Path) -> Result<(), Error> {
    let (mut known, mut trees): (Vec<Package>, BTreeMap<String, Tree>) = Default::default();
    let mut wanted: Vec<String> = select::ROOTS.map(str::to_owned).into();
    loop {
        let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let packages = apt.show(&names)?;
        for (package, file) in packages.iter().zip(apt.fetch(&packages)?) {
            trees.insert(package.name.clone(), archive::unpack(&file, |path| architecture.may_be_wanted(path))?);
        }
        known.extend(packages);
        let mut selection = select::Selection::programs(&trees, architecture)?;
        let missing = selection.add_libraries(&trees);
        if missing.is_empty() {
            tree::add_directories(&mut selection.files);
            cache::write(base, &cpio::write(&selection.files))?;
            let stamp = format!("{}\n{}", architecture.rules(), stamp(&known));
            return Ok(cache::write(&base.with_extension("stamp"), stamp.as_bytes())?);
        }
        wanted = next_packages(&known, &missing);
        if wanted.is_empty() {
            let first = missing.into_iter().next().map(select::Error::from);
            let shape = || Error::Shape(select::ROOTS.join(", "), "have no library that is missing");
            return Err(first.map_or_else(shape, Error::from));
        }
    }
}

/// The libraries that the packages with missing ones depend on, as far as they are not yet known.
fn next_packages(known: &[Package], missing: &[select::Missing]) -> Vec<String> {
    let lacking = known.iter().filter(|package| missing.iter().any(|one| one.package == package.name));
    let mut names: Vec<String> = lacking.flat_map(|package| package.depends.clone()).collect();
    names.retain(|name| name.starts_with("lib") && !known.iter().any(|package| package.name == *name));
    names.sort();
    names.dedup();
    names
}

/// A script beside this tool's sources, as a program of the guest.
fn script(name: &str) -> Result<Node, Error> {
    let path = workspace::root().join("build/guest").join(name);
    let bytes = std::fs::read(&path).map_err(|reason| Error::Script { path: workspace::display(&path), reason })?;
    Ok(Node::File { bytes, program: true })
}

/// The part of the RAM disk that the repository holds.
fn scripts() -> Result<Tree, Error> {
    let text = |text: &str| Node::File { bytes: text.into(), program: false };
    let link = |to: &str| Node::Link(to.to_owned());
    let directory = Node::Directory;
    let entries = [
        ("init", script("init")?),
        ("portcullis/demo", script("demo")?),
        ("portcullis/shell", script("shell")?),
        ("portcullis/lib.sh", script("lib.sh")?),
        ("etc/inittab", text("::respawn:cttyhack /portcullis/shell\n")),
        ("etc/passwd", text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n")),
        ("etc/group", text("root:x:0:\nuser:x:1000:\n")),
        ("etc/nsswitch.conf", text("passwd: files\ngroup: files\nhosts: files\n")),
        ("etc/hosts", text("127.0.0.1 localhost debian\n")),
        ("bin", link("usr/bin")),
        ("sbin", link("usr/sbin")),
        ("lib", link("usr/lib")),
        ("lib64", link("usr/lib64")),
        ("usr/sbin", directory.clone()),
        ("dev", directory.clone()),
        ("proc", directory.clone()),
        ("sys", directory),
    ];
    let mut tree: Tree = entries.map(|(path, node)| (path.to_owned(), node)).into();
    tree::add_directories(&mut tree);
    Ok(tree)
}

/// The tests that run inside the guest.
fn tests() -> Result<Tree, Error> {
    let place = workspace::root().join("build/guest/tests");
    let failed = |reason| Error::Script { path: workspace::display(&place), reason };
    let mut tree = Tree::from([("portcullis/tests".to_owned(), Node::Directory)]);
    for entry in std::fs::read_dir(&place).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        tree.insert(format!("portcullis/tests/{name}"), script(&format!("tests/{name}"))?);
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_in_manifests_stand_for_files_and_others_do_not() {
        assert!(resolve("debian-kernel").unwrap().ends_with("out/guest/vmlinux"));
        assert!(resolve("debian-kernel-686-pae").unwrap().ends_with("out/guest/kernel-686-pae"));
        assert!(resolve(BZIMAGE).unwrap().ends_with("out/guest/vmlinux.bzImage"));
        assert_eq!(resolve("guest-demo"), None);
        ensure(&["guest-demo"]).unwrap();
    }

    #[test]
    fn the_search_goes_on_in_the_libraries_of_packages_that_lack_some() {
        let package = |name: &str, depends: &[&str]| Package {
            name: name.to_owned(),
            version: "1".to_owned(),
            bytes: 1,
            architecture: "amd64".to_owned(),
            digest: String::new(),
            depends: depends.iter().map(|name| (*name).to_owned()).collect(),
        };
        let known = [package("a", &["libx", "perl", "liby"]), package("libx", &["libz"])];
        let missing = |name: &str| select::Missing { library: "l".into(), by: "p".into(), package: name.into() };
        assert_eq!(next_packages(&known, &[missing("a")]), ["liby"]);
        assert_eq!(next_packages(&known, &[missing("a"), missing("libx")]), ["liby", "libz"]);
    }

    #[test]
    fn the_scripts_of_the_guest_are_there() {
        let tree = super::scripts().unwrap();
        assert!(matches!(tree.get("init"), Some(Node::File { program: true, .. })));
        assert!(super::tests().is_ok());
    }
}
