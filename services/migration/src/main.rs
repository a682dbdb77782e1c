//! `migration`: will save, restore and move a VM.
//!
//! Today it starts, logs that it did and answers the health request; it touches no VM.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod bare {
    use portcullis_runtime::serve::{Service, serve};
    use portcullis_runtime::start::Start;

    struct Migration;

    impl Service for Migration {}

    portcullis_runtime::entry!(main);

    fn main(start: Start) -> ! {
        defmt::info!("migration ready, generation {=u32}", start.generation);
        serve(start, &mut Migration)
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("migration is a partition of Portcullis: build an image with `cargo xtask build`");
}
