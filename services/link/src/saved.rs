//! The saved state, version 1: the consoles that ever wrote, each with what waits. Versioned and
//! append-only (R9); a golden blob holds the encoding.

use crate::console::{Console, WRITES, Write};
use portcullis_ipc::limits::VMS;
use postcard_schema::Schema;
use postcard_schema::key::Key;
use serde::{Deserialize, Serialize};

/// Version of the state.
pub const VERSION: u32 = 1;
/// Schema hash of the state.
pub const SCHEMA: u64 = u64::from_le_bytes(Key::for_path::<One<'static>>("link/state").to_bytes());
/// Bytes that the state of all consoles takes at most.
pub const MOST: usize = VMS * (40 + WRITES * (2 + 128));

/// Every console of the system, by its number.
pub type Consoles = [Console; VMS];

/// One console; the state is one of these after the other.
#[derive(Serialize, Deserialize, Schema)]
struct One<'a> {
    number: u8,
    sequence: u64,
    frame: u32,
    base: u64,
    framed: u8,
    /// Waiting writes: each a length byte and its bytes.
    #[serde(borrow)]
    writes: &'a [u8],
}

/// Encodes the state of all consoles into `buffer`, which holds [`MOST`] bytes.
pub fn encode<'b>(consoles: &Consoles, buffer: &'b mut [u8]) -> &'b [u8] {
    let mut used = 0;
    for (number, console) in consoles.iter().enumerate().filter(|(_, one)| one.sequence > 0) {
        let mut flat = arrayvec::ArrayVec::<u8, { WRITES * 129 }>::new();
        for write in &console.writes {
            // The capacity covers the longest writes there can be.
            let _ = flat.try_push(write.len() as u8);
            let _ = flat.try_extend_from_slice(write);
        }
        let one = One {
            number: number as u8,
            sequence: console.sequence,
            frame: console.frame,
            base: console.base,
            framed: console.framed as u8,
            writes: &flat,
        };
        let rest = buffer.get_mut(used..).unwrap_or_default();
        used += postcard::to_slice(&one, rest).map_or(0, |bytes| bytes.len());
    }
    buffer.get(..used).unwrap_or_default()
}

/// Reads the state back. What does not decode ends the reading: the consoles before it stand.
pub fn decode(mut bytes: &[u8]) -> Consoles {
    let mut consoles = Consoles::default();
    while let Ok((one, rest)) = postcard::take_from_bytes::<One<'_>>(bytes) {
        bytes = rest;
        if let Some(console) = consoles.get_mut(usize::from(one.number)) {
            *console = restore(&one);
        }
    }
    consoles
}

fn restore(one: &One<'_>) -> Console {
    let mut console = Console { sequence: one.sequence, frame: one.frame, base: one.base, ..Console::default() };
    let mut flat = one.writes;
    while let Some((&length, rest)) = flat.split_first() {
        let Some((write, after)) = rest.split_at_checked(length.into()) else {
            break;
        };
        let Ok(write) = Write::try_from(write) else {
            break;
        };
        if console.writes.len() >= WRITES {
            break;
        }
        console.writes.push(write);
        flat = after;
    }
    console.framed = usize::from(one.framed).min(console.writes.len());
    console
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> Consoles {
        let mut consoles = Consoles::default();
        consoles[0].take(1, b"hello\n").unwrap();
        consoles[0].take(2, b"").unwrap();
        consoles[0].framed = 1;
        consoles[3] = Console { sequence: 900, frame: 77, base: 5000, ..Console::default() };
        consoles[3].take(901, &[b'x'; 128]).unwrap();
        consoles
    }

    #[test]
    fn the_state_comes_back_and_its_bytes_are_those_of_version_1() {
        let consoles = example();
        let mut buffer = [0; MOST];
        let bytes = encode(&consoles, &mut buffer);
        assert_eq!(bytes, include_bytes!("../golden/state-1.bin"));
        assert_eq!(decode(bytes), consoles);
        assert_eq!(SCHEMA, 0x4ea4_f2af_0a8e_985c);
    }

    #[test]
    fn the_largest_state_fits() {
        let mut consoles = Consoles::default();
        for console in &mut consoles {
            console.sequence = u64::MAX - 8;
            console.frame = u32::MAX;
            console.base = u64::MAX / 2;
            for more in 1..=8 {
                console.take(u64::MAX - 8 + more, &[255; 128]).unwrap();
            }
        }
        let mut buffer = [0; MOST];
        assert_eq!(decode(encode(&consoles, &mut buffer)), consoles);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_consoles_within_their_bounds(
            bytes in prop::collection::vec(any::<u8>(), 0..400)
        ) {
            for console in decode(&bytes) {
                prop_assert!(console.framed <= console.writes.len());
            }
        }
    }
}
