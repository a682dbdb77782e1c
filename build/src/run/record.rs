//! Where the decoded log of a run goes: a file, or the terminal between the console's lines.

use crate::workspace;
use anyhow::Context;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Starts the file of an option anew, before there is anything for it.
pub fn created(option: &str, path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| format!("{option}: {} cannot be written", workspace::display(path)))
}

/// A log that is being written to a file.
pub struct Record(BufWriter<File>);

impl Record {
    /// Starts the file anew.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let failed = || format!("the log {} cannot be written; name another with --log", workspace::display(path));
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory).with_context(failed)?;
        }
        Ok(Self(BufWriter::new(File::create(path).with_context(failed)?)))
    }

    /// Adds a line.
    pub fn line(&mut self, text: &str) -> anyhow::Result<()> {
        writeln!(self.0, "{text}").context("the log cannot be written")
    }

    /// Lets everything be read by others.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.0.flush().context("the log cannot be written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_starts_anew_in_a_directory_that_is_made_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/run.log");
        for text in ["old", "new"] {
            let mut record = Record::create(&path).unwrap();
            record.line(text).unwrap();
            record.flush().unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_one_line_with_the_fix() {
        let error = Record::create(Path::new("/proc/no/run.log")).err().unwrap().to_string();
        assert_eq!(error, "the log /proc/no/run.log cannot be written; name another with --log");
    }
}
