//! Writes an initial RAM disk: the `newc` format of cpio that Linux unpacks (facts: Linux,
//! Documentation/driver-api/early-userspace/buffer-format.rst). The same tree gives the same bytes: no
//! times, no owners but root, in the order of the paths.

use super::tree::{Node, Tree};

/// Every entry and every file begins at a multiple of this.
const ALIGN: usize = 4;
/// Name of the entry after the last.
const TRAILER: &str = "TRAILER!!!";

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// The archive of a tree. Archives can be concatenated.
pub fn write(tree: &Tree) -> Vec<u8> {
    let mut archive = Vec::new();
    for (index, (path, node)) in (1u32..).zip(tree) {
        let (mode, bytes) = match node {
            Node::Directory => (DIRECTORY, &[][..]),
            Node::File { bytes, program: false } => (FILE, &bytes[..]),
            Node::File { bytes, program: true } => (PROGRAM, &bytes[..]),
            Node::Link(to) => (LINK, to.as_bytes()),
        };
        entry(&mut archive, index, mode, path, bytes);
    }
    entry(&mut archive, 0, 0, TRAILER, &[]);
    archive
}

fn entry(archive: &mut Vec<u8>, inode: u32, mode: u32, name: &str, bytes: &[u8]) {
    let links = if mode & 0o170_000 == DIRECTORY & 0o170_000 { 2 } else { 1 };
    // Inode, mode, owner, group, links, time, size, device of the file, device that it stands for, name, check.
    let fields = [inode, mode, 0, 0, links, 0, bytes.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    archive.extend(b"070701");
    for field in fields {
        archive.extend(format!("{field:08x}").bytes());
    }
    archive.extend(name.bytes());
    archive.push(0);
    align(archive);
    archive.extend(bytes);
    align(archive);
}

fn align(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(ALIGN), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn tree() -> Tree {
        let file = |text: &str, program| Node::File { bytes: text.into(), program };
        [
            ("d", Node::Directory),
            ("d/abc", file("hello", false)),
            ("d/run", file("#!/bin/sh\n", true)),
            ("l", Node::Link("d/abc".to_owned())),
        ]
        .map(|(path, node)| (path.to_owned(), node))
        .into()
    }

    #[test]
    fn names_and_files_begin_at_multiples_of_four() {
        let archive = write(&tree());
        assert!(archive.starts_with(b"070701"));
        assert_eq!(archive.len() % ALIGN, 0);
        let starts: Vec<usize> = (0..archive.len()).filter(|&at| archive[at..].starts_with(b"070701")).collect();
        assert_eq!(starts.len(), 5);
        assert!(starts.iter().all(|at| at % ALIGN == 0));
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        assert_eq!(write(&tree()), write(&tree()));
    }

    /// The system's own cpio reads it, where it is installed.
    #[test]
    fn another_program_reads_it_back() {
        if crate::process::find("cpio".as_ref()).is_none() {
            return;
        }
        let mut command = Command::new("cpio");
        let child = command.args(["-itv", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&write(&tree())).unwrap();
        let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        for part in ["drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x", "l -> d/abc"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
