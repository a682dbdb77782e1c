//! What the core, the services and the host tools agree on.
//!
//! Here live the system-call numbers, the address-space layout of a partition, the wire header of a
//! message, the exit page, the image format, the port call and the typed messages of every service.
//! Nothing here does anything: no system call is made, no page is mapped, no state is kept.
//!
//! Principles:
//!
//! 1. A layout that two parties share is pinned by static assertions and read through checked casts.
//! 2. The core reads fixed layouts only; the one payload it encodes and decodes is the port call,
//!    whose postcard form is a plain copy (every field is a byte or an array of bytes).
//! 3. Types are append-only; a changed type has a changed schema key, and golden tests hold the keys.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod allowed;
pub mod checksum;
pub mod client;
pub mod exit;
pub mod file;
pub mod frame;
pub mod guestinfo;
pub mod image;
pub mod info;
pub mod layout;
pub mod limits;
pub mod log;
pub mod message;
pub mod platform;
pub mod port;
pub mod proto;
pub mod ram;
pub mod record;
pub mod state;
pub mod syscall;
