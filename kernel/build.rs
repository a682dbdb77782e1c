//! Hands the linker the core's layout, and defmt's section after it.

fn main() {
    println!("cargo:rerun-if-changed=kernel.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        // The linker runs in the workspace's root; a path from there stays right where the checkout is moved.
        println!("cargo:rustc-link-arg-bins=-Tkernel/kernel.ld");
        println!("cargo:rustc-link-arg-bins=-Tdefmt.x");
    } else {
        // Entry code that the tests do not run has absolute addresses.
        println!("cargo:rustc-link-arg=-no-pie");
    }
}
