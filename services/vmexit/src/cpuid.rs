//! CPUID as a guest sees it: the host's leaves, filtered by lists of what this machine really offers.
//! A feature that is in no list is hidden, so a new processor shows nothing that nobody thought about. What
//! the machine emulates itself is shown whatever the host has.

mod brand;
mod signature;
mod topology;

pub use signature::Vendor;

/// What the answers depend on besides the host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity {
    /// Platform version of the VM.
    pub platform: u16,
    /// Show VMware's leaves.
    pub vmware: bool,
    /// XCR0 bits that the guest may set.
    pub xcr0_mask: u64,
    /// vCPUs of the VM, from 1.
    pub vcpus: u32,
    /// They have local APICs.
    pub apic: bool,
    /// TSC, kHz.
    pub tsc_khz: u32,
    /// Local APIC timer, kHz.
    pub lapic_khz: u32,
}

/// What the answer to one vCPU depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asker {
    /// Index of the vCPU.
    pub vcpu: u32,
    /// Its local APIC is on in IA32_APIC_BASE.
    pub apic: bool,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// XCR0.
    pub xcr0: u64,
}

/// Largest standard leaf.
const STANDARD: u32 = 0xd;
/// Largest extended leaf, and the largest with topology extensions.
const EXTENDED: u32 = 0x8000_0008;
const EXTENDED_TOPOLOGY: u32 = 0x8000_001e;
/// Further features of AMD's, from platform version 2 on.
const FEATURES2: u32 = 0x8000_0021;
/// LFENCE always serializes.
const LFENCE_SERIALIZES: u32 = 1 << 2;
/// First and last of VMware's leaves.
const VMWARE: u32 = 0x4000_0000;
const VMWARE_LAST: u32 = 0x4000_0010;
const SIGNATURE: [u32; 3] = [u32::from_le_bytes(*b"VMwa"), u32::from_le_bytes(*b"reVM"), u32::from_le_bytes(*b"ware")];

const fn bits<const N: usize>(list: [u32; N]) -> u32 {
    let (mut mask, mut index) = (0, 0);
    while index < N {
        mask |= 1 << list[index];
        index += 1;
    }
    mask
}

/// SSE3, PCLMULQDQ, SSSE3, CX16, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, RDRAND.
const LEAF1_ECX: u32 = bits([0, 1, 9, 13, 19, 20, 22, 23, 25, 30]);
/// FMA, AVX, F16C.
const LEAF1_ECX_AVX: u32 = bits([12, 28, 29]);
const XSAVE: u32 = 1 << 26;
const OSXSAVE: u32 = 1 << 27;
const HYPERVISOR: u32 = 1 << 31;
/// x2APIC, TSC deadline; with the local APIC.
const LEAF1_ECX_APIC: u32 = bits([21, 24]);
/// FPU, VME, DE, PSE, TSC, MSR, PAE, CX8, SEP, PGE, CMOV, PAT, PSE-36, CLFLUSH, MMX, FXSR, SSE, SSE2.
/// Not MTRR, which are not emulated.
const LEAF1_EDX: u32 = bits([0, 1, 2, 3, 4, 5, 6, 8, 11, 13, 15, 16, 17, 19, 23, 24, 25, 26]);
/// MCE and MCA: there are no banks and no machine check ever comes, but Linux calls a processor without them an error.
const MACHINE_CHECK: u32 = bits([7, 14]);
/// Bit of the local APIC, here and in the leaf of AMD that repeats this one.
const APIC: u32 = 1 << 9;
const HTT: u32 = 1 << 28;
/// FSGSBASE, BMI1, SMEP, BMI2, ERMS, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB, SHA.
const LEAF7_EBX: u32 = bits([0, 3, 7, 8, 9, 18, 19, 20, 23, 24, 29]);
/// AVX2.
const LEAF7_EBX_AVX: u32 = bits([5]);
/// UMIP, GFNI.
const LEAF7_ECX: u32 = bits([2, 8]);
/// VAES, VPCLMULQDQ.
const LEAF7_ECX_AVX: u32 = bits([9, 10]);
/// Fast short REP MOV.
const LEAF7_EDX: u32 = bits([4]);
/// Always-running APIC timer: the emulated one knows no sleep states.
const ARAT: u32 = 1 << 2;
/// XSAVEOPT, XSAVEC, XGETBV with ECX 1.
const LEAF13_1_EAX: u32 = bits([0, 1, 2]);
const XSAVEC: u32 = 1 << 1;
/// LAHF, LZCNT, SSE4A, misaligned SSE, PREFETCHW, topology extensions.
const EXT1_ECX: u32 = bits([0, 5, 6, 7, 8, TOPOLOGY]);
/// Leaves 0x8000001D and 0x8000001E are there.
const TOPOLOGY: u32 = 22;
/// Several logical processors of a package are cores, not threads: without it AMD's old rule takes them for threads.
const CORES_NOT_THREADS: u32 = 1 << 1;
/// The standard ones AMD repeats, SYSCALL, NX, MMX extensions, 1 GiB pages, RDTSCP, long mode.
const EXT1_EDX: u32 = bits([0, 1, 2, 3, 4, 5, 6, 8, 11, 13, 15, 16, 17, 20, 22, 23, 24, 26, 27, 29]);
/// Invariant TSC. It is shown also where the processor does not say so: the core itself keeps its time by a TSC of
/// constant rate and runs on no other, a guest's TSC is that one with an offset, and no sleep state stops it.
const INVARIANT_TSC: u32 = 1 << 8;
/// AVX in XCR0.
const XCR0_AVX: u64 = 4;
/// Bytes of the x87 and SSE parts and the header of an XSAVE area.
const XSAVE_LEGACY: u32 = 576;

