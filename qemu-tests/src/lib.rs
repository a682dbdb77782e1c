//! The emulator tests' harness: a trial boots one image, collects what it says, judges it and audits the
//! machine afterwards.
//!
//! [`debian`] makes the systems with the Debian guest, [`directives`] reads how a system wants to be tested from
//! its manifest, [`judge`] decides from lines alone, [`clock`] from when they came, [`pace`] compares the guest with the bare emulator, [`place`] says in which
//! emulator, [`chosen`] which trials run, [`table`] what ran where, [`trial`] boots, [`spoil`] makes images that must be refused, [`plant`]
//! breaches that an audit must notice, [`stalls`] a busy host, [`watch`] looks at registers while a partition runs. The
//! guests and partitions that run inside lie in
//! `guests/` and `partitions/`.

pub mod chosen;
pub mod clock;
pub mod debian;
pub mod directives;
pub mod judge;
pub mod pace;
pub mod place;
pub mod plant;
pub mod spoil;
pub mod stalls;
pub mod table;
pub mod trial;
pub mod watch;
