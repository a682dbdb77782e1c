//! Puts the partitions' link script on the linker's search path.

fn main() {
    // The linker runs in the workspace's root; a path from there stays right where the checkout is moved.
    println!("cargo:rustc-link-search=services/runtime");
    println!("cargo:rerun-if-changed=service.ld");
}
