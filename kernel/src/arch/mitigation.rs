//! Which mitigations this processor needs (R14): a pure function of CPUID, ARCH_CAPABILITIES and the
//! manifest, and the instructions that carry them out.
//!
//! Sources: AMD "Software techniques for managing speculation", "Technical guidance for mitigating branch type confusion"
//! and "Technical guidance for mitigating transient scheduler attacks"; Intel "CPUID enumeration and architectural MSRs" and
//! its guidance for each issue. What needs no choice: no indirect branch in the core (Spectre v2, BHI, ITS), fewer calls in a
//! row than any return predictor holds (Retbleed and RSBA on Intel), small pages, no device's MMIO given away.

use super::{cpu, entry};
use portcullis_ipc::image::mitigation::*;

/// What the choice depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// Vendor is AMD, or Hygon, whose processors are AMD's (CPUID 0 "AuthenticAMD", "HygonGenuine").
    pub amd: bool,
    /// Family, the extended one added (CPUID 1 EAX).
    pub family: u32,
    /// Model, with the extended one.
    pub model: u32,
    /// CPUID 7.0 EBX.
    pub leaf7_ebx: u32,
    /// CPUID 7.0 EDX.
    pub leaf7_edx: u32,
    /// CPUID 7.2 EDX.
    pub leaf72_edx: u32,
    /// CPUID 0x80000008 EBX.
    pub leaf8_ebx: u32,
    /// CPUID 0x80000021 EAX.
    pub leaf21_eax: u32,
    /// CPUID 0x80000021 ECX.
    pub leaf21_ecx: u32,
    /// MSR 0x10A, 0 where CPUID does not offer it.
    pub arch_capabilities: u64,
    /// Bits the manifest turns off.
    pub off: u32,
}

macro_rules! named {
    ($kind:ident $word:literal: $($name:ident $value:literal),*) => { $(const $name: $kind = $word << 5 | $value;)* };
}

named!(u32 0: SPEC_CTRL 0x48, PRED_CMD 0x49, FLUSH_CMD 0x10b, TSX_CTRL_MSR 0x122, MCU_OPT_CTRL 0x123);
named!(u32 0: LS_CFG 0xc001_1020, DE_CFG 0xc001_1029, DE_CFG2 0xc001_10e3);
// Bits of the facts' words, Intel's first: CPUID 7.0 EBX; 7.0 EDX; 7.2 EDX; IA32_ARCH_CAPABILITIES.
named!(u8 0: RTM 11);
named!(u8 1: SRBDS_CTRL 9, MD_CLEAR 10, IBRS_IBPB 26, STIBP_THERE 27, L1D_FLUSH_THERE 28, SSBD_THERE 31);
named!(u8 2: RRSBA_CTRL 2, BHI_CTRL 4);
named!(u8 3: RDCL_NO 0, IBRS_ALL 1, SKIP_L1DFL_VMENTRY 3, INTEL_SSB_NO 4, MDS_NO 5, IF_PSCHANGE_MC_NO 6, TSX_CTRL 7);
named!(u8 3: TAA_NO 8, RRSBA 19, BHI_NO 20, PBRSB_NO 24, GDS_CTRL 25, GDS_NO 26, RFDS_NO 27, RFDS_CLEAR 28);
// AMD's: CPUID 0x80000008 EBX; 0x80000021 EAX; 0x80000021 ECX.
named!(u8 4: AMD_IBPB 12, AMD_STIBP 15, AMD_SSBD 24, SSB_NO 26, BTC_NO 29);
named!(u8 5: LFENCE_ALWAYS_SERIALIZING 2, VERW_CLEAR 5, AUTOMATIC_IBRS 8, IBPB_BRTYPE 28, SRSO_NO 29);
named!(u8 6: TSA_SQ_NO 1, TSA_L1_NO 2);
// What vendor, family and model say, and the manifest: AMD's families 0x15 to 0x18, 0x19, and 0x19 and later; LFENCE and
// DE_CFG as on families from 0x10 on; IBPB at entries; TSX goes off.
named!(u8 7: INTEL 0, UP_TO_ZEN2 1, ZEN3_4 2, FROM_ZEN3 3, ZEN1 4, ZEN2 5, GDS_MODEL 6, SRBDS_MODEL 7, RFDS_MODEL 8);
named!(u8 7: LFENCE_BY_DE_CFG 9, AT_ENTRY 10, WITHOUT_TSX 11, NEVER 31);

