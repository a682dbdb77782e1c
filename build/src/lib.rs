//! The host tool as a library, so that the emulator tests use the same builder, runner and audits as
//! the command line.
//!
//! One module a verb, each with its `Args` and its `command`; `toolchain`, `manifest`, `elf_file`,
//! `bundle` and `workspace` are what the verbs share. Nothing here runs on the target.

pub mod audit;
pub mod bench;
pub mod bounds;
pub mod branches;
pub mod build;
pub mod bundle;
pub mod dependencies;
pub mod elf_file;
pub mod emulator;
pub mod graph;
pub mod guest;
pub mod image;
pub mod logs;
pub mod manifest;
pub mod monitor;
pub mod one_line;
pub mod process;
pub mod run;
pub mod setup;
pub mod sizes;
pub mod source;
pub mod test;
pub mod toolchain;
pub mod workspace;
