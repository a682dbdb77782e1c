//! A tree of files in memory: what packages unpack into and what becomes an initial RAM disk.

use std::collections::BTreeMap;

/// A file, by its path from the root without a leading slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A file and whether it is a program.
    File {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Everyone may execute it.
        program: bool,
    },
    /// A symbolic link and where it points.
    Link(String),
}

/// Files by path.
pub type Tree = BTreeMap<String, Node>;

/// Directories that are links into `usr` on an installed system; packages still use both paths.
const MERGED: [&str; 4] = ["bin/", "lib/", "lib64/", "sbin/"];

/// A path as a package spells it, as the merged tree has it; `None` for the root itself.
pub fn merged(path: &str) -> Option<String> {
    let path = path.trim_start_matches("./").trim_matches('/');
    if path.is_empty() || path == "." {
        return None;
    }
    let with_slash = format!("{path}/");
    let inside = MERGED.iter().any(|prefix| with_slash.starts_with(prefix));
    Some(if inside { format!("usr/{path}") } else { path.to_owned() })
}

/// Adds the directories above everything that the tree holds.
pub fn add_directories(tree: &mut Tree) {
    let paths: Vec<String> = tree.keys().cloned().collect();
    for path in paths {
        for (end, _) in path.match_indices('/') {
            tree.entry(path[..end].to_owned()).or_insert(Node::Directory);
        }
    }
}

/// The path that a link in the tree points to.
pub fn target(link: &str, points_to: &str) -> Option<String> {
    let mut parts: Vec<&str> = if points_to.starts_with('/') { Vec::new() } else { link.split('/').collect() };
    parts.pop();
    for part in points_to.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    merged(&parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_both_layouts_become_one() {
        let table = [
            ("./bin/busybox", Some("usr/bin/busybox")),
            ("./lib64/ld.so", Some("usr/lib64/ld.so")),
            ("/usr/bin/x", Some("usr/bin/x")),
            ("./library/x", Some("library/x")),
            ("./lib", Some("usr/lib")),
            ("./", None),
        ];
        for (path, expected) in table {
            assert_eq!(merged(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn links_are_followed_from_where_they_stand() {
        let table = [
            ("usr/lib/a.so.1", "a.so.1.2", "usr/lib/a.so.1.2"),
            ("usr/lib64/ld.so", "/lib/x/ld.so", "usr/lib/x/ld.so"),
            ("usr/lib/x/a", "../../share/./b", "usr/share/b"),
        ];
        for (link, to, expected) in table {
            assert_eq!(target(link, to).as_deref(), Some(expected));
        }
    }

    #[test]
    fn every_directory_above_a_file_is_there_once() {
        let mut tree = Tree::from([("a/b/c".to_owned(), Node::Link("x".to_owned()))]);
        add_directories(&mut tree);
        assert_eq!(tree.keys().collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
    }
}