/// What, which bits all set and which all clear make it needed, and which of these, if any is named, carry it out.
type Row = (u32, &'static [u8], &'static [u8], &'static [u8]);

/// Every issue and what is done about it.
const ROWS: [Row; 33] = [
    (IBPB, &[], &[AT_ENTRY], &[IBRS_IBPB, AMD_IBPB]),
    (RSB_FILL, &[IBRS_IBPB], &[], &[]),
    (RSB_FILL, &[AMD_IBPB], &[], &[]),
    (IBPB_ENTRY, &[UP_TO_ZEN2], &[BTC_NO], &[AT_ENTRY]),
    (IBPB_ENTRY, &[FROM_ZEN3], &[SRSO_NO], &[AT_ENTRY]),
    (BTC_NOBR, &[ZEN2], &[BTC_NO], &[]),
    (IBRS, &[IBRS_ALL], &[], &[]),
    (IBRS, &[AUTOMATIC_IBRS], &[], &[]),
    (STIBP, &[STIBP_THERE], &[], &[]),
    (STIBP, &[AMD_STIBP], &[], &[]),
    (SSBD, &[], &[SSB_NO, INTEL_SSB_NO, UP_TO_ZEN2], &[SSBD_THERE, AMD_SSBD]),
    (SSBD, &[UP_TO_ZEN2, AMD_SSBD], &[SSB_NO], &[]),
    (LS_CFG_SSBD, &[UP_TO_ZEN2], &[SSB_NO, AMD_SSBD], &[]),
    (PTI, &[INTEL], &[RDCL_NO], &[NEVER]),
    (L1D_FLUSH, &[INTEL], &[RDCL_NO, SKIP_L1DFL_VMENTRY], &[L1D_FLUSH_THERE]),
    (VERW, &[INTEL], &[MDS_NO], &[MD_CLEAR]),
    (VERW, &[RTM], &[TAA_NO, WITHOUT_TSX], &[MD_CLEAR]),
    (VERW, &[RFDS_CLEAR], &[RFDS_NO], &[]),
    (VERW, &[RFDS_MODEL], &[RFDS_NO], &[RFDS_CLEAR]),
    (VERW, &[ZEN3_4], &[TSA_SQ_NO], &[VERW_CLEAR]),
    (VERW, &[ZEN3_4], &[TSA_L1_NO], &[VERW_CLEAR]),
    (TSX_OFF, &[RTM, WITHOUT_TSX], &[TAA_NO], &[]),
    // Instruction TLB entries of two sizes are a machine check.
    (SMALL_PAGES, &[INTEL], &[IF_PSCHANGE_MC_NO], &[]),
    (PBRSB, &[IBRS_ALL], &[PBRSB_NO], &[]),
    (RRSBA_DIS, &[RRSBA, RRSBA_CTRL], &[], &[]),
    (BHI_DIS, &[IBRS_ALL, BHI_CTRL], &[BHI_NO], &[]),
    (GDS_MITG, &[GDS_CTRL], &[GDS_NO], &[]),
    (GDS_MITG, &[GDS_MODEL], &[GDS_NO], &[GDS_CTRL]),
    (RNGDS_MITG, &[SRBDS_CTRL], &[], &[]),
    (RNGDS_MITG, &[SRBDS_MODEL], &[], &[SRBDS_CTRL]),
    (ZENBLEED, &[ZEN2], &[], &[]),
    (DIV0, &[ZEN1], &[], &[]),
    (LFENCE, &[LFENCE_BY_DE_CFG], &[LFENCE_ALWAYS_SERIALIZING], &[]),
];

/// Models of Intel's family 6 with gather data sampling: Skylake to Tiger Lake and Rocket Lake.
const GDS_MODELS: [u8; 13] = [0x4e, 0x55, 0x5e, 0x6a, 0x6c, 0x7e, 0x8c, 0x8d, 0x8e, 0x9e, 0xa5, 0xa6, 0xa7];
/// The same with special register buffer sampling: Ivy Bridge to Comet Lake, but servers.
const SRBDS_MODELS: [u8; 12] = [0x3a, 0x3c, 0x3d, 0x45, 0x46, 0x47, 0x4e, 0x5e, 0x8e, 0x9e, 0xa5, 0xa6];
/// The same with register file data sampling: Goldmont to Gracemont, Alder Lake and Raptor Lake.
const RFDS_MODELS: [u8; 13] = [0x5c, 0x5f, 0x7a, 0x86, 0x8a, 0x96, 0x97, 0x9a, 0x9c, 0xb7, 0xba, 0xbe, 0xbf];

/// The mitigations to apply, and those that are needed and that this processor or its microcode lacks.
pub fn choose(facts: &Facts) -> [u32; 2] {
    let Facts { amd, family, model, off, .. } = *facts;
    let mut words = match amd {
        true => [0, 0, 0, 0, facts.leaf8_ebx, facts.leaf21_eax, facts.leaf21_ecx, 0],
        false => [facts.leaf7_ebx, facts.leaf7_edx, facts.leaf72_edx, facts.arch_capabilities as u32, 0, 0, 0, 0],
    };
    let one_of = |models: &[u8]| !amd && family == 6 && models.iter().any(|one| u32::from(*one) == model);
    let zen = amd && matches!(family, 0x17 | 0x18);
    let zen2 = zen && matches!(model, 0x30..=0x4f | 0x60..=0x7f | 0x90..=0xaf);
    let has = |words: &[u32; 8], bit: &u8| {
        words.get(usize::from(bit >> 5)).is_some_and(|word| word.wrapping_shr((*bit).into()) & 1 != 0)
    };
    let whole = family < 0x19 || has(&words, &IBPB_BRTYPE);
    let returns = family >= 0x15 && !has(&words, if family < 0x19 { &BTC_NO } else { &SRSO_NO });
    let derived = [
        (INTEL, !amd),
        (UP_TO_ZEN2, amd && matches!(family, 0x15..=0x18)),
        (ZEN3_4, amd && family == 0x19),
        (FROM_ZEN3, amd && family >= 0x19),
        (ZEN1, zen && !zen2),
        (ZEN2, zen2),
        (GDS_MODEL, one_of(&GDS_MODELS)),
        (SRBDS_MODEL, one_of(&SRBDS_MODELS)),
        (RFDS_MODEL, one_of(&RFDS_MODELS)),
        (LFENCE_BY_DE_CFG, amd && family >= 0x10 && family != 0x11),
        (AT_ENTRY, returns && whole && has(&words, &AMD_IBPB) && off & IBPB_ENTRY == 0),
        (WITHOUT_TSX, has(&words, &TSX_CTRL) && off & TSX_OFF == 0),
    ];
    let [.., last] = &mut words;
    for (bit, holds) in derived {
        *last |= u32::from(holds).wrapping_shl(bit.into());
    }
    let [mut on, mut lacks] = [0; 2];
    for (what, set, clear, there) in &ROWS {
        if set.iter().all(|bit| has(&words, bit)) && !clear.iter().any(|bit| has(&words, bit)) {
            let there = there.is_empty() || there.iter().any(|bit| has(&words, bit));
            *(if there { &mut on } else { &mut lacks }) |= what & !off;
        }
    }
    [on, lacks]
}

/// Read the facts of this processor.
pub fn facts(off: u32) -> Facts {
    let (leaf1, leaf7, leaf21) = (cpu::cpuid(1, 0).eax, cpu::cpuid(7, 0), cpu::cpuid(0x8000_0021, 0));
    let vendor = cpu::cpuid(0, 0).ebx.to_le_bytes();
    Facts {
        amd: matches!(&vendor, b"Auth" | b"Hygo"),
        family: (leaf1 >> 8 & 15).wrapping_add(leaf1 >> 20 & 0xff),
        model: leaf1 >> 4 & 15 | leaf1 >> 12 & 0xf0,
        leaf7_ebx: leaf7.ebx,
        leaf7_edx: leaf7.edx,
        leaf72_edx: if leaf7.eax >= 2 { cpu::cpuid(7, 2).edx } else { 0 },
        leaf8_ebx: cpu::cpuid(0x8000_0008, 0).ebx,
        leaf21_eax: leaf21.eax,
        leaf21_ecx: leaf21.ecx,
        arch_capabilities: if leaf7.edx >> 29 & 1 != 0 { cpu::msr(0x10a) } else { 0 },
        off,
    }
}

/// Set what stays set; returns what the processor refused, an older one or an emulator's.
pub fn install(on: u32, facts: &Facts) -> u32 {
    let bit = |wanted: u32, place: u32| u64::from(on & wanted != 0) << place;
    let own_ibrs = if facts.amd { 0 } else { IBRS };
    let control = bit(own_ibrs, 0) | bit(STIBP, 1) | bit(SSBD, 2) | bit(RRSBA_DIS, 6) | bit(BHI_DIS, 10);
    let ls_cfg = match facts.family {
        0x15 => 54,
        0x16 => 33,
        _ => 10,
    };
    // For which, register, bits to clear, bits to set.
    let settings = [
        (own_ibrs | STIBP | SSBD | RRSBA_DIS | BHI_DIS, SPEC_CTRL, u64::MAX, control),
        (IBRS ^ own_ibrs, x86::msr::IA32_EFER, 0, 1 << 21),
        (TSX_OFF, TSX_CTRL_MSR, 0, 3),
        (GDS_MITG | RNGDS_MITG, MCU_OPT_CTRL, bit(RNGDS_MITG, 0) | bit(GDS_MITG, 4), 0),
        (LFENCE | ZENBLEED, DE_CFG, 0, bit(LFENCE, 1) | bit(ZENBLEED, 9)),
        (BTC_NOBR, DE_CFG2, 0, 2),
        (LS_CFG_SSBD, LS_CFG, 0, 1u64.wrapping_shl(ls_cfg)),
    ];
    let mut refused = 0;
    for (wanted, number, clear, set) in settings.into_iter().filter(|setting| on & setting.0 != 0) {
        let value = entry::try_msr(number).map(|value| value & !clear | set);
        // SAFETY: the bits are those of the manuals: they slow the processor down, and nothing else.
        if !value.is_some_and(|value| unsafe { entry::try_set_msr(number, value) }) {
            refused |= on & wanted;
        }
    }
    refused
}

/// What [`cross`] does; others are done once, or at each way in or out ([`entry`]).
pub const AT_CROSSINGS: u32 = IBPB | RSB_FILL | L1D_FLUSH | DIV0;

/// Crossing from one partition or VM to another.
#[inline(never)]
pub fn cross(chosen: u32) {
    for (wanted, command) in [(IBPB, PRED_CMD), (L1D_FLUSH, FLUSH_CMD)] {
        if chosen & wanted != 0 {
            // SAFETY: `choose` found it in CPUID; the command only forgets predictions or writes back lines.
            unsafe { cpu::set_msr(command, 1) };
        }
    }
    if chosen & DIV0 != 0 {
        // SAFETY: 0 / 1 changes RAX, RDX and the flags.
        unsafe {
            core::arch::asm!("div {:e}", in(reg) 1, inout("eax") 0 => _, inout("edx") 0 => _, options(nomem, nostack))
        };
    }
    fill_return_stack(chosen);
}

/// Leave nothing in the return predictor of what ran before.
pub fn fill_return_stack(chosen: u32) {
    if chosen & RSB_FILL != 0 {
        // SAFETY: 32 calls into the next instruction, then the stack pointer is put back: only the return
        // predictor changes.
        unsafe {
            core::arch::asm!(".rept 32", "call 77f", "int3", "77:", ".endr", "add rsp, 256", "lfence");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEL: Facts = Facts {
        amd: false,
        family: 6,
        model: 0,
        leaf7_ebx: 0,
        leaf7_edx: 0,
        leaf72_edx: 0,
        leaf8_ebx: 0,
        leaf21_eax: 0,
        leaf21_ecx: 0,
        arch_capabilities: 0,
        off: 0,
    };
    /// Microcode of 2018: IBRS and IBPB, STIBP, SSBD, L1D_FLUSH, MD_CLEAR; ARCH_CAPABILITIES.
    const UPDATED: u32 = 1 << 26 | 1 << 27 | 1 << 31 | 1 << 28 | 1 << 10 | 1 << 29;
    /// RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, MDS_NO, IF_PSCHANGE_MC_NO.
    const CASCADE_LAKE: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6;
    /// The same, and TAA_NO, PBRSB_NO, BHI_NO, GDS_NO, RFDS_NO, SSB_NO.
    const NEWEST: u64 = CASCADE_LAKE | 1 << 8 | 1 << 24 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 4;
    const AMD: Facts = Facts { amd: true, family: 0x17, leaf8_ebx: 1 << 12 | 1 << 15 | 1 << 24, ..INTEL };
    /// What a processor of AMD's has on whatever else it needs: by its feature bits, and LFENCE by its family.
    const USUAL: u32 = RSB_FILL | STIBP | SSBD | LFENCE;

    const fn intel(model: u32, arch_capabilities: u64) -> Facts {
        Facts { model, leaf7_edx: UPDATED, arch_capabilities, ..INTEL }
    }

    const fn zen(family: u32, model: u32, leaf21_eax: u32, leaf21_ecx: u32) -> Facts {
        Facts { family, model, leaf21_eax, leaf21_ecx, ..AMD }
    }

    #[track_caller]
    fn check(issue: &str, facts: Facts, on: u32, lacks: u32) {
        let names = |mask| image_names(mask);
        let [found_on, found_lacks] = choose(&facts);
        assert_eq!(names(found_on), names(on), "{issue}: on");
        assert_eq!(names(found_lacks), names(lacks), "{issue}: lacking");
    }

    fn image_names(mask: u32) -> Vec<&'static str> {
        portcullis_ipc::image::mitigation::names(mask).collect()
    }

    /// On every processor of Intel's whose microcode is that of 2018.
    const BASE: u32 = IBPB | RSB_FILL | STIBP | SSBD;
    /// With CASCADE_LAKE.
    const SAFER: u32 = BASE | IBRS | PBRSB;

    #[test]
    fn issues_of_intel_processors() {
        let newest = Facts { model: 0xcf, leaf7_edx: UPDATED, arch_capabilities: NEWEST, ..INTEL };
        check("nothing", newest, IBPB | RSB_FILL | STIBP | IBRS, 0);
        check("no microcode", Facts { model: 0x3f, ..INTEL }, SMALL_PAGES, IBPB | SSBD | PTI | L1D_FLUSH | VERW);
        let meltdown = BASE | L1D_FLUSH | VERW | SMALL_PAGES;
        check("Meltdown, L1TF, MDS, Retbleed by RSB underflow", intel(0x3f, 1 << 2), meltdown, PTI);
        check("L1TF handled below", intel(0x3f, 1 << 3), meltdown & !L1D_FLUSH, PTI);
        check("SSB", intel(0xcf, NEWEST & !(1 << 4)), SSBD | IBPB | RSB_FILL | STIBP | IBRS, 0);
        check("iTLB multihit", intel(0xcf, NEWEST & !(1 << 6)), SMALL_PAGES | IBPB | RSB_FILL | STIBP | IBRS, 0);
        check("PBRSB", intel(0xcf, NEWEST & !(1 << 24)), PBRSB | IBPB | RSB_FILL | STIBP | IBRS, 0);
        let ctrl = Facts { leaf72_edx: 1 << 4 | 1 << 2, ..intel(0xcf, NEWEST & !(1 << 20) | 1 << 19) };
        check("BHI, RRSBA", ctrl, BHI_DIS | RRSBA_DIS | IBPB | RSB_FILL | STIBP | IBRS, 0);
        check("BHI, RRSBA without the control", Facts { leaf72_edx: 0, ..ctrl }, IBPB | RSB_FILL | STIBP | IBRS, 0);
        check("ITS", intel(0xcf, NEWEST), IBPB | RSB_FILL | STIBP | IBRS, 0);
        let taa = Facts { leaf7_ebx: 1 << 11, ..intel(0x3e, CASCADE_LAKE) };
        check("TAA", taa, SAFER | VERW, 0);
        let controlled = Facts { arch_capabilities: CASCADE_LAKE | 1 << 7, ..taa };
        check("TAA, TSX_CTRL", controlled, SAFER | TSX_OFF, 0);
        check("TAA, TSX_CTRL not wanted", Facts { off: TSX_OFF, ..controlled }, SAFER | VERW, 0);
        check("TAA, no MD_CLEAR", Facts { leaf7_edx: UPDATED & !(1 << 10), ..taa }, SAFER, VERW);
        check("MMIO stale data, no MMIO given away", intel(0x3e, CASCADE_LAKE | 1 << 17), SAFER, 0);
        check("RFDS", intel(0x97, CASCADE_LAKE | 1 << 28), SAFER | VERW, 0);
        check("RFDS, no microcode", intel(0x97, CASCADE_LAKE), SAFER, VERW);
        check("GDS", intel(0x6a, CASCADE_LAKE | 1 << 25), SAFER | GDS_MITG, 0);
        check("GDS, no microcode", intel(0x6a, CASCADE_LAKE), SAFER, GDS_MITG);
        let kaby_lake = Facts { leaf7_edx: UPDATED | 1 << 9, ..intel(0x9e, 1 << 25) };
        check("SRBDS", kaby_lake, meltdown | GDS_MITG | RNGDS_MITG, PTI);
        check("SRBDS, no microcode", intel(0x9e, 1 << 25), meltdown | GDS_MITG, PTI | RNGDS_MITG);
        check("turned off", Facts { off: u32::MAX, ..kaby_lake }, 0, 0);
    }

    #[test]
    fn issues_of_amd_processors() {
        check("BTC, DIV0: Zen 1", zen(0x17, 1, 0, 0), USUAL | IBPB_ENTRY | DIV0, 0);
        check("the same of Hygon's", zen(0x18, 0, 0, 0), USUAL | IBPB_ENTRY | DIV0, 0);
        check("BTC, Zenbleed: Zen 2", zen(0x17, 0x71, 0, 0), USUAL | IBPB_ENTRY | BTC_NOBR | ZENBLEED, 0);
        let immune = Facts { leaf8_ebx: AMD.leaf8_ebx | 1 << 29, ..zen(0x17, 0x71, 0, 0) };
        check("BTC_NO", immune, USUAL | IBPB | ZENBLEED, 0);
        let crossing = Facts { off: IBPB_ENTRY, ..zen(0x17, 1, 0, 0) };
        check("IBPB at entries not wanted", crossing, USUAL | IBPB | DIV0, 0);
        check("no IBPB", Facts { leaf8_ebx: 0, ..zen(0x17, 1, 0, 0) }, LS_CFG_SSBD | DIV0 | LFENCE, IBPB | IBPB_ENTRY);
        check(
            "SSB without SPEC_CTRL: Bulldozer",
            Facts { leaf8_ebx: 1 << 12, ..zen(0x15, 2, 0, 0) },
            RSB_FILL | IBPB_ENTRY | LS_CFG_SSBD | LFENCE,
            0,
        );
        check(
            "SSB_NO",
            Facts { leaf8_ebx: AMD.leaf8_ebx | 1 << 26, ..immune },
            (USUAL & !SSBD) | IBPB_ENTRY | BTC_NOBR | ZENBLEED,
            0,
        );
        let zen3 = 1 << 2 | 1 << 5 | 1 << 28;
        check("SRSO, TSA: Zen 3", zen(0x19, 0x21, zen3, 0), (USUAL & !LFENCE) | IBPB_ENTRY | VERW, 0);
        check(
            "SRSO without IBPB_BRTYPE",
            zen(0x19, 0x21, zen3 & !(1 << 28), 0),
            (USUAL & !LFENCE) | IBPB | VERW,
            IBPB_ENTRY,
        );
        check("TSA without VERW_CLEAR", zen(0x19, 0x21, zen3 & !(1 << 5), 0), (USUAL & !LFENCE) | IBPB_ENTRY, VERW);
        check("TSA_SQ_NO alone", zen(0x19, 0x21, zen3, 1 << 1), (USUAL & !LFENCE) | IBPB_ENTRY | VERW, 0);
        let zen5 = 1 << 2 | 1 << 8 | 1 << 29;
        check("SRSO_NO, AutoIBRS", zen(0x1a, 0x44, zen5, 6), (USUAL & !LFENCE) | IBPB | IBRS, 0);
        check("an emulator's", Facts { leaf8_ebx: 0, ..zen(6, 6, 0, 0) }, 0, IBPB | SSBD);
    }

    #[test]
    fn each_bit_has_a_name() {
        assert_eq!(image_names(u32::MAX).len(), 21);
        assert_eq!(image_names(IBPB | LFENCE), ["ibpb", "lfence"]);
    }
}
