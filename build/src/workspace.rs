//! Where things lie in the checkout. Nothing here reads or writes a file's content.

use std::path::{Path, PathBuf};

/// The bare-metal target of core, services and test partitions.
pub const TARGET: &str = "x86_64-unknown-none";

/// Root of the checkout that this tool was built from.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
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
