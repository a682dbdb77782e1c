//! Which files of which packages the guest gets: the programs, and by the names that each ELF needs the
//! libraries, searched for in what the package at hand depends on.

use super::tree::{Node, Tree, target};
use elf::ElfBytes;
use elf::abi::{DT_NEEDED, DT_RUNPATH, PT_INTERP};
use elf::endian::LittleEndian;
use std::collections::{BTreeMap, BTreeSet};

/// Packages whose files the guest gets.
pub const ROOTS: [&str; 6] = ["busybox-static", "dmidecode", "libc-bin", "open-vm-tools", "systemd", "virt-what"];

/// Where an architecture has its libraries.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// At the end of the names of files made for it.
    pub suffix: &'static str,
    /// The directory of its libraries.
    libraries: &'static str,
    /// Where its programs look for the loader.
    loader: &'static str,
}

/// 64-bit.
pub const AMD64: Architecture = Architecture { suffix: "", libraries: "usr/lib/x86_64-linux-gnu", loader: "usr/lib64" };
/// 32-bit.
pub const I386: Architecture = Architecture { suffix: "-i386", libraries: "usr/lib/i386-linux-gnu", loader: "usr/lib" };

/// In place of an architecture's directory of libraries.
const LIBRARIES: &str = "LIBRARIES";

/// Paths that are taken whole; one that ends with a slash stands for all below it.
const WANTED: [&str; 13] = [
    "usr/bin/busybox",
    "usr/bin/systemd-detect-virt",
    "usr/bin/vmtoolsd",
    "usr/bin/vmware-checkvm",
    "usr/bin/vmware-rpctool",
    "usr/bin/vmware-toolbox-cmd",
    "usr/libexec/virt-what-cpuid-helper",
    "usr/sbin/dmidecode",
    "usr/sbin/virt-what",
    "LIBRARIES/open-vm-tools/plugins/",
    // Without a locale vmtoolsd writes question marks for letters outside ASCII.
    "usr/lib/locale/C.utf8/",
    "etc/vmware-tools/tools.conf",
    "etc/vmware-tools/statechange.subr",
];

/// Not for a guest without a screen.
const UNWANTED: [&str; 1] = ["libresolutionKMS.so"];

/// A program, and a library that it opens by name when it runs: no ELF says that it is needed.
const OPENED: [(&str, &str); 1] = [("usr/bin/vmtoolsd", "libguestStoreClient.so.0")];

/// Why the guest cannot be put together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A package no longer holds a program.
    #[error("no package of {roots} holds /{0}: the archive's packages have changed, and build/src/guest/select.rs must follow", roots = ROOTS.join(", "))]
    NoProgram(&'static str),
    /// A library is in no package that the program's depends on.
    #[error("{library}, which {by} needs, is in none of the packages that {package} depends on")]
    NoLibrary {
        /// Its name.
        library: String,
        /// Who needs it.
        by: String,
        /// Whose that is.
        package: String,
    },
}

impl Architecture {
    /// All of the rules above as one line: what was chosen by others is out of date.
    pub fn rules(&self) -> String {
        format!("{self:?} {ROOTS:?} {WANTED:?} {UNWANTED:?} {OPENED:?}")
    }

    /// True for paths that may be needed: the programs, and all libraries.
    pub fn may_be_wanted(&self, path: &str) -> bool {
        let within = |directory: &str| path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'));
        self.is_wanted(path).is_some() || within(self.libraries) || within(self.loader)
    }

    fn is_wanted(&self, path: &str) -> Option<&'static str> {
        let own = path.strip_prefix(self.libraries).map(|rest| format!("{LIBRARIES}{rest}"));
        let path = own.as_deref().unwrap_or(path);
        let matches = |wanted: &&&str| path == **wanted || wanted.ends_with('/') && path.starts_with(**wanted);
        WANTED.iter().find(matches).copied().filter(|_| !UNWANTED.iter().any(|name| path.ends_with(name)))
    }
}

/// What is chosen so far.
pub struct Selection {
    architecture: Architecture,
    /// The guest's files.
    pub files: Tree,
    /// Whose each is.
    owner: BTreeMap<String, String>,
}

/// A library that is nowhere among the unpacked packages.
#[derive(Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub library: String,
    /// Who needs it.
    pub by: String,
    /// Whose that is.
    pub package: String,
}

