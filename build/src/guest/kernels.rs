//! Debian's kernels: the package that each comes in, and the file that is made of it.

use super::apt::{Apt, BACKPORTS, I386, Package, Part};
use super::tree::Node;
use super::{Error, archive, cache, directory, kernel, stamp};
use std::path::PathBuf;

/// A kernel that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name in manifests.
    pub name: &'static str,
    /// The file made of it, in the form that the guest loader gets.
    pub file: &'static str,
    /// Package that depends on the current one.
    package: &'static str,
    /// The part of the archive that has it; `None`: the machine's own sources.
    part: Option<Part>,
}

/// The one of the demonstration.
pub const USUAL: Source = Source { name: "debian-kernel", file: "vmlinux", package: "linux-image-amd64", part: None };

/// The others.
pub const OTHERS: [Source; 4] = [
    Source { name: "debian-kernel-cloud", file: "kernel-cloud", package: "linux-image-cloud-amd64", part: None },
    Source { name: "debian-kernel-6.12", file: "kernel-6.12", package: "linux-image-amd64", part: Some(BACKPORTS) },
    Source {
        name: "debian-kernel-6.12-cloud",
        file: "kernel-6.12-cloud",
        package: "linux-image-cloud-amd64",
        part: Some(BACKPORTS),
    },
    Source { name: "debian-kernel-686-pae", file: "kernel-686-pae", package: "linux-image-686-pae", part: Some(I386) },
];

impl Source {
    /// Package lists that know it.
    pub fn apt(self) -> Result<Apt, Error> {
        Ok(match self.part {
            None => Apt::knowing(&[self.package])?,
            Some(part) => Apt::of_part(part, &[self.package])?,
        })
    }

    /// The file.
    pub fn path(self) -> PathBuf {
        directory().join(self.file)
    }

    /// Makes it where it is not up to date, and the bzImage that it came as beside it.
    pub fn make(self, apt: &Apt) -> Result<(), Error> {
        let package = [self.find(apt)?];
        let beside = |end: &str| directory().join(format!("{}.{end}", self.file));
        let (stamp, stamp_file, whole) = (stamp(&package), beside("stamp"), beside("bzImage"));
        let current = std::fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp);
        if current && self.path().is_file() && whole.is_file() {
            return Ok(());
        }
        let shape = |what| Error::Shape(self.package.to_owned(), what);
        let files = apt.fetch(&package)?;
        eprintln!("guest: unpacking the kernel {}", self.name);
        let file = files.first().ok_or_else(|| shape("has no file"))?;
        let tree = archive::unpack(file, |path| path.starts_with("boot/vmlinuz-"))?;
        let Some((path, Node::File { bytes, .. })) = tree.into_iter().next() else {
            return Err(shape("leads to a package without /boot/vmlinuz"));
        };
        cache::write(&whole, &bytes)?;
        cache::write(&self.path(), &kernel::prepare(&path, bytes, None)?.bytes)?;
        Ok(cache::write(&stamp_file, stamp.as_bytes())?)
    }

    /// The package that holds the kernel itself.
    fn find(self, apt: &Apt) -> Result<Package, Error> {
        let names: Vec<String> = apt.show(&[self.package])?.into_iter().flat_map(|one| one.depends).collect();
        let shape = || Error::Shape(self.package.to_owned(), "depends on no kernel");
        let name = names.iter().find(|name| name.starts_with("linux-image-")).ok_or_else(shape)?;
        apt.show(&[name.as_str()])?.into_iter().next().ok_or_else(shape)
    }
}
