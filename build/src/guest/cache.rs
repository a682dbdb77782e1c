//! Where downloads and what is made of them are kept, and how a file comes to stand there whole or not
//! at all.

use crate::workspace;
use std::path::{Path, PathBuf};

/// A file or directory that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be written: {reason}")]
pub struct Error {
    path: String,
    reason: std::io::Error,
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |reason| Error { path: workspace::display(path), reason }
}

/// The user's cache directory, or one in the checkout where there is none.
fn root() -> PathBuf {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let user = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    user.map_or_else(|| workspace::out_dir().join("cache"), |directory| directory.join("portcullis"))
}

/// A directory of downloads.
pub fn directory(name: &str) -> Result<PathBuf, Error> {
    let path = root().join(name);
    std::fs::create_dir_all(&path).map_err(failed(&path))?;
    Ok(path)
}

/// A directory beside the kept files that is gone when its handle is.
pub fn temporary(beside: &Path) -> Result<tempfile::TempDir, Error> {
    tempfile::Builder::new().prefix(".partial-").tempdir_in(beside).map_err(failed(beside))
}

/// Moves a whole file to its place.
pub fn keep(file: &Path, to: &Path) -> Result<(), Error> {
    std::fs::rename(file, to).map_err(failed(to))
}

/// Writes a file so that others see the old one or the whole new one.
pub fn write(to: &Path, bytes: &[u8]) -> Result<(), Error> {
    let directory = to.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).map_err(failed(directory))?;
    let partial = temporary(directory)?;
    let file = partial.path().join("file");
    std::fs::write(&file, bytes).map_err(failed(&file))?;
    keep(&file, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("below/x");
        write(&file, b"old").unwrap();
        write(&file, b"new").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }
}
