//! Intel VMX: the capabilities it must have, the VMCS of each vCPU and the way of the control block's words into it and
//! back, the world switch, and the translation of its exits (Intel SDM volume 3, chapters 24 to 28). Nothing here
//! decides what an exit means.

mod build;
mod capability;
mod carry;
mod exits;
mod instruction;
mod world;

pub use build::enable;
pub use capability::{Extension, refusal};
pub use carry::level;
