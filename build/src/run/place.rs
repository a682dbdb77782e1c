//! Where a run keeps what it makes: a directory of its own as long as it lasts, so that two runs of one checkout do
//! not get each other's files.

use crate::workspace;
use anyhow::Context;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// A directory that no other run has.
pub struct Place {
    directory: PathBuf,
    number: u32,
    /// Held as long as the run lasts; the system lets it go whatever ends this process.
    _lock: File,
}

impl Place {
    /// The first directory of `above`, by number, that no other run has.
    pub fn claim(above: &Path) -> anyhow::Result<Self> {
        let mut number = 1;
        loop {
            let directory = above.join(number.to_string());
            let failed = || format!("{} cannot be written", workspace::display(&directory));
            std::fs::create_dir_all(&directory).with_context(failed)?;
            let lock = File::create(directory.join("lock")).with_context(failed)?;
            match lock.try_lock() {
                Ok(()) => return Ok(Self { directory, number, _lock: lock }),
                Err(TryLockError::WouldBlock) => number += 1,
                Err(TryLockError::Error(reason)) => return Err(reason).with_context(failed),
            }
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the log goes unless the user says otherwise: `run.log`, or `run-2.log` while another run has that.
    pub fn log(&self) -> PathBuf {
        let name = if self.number == 1 { "run.log".to_owned() } else { format!("run-{}.log", self.number) };
        workspace::out_dir().join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_at_once_have_places_of_their_own_and_the_next_takes_the_first_that_is_free() {
        let above = tempfile::tempdir().unwrap();
        let claim = || Place::claim(above.path()).unwrap();
        let (first, second) = (claim(), claim());
        assert_eq!([&first, &second].map(|place| place.number), [1, 2]);
        assert!(first.directory() != second.directory() && first.log() != second.log());
        assert!(first.log().ends_with("out/run.log"));
        drop(first);
        assert_eq!(claim().number, 1);
    }
}
