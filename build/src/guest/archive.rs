//! Unpacks a Debian package into a tree in memory. `dpkg-deb` knows the container and its compression;
//! nothing is written to disk and none of the package's scripts runs.

use super::tree::{Node, Tree, merged};
use crate::process;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

/// Why a package cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `dpkg-deb` is not there or fails.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// What it gives out is not an archive.
    #[error("the package {package} cannot be unpacked ({reason}); delete it and try again")]
    Damaged {
        /// The file.
        package: String,
        /// What is wrong.
        reason: std::io::Error,
    },
}

/// The files of a package for which `wanted` is true, by their merged paths.
pub fn unpack(package: &Path, wanted: impl Fn(&str) -> bool) -> Result<Tree, Error> {
    let mut command = Command::new("dpkg-deb");
    command.arg("--fsys-tarfile").arg(package).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = process::spawn(&mut command)?;
    let read = child.stdout.take().map(|stream| read(stream, wanted)).transpose();
    let status = child.wait();
    let damaged = |reason| Error::Damaged { package: package.display().to_string(), reason };
    let tree = read.map_err(damaged)?.unwrap_or_default();
    match status.map_err(damaged)?.success() {
        true => Ok(tree),
        false => Err(damaged(std::io::Error::other("dpkg-deb failed"))),
    }
}

fn read(stream: impl Read, wanted: impl Fn(&str) -> bool) -> std::io::Result<Tree> {
    let mut tree = Tree::new();
    let mut archive = tar::Archive::new(stream);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let Some(path) = entry.path()?.to_str().and_then(merged) else {
            continue;
        };
        if !wanted(&path) {
            continue;
        }
        let header = entry.header();
        let node = if header.entry_type().is_symlink() {
            let to = entry.link_name()?.unwrap_or_default();
            Node::Link(to.to_string_lossy().into_owned())
        } else if header.entry_type().is_hard_link() {
            // A name of a file in the same package, from the root.
            let Some(to) = entry.link_name()?.and_then(|to| merged(to.to_str()?)) else { continue };
            Node::Link(format!("/{to}"))
        } else if header.entry_type().is_dir() {
            Node::Directory
        } else if header.entry_type().is_file() {
            let program = header.mode()? & 0o111 != 0;
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            Node::File { bytes, program }
        } else {
            continue;
        };
        tree.insert(path, node);
    }
    // The sender must not find its pipe closed.
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink())?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_links_and_modes_come_out_and_the_rest_stays() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind, mode, bytes: &[u8], link: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_size(bytes.len() as u64);
            if !link.is_empty() {
                header.set_link_name(link).unwrap();
            }
            builder.append_data(&mut header, path, bytes).unwrap();
        };
        add("./bin/x", tar::EntryType::Regular, 0o755, b"x", "");
        add("./usr/lib/y", tar::EntryType::Symlink, 0o777, b"", "z");
        add("./usr/lib/z", tar::EntryType::Link, 0o755, b"", "./bin/x");
        add("./var/", tar::EntryType::Directory, 0o755, b"", "");
        add("./usr/share/doc", tar::EntryType::Regular, 0o644, b"doc", "");
        let bytes = builder.into_inner().unwrap();
        let tree = read(&bytes[..], |path| !path.contains("share")).unwrap();
        let expected = [
            ("usr/bin/x".to_owned(), Node::File { bytes: b"x".to_vec(), program: true }),
            ("usr/lib/y".to_owned(), Node::Link("z".to_owned())),
            ("usr/lib/z".to_owned(), Node::Link("/usr/bin/x".to_owned())),
            ("var".to_owned(), Node::Directory),
        ];
        assert_eq!(tree, Tree::from(expected));
    }

    #[test]
    fn a_missing_package_is_an_error() {
        assert!(unpack(Path::new("/no/such.deb"), |_| true).is_err());
    }
}
