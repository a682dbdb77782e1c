//! Which program QEMU is: the one on PATH, or the one that the user names.

use crate::process;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The emulator's program unless another is named.
const QEMU: &str = "qemu-system-x86_64";
/// The variable that names another; what this tool starts inherits it.
pub const VARIABLE: &str = "PORTCULLIS_QEMU";

static CHOSEN: OnceLock<PathBuf> = OnceLock::new();

/// The program that was named is none.
#[derive(Debug, thiserror::Error)]
#[error("--qemu or {VARIABLE} is {0}: there is no such program; name the file of a qemu-system-x86_64")]
pub struct NoProgram(String);

/// Names the program for all of this process; the first name counts.
pub fn choose(program: &Path) -> Result<(), NoProgram> {
    let found = process::find(program).ok_or_else(|| NoProgram(program.display().to_string()))?;
    // It is started in another directory.
    CHOSEN.get_or_init(|| std::path::absolute(&found).unwrap_or(found));
    Ok(())
}

/// The program that was named, by [`choose`] or by [`VARIABLE`].
pub fn chosen() -> Option<PathBuf> {
    CHOSEN.get().cloned().or_else(|| std::env::var_os(VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from))
}

/// The program.
pub fn get() -> PathBuf {
    chosen().unwrap_or_else(|| PathBuf::from(QEMU))
}

/// Whether it can be started.
pub fn is_there() -> bool {
    process::find(&get()).is_some()
}