impl Identity {
    /// The answer to `leaf` and `subleaf`. `host` asks the processor.
    pub fn answer(&self, leaf: u32, subleaf: u32, asker: &Asker, host: impl Fn(u32, u32) -> [u32; 4]) -> [u32; 4] {
        match leaf {
            0..=0x3fff_ffff => self.standard(leaf, subleaf, asker, host),
            VMWARE..=0x7fff_ffff => self.vmware(leaf),
            0x8000_0000..=0xbfff_ffff => self.extended(leaf, subleaf, asker, host),
            _ => [0; 4],
        }
    }

    fn avx(&self) -> bool {
        self.xcr0_mask & XCR0_AVX != 0
    }

    /// XSAVE is shown when there is more than x87 to choose.
    fn xsave(&self) -> bool {
        self.xcr0_mask & !1 != 0
    }

    fn when(condition: bool, mask: u32) -> u32 {
        if condition { mask } else { 0 }
    }

    fn standard(&self, leaf: u32, subleaf: u32, asker: &Asker, host: impl Fn(u32, u32) -> [u32; 4]) -> [u32; 4] {
        let [eax, ebx, ecx, edx] = host(leaf, subleaf);
        match leaf {
            0 => [eax.min(STANDARD), ebx, ecx, edx],
            1 => {
                let mut features = ecx & (LEAF1_ECX | Self::when(self.avx(), LEAF1_ECX_AVX)) | HYPERVISOR;
                features |= ecx & Self::when(self.xsave(), XSAVE) | Self::when(self.apic, LEAF1_ECX_APIC);
                features |= Self::when(features & XSAVE != 0 && asker.osxsave, OSXSAVE);
                let several = self.vcpus > 1;
                let places = ebx & 0xff00 | asker.vcpu << 24 | self.vcpus.min(255) << 16;
                let rest = Self::when(self.apic && asker.apic, APIC) | Self::when(several, HTT);
                let signature = signature::shown(eax, Vendor::of(&host));
                [signature, places, features, edx & LEAF1_EDX | MACHINE_CHECK | rest]
            }
            2 => [eax, ebx, ecx, edx],
            4 => match topology::cache(eax, self.vcpus, true) {
                0 => [0; 4],
                eax => [eax, ebx, ecx, edx],
            },
            6 => [Self::when(self.apic, ARAT), 0, 0, 0],
            7 if subleaf == 0 => [
                0,
                ebx & (LEAF7_EBX | Self::when(self.avx(), LEAF7_EBX_AVX)),
                ecx & (LEAF7_ECX | Self::when(self.avx(), LEAF7_ECX_AVX)),
                edx & LEAF7_EDX,
            ],
            0xb if self.apic => topology::levels(subleaf, self.vcpus, asker.vcpu),
            0xd if self.xsave() => self.extended_state(subleaf, asker, host),
            _ => [0; 4],
        }
    }

