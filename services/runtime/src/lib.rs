//! The runtime that every partition links: entry, system calls, typed calls, the server loop, log, heap
//! and state region.
//!
//! What does not live here: policy of any service, and layouts that core and services share
//! (`portcullis-ipc`). The modules that touch the processor exist only for the bare-metal target; the
//! pure ones build on the host too, where they are tested.
//!
//! Vocabulary: an *instance* is one life of a partition; a *handle* is a capability slot that was looked
//! up by the name the manifest gives it.
#![cfg_attr(target_os = "none", no_std)]

pub mod allowance;
pub mod bulk;
pub mod call;
pub mod info;
pub mod journal;
pub mod state;

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod bare {
    pub mod endpoint;
    pub mod handle;
    pub mod heap;
    pub mod lease;
    pub mod logger;
    pub mod message;
    pub mod pages;
    pub mod random;
    pub mod serve;
    pub mod start;
    pub mod syscall;
    pub mod time;
}

#[cfg(target_os = "none")]
pub use bare::*;

#[cfg(target_os = "none")]
pub use defmt;
pub use portcullis_ipc as ipc;

/// Reasons that the runtime gives when an instance gives up (`Abort`); a service's own start at 256.
pub mod reason {
    /// A panic; the log holds the message.
    pub const PANIC: u64 = 1;
    /// The manifest gives no capability of a name that the service cannot do without.
    pub const MISSING_CAPABILITY: u64 = 2;
    /// The core gave an event that this service cannot have asked for.
    pub const UNEXPECTED_EVENT: u64 = 3;
    /// The information page does not start with its magic number.
    pub const NO_INFO_PAGE: u64 = 4;
    /// The configuration holds a value that the service refuses; the log names it.
    pub const BAD_CONFIG: u64 = 5;
    /// The state region holds live state that this program cannot continue.
    pub const FOREIGN_STATE: u64 = 6;
}
