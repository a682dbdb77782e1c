//! vCPUs, the same for both vendors: the control block and what a service may write into it, exits and their delivery,
//! entry, nested tables. What a processor does its own way is in `svm` and `vmx`.

pub mod block;
mod check;
mod exit;
mod groups;
pub mod machine;
pub mod nested;
mod run;

pub use machine::{Machine, Vendor};
