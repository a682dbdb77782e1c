//! Asks apt for packages: what the archive has, and the files, which apt checks against the archive's
//! signed index. Nothing is installed and nothing of the machine's own apt is changed: where its package
//! lists do not do, lists of our own are fetched, which needs no root. Other parts of the same archive ([`Part`]) have
//! lists of their own always.

use super::cache;
use crate::process;
use crate::workspace::display;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A package as the archive has it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Bytes of its file.
    pub bytes: u64,
    /// Architecture, as its file's name ends.
    pub architecture: String,
    /// SHA-256 of its file, hexadecimal.
    pub digest: String,
    /// Names of what it depends on; of alternatives the first.
    pub depends: Vec<String>,
}

/// Why a package is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No apt.
    #[error(
        "the Debian guest is made from packages, and this machine has no apt; give a kernel and an initial RAM disk of your own with --kernel and --initrd"
    )]
    NoApt,
    /// apt failed.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// The archive does not have it.
    #[error(
        "apt knows no package {0}: its sources (/etc/apt/sources.list) must name a Debian archive; or use --kernel and --initrd"
    )]
    Unknown(String),
    /// A file is not what the index says.
    #[error("the package {name} came with other bytes than the archive's index says; try again")]
    Digest {
        /// The package.
        name: String,
    },
    /// No Debian archive among the sources.
    #[error("apt's sources (/etc/apt/sources.list) name no Debian archive, which {0} would be part of")]
    NoArchive(&'static str),
    /// The cache cannot be written.
    #[error(transparent)]
    Cache(#[from] cache::Error),
}

/// A part of Debian's archive that a machine's own sources need not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name in errors and in the cache.
    pub name: &'static str,
    /// Suite.
    pub suite: &'static str,
    /// Architecture.
    pub architecture: &'static str,
}

/// Newer kernels for Debian 12.
pub const BACKPORTS: Part = Part { name: "backports", suite: "bookworm-backports", architecture: "amd64" };
/// Debian 12 for 32-bit processors.
pub const I386: Part = Part { name: "i386", suite: "bookworm", architecture: "i386" };

/// Keys of the archive's signatures, where they are not in apt's own directory.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt with one set of package lists.
#[derive(Clone, Debug)]
pub struct Apt {
    /// Directory of lists of our own; `None`: the machine's.
    own: Option<PathBuf>,
    /// The part of the archive that the lists are of; `None`: what the machine's sources name.
    part: Option<Part>,
}

impl Apt {
    /// apt with the machine's lists where they know all of `names`, else with our own.
    pub fn knowing(names: &[&str]) -> Result<Self, Error> {
        if process::find("apt-get".as_ref()).is_none() {
            return Err(Error::NoApt);
        }
        let own = || -> Result<Self, Error> { Ok(Self { own: Some(cache::directory("apt")?), part: None }) };
        let know = |apt: &Self| apt.show(names).is_ok();
        let machine = Self { own: None, part: None };
        if know(&machine) {
            return Ok(machine);
        }
        let earlier = own()?;
        if know(&earlier) {
            return Ok(earlier);
        }
        Self::updated()
    }

    /// apt with lists of our own, fetched now.
    pub fn updated() -> Result<Self, Error> {
        let directory = cache::directory("apt")?;
        cache::directory("apt/lists/partial")?;
        let apt = Self { own: Some(directory), part: None };
        eprintln!("guest: fetching the archive's package lists");
        process::run(apt.command("apt-get").args(["update", "-q"]), "apt-get update")?;
        Ok(apt)
    }

    /// apt with lists of one part of the archive, fetched where they do not know all of `names`.
    pub fn of_part(part: Part, names: &[&str]) -> Result<Self, Error> {
        if process::find("apt-get".as_ref()).is_none() {
            return Err(Error::NoApt);
        }
        let directory = cache::directory(&format!("apt-{}", part.name))?;
        let apt = Self { own: Some(directory), part: Some(part) };
        if apt.show(names).is_ok() { Ok(apt) } else { apt.again() }
    }

    /// The same with lists fetched now.
    pub fn again(&self) -> Result<Self, Error> {
        let (Some(part), Some(directory)) = (self.part, &self.own) else { return Self::updated() };
        cache::directory(&format!("apt-{}/lists/partial", part.name))?;
        let archive = archive(part)?;
        let keys = if Path::new(KEYS).is_file() { format!("[signed-by={KEYS}] ") } else { String::new() };
        let line = format!("deb {keys}{archive} {} main\n", part.suite);
        cache::write(&sources(directory), line.as_bytes())?;
        eprintln!("guest: fetching the package lists of {} for {}", part.suite, part.architecture);
        process::run(self.command("apt-get").args(["update", "-q"]), "apt-get update")?;
        Ok(self.clone())
    }

