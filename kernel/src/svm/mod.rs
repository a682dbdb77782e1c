//! AMD SVM: what the processor keeps of a VM (control block, nested table, bitmaps), the world switch, and
//! the translation of its exits (AMD64 APM volume 2, chapter 15). Nothing here decides what an exit means.

mod check;
mod control;
mod exits;
pub mod nested;
pub mod setup;
mod state;
mod world;

pub use control::Machine;
