//! Who made the processor, and its signature (leaf 1 EAX) as a guest sees it.

/// First letters of "GenuineIntel".
const INTEL: u32 = u32::from_le_bytes(*b"Genu");
/// Extended family: counts on top of the family 0xF.
const EXTENDED_FAMILY: u32 = 0xff << 20;
const EXTENDED_FAMILY_SHIFT: u32 = 20;
/// Family of AMD's that follows the same rules as 0xF and has no aperture.
const WITHOUT_APERTURE: u32 = 0x11;

/// Whose rules the processor follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel's.
    Intel,
    /// AMD's; a processor of anybody else counts as one.
    Amd,
}

impl Vendor {
    /// The vendor of the host's processor.
    pub fn of(host: impl Fn(u32, u32) -> [u32; 4]) -> Self {
        if host(0, 0)[1] == INTEL { Self::Intel } else { Self::Amd }
    }
}

/// The signature that a guest sees.
///
/// Processors of AMD's families 0xF, 0x10 and, below model 0x10, 0x15 have the aperture of a graphics card in a
/// function of PCI that belongs to the processor. A kernel knows that by the family alone and looks for it, before it
/// has read any table, on every bus there can be (Linux: `gart_iommu_hole_init`, `amd_gart_present`): 32,768 accesses
/// to ports on a machine that has no such function, with a PCI or without. None of those families has what the core
/// demands; an emulator may call its processor so. It is shown as one of the family that has no aperture.
pub fn shown(signature: u32, vendor: Vendor) -> u32 {
    let (family, model) = family_and_model(signature);
    let aperture = matches!((family, model), (0xf | 0x10, _) | (0x15, 0..0x10));
    if vendor == Vendor::Amd && aperture {
        signature & !EXTENDED_FAMILY | (WITHOUT_APERTURE - 0xf) << EXTENDED_FAMILY_SHIFT
    } else {
        signature
    }
}

/// Family and model as AMD counts them (APM volume 3, CPUID Fn0000_0001_EAX).
fn family_and_model(signature: u32) -> (u32, u32) {
    let (family, model) = (signature >> 8 & 0xf, signature >> 4 & 0xf);
    match family {
        0xf => (family + (signature >> EXTENDED_FAMILY_SHIFT & 0xff), model | signature >> 12 & 0xf0),
        _ => (family, model),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_with_an_aperture_is_shown_as_the_one_without_and_every_other_as_it_is() {
        let table = [
            // Family, model and stepping as they are, and the signature that is shown.
            (0x0006_0fb1, 0x0026_0fb1), // 0xf, an emulator's
            (0x0010_0f42, 0x0020_0f42), // 0x10
            (0x0060_0f12, 0x0020_0f12), // 0x15, model 1
            (0x0061_0f01, 0x0061_0f01), // 0x15, model 0x10
            (0x0066_0f01, 0x0066_0f01), // 0x15, model 0x60
            (0x0020_0f31, 0x0020_0f31), // 0x11
            (0x0080_0f11, 0x0080_0f11), // 0x17
            (0x00a2_0f12, 0x00a2_0f12), // 0x19
            (0x0000_0663, 0x0000_0663), // 6
            (u32::MAX, u32::MAX),
        ];
        for (signature, expected) in table {
            assert_eq!(shown(signature, Vendor::Amd), expected, "{signature:#x}");
            assert_eq!(shown(signature, Vendor::Intel), signature, "one of Intel's families");
        }
    }
}