    /// True with lists that were not fetched now and may be old.
    pub fn may_be_stale(&self) -> bool {
        self.own.is_none() || self.part.is_some()
    }

    /// A program of apt with these lists. What it prints is progress: it goes where messages go.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // In the language that the parser knows, and without a second user who cannot write to the cache.
        command.env("LC_ALL", "C").args(["-o", "APT::Sandbox::User="]);
        if let Some(directory) = &self.own {
            let lists = directory.join("lists");
            command.arg("-o").arg(option("Dir::State::lists", &lists));
            command.arg("-o").arg(option("Dir::Cache", directory));
            if let Some(part) = self.part {
                command.arg("-o").arg(option("Dir::Etc::sourcelist", &sources(directory)));
                command.args(["-o", "Dir::Etc::sourceparts=-"]);
                for key in ["APT::Architecture", "APT::Architectures"] {
                    command.arg("-o").arg(format!("{key}={}", part.architecture));
                }
            }
        }
        if let Ok(own) = io::stderr().as_fd().try_clone_to_owned() {
            command.stdout(Stdio::from(own));
        }
        command.stdin(Stdio::null());
        command
    }

    /// What the archive has under these names, in the order of the names.
    pub fn show(&self, names: &[&str]) -> Result<Vec<Package>, Error> {
        let mut command = self.command("apt-cache");
        command.args(["show", "--no-all-versions"]).args(names).stdout(Stdio::piped()).stderr(Stdio::null());
        let output = process::spawn(&mut command)?.wait_with_output();
        // It fails when one of them is not there; the others are printed all the same.
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let known: Vec<Package> = text.split("\n\n").filter_map(parse).collect();
        let find = |name: &&str| known.iter().find(|one| one.name == **name).cloned();
        names.iter().map(|name| find(name).ok_or_else(|| Error::Unknown((*name).to_owned()))).collect()
    }

    /// Names of all packages that apt would install for these on a machine that has none.
    pub fn closure(&self, names: &[&str]) -> Result<Vec<String>, Error> {
        let directory = cache::directory("packages")?;
        let nothing = cache::temporary(&directory)?;
        let status = nothing.path().join("status");
        cache::write(&status, b"")?;
        let mut command = self.command("apt-get");
        command.args(["--simulate", "--no-install-recommends", "-o", "Debug::NoLocking=1"]);
        command.arg("-o").arg(option("Dir::State::status", &status)).arg("install").args(names);
        let text = process::output(command.stdout(Stdio::piped()), "apt-get install --simulate")?;
        Ok(text.lines().filter_map(installed).map(str::to_owned).collect())
    }

    /// The files of packages, downloaded where the cache does not have them.
    pub fn fetch(&self, packages: &[Package]) -> Result<Vec<PathBuf>, Error> {
        let directory = cache::directory("packages")?;
        let missing: Vec<&Package> =
            packages.iter().filter(|one| !holds(&directory.join(one.file()), &one.digest)).collect();
        if !missing.is_empty() {
            let bytes: u64 = missing.iter().map(|one| one.bytes).sum();
            let place = display(&directory);
            eprintln!("guest: downloading {} Debian packages, {} kB, to {place}", missing.len(), bytes / 1000);
            self.download(&directory, &missing)?;
        }
        Ok(packages.iter().map(|one| directory.join(one.file())).collect())
    }

    fn download(&self, directory: &Path, packages: &[&Package]) -> Result<(), Error> {
        // In a directory of its own first, so that others never see half a file.
        let partial = cache::temporary(directory)?;
        let mut command = self.command("apt-get");
        command.current_dir(partial.path()).args(["download", "-q"]);
        command.args(packages.iter().map(|one| format!("{}={}", one.name, one.version)));
        process::run(&mut command, "apt-get download")?;
        for package in packages {
            let file = partial.path().join(package.file());
            if !holds(&file, &package.digest) {
                return Err(Error::Digest { name: package.name.clone() });
            }
            cache::keep(&file, &directory.join(package.file()))?;
        }
        Ok(())
    }
}

