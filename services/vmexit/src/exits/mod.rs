//! One file for each kind of exit that takes more than a line.

mod counter;
pub(crate) mod debug;
mod exception;
mod high;
mod nested;
mod port;
mod processor;
pub(crate) mod string;
mod task;