    fn extended_state(&self, subleaf: u32, asker: &Asker, host: impl Fn(u32, u32) -> [u32; 4]) -> [u32; 4] {
        let [eax, ..] = host(0xd, subleaf);
        let [size, offset, ..] = host(0xd, 2);
        let area = |mask: u64| {
            if mask & XCR0_AVX != 0 { size + offset } else { XSAVE_LEGACY }
        };
        match subleaf {
            0 => [eax & self.xcr0_mask as u32, area(asker.xcr0), area(self.xcr0_mask), 0],
            // The size of the compacted form, which only XSAVEC writes: there are no supervisor components.
            1 => {
                let compacted = XSAVE_LEGACY + if asker.xcr0 & XCR0_AVX != 0 { size } else { 0 };
                [eax & LEAF13_1_EAX, Self::when(eax & XSAVEC != 0, compacted), 0, 0]
            }
            2 if self.avx() => [size, offset, 0, 0],
            _ => [0; 4],
        }
    }

    fn vmware(&self, leaf: u32) -> [u32; 4] {
        let [b, c, d] = SIGNATURE;
        match leaf {
            VMWARE if self.vmware => [VMWARE_LAST, b, c, d],
            // ECX bits 0 and 1 would promise the hypercalls, which are not served.
            VMWARE_LAST if self.vmware => [self.tsc_khz, self.lapic_khz, 0, 0],
            _ => [0; 4],
        }
    }

    fn extended(&self, leaf: u32, subleaf: u32, asker: &Asker, host: impl Fn(u32, u32) -> [u32; 4]) -> [u32; 4] {
        let [eax, ebx, ecx, edx] = host(leaf, subleaf);
        let topology = || host(0x8000_0001, 0)[2] >> TOPOLOGY & 1 != 0;
        match leaf {
            0x8000_0000 => {
                let last = match (self.features2(&host), topology()) {
                    (1.., _) => FEATURES2,
                    (0, true) => EXTENDED_TOPOLOGY,
                    (0, false) => EXTENDED,
                };
                [eax.min(last), ebx, ecx, edx]
            }
            0x8000_0001 => {
                let vendor = Vendor::of(&host);
                let amd = vendor == Vendor::Amd;
                let cores = Self::when(self.vcpus > 1 && amd, CORES_NOT_THREADS);
                // What leaf 1 says and only AMD's say again.
                let again = MACHINE_CHECK | Self::when(self.apic && asker.apic, APIC);
                let signature = signature::shown(eax, vendor);
                [signature, 0, ecx & EXT1_ECX | cores, edx & EXT1_EDX | Self::when(amd, again)]
            }
            brand::FIRST..=brand::LAST => brand::shown(leaf, self.vmware, &host),
            0x8000_0005..=0x8000_0006 => [eax, ebx, ecx, edx],
            0x8000_0007 => [0, 0, 0, INVARIANT_TSC],
            // 48 linear bits: five-level paging is not offered.
            EXTENDED => [eax & 0xff | 48 << 8, 0, topology::cores(self.vcpus), 0],
            0x8000_001d if topology() => match topology::cache(eax, self.vcpus, false) {
                0 => [0; 4],
                eax => [eax, ebx, ecx, edx],
            },
            EXTENDED_TOPOLOGY if topology() => topology::core(asker.vcpu),
            FEATURES2 => [self.features2(&host), 0, 0, 0],
            _ => [0; 4],
        }
    }

    /// EAX of the leaf with further features; 0 where it is not shown.
    fn features2(&self, host: impl Fn(u32, u32) -> [u32; 4]) -> u32 {
        let there = self.platform >= 2 && host(0x8000_0000, 0)[0] >= FEATURES2;
        if there { host(FEATURES2, 0)[0] & LFENCE_SERIALIZES } else { 0 }
    }
}

/// Width of physical addresses, bits; a processor that does not say it has 36.
pub fn address_bits(host: impl Fn(u32, u32) -> [u32; 4]) -> u32 {
    let told = host(0x8000_0000, 0)[0] >= EXTENDED;
    match if told { host(EXTENDED, 0)[0] & 0xff } else { 0 } {
        0 => 36,
        bits => bits.min(52),
    }
}

