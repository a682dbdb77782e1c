//! The image bundle, format version 2 ([`portcullis_ipc::image`]): a checked system and its programs
//! in, the bytes that the core gets as module 0 out, and a reader of such bytes.
//!
//! `place` puts a partition's segments, stack, heap and files at their addresses; `info` makes its
//! information page; `pool` sizes the page tables; `write` lays out the file; `read` takes it apart
//! again, for tests and for `show`.

mod info;
mod place;
mod pool;
mod read;
mod show;
mod write;

pub use place::{Placed, PlacedBlob, Segment};
pub use read::{Bundle, ReadError, ReadPartition, ReadVm};
pub use show::show;

use crate::elf_file::{self, Program};
use crate::manifest::{Finding, Findings, Problem, System};
use portcullis_ipc::limits;

/// What the manifest's names stand for: one entry a partition.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Its program.
    pub program: Program,
    /// Bytes of its files, in the order of the manifest.
    pub blobs: Vec<Vec<u8>>,
}

/// Writes a bundle. `file` is what findings call the manifest; `inputs` has one entry a partition.
pub fn write(file: &str, system: &System, inputs: &[Inputs]) -> Result<Vec<u8>, Findings> {
    let mut findings = Vec::new();
    let mut placed = Vec::new();
    for (partition, input) in system.partitions.iter().zip(inputs) {
        match place::place(system, partition, input) {
            Ok(one) => placed.push(one),
            Err(problem) => findings.push(Finding { file: file.to_owned(), line: partition.line, problem }),
        }
    }
    if !findings.is_empty() {
        return Err(Findings(findings));
    }
    let pool_pages = pool::pages(system, &placed);
    if pool_pages > limits::POOL_PAGES {
        let what = "pages of page tables (one for 2 MiB of each VM's memory)";
        let problem = Problem::Limit { what, wanted: pool_pages, limit: limits::POOL_PAGES };
        let line = system.vms.first().map_or(1, |vm| vm.line);
        return Err(Findings(vec![Finding { file: file.to_owned(), line, problem }]));
    }
    Ok(write::write(system, inputs, &placed, pool_pages as u32))
}

/// Reads the programs and files that a system names; `elf` and `file` turn a name into a path.
pub fn inputs(file: &str, system: &System, path: impl Fn(&str) -> std::path::PathBuf) -> Result<Vec<Inputs>, Findings> {
    let mut findings = Vec::new();
    let mut inputs = Vec::new();
    for partition in &system.partitions {
        let mut note = |line, text: String| {
            findings.push(Finding { file: file.to_owned(), line, problem: Problem::File(text) });
        };
        let mut blobs = Vec::new();
        for blob in &partition.blobs {
            let path = path(&blob.file);
            match std::fs::read(&path) {
                Ok(bytes) => blobs.push(bytes),
                Err(reason) => {
                    let error = elf_file::Error::Read { file: crate::workspace::display(&path), reason };
                    note(blob.line, error.to_string());
                }
            }
        }
        match Program::read(&path(&partition.elf)) {
            Ok(program) => inputs.push(Inputs { program, blobs }),
            Err(error) => note(partition.line, error.to_string()),
        }
    }
    if findings.is_empty() { Ok(inputs) } else { Err(Findings(findings)) }
}

/// A name in a fixed field, padded with zeros.
fn name24(name: &str) -> [u8; 24] {
    let mut field = [0; 24];
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    field
}

/// Bytes as a number of pages.
fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(portcullis_ipc::layout::PAGE as u64)
}

#[cfg(test)]
mod tests;
