//! A whole Debian as RAM disk: systemd, open-vm-tools and cloud-init with everything that they depend on, as apt would
//! install them on an empty machine. No package's script runs: what they would have made and the start needs is made
//! here.

use super::apt::Apt;
use super::tree::{self, Node, Tree};
use super::{Error, archive, cache, cpio, directory, script, stamp};

/// What is installed. apt takes packages that every Debian has as given, so those that scripts need are named.
pub const ROOTS: [&str; 17] = [
    "base-passwd",
    "bash",
    "cloud-init",
    "coreutils",
    "dash",
    "dbus",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "open-vm-tools",
    "procps",
    "sed",
    "systemd-sysv",
    "tar",
    "udev",
    "util-linux",
];

/// Directories whose content no program needs.
const UNWANTED: [&str; 12] = [
    "usr/share/bash-completion/",
    "usr/share/bug/",
    "usr/share/doc/",
    "usr/share/i18n/",
    "usr/share/info/",
    "usr/share/lintian/",
    "usr/share/locale/",
    "usr/share/man/",
    "usr/share/misc/",
    "usr/share/perl/",
    "usr/lib/x86_64-linux-gnu/gconv/",
    "usr/lib/x86_64-linux-gnu/perl/",
];

/// Units that scripts of their packages enable: the unit that wants them, and they.
const ENABLED: [(&str, &str); 6] = [
    ("multi-user.target", "open-vm-tools.service"),
    ("multi-user.target", "portcullis-check.service"),
    ("cloud-init.target", "cloud-init-local.service"),
    ("cloud-init.target", "cloud-init.service"),
    ("cloud-init.target", "cloud-config.service"),
    ("cloud-init.target", "cloud-final.service"),
];

/// Files from the tool's sources.
const OWN: [(&str, &str); 3] = [
    ("portcullis/check", "root/check"),
    ("portcullis/lib.sh", "lib.sh"),
    ("usr/lib/systemd/system/portcullis-check.service", "root/portcullis-check.service"),
];

/// Texts that scripts of packages write, or that are the machine's.
const TEXTS: [(&str, &str); 5] = [
    ("etc/hostname", "debian\n"),
    ("etc/hosts", "127.0.0.1 localhost\n"),
    // Empty: an identity is made at every start, and no unit is enabled for a first one.
    ("etc/machine-id", ""),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files\n"),
    ("etc/fstab", ""),
];

/// Users that scripts of packages add; systemd adds its own at the start.
const USERS: &str = "messagebus:x:100:100::/nonexistent:/usr/sbin/nologin\n";
const GROUPS: &str = "messagebus:x:100:\n";

/// Links that scripts of packages make.
const LINKS: [(&str, &str); 7] = [
    ("bin", "usr/bin"),
    ("init", "usr/lib/systemd/systemd"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("sbin", "usr/sbin"),
    ("usr/bin/awk", "mawk"),
    ("usr/bin/which", "which.debianutils"),
];

/// Its file.
pub const FILE: &str = "root.cpio";

/// Makes it where it is not up to date.
pub fn make(apt: &Apt) -> Result<(), Error> {
    let names = apt.closure(&ROOTS)?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let packages = apt.show(&names)?;
    let own = own()?;
    let (file, stamp_file) = (directory().join(FILE), directory().join("root.stamp"));
    let stamp = format!("{UNWANTED:?} {ENABLED:?} {TEXTS:?} {USERS} {LINKS:?} {own:?}\n{}", stamp(&packages));
    if file.is_file() && std::fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp) {
        return Ok(());
    }
    let files = apt.fetch(&packages)?;
    eprintln!("guest: unpacking {} packages of the systemd root", packages.len());
    let mut tree = Tree::new();
    for file in files {
        add(&mut tree, archive::unpack(&file, |path| !UNWANTED.iter().any(|unwanted| path.starts_with(unwanted)))?);
    }
    users(&mut tree);
    tree.extend(own);
    tree::add_directories(&mut tree);
    cache::write(&file, &cpio::write(&tree))?;
    Ok(cache::write(&stamp_file, stamp.as_bytes())?)
}

/// Adds a package's files; a directory replaces nothing.
fn add(tree: &mut Tree, package: Tree) {
    for (path, node) in package {
        match node {
            Node::Directory => {
                tree.entry(path).or_insert(Node::Directory);
            }
            node => {
                tree.insert(path, node);
            }
        }
    }
}

fn text(text: impl Into<Vec<u8>>) -> Node {
    Node::File { bytes: text.into(), program: false }
}

/// The users of every Debian, which `base-passwd` brings as templates, and those of packages.
fn users(tree: &mut Tree) {
    for (name, more) in [("passwd", USERS), ("group", GROUPS)] {
        let template = tree.get(&format!("usr/share/base-passwd/{name}.master"));
        let Some(Node::File { bytes, .. }) = template else { continue };
        let all = [bytes.as_slice(), more.as_bytes()].concat();
        tree.insert(format!("etc/{name}"), text(all));
    }
}

/// What comes from here.
fn own() -> Result<Tree, Error> {
    let mut tree = Tree::new();
    for (path, name) in OWN {
        tree.insert(path.to_owned(), script(name)?);
    }
    tree.extend(TEXTS.map(|(path, content)| (path.to_owned(), text(content))));
    tree.extend(LINKS.map(|(path, to)| (path.to_owned(), Node::Link(to.to_owned()))));
    for (target, unit) in ENABLED {
        let link = format!("/usr/lib/systemd/system/{unit}");
        tree.insert(format!("etc/systemd/system/{target}.wants/{unit}"), Node::Link(link));
    }
    for path in ["dev", "proc", "root", "run", "sys", "tmp", "var/log", "var/tmp"] {
        tree.insert(path.to_owned(), Node::Directory);
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_one_package_does_not_replace_a_link_of_another() {
        let link = || Node::Link("/run".to_owned());
        let mut tree = Tree::from([("var/run".to_owned(), link())]);
        let package = [("var/run".to_owned(), Node::Directory), ("a".to_owned(), Node::Directory)];
        add(&mut tree, Tree::from(package));
        assert_eq!(tree, Tree::from([("var/run".to_owned(), link()), ("a".to_owned(), Node::Directory)]));
    }

    #[test]
    fn packages_users_stand_behind_those_of_every_debian() {
        let template = "usr/share/base-passwd/passwd.master";
        let mut tree = Tree::from([(template.to_owned(), text("root::0:0:root:/root:/bin/bash\n"))]);
        users(&mut tree);
        let Some(Node::File { bytes, .. }) = tree.get("etc/passwd") else { panic!() };
        let found = String::from_utf8(bytes.clone()).unwrap();
        assert!(found.starts_with("root:") && found.ends_with(USERS), "{found}");
    }

    #[test]
    fn what_the_root_is_made_of_is_there() {
        let tree = own().unwrap();
        assert!(matches!(tree.get("portcullis/check"), Some(Node::File { .. })));
        assert!(matches!(tree.get("init"), Some(Node::Link(_))));
    }
}
