//! Keeps patterns of its own in the registers that a hypervisor swaps between VMs, and reads them back after
//! the other VM ran. Two copies run side by side; an odd number of 2 MiB units of memory makes a guest the second.
//!
//! The registers: x87 and SSE, AVX where it is offered, MXCSR, DR0 to DR3, CR2, the MSRs of SYSCALL and SYSENTER,
//! KERNEL_GS_BASE, FS and GS base, TSC_AUX, and CR0.CD, which neither a VMX entry nor an exit swaps. They are read back while nothing of this program uses them.
#![no_std]
#![no_main]

use core::arch::asm;
use guests::{
    machine,
    memory::{cpuid, tsc},
    report::Report,
};

guests::entry!(long64, main);

/// Rounds of write, wait and read.
const ROUNDS: u64 = 600;
/// TSC ticks between write and read of a round, at least.
const WAIT: u64 = 3_000_000;
/// Two readings of the TSC that are further apart than this were not of one slice.
const GAP: u64 = 300_000;

const MSRS: [(u32, &str); 10] = [
    (0xc000_0081, "STAR"),
    (0xc000_0082, "LSTAR"),
    (0xc000_0083, "CSTAR"),
    (SFMASK, "SFMASK"),
    (0xc000_0100, "FS_BASE"),
    (0xc000_0101, "GS_BASE"),
    (0xc000_0102, "KERNEL_GS_BASE"),
    (SYSENTER_CS, "SYSENTER_CS"),
    (0x175, "SYSENTER_ESP"),
    (0x176, "SYSENTER_EIP"),
];
/// Masks 32 flags: some processors keep no more bits.
const SFMASK: u32 = 0xc000_0084;
/// Holds a selector: some processors keep no more than 16 bits.
const SYSENTER_CS: u32 = 0x174;
const TSC_AUX: u32 = 0xc000_0103;
const CACHE_DISABLE: u64 = 1 << 30;
const OSXSAVE: u64 = 1 << 18;

/// Vector registers as they are loaded and stored: 16 of 32 bytes, of which SSE has the first 16.
#[repr(C, align(32))]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Vectors([[u64; 4]; 16]);

/// Everything that is compared.
#[derive(Clone, Copy)]
struct Registers {
    vectors: Vectors,
    /// MMX registers, which are the x87 ones.
    x87: [u64; 8],
    mxcsr: u32,
    debug: [u64; 4],
    cr2: u64,
    msrs: [u64; MSRS.len()],
    tsc_aux: u64,
    /// CR0.CD.
    uncached: bool,
}

/// What the processor offers.
#[derive(Clone, Copy)]
struct Offered {
    avx: bool,
    rdtscp: bool,
}

impl Registers {
    /// The pattern of a VM and a round. Patterns of the two VMs differ in every field of every round.
    fn pattern(second: bool, round: u64, offered: Offered) -> Self {
        let seed = if second { 0xb5 } else { 0x4a };
        let word = |place: u64| (seed << 32 | round << 16 | place).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Canonical and, for what may be no address, harmless.
        let address = |place: u64| word(place) >> 18;
        let upper = |index: usize| index < 2 || offered.avx;
        let lane = |register: usize, index: usize| {
            if upper(index) { word((register * 4 + index) as u64) } else { 0 }
        };
        Self {
            vectors: Vectors(core::array::from_fn(|register| core::array::from_fn(|index| lane(register, index)))),
            x87: core::array::from_fn(|index| word(0x100 + index as u64)),
            // All exceptions masked; rounding, and flags that are sticky.
            mxcsr: 0x1f80 | if second { 0x6015 } else { 0x202a },
            debug: core::array::from_fn(|index| address(0x200 + index as u64)),
            cr2: word(0x300),
            msrs: core::array::from_fn(|index| match MSRS.get(index) {
                Some((SYSENTER_CS, _)) => word(0x400) >> 48,
                Some((SFMASK, _)) => word(0x401) >> 32,
                _ => address(0x400 + index as u64),
            }),
            tsc_aux: if offered.rdtscp { word(0x500) >> 32 } else { 0 },
            uncached: second != (round & 1 != 0),
        }
    }