impl From<Missing> for Error {
    fn from(missing: Missing) -> Self {
        let Missing { library, by, package } = missing;
        Self::NoLibrary { library, by, package }
    }
}

impl Selection {
    fn new(architecture: Architecture) -> Self {
        Self { architecture, files: Tree::new(), owner: BTreeMap::new() }
    }

    /// The programs of the unpacked packages.
    pub fn programs(packages: &BTreeMap<String, Tree>, architecture: &Architecture) -> Result<Self, Error> {
        let mut selection = Self::new(*architecture);
        let mut seen = BTreeSet::new();
        for (package, tree) in packages {
            for (path, node) in tree {
                if let Some(wanted) = architecture.is_wanted(path).filter(|_| *node != Node::Directory) {
                    seen.insert(wanted);
                    selection.take(package, path, node);
                }
            }
        }
        match WANTED.iter().find(|wanted| !seen.contains(**wanted)) {
            Some(wanted) => Err(Error::NoProgram(wanted)),
            None => Ok(selection),
        }
    }

    fn take(&mut self, package: &str, path: &str, node: &Node) {
        self.files.insert(path.to_owned(), node.clone());
        self.owner.insert(path.to_owned(), package.to_owned());
    }

    /// Adds the libraries that the files need, as far as the packages have them; returns the others.
    pub fn add_libraries(&mut self, packages: &BTreeMap<String, Tree>) -> Vec<Missing> {
        let mut missing = Vec::new();
        let mut open: Vec<String> = self.files.keys().cloned().collect();
        while let Some(path) = open.pop() {
            let Some(Node::File { bytes, .. }) = self.files.get(&path) else {
                continue;
            };
            let Some(needs) = needs(bytes, &self.architecture) else { continue };
            for library in needs.libraries.into_iter().chain(opened(&path)) {
                let found = needs.directories.iter().find_map(|directory| find(packages, directory, &library));
                match found {
                    Some(chain) => {
                        for (package, path, node) in chain {
                            if !self.files.contains_key(path) {
                                self.take(package, path, node);
                                open.push(path.to_owned());
                            }
                        }
                    }
                    None => {
                        let package = self.owner.get(&path).cloned().unwrap_or_default();
                        missing.push(Missing { library, by: format!("/{path}"), package });
                    }
                }
            }
        }
        missing
    }
}

/// What the program opens when it runs.
fn opened(program: &str) -> impl Iterator<Item = String> {
    OPENED.iter().filter(move |(by, _)| *by == program).map(|(_, library)| (*library).to_owned())
}

/// A file and the links that lead to it.
type Chain<'a> = Vec<(&'a String, &'a String, &'a Node)>;

fn find<'a>(packages: &'a BTreeMap<String, Tree>, directory: &str, library: &str) -> Option<Chain<'a>> {
    let mut path = format!("{directory}/{library}");
    let mut chain = Vec::new();
    // No package has a chain of links this long.
    for _ in 0..8 {
        let get = |(package, tree): (&'a String, &'a Tree)| {
            tree.get_key_value(&path).map(|(path, node)| (package, path, node))
        };
        let (package, found, node) = packages.iter().find_map(get)?;
        chain.push((package, found, node));
        match node {
            Node::Link(to) => path = target(found, to)?,
            _ => return Some(chain),
        }
    }
    None
}

struct Needs {
    libraries: Vec<String>,
    directories: Vec<String>,
}

