//! From the loader's hand-over to the first partition: check the processor and the image, take memory,
//! build tables, calibrate, start. What is wrong stops the boot with one line on COM1. Nothing here runs again
//! after boot.

#[cfg(not(test))]
mod entry;
mod error;
pub mod frames;
pub mod handover;
mod image;
mod system;

use crate::arch::time::Rates;
use crate::arch::{apic, cpu, entry as gate, idt, mitigation, time, uart};
use crate::audit::{self, Owner};
use crate::log;
use crate::mem::LAPIC;
use crate::mem::page::CorePage;
use crate::mem::table::{self, Pool, PoolExhausted};
use crate::mem::window::Windows;
use crate::state::{Core, NOBODY};
use crate::vcpu::{Vendor, machine};
use core::fmt::{self, Write};
use error::BootError;
use frames::Frames;
use handover::{Handover, Memory, Region};
use image::Image;
use portcullis_ipc::image::mitigation::NAMES;
use portcullis_ipc::platform::{PLATFORM_MAGIC, PlatformPage};

/// Physical memory below 4 GiB, while the boot tables map it.
struct Physical;

impl Memory for Physical {
    fn peek(&self, address: u64) -> Option<u32> {
        let known = address != 0 && address < (1 << 32) - 3;
        // SAFETY: the boot tables map the first 4 GiB; reading RAM or firmware tables has no effect.
        known.then(|| unsafe { (address as *const u32).read_unaligned() })
    }
}

unsafe extern "C" {
    static core_start: u8;
    static text_end: u8;
    static rodata_end: u8;
    static core_end: u8;
    static build_id_note: u8;
}

fn layout() -> [u64; 4] {
    [&raw const core_start as u64, &raw const text_end as u64, &raw const rodata_end as u64, &raw const core_end as u64]
}

fn build_id() -> [u8; 20] {
    let note = (&raw const build_id_note).wrapping_add(16).cast::<[u8; 20]>();
    // SAFETY: the linker script puts the note (16 bytes of head, 20 of SHA-1) there.
    unsafe { *note }
}

/// First Rust function: `protocol` is the magic of multiboot2, 0 for PVH; `address` that of the hand-over.
extern "sysv64" fn start(protocol: u32, address: u32) -> ! {
    uart::Line(uart::COM1).init();
    uart::say(format_args!(concat!("core ", env!("CARGO_PKG_VERSION"))));
    // SAFETY: INV-CORE: the processor comes here once, before anything else.
    let core = unsafe { crate::take_core() };
    match boot(core, protocol, address) {
        Ok(()) => crate::run(core),
        Err(error) => {
            uart::say(format_args!("{error}"));
            cpu::halt()
        }
    }
}

fn boot(core: &mut Core, protocol: u32, address: u32) -> Result<(), BootError> {
    let entered = cpu::tsc();
    let handover = match protocol {
        0x36d7_6289 => handover::multiboot2(&Physical, address.into())?,
        0 => handover::pvh(&Physical, address.into())?,
        _ => return Err(handover::PROTOCOL.into()),
    };
    if let Some(name) = cpu::missing_feature() {
        return Err(BootError::Name("boot: this processor lacks what the core needs", name));
    }
    let module = module(&handover)?;
    let bytes = {
        // SAFETY: the loader put the module there; the boot tables map it and nothing writes it.
        unsafe {
            core::slice::from_raw_parts(module.start as *const u8, module.end.wrapping_sub(module.start) as usize)
        }
    };
    let image = Image::check(bytes)?;
    idt::load();
    gate::install();
    gate::quiet();
    let (optional, lacks) = cpu::optional();
    // SAFETY: the features were found above; the boot tables allow the core's rules.
    unsafe { cpu::set_cr4(cpu::CR4 | optional) };

    let [start, _, _, end] = layout();
    let core_image = Region { start, end };
    let mut frames = Frames::new(&handover.ram, handover.other.iter().chain(&[core_image, module]))?;
    core.audit.add(start, end.wrapping_sub(start) >> 12, Owner::CORE);
    core.audit.add(module.start, module.end.wrapping_sub(module.start).div_ceil(4096), Owner::IMAGE);
    let pool_pages = u64::from(image.head.pool_pages);
    let pool = frames.take_low(pool_pages)?;
    core.audit.add(pool, pool_pages, Owner::POOL);
    // SAFETY: taken below the core's half for this only; mapped by the boot tables now, by `map_core` later.
    core.pool = unsafe { Pool::new(pool, pool_pages) };
    core.root = map_core(&mut core.pool)?;
    let vendor = |vcpus| machine::choose(vcpus, |leaf| cpu::cpuid(leaf, 0), gate::try_msr);
    core.machine.vendor = vendor(0).unwrap_or(Vendor::Svm);
    let facts = mitigation::facts(image.head.mitigations_off);
    let [chosen, lacking] = mitigation::choose(&facts);
    // Nested tables follow one of them.
    core.mitigations = chosen;
    system::build(core, &image, &mut frames)?;
    let vcpus = image.vcpus.len();
    let machine_pages = if vcpus > 0 { Some(core_pages(core, &mut frames, Owner::CORE)?) } else { None };
    let (windows, _, _) = core.pool.walk(core.root, LAPIC, 1, 0)?;
    // SAFETY: the core's own tables map all that the core touches from here on.
    unsafe { cpu::set_cr3(core.root) };
    // SAFETY: the table of the fixed maps is in force.
    core.windows = unsafe { Windows::new(windows) };
    core.ioapic = apic::Ioapic(core.windows);
    start_clock(core)?;
    if let Some(pages) = machine_pages {
        vendor(vcpus)?;
        machine::enable(&mut core.machine, pages);
    }
    let refused = mitigation::install(chosen, &facts);
    (core.mitigations, core.lacking) = (chosen & !refused, lacking | refused);
    gate::apply(core.mitigations);
    fill_platform(core);
    let Rates { tsc, lapic } = core.rates;
    log::begin(tsc, &build_id());
    let (on, lacking, used) = (core.mitigations, core.lacking, core.pool.used());
    defmt::info!("tsc {=u64} Hz, lapic {=u64} Hz{=str}; entered at tsc {=u64}", tsc, lapic, lacks.as_str(), entered);
    defmt::info!("mitigations {=u32:x}, needed but lacking {=u32:x}", on, lacking);
    defmt::info!("page-table pool: {=u64} of {=u64} pages; {=u64} pages are free", used, pool_pages, frames.left());
    (core.audit.magic, core.audit.core_root) = (audit::MAGIC, core.root);
    uart::say(format_args!("mitigations on: {}", Names(on)));
    uart::say(format_args!("mitigations needed, but this processor or its microcode lacks them: {}", Names(lacking)));
    uart::say(format_args!("{} partitions{}", image.partitions.len(), uart::Text(&lacks)));
    system::start(core);
    Ok(())
}