    /// Loads all of them.
    fn load(&self, offered: Offered) {
        load_vectors(&self.vectors, offered.avx);
        // SAFETY: only assembly of this guest uses x87 and MMX registers.
        unsafe {
            asm!(
                "movq mm0, [{0}]", "movq mm1, [{0} + 8]", "movq mm2, [{0} + 16]", "movq mm3, [{0} + 24]",
                "movq mm4, [{0} + 32]", "movq mm5, [{0} + 40]", "movq mm6, [{0} + 48]", "movq mm7, [{0} + 56]",
                in(reg) &self.x87, options(nostack, readonly)
            )
        };
        // SAFETY: the value masks every exception and sets no reserved bit.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &self.mxcsr, options(nostack, readonly)) };
        let [a, b, c, d] = self.debug;
        // SAFETY: DR7 enables none of them.
        unsafe {
            asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) a, in(reg) b, in(reg) c, in(reg) d,
                 options(nomem, nostack))
        };
        // SAFETY: nothing of this guest reads CR2 while it waits.
        unsafe { asm!("mov cr2, {}", in(reg) self.cr2, options(nomem, nostack)) };
        for ((number, _), value) in MSRS.iter().zip(self.msrs) {
            write_msr(*number, value);
        }
        if offered.rdtscp {
            write_msr(TSC_AUX, self.tsc_aux);
        }
        let cr0 = read_cr0() & !CACHE_DISABLE | if self.uncached { CACHE_DISABLE } else { 0 };
        // SAFETY: no code of this guest relies on a cache.
        unsafe { asm!("mov cr0, {}", in(reg) cr0, options(nomem, nostack)) };
    }

    /// Reads all of them.
    fn read(offered: Offered) -> Self {
        let vectors = store_vectors(offered.avx);
        let mut x87 = [0u64; 8];
        // SAFETY: as in `load`; the stores fill the array.
        unsafe {
            asm!(
                "movq [{0}], mm0", "movq [{0} + 8], mm1", "movq [{0} + 16], mm2", "movq [{0} + 24], mm3",
                "movq [{0} + 32], mm4", "movq [{0} + 40], mm5", "movq [{0} + 48], mm6", "movq [{0} + 56], mm7",
                in(reg) &mut x87, options(nostack)
            )
        };
        let mut mxcsr = 0u32;
        // SAFETY: the store fills the word.
        unsafe { asm!("stmxcsr [{}]", in(reg) &mut mxcsr, options(nostack)) };
        let (a, b, c, d, cr2);
        // SAFETY: reading has no effect.
        unsafe {
            asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", out(reg) a, out(reg) b, out(reg) c,
                 out(reg) d, options(nomem, nostack))
        };
        // SAFETY: reading has no effect.
        unsafe { asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack)) };
        Self {
            vectors,
            x87,
            mxcsr,
            debug: [a, b, c, d],
            cr2,
            msrs: core::array::from_fn(|index| MSRS.get(index).map_or(0, |(number, _)| read_msr(*number))),
            tsc_aux: if offered.rdtscp { rdtscp() } else { 0 },
            uncached: read_cr0() & CACHE_DISABLE != 0,
        }
    }

    /// Name of the first register but CR2 that is another one in `other`.
    fn difference(&self, other: &Self) -> Option<&'static str> {
        let named = [
            (self.vectors == other.vectors, "XMM or YMM"),
            (self.x87 == other.x87, "x87"),
            (self.mxcsr == other.mxcsr, "MXCSR"),
            (self.debug == other.debug, "DR0 to DR3"),
            (self.tsc_aux == other.tsc_aux, "TSC_AUX"),
            (self.uncached == other.uncached, "CR0.CD"),
        ];
        let msr = MSRS.iter().zip(self.msrs.iter().zip(other.msrs)).find(|(_, (one, two))| **one != *two);
        let found = named.into_iter().find(|(same, _)| !same).map(|(_, name)| name);
        found.or(msr.map(|((_, name), _)| *name))
    }

    /// Some register but CR2 holds what the other VM's pattern has there.
    fn shares(&self, other: &Self) -> bool {
        let vectors = self.vectors.0.iter().flatten().zip(other.vectors.0.iter().flatten());
        vectors.filter(|(one, _)| **one != 0).any(|(one, two)| one == two)
            || self.x87.iter().zip(other.x87).any(|(one, two)| *one == two)
            || self.debug.iter().zip(other.debug).any(|(one, two)| *one == two)
            || self.msrs.iter().zip(other.msrs).any(|(one, two)| *one >> 16 != 0 && *one == two)
            || self.mxcsr == other.mxcsr
    }
}

/// Moves all vector registers: `$op` with the memory operand first or second.
macro_rules! all_registers {
    (load $op:literal $register:literal $pointer:expr) => {
        // SAFETY: only assembly of this guest uses vector registers, and the 16 words of 32 bytes are read.
        unsafe {
            asm!(
                concat!($op, " ", $register, "0, [{0}]"), concat!($op, " ", $register, "1, [{0} + 32]"),
                concat!($op, " ", $register, "2, [{0} + 64]"), concat!($op, " ", $register, "3, [{0} + 96]"),
                concat!($op, " ", $register, "4, [{0} + 128]"), concat!($op, " ", $register, "5, [{0} + 160]"),
                concat!($op, " ", $register, "6, [{0} + 192]"), concat!($op, " ", $register, "7, [{0} + 224]"),
                concat!($op, " ", $register, "8, [{0} + 256]"), concat!($op, " ", $register, "9, [{0} + 288]"),
                concat!($op, " ", $register, "10, [{0} + 320]"), concat!($op, " ", $register, "11, [{0} + 352]"),
                concat!($op, " ", $register, "12, [{0} + 384]"), concat!($op, " ", $register, "13, [{0} + 416]"),
                concat!($op, " ", $register, "14, [{0} + 448]"), concat!($op, " ", $register, "15, [{0} + 480]"),
                in(reg) $pointer, options(nostack, readonly)
            )
        }
    };
    (store $op:literal $register:literal $pointer:expr) => {
        // SAFETY: as above; the 16 words of 32 bytes are written.
        unsafe {
            asm!(
                concat!($op, " [{0}], ", $register, "0"), concat!($op, " [{0} + 32], ", $register, "1"),
                concat!($op, " [{0} + 64], ", $register, "2"), concat!($op, " [{0} + 96], ", $register, "3"),
                concat!($op, " [{0} + 128], ", $register, "4"), concat!($op, " [{0} + 160], ", $register, "5"),
                concat!($op, " [{0} + 192], ", $register, "6"), concat!($op, " [{0} + 224], ", $register, "7"),
                concat!($op, " [{0} + 256], ", $register, "8"), concat!($op, " [{0} + 288], ", $register, "9"),
                concat!($op, " [{0} + 320], ", $register, "10"), concat!($op, " [{0} + 352], ", $register, "11"),
                concat!($op, " [{0} + 384], ", $register, "12"), concat!($op, " [{0} + 416], ", $register, "13"),
                concat!($op, " [{0} + 448], ", $register, "14"), concat!($op, " [{0} + 480], ", $register, "15"),
                in(reg) $pointer, options(nostack)
            )
        }
    };
}

