//! Capabilities: what a slot of a partition's table says, and the checks of a slot's use. The table is
//! filled from the image at boot and never changes.

use super::Table;
use crate::fault::Misuse;
use portcullis_ipc::{image, limits, record::misuse};
use zerocopy::FromZeros;

/// One slot.
pub type Capability = image::CapabilityRecord;

/// The slots of one partition; zeros are an empty one.
#[derive(FromZeros)]
pub struct Slots(Table<Capability, { limits::SLOTS }>);

impl Slots {
    /// Put a capability into its slot; `false` if the slot does not exist or is in use.
    pub fn put(&mut self, capability: &Capability) -> bool {
        let Some(place) = self.0.place(capability.slot.into()) else { return false };
        let free = self.0[place].kind == image::kind::NONE;
        if free {
            self.0[place] = *capability;
        }
        free
    }

    /// The capability in `slot`, if it is of `kind` and carries `rights`.
    #[inline]
    pub fn get(&self, slot: u64, kind: u8, rights: u8) -> Result<&Capability, Misuse> {
        let found = self.0.place(slot).map(|place| &self.0[place]);
        let Some(capability) = found.filter(|one| one.kind == kind) else { return Err(Misuse(misuse::SLOT)) };
        if capability.rights & rights != rights {
            return Err(Misuse(misuse::RIGHT));
        }
        Ok(capability)
    }

    /// All slots.
    pub fn iter(&self) -> impl Iterator<Item = &Capability> {
        self.0.iter().map(|(_, capability)| capability)
    }
}

/// `number` lies in the range of ports or MSRs that the capability names, with `extra` more after it.
pub fn covers(capability: &Capability, number: u64, extra: u64) -> bool {
    number >= capability.first && number.saturating_add(extra) < capability.first.saturating_add(capability.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_answers_only_to_its_kind_its_rights_and_its_range() {
        let mut slots = Slots::new_zeroed();
        let ports = Capability {
            slot: 3,
            kind: image::kind::PORTS,
            rights: 1,
            first: 0x3f8,
            count: 8,
            ..Capability::default()
        };
        assert!(slots.put(&ports));
        assert!(!slots.put(&ports), "a slot is filled once");
        assert!(!slots.put(&Capability { slot: 64, ..ports }));
        assert!(slots.get(3, image::kind::PORTS, 1).is_ok());
        assert_eq!(slots.get(3, image::kind::VM, 0).unwrap_err(), Misuse(misuse::SLOT));
        assert_eq!(slots.get(3, image::kind::PORTS, 2).unwrap_err(), Misuse(misuse::RIGHT));
        assert_eq!(slots.get(u64::MAX, image::kind::PORTS, 0).unwrap_err(), Misuse(misuse::SLOT));
        assert!(covers(&ports, 0x3ff, 0) && !covers(&ports, 0x3ff, 1) && !covers(&ports, 0x3f7, 0));
        assert!(!covers(&Capability { first: u64::MAX, count: 1, ..ports }, u64::MAX, 0), "no wrap-around");
    }
}