/// What an ELF needs; `None` when it is none or needs nothing.
fn needs(bytes: &[u8], architecture: &Architecture) -> Option<Needs> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(bytes).ok()?;
    let mut libraries = Vec::new();
    // The loader is found under the name that every program gives it.
    let mut directories: Vec<String> = [architecture.loader, architecture.libraries].map(str::to_owned).into();
    if let Some(header) = elf.segments()?.iter().find(|segment| segment.p_type == PT_INTERP) {
        let text = std::str::from_utf8(elf.segment_data(&header).ok()?).ok()?.trim_end_matches('\0');
        libraries.extend(text.rsplit('/').next().map(str::to_owned));
    }
    let (dynamic, strings) = (elf.dynamic().ok()??, elf.dynamic_symbol_table().ok()??.1);
    for entry in dynamic.iter() {
        let text = || strings.get(entry.d_val() as usize).ok();
        match entry.d_tag {
            DT_NEEDED => libraries.extend(text().map(str::to_owned)),
            DT_RUNPATH => {
                let paths = text().unwrap_or_default().split(':').filter_map(super::tree::merged);
                directories.splice(0..0, paths);
            }
            _ => {}
        }
    }
    Some(Needs { libraries, directories })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Node {
        Node::File { bytes: Vec::new(), program: true }
    }

    fn packages(entries: &[(&str, &str, Node)]) -> BTreeMap<String, Tree> {
        let mut packages: BTreeMap<String, Tree> = BTreeMap::new();
        for (package, path, node) in entries {
            packages.entry((*package).to_owned()).or_default().insert((*path).to_owned(), node.clone());
        }
        packages
    }

    #[test]
    fn a_program_that_left_its_package_is_named() {
        let error = Selection::programs(&packages(&[("busybox-static", "usr/bin/busybox", file())]), &AMD64).err();
        assert_eq!(error, Some(Error::NoProgram("usr/bin/systemd-detect-virt")));
    }

    #[test]
    fn a_plug_in_for_a_screen_is_left_out() {
        let directory = "usr/lib/x86_64-linux-gnu/open-vm-tools/plugins/vmsvc";
        assert!(AMD64.is_wanted(&format!("{directory}/libpowerOps.so")).is_some());
        assert!(AMD64.is_wanted(&format!("{directory}/libresolutionKMS.so")).is_none());
        assert!(AMD64.is_wanted("usr/bin/vmtoolsd2").is_none());
        assert!(I386.is_wanted(&format!("{directory}/libpowerOps.so")).is_none());
        assert!(I386.is_wanted("usr/lib/i386-linux-gnu/open-vm-tools/plugins/vmsvc/libpowerOps.so").is_some());
        assert!(I386.may_be_wanted("usr/lib/ld-linux.so.2") && !I386.may_be_wanted("usr/lib64/x"));
    }

    #[test]
    fn links_to_a_library_come_with_it_from_any_package() {
        let packages = packages(&[
            ("a", "usr/lib64/ld.so", Node::Link("/lib/x86_64-linux-gnu/ld.so".to_owned())),
            ("b", "usr/lib/x86_64-linux-gnu/ld.so", Node::Link("ld-1.so".to_owned())),
            ("b", "usr/lib/x86_64-linux-gnu/ld-1.so", file()),
            ("b", "usr/lib/x86_64-linux-gnu/loop", Node::Link("loop".to_owned())),
        ]);
        let chain = find(&packages, "usr/lib64", "ld.so").unwrap();
        assert_eq!(chain.iter().map(|(package, _, _)| package.as_str()).collect::<Vec<_>>(), ["a", "b", "b"]);
        assert!(find(&packages, "usr/lib/x86_64-linux-gnu", "loop").is_none());
        assert!(find(&packages, "usr/lib64", "libc.so.6").is_none());
    }

    #[test]
    fn a_library_that_a_program_opens_when_it_runs_comes_with_it() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let vmtoolsd = Node::File { bytes: own, program: true };
        let library = ("open-vm-tools", "usr/lib64/libguestStoreClient.so.0", file());
        let packages = packages(&[("open-vm-tools", "usr/bin/vmtoolsd", vmtoolsd.clone()), library]);
        let mut selection = Selection::new(AMD64);
        selection.take("open-vm-tools", "usr/bin/vmtoolsd", &vmtoolsd);
        let missing = selection.add_libraries(&packages);
        assert!(selection.files.contains_key("usr/lib64/libguestStoreClient.so.0"));
        assert!(missing.iter().all(|missing| missing.library != "libguestStoreClient.so.0"));
    }

    #[test]
    fn this_test_itself_needs_the_c_library_and_its_loader() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needs = needs(&own, &AMD64).unwrap();
        assert!(needs.libraries.iter().any(|name| name.starts_with("libc.")), "{:?}", needs.libraries);
        assert!(needs.libraries.iter().any(|name| name.starts_with("ld-")), "{:?}", needs.libraries);
        assert!(super::needs(b"#!/bin/sh", &AMD64).is_none());
    }
}