/// The list of sources of a part.
fn sources(directory: &Path) -> PathBuf {
    directory.join("sources.list")
}

/// Where the machine's own sources have Debian's archive, which holds `part`.
fn archive(part: Part) -> Result<String, Error> {
    let of = |apt: &Apt| -> Option<String> {
        let mut command = apt.command("apt-get");
        command.args([
            "indextargets",
            "--format",
            "$(ORIGIN) $(CODENAME) $(COMPONENT) $(SITE)",
            "Created-By: Packages",
        ]);
        command.stdout(Stdio::piped());
        first_archive(&process::output(&mut command, "apt-get indextargets").ok()?)
    };
    let machine = Apt { own: None, part: None };
    match of(&machine) {
        Some(site) => Ok(site),
        // A machine that has not fetched its lists yet.
        None => of(&Apt::updated()?).ok_or(Error::NoArchive(part.name)),
    }
}

/// The first site with a release itself: parts as its updates may lie elsewhere.
fn first_archive(targets: &str) -> Option<String> {
    targets.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [origin, code_name, component, site] = fields.try_into().ok()?;
        (origin == "Debian" && component == "main" && !code_name.contains('-')).then(|| site.to_owned())
    })
}

fn option(key: &str, value: &Path) -> std::ffi::OsString {
    let mut text = std::ffi::OsString::from(format!("{key}="));
    text.push(value);
    text
}

fn holds(file: &Path, digest: &str) -> bool {
    let found = std::fs::read(file).map(|bytes| crate::elf_file::hex(&Sha256::digest(bytes)));
    found.is_ok_and(|found| found == digest)
}

impl Package {
    /// The name that apt gives its file.
    fn file(&self) -> String {
        format!("{}_{}_{}.deb", self.name, self.version.replace(':', "%3a"), self.architecture)
    }
}

/// The package of a line of a simulation that would install one.
fn installed(line: &str) -> Option<&str> {
    line.strip_prefix("Inst ")?.split([' ', ':']).next()
}

/// A stanza of the index.
fn parse(stanza: &str) -> Option<Package> {
    // A line that begins with a blank goes on with the field before it; none of ours does.
    let fields: BTreeMap<&str, &str> = stanza.lines().filter_map(|line| line.split_once(": ")).collect();
    let text = |key: &str| fields.get(key).map(|value| (*value).to_owned());
    let lists = ["Pre-Depends", "Depends"].into_iter().filter_map(|key| fields.get(key));
    let first = |list: &str| list.split([' ', '|', '(', ':']).next().map(str::to_owned);
    Some(Package {
        name: text("Package")?,
        version: text("Version")?,
        bytes: fields.get("Size")?.parse().ok()?,
        architecture: text("Architecture")?,
        digest: text("SHA256")?,
        depends: lists.flat_map(|list| list.split(", ")).filter_map(first).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_gives_version_digest_and_the_first_of_alternatives() {
        let text = "Package: a\nVersion: 2:1.0-1\nArchitecture: amd64\nDepends: b (>= 1), c | d, e:any\nPre-Depends: f\n\
                    Size: 12\nSHA256: 00ff\nDescription: x: y";
        let package = parse(text).unwrap();
        assert_eq!(package.depends, ["f", "b", "c", "e"]);
        assert_eq!(package.file(), "a_2%3a1.0-1_amd64.deb");
        assert_eq!((package.bytes, package.digest.as_str()), (12, "00ff"));
        assert_eq!(parse("Package: a\nVersion: 1"), None);
    }

    #[test]
    fn a_simulation_names_what_it_would_install() {
        let text = "Reading...\nInst a (1 Debian:12/x [amd64])\nInst b:amd64 (2 x [all]) []\nConf a (1 x [amd64])";
        assert_eq!(text.lines().filter_map(installed).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn the_archive_is_the_site_of_a_release_and_not_of_its_updates() {
        let targets = "Debian x-security main http://a/s\nOther x main http://b\nDebian x contrib http://c/d\n\
                       Debian x main http://c/d\nDebian y main http://e";
        assert_eq!(first_archive(targets).as_deref(), Some("http://c/d"));
        assert_eq!(first_archive("Debian x-updates main http://a"), None);
    }

    #[test]
    fn a_file_counts_only_with_its_digest() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"abc").unwrap();
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(holds(file.path(), digest));
        assert!(!holds(file.path(), "00"));
        assert!(!holds(Path::new("/no/such/file"), digest));
    }
}