/// CR4 bits that a guest may set: those of the features that CPUID shows.
pub fn cr4_allowed(identity: &Identity, host: impl Fn(u32, u32) -> [u32; 4]) -> u64 {
    let asker = Asker::default();
    let [_, _, ecx1, edx1] = identity.answer(1, 0, &asker, &host);
    let [_, ebx7, ecx7, _] = identity.answer(7, 0, &asker, &host);
    let features = [
        (edx1, 1, 0),
        (edx1, 1, 1),
        (edx1, 4, 2),
        (edx1, 2, 3),
        (edx1, 3, 4),
        (edx1, 6, 5),
        (edx1, 7, 6),
        (edx1, 13, 7),
        (edx1, 24, 9),
        (edx1, 25, 10),
        (ecx7, 2, 11),
        (ebx7, 0, 16),
        (ecx1, 26, 18),
        (ebx7, 7, 20),
        (ebx7, 20, 21),
    ];
    // PCE (bit 8) stays out: RDPMC is not offered.
    features.iter().fold(0, |mask, (register, from, to)| mask | u64::from(register >> from & 1) << to)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: Identity = Identity {
        platform: 1,
        vmware: true,
        xcr0_mask: 7,
        vcpus: 2,
        apic: true,
        tsc_khz: 2_500_000,
        lapic_khz: 1_000_000,
    };
    const ASKER: Asker = Asker { vcpu: 1, apic: true, osxsave: true, xcr0: 3 };

    /// A host with every feature bit set.
    fn everything(leaf: u32, subleaf: u32) -> [u32; 4] {
        match (leaf, subleaf) {
            (0, _) => [0x20, 1, 2, 3],
            (0x8000_0000, _) => [0x8000_0021, 1, 2, 3],
            (0xd, 2) => [256, 576, 0, 0],
            _ => [u32::MAX; 4],
        }
    }

    fn ask(vm: &Identity, leaf: u32) -> [u32; 4] {
        vm.answer(leaf, 0, &ASKER, everything)
    }

    #[test]
    fn vmware_is_named_at_the_base_leaf_and_promises_no_hypercall() {
        assert_eq!(ask(&VM, 0x4000_0000), [0x4000_0010, 0x6177_4d56, 0x4d56_6572, 0x6572_6177]);
        assert_eq!(ask(&VM, 0x4000_0010), [2_500_000, 1_000_000, 0, 0]);
        for leaf in (0x4000_0001..0x4000_0010).chain([0x4000_0011, 0x4000_0100, 0x7fff_ffff]) {
            assert_eq!(ask(&VM, leaf), [0; 4], "{leaf:#x}");
        }
        let plain = Identity { vmware: false, ..VM };
        assert_eq!(ask(&plain, 0x4000_0000), [0; 4]);
        assert_ne!(ask(&plain, 1)[2] & HYPERVISOR, 0);
    }

    /// The leaves as text; a subleaf that repeats the one before it is left out.
    fn leaves(vm: &Identity, host: fn(u32, u32) -> [u32; 4]) -> String {
        let mut text = String::new();
        let ranges = [0..0x20, 0x4000_0000..0x4000_0020, 0x8000_0000..0x8000_0030u32];
        for leaf in ranges.into_iter().flatten() {
            let mut before = [0; 4];
            for subleaf in 0..4 {
                let answer = vm.answer(leaf, subleaf, &ASKER, host);
                if answer != before {
                    text.push_str(&format!("{leaf:x}.{subleaf} {answer:08x?}\n"));
                }
                before = answer;
            }
        }
        text
    }

    /// What a running guest sees never changes under it (R12): each platform version, of a VM that has everything
    /// over a host that has every feature, and of one that has nothing over a host without any.
    #[test]
    fn every_leaf_is_that_of_the_platform_version() {
        for (platform, golden) in
            [(1, include_str!("../golden/cpuid-1.txt")), (2, include_str!("../golden/cpuid-2.txt"))]
        {
            let full = Identity { platform, ..VM };
            let bare = Identity { vmware: false, xcr0_mask: 1, vcpus: 1, apic: false, ..full };
            let text = format!("everything\n{}nothing\n{}", leaves(&full, everything), leaves(&bare, nothing));
            assert_eq!(text, golden, "platform version {platform}");
        }
    }

    #[test]
    fn the_bit_of_the_local_apic_follows_its_base_register() {
        let off = Asker { apic: false, ..ASKER };
        let bit = |leaf, asker| VM.answer(leaf, 0, asker, everything)[3] >> 9 & 1;
        for leaf in [1, 0x8000_0001] {
            assert_eq!((bit(leaf, &ASKER), bit(leaf, &off)), (1, 0), "{leaf:#x}");
        }
    }

    #[test]
    fn what_amd_repeats_of_leaf_1_intel_does_not() {
        let intel = |leaf, subleaf| match leaf {
            0 => [0x16, u32::from_le_bytes(*b"Genu"), 0, 0],
            _ => nothing(leaf, subleaf),
        };
        assert_eq!(VM.answer(0x8000_0001, 0, &ASKER, intel), [0; 4]);
    }

    #[test]
    fn that_lfence_serializes_is_told_where_the_processor_tells_it_from_version_2_on() {
        let second = Identity { platform: 2, ..VM };
        assert_eq!(ask(&second, 0x8000_0021), [LFENCE_SERIALIZES, 0, 0, 0]);
        assert_eq!((ask(&second, 0x8000_0000)[0], ask(&second, 0x8000_0020)), (0x8000_0021, [0; 4]));
        assert_eq!(ask(&VM, 0x8000_0021), [0; 4]);
        let older = |leaf, subleaf| match leaf {
            0x8000_0000 => [0x8000_0020, 0, 0, 0],
            _ => everything(leaf, subleaf),
        };
        assert_eq!(second.answer(0x8000_0021, 0, &ASKER, older), [0; 4]);
        assert_eq!(second.answer(0x8000_0000, 0, &ASKER, older)[0], 0x8000_001e);
    }

    #[test]
    fn addresses_are_as_wide_as_the_processor_says() {
        let width = |bits| move |leaf, _| [if leaf == 0x8000_0000 { leaf + 8 } else { bits }, 0, 0, 0];
        assert_eq!([0x3028, 0, 0xff].map(|bits| address_bits(width(bits))), [40, 36, 52]);
        assert_eq!(address_bits(nothing), 36);
    }

    #[test]
    fn what_is_not_emulated_is_hidden_even_if_the_host_has_it() {
        let [_, ebx, ecx, edx] = ask(&VM, 1);
        assert_eq!(ebx >> 16, 0x0102);
        for (name, bit) in [("MONITOR", 3), ("VMX", 5), ("PCID", 17)] {
            assert_eq!(ecx >> bit & 1, 0, "{name}");
        }
        assert_eq!(edx >> 12 & 1, 0, "MTRR");
        let [_, ebx, ecx, edx] = ask(&VM, 7);
        for (name, value, bit) in [
            ("TSC_ADJUST", ebx, 1),
            ("INVPCID", ebx, 10),
            ("AVX512F", ebx, 16),
            ("PKU", ecx, 3),
            ("LA57", ecx, 16),
            ("IBRS", edx, 26),
        ] {
            assert_eq!(value >> bit & 1, 0, "{name}");
        }
        assert_eq!(ask(&VM, 0x8000_0001)[2] >> 2 & 1, 0, "SVM");
        assert_eq!(ask(&VM, 5), [0; 4], "MONITOR line size");
        assert_eq!(ask(&VM, 0x8000_000a), [0; 4]);
        assert_eq!(ask(&VM, 0xc000_0000), [0; 4]);
    }

    /// A host that has nothing, of AMD.
    fn nothing(leaf: u32, _: u32) -> [u32; 4] {
        if leaf == 0 { [0xd, u32::from_le_bytes(*b"Auth"), 0, 0] } else { [0; 4] }
    }

    #[test]
    fn what_the_machine_emulates_is_shown_even_if_the_host_lacks_it() {
        let ask = |vm: &Identity, leaf| vm.answer(leaf, 1, &ASKER, nothing);
        assert_eq!(ask(&VM, 1), [0, 0x0102 << 16, HYPERVISOR | LEAF1_ECX_APIC, APIC | HTT | MACHINE_CHECK]);
        assert_eq!(ask(&VM, 6), [ARAT, 0, 0, 0]);
        assert_eq!(ask(&VM, 0xb), [1, 2, 0x201, 1]);
        assert_eq!(ask(&VM, 0x8000_0001), [0, 0, CORES_NOT_THREADS, APIC | MACHINE_CHECK]);
        assert_eq!(ask(&VM, 0x8000_0007), [0, 0, 0, INVARIANT_TSC]);
        assert_eq!(ask(&VM, 0x8000_0008), [48 << 8, 0, 0x1001, 0]);
        let bare = Identity { apic: false, vcpus: 1, ..VM };
        assert_eq!(ask(&bare, 1), [0, 0x0101 << 16, HYPERVISOR, MACHINE_CHECK]);
        assert_eq!((ask(&bare, 6), ask(&bare, 0xb)), ([0; 4], [0; 4]));
        assert_eq!(ask(&bare, 0x8000_0001), [0, 0, 0, MACHINE_CHECK]);
    }

    #[test]
    fn leaf_numbers_end_where_the_answers_end() {
        assert_eq!(ask(&VM, 0)[0], 0xd);
        assert_eq!(ask(&VM, 0x8000_0000)[0], 0x8000_001e);
        let plain = |leaf, _| if leaf == 0x8000_0000 { [0x8000_000a, 1, 2, 3] } else { [0; 4] };
        assert_eq!(VM.answer(0x8000_0000, 0, &ASKER, plain)[0], 0x8000_0008);
        assert_eq!(VM.answer(0x8000_001e, 0, &ASKER, plain), [0; 4]);
        assert_eq!(ask(&VM, 0x14), [0; 4]);
        let small = |leaf, _| if leaf == 0 { [1, 0, 0, 0] } else { [0; 4] };
        assert_eq!(VM.answer(0, 0, &ASKER, small)[0], 1);
    }

    #[test]
    fn extended_state_follows_the_mask_of_the_vm() {
        assert_eq!(ask(&VM, 0xd), [7, 576, 832, 0]);
        let sub = |vm: &Identity, subleaf| vm.answer(0xd, subleaf, &ASKER, everything);
        assert_eq!(sub(&VM, 1), [7, 576, 0, 0]);
        let avx = Asker { xcr0: 7, ..ASKER };
        assert_eq!(VM.answer(0xd, 1, &avx, everything), [7, 832, 0, 0]);
        // Without XSAVEC nothing writes the compacted form.
        let plain = |leaf, subleaf| if (leaf, subleaf) == (0xd, 1) { [5, 9, 0, 0] } else { everything(leaf, subleaf) };
        assert_eq!(VM.answer(0xd, 1, &avx, plain), [5, 0, 0, 0]);
        assert_eq!(sub(&VM, 2), [256, 576, 0, 0]);
        assert_eq!(sub(&VM, 9), [0; 4]);
        let sse = Identity { xcr0_mask: 3, ..VM };
        assert_eq!(ask(&sse, 0xd), [3, 576, 576, 0]);
        assert_eq!(ask(&sse, 1)[2] & LEAF1_ECX_AVX, 0);
        assert_eq!(ask(&sse, 7)[1] >> 5 & 1, 0);
        let none = Identity { xcr0_mask: 1, ..VM };
        assert_eq!(ask(&none, 1)[2] & (XSAVE | OSXSAVE), 0);
        assert_eq!(ask(&none, 0xd), [0; 4]);
    }

    #[test]
    fn osxsave_mirrors_cr4() {
        let off = Asker { osxsave: false, ..ASKER };
        assert_eq!(VM.answer(1, 0, &off, everything)[2] & OSXSAVE, 0);
        assert_ne!(ask(&VM, 1)[2] & OSXSAVE, 0);
    }

    #[test]
    fn a_guest_may_set_the_cr4_bits_of_the_features_that_it_sees() {
        assert_eq!(cr4_allowed(&VM, everything), 0x0035_0eff);
        assert_eq!(cr4_allowed(&VM, |_, _| [0; 4]), 1 << 6);
    }
}
