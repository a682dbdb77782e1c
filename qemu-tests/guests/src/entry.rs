//! How a guest starts: one stub for each of the three modes in which a loader may enter a raw guest, and one
//! for multiboot. Each
//! ends in long mode with a stack and calls the guest's main with the bytes of guest memory.

/// Declares the entry of a guest: `entry!(long64, main)`. Modes: `real16` (loaded at 0x7c00),
/// `protected32`, `long64` and `multiboot` (loaded at 1 MiB). `main` is `extern "C" fn(u64) -> !`.
#[macro_export]
macro_rules! entry {
    (real16, $main:path) => {
        core::arch::global_asm!(
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/entry/real16.s")),
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/entry/climb.s")),
            main = sym $main
        );
    };
    (protected32, $main:path) => {
        core::arch::global_asm!(
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/entry/protected32.s")),
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/entry/climb.s")),
            main = sym $main
        );
    };
    (multiboot, $main:path) => {
        core::arch::global_asm!(
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/entry/multiboot.s")),
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/entry/climb.s")),
            main = sym $main
        );
    };
    (long64, $main:path) => {
        core::arch::global_asm!(
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/entry/long64.s")),
            main = sym $main
        );
    };
}
