//! Talks to QEMU's machine monitor (QMP).
