//! Whom a message reaches.

use super::lapic::Lapic;
use super::message::{Destination, Message, Mode};

/// The vCPUs that `message` reaches, one bit each. `lapics` are those of the VM, by vCPU; `from` is the
/// sender, if a vCPU is. Of a message by lowest priority one of those that accept interrupts remains: the
/// one with the lowest processor priority, the first among equals.
pub fn targets<'a>(message: &Message, from: Option<usize>, lapics: impl Iterator<Item = &'a Lapic>) -> u64 {
    let mut all = 0;
    let mut lowest: Option<(u8, usize)> = None;
    for (index, lapic) in lapics.enumerate().take(64) {
        if !lapic.enabled() || !addressed(message.destination, from == Some(index), lapic) {
            continue;
        }
        all |= 1 << index;
        let class = lapic.processor_priority() >> 4;
        if lapic.software_enabled() && lowest.is_none_or(|(least, _)| class < least) {
            lowest = Some((class, index));
        }
    }
    match message.mode {
        Mode::LowestPriority => lowest.map_or(0, |(_, index)| 1 << index),
        _ => all,
    }
}

fn addressed(destination: Destination, sender: bool, lapic: &Lapic) -> bool {
    match destination {
        Destination::All => true,
        Destination::Myself => sender,
        Destination::Others => !sender,
        Destination::Physical(id) => id == lapic.id(),
        Destination::Logical(id) if lapic.x2apic() => {
            let own = lapic.x2apic_logical();
            id >> 16 == own >> 16 && id & own & 0xffff != 0
        }
        Destination::Logical(id) => u8::try_from(id).is_ok_and(|id| xapic(id, lapic)),
    }
}

/// xAPIC mode: eight bits, or four clusters of four; the cluster 15 is every cluster.
fn xapic(id: u8, lapic: &Lapic) -> bool {
    match lapic.xapic_logical() {
        (own, true) => id & own != 0,
        (own, false) => (id >> 4 == 0xf || id >> 4 == own >> 4) && id & own & 0xf != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apic::lapic::Clock;
    use crate::apic::message::narrow;

    const CLOCK: Clock = Clock { now: 0, offset: 0, tsc_hz: 1, lapic_hz: 1 };

    /// Software-enabled, flat logical id `1 << id`.
    fn flat(id: u32) -> Lapic {
        let mut lapic = Lapic::reset(id, id == 0);
        lapic.write(0xf0, 0x1ff, &CLOCK);
        lapic.write(0xd0, 1 << (24 + id % 8), &CLOCK);
        lapic
    }

    fn clustered(id: u32) -> Lapic {
        let mut lapic = flat(id);
        lapic.write(0xe0, 0, &CLOCK);
        lapic.write(0xd0, (id / 4) << 28 | 1 << (24 + id % 4), &CLOCK);
        lapic
    }

    fn wide(id: u32) -> Lapic {
        let mut lapic = flat(id);
        lapic.write_msr(0x1b, 0xfee0_0c00, &CLOCK).unwrap();
        lapic
    }

    fn reached(destination: Destination, mode: Mode, lapics: &[Lapic]) -> u64 {
        let message = Message { destination, mode, vector: 0x31, level: false };
        targets(&message, Some(1), lapics.iter())
    }

    #[test]
    fn shorthands_and_physical_ids_reach_their_vcpus() {
        let four: Vec<Lapic> = (0..4).map(flat).collect();
        let table = [
            (Destination::Myself, 0b0010),
            (Destination::Others, 0b1101),
            (Destination::All, 0b1111),
            (Destination::Physical(2), 0b0100),
            (Destination::Physical(4), 0),
            (narrow(0xff, false), 0b1111),
        ];
        for (destination, expected) in table {
            assert_eq!(reached(destination, Mode::Fixed, &four), expected, "{destination:?}");
        }
    }

    #[test]
    fn logical_ids_match_by_the_format_of_the_receiver() {
        let flat: Vec<Lapic> = (0..8).map(flat).collect();
        let clusters: Vec<Lapic> = (0..8).map(clustered).collect();
        let wides: Vec<Lapic> = (14..18).map(wide).collect();
        let table: [(&[Lapic], u32, u64); 12] = [
            (&flat, 0x05, 0b101),
            (&flat, 0xff, 0xff),
            (&flat, 0x100, 0),
            (&clusters, 0x03, 0b11),
            (&clusters, 0x13, 0b11_0000),
            (&clusters, 0xff, 0xff),
            (&clusters, 0xf1, 0b1_0001),
            (&clusters, 0x2f, 0),
            (&wides, 0x0000_c000, 0b0011),
            (&wides, 0x0001_0003, 0b1100),
            (&wides, 0x0001_0004, 0),
            (&wides, 0x0002_ffff, 0),
        ];
        for (lapics, id, expected) in table {
            assert_eq!(reached(Destination::Logical(id), Mode::Fixed, lapics), expected, "{id:#x}");
        }
    }

    #[test]
    fn the_lowest_priority_takes_one_that_accepts() {
        let mut four: Vec<Lapic> = (0..4).map(flat).collect();
        four[0].set_cr8(3);
        four[1].set_cr8(1);
        four[2].set_cr8(1);
        assert_eq!(reached(Destination::All, Mode::LowestPriority, &four), 0b1000);
        four[3].write(0xf0, 0xff, &CLOCK);
        assert_eq!(reached(Destination::All, Mode::LowestPriority, &four), 0b0010);
        four[1].accept(0x80, false);
        four[1].take(0x80);
        assert_eq!(reached(Destination::All, Mode::LowestPriority, &four), 0b0100);
        assert_eq!(reached(Destination::Physical(9), Mode::LowestPriority, &four), 0);
    }

    #[test]
    fn a_disabled_apic_gets_nothing() {
        let mut two: Vec<Lapic> = (0..2).map(flat).collect();
        two[0].write_msr(0x1b, 0xfee0_0000, &CLOCK).unwrap();
        assert_eq!(reached(Destination::All, Mode::Init, &two), 0b10);
    }
}
