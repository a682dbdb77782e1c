//! How the vCPUs of a VM are arranged, the same in every leaf that says so: one package, each vCPU a core
//! with one thread, the APIC id its index.

/// Bits that the ids of `vcpus` cores take.
fn id_bits(vcpus: u32) -> u32 {
    vcpus.max(1).next_power_of_two().trailing_zeros()
}

/// Leaf 0xB: ids of x2APIC mode by level, threads then cores.
pub fn levels(subleaf: u32, vcpus: u32, id: u32) -> [u32; 4] {
    const THREADS: u32 = 1 << 8;
    const CORES: u32 = 2 << 8;
    match subleaf {
        0 => [0, 1, THREADS, id],
        1 => [id_bits(vcpus), vcpus, 1 | CORES, id],
        _ => [0, 0, subleaf & 0xff, id],
    }
}

/// EAX of a cache leaf: level 3 is the package's, the others a core's own. Leaf 4 counts the cores as well.
pub fn cache(eax: u32, vcpus: u32, cores: bool) -> u32 {
    const KIND: u32 = 0x1f;
    let level = eax >> 5 & 7;
    let last_id = (1 << id_bits(vcpus)) - 1;
    let sharing = if level >= 3 { last_id } else { 0 };
    let cores = if cores { last_id.min(0x3f) << 26 } else { 0 };
    if eax & KIND == 0 { 0 } else { eax & 0x3fff | sharing << 14 | cores }
}

/// ECX of leaf 0x80000008: cores, less one, and the bits of their ids.
pub fn cores(vcpus: u32) -> u32 {
    vcpus.saturating_sub(1) & 0xff | id_bits(vcpus) << 12
}

/// Leaf 0x8000001E: extended id, core with one thread, one node.
pub fn core(id: u32) -> [u32; 4] {
    [id, id & 0xff, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever asks for the package by any of the leaves gets the same one: an id without its core bits.
    #[test]
    fn all_leaves_agree_for_any_number_of_vcpus() {
        for vcpus in 1..=8_u32 {
            let shift = levels(1, vcpus, 0)[0];
            assert_eq!(1 << shift, vcpus.next_power_of_two());
            assert_eq!(cores(vcpus) >> 12, shift);
            assert_eq!(cores(vcpus) & 0xff, vcpus - 1);
            let last_level = cache(3 << 5 | 1, vcpus, true);
            assert_eq!(last_level >> 14 & 0xfff, (1 << shift) - 1);
            assert_eq!(last_level >> 26, (1 << shift) - 1);
            assert_eq!(cache(1 << 5 | 1, vcpus, false), 1 << 5 | 1);
            for id in 0..vcpus {
                assert_eq!(id >> shift, 0);
                assert_eq!([levels(0, vcpus, id)[3], levels(1, vcpus, id)[3], core(id)[0]], [id; 3]);
                assert_eq!((levels(0, vcpus, id)[1], levels(1, vcpus, id)[1]), (1, vcpus));
                assert_eq!(core(id), [id, id, 0, 0]);
            }
        }
        assert_eq!(levels(2, 4, 3), [0, 0, 2, 3]);
        assert_eq!(cache(0x7fff_ff00, 4, true), 0, "no cache of this number");
    }
}
