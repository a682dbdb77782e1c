//! AMD SVM: intercepts, bitmaps, the world switch, and the translation of its exits (AMD64 APM volume 2, chapter 15).
//! Nothing here decides what an exit means.

pub mod control;
mod exits;
mod setup;
mod world;

pub use setup::{VM_CR, enable, refusal};
