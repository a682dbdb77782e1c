//! `acpi-mangler`: will read the host's ACPI tables and write the guest's.
//!
//! Today it starts, logs that it did and answers the health request; it reads and writes no table. VMs
//! of this version need none.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod bare {
    use portcullis_runtime::serve::{Service, serve};
    use portcullis_runtime::start::Start;

    struct AcpiMangler;

    impl Service for AcpiMangler {}

    portcullis_runtime::entry!(main);

    fn main(start: Start) -> ! {
        defmt::info!("acpi-mangler ready, generation {=u32}", start.generation);
        serve(start, &mut AcpiMangler)
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("acpi-mangler is a partition of Portcullis: build an image with `cargo xtask build`");
}