fn load_vectors(vectors: &Vectors, avx: bool) {
    if avx {
        all_registers!(load "vmovdqu" "ymm" vectors);
    } else {
        all_registers!(load "movdqu" "xmm" vectors);
    }
}

fn store_vectors(avx: bool) -> Vectors {
    let mut vectors = Vectors([[0; 4]; 16]);
    if avx {
        all_registers!(store "vmovdqu" "ymm" &mut vectors);
    } else {
        all_registers!(store "movdqu" "xmm" &mut vectors);
    }
    vectors
}

fn write_msr(number: u32, value: u64) {
    // SAFETY: no code of this guest relies on any of the registers that it writes.
    unsafe {
        asm!("wrmsr", in("ecx") number, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nomem, nostack))
    };
}

fn read_msr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading has no effect.
    unsafe { asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

fn read_cr0() -> u64 {
    let value: u64;
    // SAFETY: reading has no effect.
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack)) };
    value
}

fn rdtscp() -> u64 {
    let aux: u32;
    // SAFETY: reading has no effect.
    unsafe { asm!("rdtscp", out("ecx") aux, out("eax") _, out("edx") _, options(nomem, nostack)) };
    aux.into()
}

/// Turns on what is offered.
fn enable() -> Offered {
    let [highest, ..] = cpuid(0x8000_0000);
    let rdtscp = highest >= 0x8000_0001 && cpuid(0x8000_0001)[3] >> 27 & 1 != 0;
    let features = cpuid(1)[2];
    let avx = features >> 26 & 1 != 0 && features >> 28 & 1 != 0;
    if avx {
        // SAFETY: XSAVE is there.
        unsafe {
            asm!("mov {0}, cr4", "or {0}, {1}", "mov cr4, {0}", out(reg) _, in(reg) OSXSAVE, options(nomem, nostack))
        };
        // SAFETY: AVX is there, and with it XCR0 of x87, SSE and AVX.
        unsafe { asm!("xsetbv", in("ecx") 0, in("eax") 7, in("edx") 0, options(nomem, nostack)) };
    }
    Offered { avx, rdtscp }
}

extern "C" fn main(memory: u64) -> ! {
    machine::init();
    // Nothing interrupts this guest; but Bochs takes the processor away from a guest only while it may be interrupted.
    // SAFETY: no interrupt controller of the guest is switched on.
    unsafe { asm!("sti", options(nomem, nostack)) };
    let second = (memory >> 21) & 1 == 1;
    let mut report = Report::new(if second { "apart-b" } else { "apart-a" });
    let offered = enable();
    report.note(format_args!("avx {} rdtscp {}", offered.avx, offered.rdtscp));
    let (mut lost, mut foreign, mut absences, mut cr2) = (0u64, 0u64, 0u64, 0u64);
    let mut first = None;
    for round in 0..ROUNDS {
        let mine = Registers::pattern(second, round, offered);
        mine.load(offered);
        let start = tsc();
        let mut last = start;
        while last - start < WAIT {
            let now = tsc();
            absences += u64::from(now - last > GAP);
            last = now;
        }
        let seen = Registers::read(offered);
        cr2 += u64::from(mine.cr2 != seen.cr2);
        if let Some(name) = mine.difference(&seen) {
            lost += 1;
            first = first.or(Some((round, name)));
            // The other VM is in a round of its own.
            let shares = |round| seen.shares(&Registers::pattern(!second, round, offered));
            foreign += u64::from((0..ROUNDS).any(shares));
        }
    }
    report.check(absences > 0, "others ran", format_args!("{absences} times while registers held a pattern"));
    report.check(foreign == 0, "nothing of the other VM", format_args!("in {foreign} of {ROUNDS} rounds"));
    let (round, name) = first.unwrap_or((0, "none"));
    report.check(lost == 0, "registers kept", format_args!("lost in {lost} rounds, first {name} in round {round}"));
    report.check(cr2 == 0, "CR2 kept", format_args!("lost in {cr2} rounds"));
    report.done()
}
