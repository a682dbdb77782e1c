//! `acpi-mangler`: builds the firmware tables of a guest's machine, ACPI and SMBIOS, into memory that
//! `vmexit` lends it.
//!
//! The tables follow from the request alone: the service keeps no state, and a call that is repeated after its
//! death writes the same bytes. Not here: where the tables lie and when they are written, which is `vmexit`'s;
//! reading the host's tables.
//!
//! Capabilities: none. It needs 16 KiB of stack and 32 KiB of heap.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code, reason = "used by the bare-metal part"))]

extern crate alloc;

mod dsdt;
mod fadt;
mod madt;
mod roots;
mod smbios;
mod tables;

#[cfg(test)]
mod tests;

#[cfg(target_os = "none")]
mod bare {
    use crate::tables::build;
    use portcullis_runtime::allowance::Allowance;
    use portcullis_runtime::call::{Incoming, Reply};
    use portcullis_runtime::ipc::proto::acpi::{BuildTables, TablesBuilt};
    use portcullis_runtime::ipc::proto::{Refusal, Request};
    use portcullis_runtime::lease::Borrowed;
    use portcullis_runtime::pages::platform;
    use portcullis_runtime::serve::{Service, serve};
    use portcullis_runtime::start::Start;
    use portcullis_runtime::time::tsc;

    /// Tables that are told of at once; then it is one a second. A guest has them built anew with each reset.
    const BURST: u32 = 16;

    struct AcpiMangler {
        allowance: Allowance,
    }

    impl AcpiMangler {
        fn say(&mut self, machine: &BuildTables) {
            let second = (tsc() / platform().tsc_hz.max(1)) as u32;
            let Some(omitted) = self.allowance.take(second) else { return };
            if omitted > 0 {
                defmt::warn!("{=u32} sets of tables not told of: it is one a second", omitted);
            }
            defmt::info!("tables for {=u8} vCPUs, platform version {=u16}", machine.vcpus, machine.platform);
        }
    }

    impl Service for AcpiMangler {
        fn called(&mut self, call: &Incoming<'_>, reply: &mut Reply) -> Result<(), Refusal> {
            if call.header.key != BuildTables::KEY {
                return Err(Refusal::Unsupported);
            }
            let machine: BuildTables = call.decode()?;
            let window = Borrowed::of(&call.header, 0).ok_or(Refusal::Malformed)?;
            let tables = build(&machine)?;
            for (offset, bytes) in &tables.pieces {
                // A lease that does not cover the tables is too small for them.
                window.write((*offset).into(), bytes).map_err(|_| Refusal::Full)?;
            }
            self.say(&machine);
            reply.put(&TablesBuilt { rsdp: tables.rsdp });
            Ok(())
        }
    }

    portcullis_runtime::entry!(main);

    fn main(start: Start) -> ! {
        defmt::info!("acpi-mangler ready, generation {=u32}", start.generation);
        serve(start, &mut AcpiMangler { allowance: Allowance::new(BURST) })
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("acpi-mangler is a partition of Portcullis: build an image with `cargo xtask build`");
}