fn module(handover: &Handover) -> Result<Region, BootError> {
    let module = handover.image.ok_or("image: no module was loaded; give the bundle as the first module")?;
    if module.start & 0xfff != 0 || module.start == 0 || module.end > 1 << 32 || module.end <= module.start {
        return Err("image: the module must start at a page below 4 GiB; load it so".into());
    }
    Ok(module)
}

/// Flags of what the core writes.
const DATA: u64 = table::GLOBAL | table::NO_EXECUTE | table::WRITE;

/// A root with the core's half: its image by section, the pool, the local APIC and the empty windows.
fn map_core(pool: &mut Pool) -> Result<u64, PoolExhausted> {
    let root = pool.table()?;
    let [start, text, rodata, end] = layout();
    let (base, pages) = pool.extent();
    let ranges = [
        (start, text, table::GLOBAL),
        (text, rodata, table::GLOBAL | table::NO_EXECUTE),
        (rodata, end, DATA),
        (base, base.wrapping_add(pages << 12), DATA),
    ];
    for (from, to, flags) in ranges {
        pool.map_range(root, from, from, to.wrapping_sub(from) >> 12, flags | table::LARGE)?;
    }
    pool.map_range(root, LAPIC, apic::LAPIC_PHYSICAL, 1, table::UNCACHED | table::WRITE | table::NO_EXECUTE)?;
    Ok(root)
}

/// `N` contiguous pages of the core's half for `owner`, empty.
fn core_pages<const N: usize>(core: &mut Core, frames: &mut Frames, owner: Owner) -> Result<[CorePage; N], BootError> {
    let base = frames.take_low(N as u64)?;
    core.audit.add(base, N as u64, owner);
    core.pool.map_range(core.root, base, base, N as u64, DATA)?;
    // SAFETY: INV-CORE-PAGE: taken once, below the fixed maps, mapped in the core's half by the line above
    // and by the boot tables until that half is in force.
    let page = |number: usize| unsafe { CorePage::new(base.wrapping_add((number as u64) << 12)) };
    let pages = core::array::from_fn(page);
    pages.iter().for_each(|page| page.clear());
    Ok(pages)
}

/// The same for one page.
fn core_page(core: &mut Core, frames: &mut Frames, owner: Owner) -> Result<CorePage, BootError> {
    core_pages(core, frames, owner).map(|[page]| page)
}

const NO_CLOCK: &str =
    "boot: TSC or local APIC timer could not be measured against the 8254, and CPUID states no rates";
const LOCKED: &str = "boot: the firmware locked the local APIC in x2APIC mode; turn x2APIC off in its setup";

fn start_clock(core: &mut Core) -> Result<(), BootError> {
    apic::mask_legacy();
    if !apic::enable() {
        return Err(LOCKED.into());
    }
    core.rates = time::calibrate().ok_or(NO_CLOCK)?;
    (core.clock.armed, core.clock.refill, core.clock.look) = (u64::MAX, u64::MAX, true);
    (core.payer, core.domain, core.reschedule) = (NOBODY, NOBODY, true);
    core.clock.ratio = time::scale(1 << 32, core.rates.lapic, core.rates.tsc);
    for gsi in 0..core.ioapic.lines() as u16 {
        core.ioapic.route(gsi, 0, true);
    }
    core.clock.since = cpu::tsc();
    Ok(())
}

/// The names of mitigations in a line.
struct Names(u32);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("none");
        }
        let mut bit = 0;
        NAMES.bytes().try_for_each(|byte| {
            let shown = self.0.wrapping_shr(bit) & 1 != 0;
            bit = bit.wrapping_add((byte == b' ').into());
            if shown { f.write_char(byte.into()) } else { Ok(()) }
        })
    }
}

fn fill_platform(core: &mut Core) {
    let part = |text: &str| text.parse::<u64>().unwrap_or(0);
    core.platform.write::<PlatformPage, 0>(&PlatformPage {
        magic: PLATFORM_MAGIC,
        abi: 1,
        tsc_hz: core.rates.tsc,
        lapic_hz: core.rates.lapic,
        wall_ns: 0,
        wall_tsc: 0,
        core_version: part(env!("CARGO_PKG_VERSION_MAJOR")) << 32
            | part(env!("CARGO_PKG_VERSION_MINOR")) << 16
            | part(env!("CARGO_PKG_VERSION_PATCH")),
        vendor: core.machine.vendor.number(),
        mitigations: core.mitigations,
        core_build_id: build_id(),
        lacking: core.lacking,
    });
}
