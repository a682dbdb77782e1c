//! Links the bare-metal program with the partitions' script, then with defmt's.

fn main() {
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo:rustc-link-arg-bins=-Tservice.ld");
        println!("cargo:rustc-link-arg-bins=-Tdefmt.x");
    }
}
