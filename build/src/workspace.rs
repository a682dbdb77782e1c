//! Where things lie in the checkout. Nothing here reads or writes a file's content.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The bare-metal target of core, services and test partitions.
pub const TARGET: &str = "x86_64-unknown-none";

/// No checkout is where one is looked for.
#[derive(Debug, thiserror::Error)]
#[error("no checkout of Portcullis holds this program or the current directory: run `cargo xtask` in a checkout")]
pub struct NoCheckout;

/// Finds the root of the checkout that this process works on. It is looked for at run time, since a checkout may be
/// moved or copied with the programs that were built in it: above the package that cargo runs, above this program,
/// above the current directory.
pub fn locate() -> Result<PathBuf, NoCheckout> {
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let places = [package, env::current_exe().ok(), env::current_dir().ok()];
    places.iter().flatten().find_map(|place| root_above(place)).ok_or(NoCheckout)
}

/// The nearest directory above `place`, or that itself, which holds a checkout.
fn root_above(place: &Path) -> Option<PathBuf> {
    const MARKS: [&str; 4] = ["Cargo.toml", "kernel/Cargo.toml", "build/Cargo.toml", "systems"];
    place.ancestors().find(|directory| MARKS.iter().all(|mark| directory.join(mark).exists())).map(Path::to_owned)
}

/// Root of the checkout, as [`locate`] found it first; the current directory where there is none.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| locate().unwrap_or_else(|_| PathBuf::from(".")))
}

/// Target directory of all bare-metal builds; apart from the host's, so that neither evicts the other.
pub fn metal_dir() -> PathBuf {
    root().join("target/metal")
}

/// The ELF of a bare-metal package, as the last build left it.
pub fn metal_elf(binary: &str) -> PathBuf {
    metal_dir().join(TARGET).join("release").join(binary)
}

/// Symbol store: unstripped ELFs named by the hexadecimal digits of their build id.
pub fn symbols_dir() -> PathBuf {
    root().join("target/symbols")
}

/// Where images are written.
pub fn out_dir() -> PathBuf {
    root().join("out")
}

/// System manifest of the Debian guest, the default of `run`.
pub fn debian_manifest() -> PathBuf {
    root().join("systems/debian.toml")
}

/// System manifest of the small demonstration, the default of all other verbs that take one.
pub fn demo_manifest() -> PathBuf {
    root().join("systems/demo.toml")
}

/// The path relative to the root where it lies below it: what messages print.
pub fn display(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_nearest_directory_above_that_holds_a_checkout() {
        let directory = tempfile::tempdir().unwrap();
        let (outer, inner) = (directory.path(), directory.path().join("a/copy"));
        for root in [outer, &inner] {
            for part in ["kernel", "build", "systems", "target/debug"] {
                std::fs::create_dir_all(root.join(part)).unwrap();
            }
            for file in ["Cargo.toml", "kernel/Cargo.toml", "build/Cargo.toml"] {
                std::fs::write(root.join(file), "").unwrap();
            }
        }
        assert_eq!(root_above(&inner.join("target/debug/tool")), Some(inner.clone()));
        assert_eq!(root_above(&inner), Some(inner));
        assert_eq!(root_above(&outer.join("a")), Some(outer.to_owned()));
        assert_eq!(root_above(Path::new("/")), None);
    }
}
