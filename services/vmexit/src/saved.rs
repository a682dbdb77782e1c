//! The saved state, version 1: the serial port, and for each vCPU its CR8 and the last exit that had an
//! effect, so that an exit which is given again is answered from the record and not done twice (R13).

use crate::uart::Uart;
use arrayvec::ArrayVec;
use portcullis_ipc::limits::VCPUS_PER_VM;
use postcard_schema::Schema;
use postcard_schema::key::Key;
use serde::{Deserialize, Serialize};

/// Version of the state.
pub const VERSION: u32 = 1;
/// Schema hash of the state.
pub const SCHEMA: u64 = u64::from_le_bytes(Key::for_path::<State<'static>>("vmexit/state").to_bytes());
/// Bytes that the state takes at most.
pub const MOST: usize = 80 + 144 + VCPUS_PER_VM * 16;

/// What is remembered of one vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Record {
    /// Sequence of the last exit with an effect.
    pub sequence: u64,
    /// Value that it read.
    pub value: u32,
    /// CR8.
    pub cr8: u8,
}

/// Everything that outlives an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// The serial port.
    pub uart: Uart,
    /// By vCPU.
    pub records: [Record; VCPUS_PER_VM],
    /// Events that `link` was told.
    pub events: u64,
}

#[derive(Serialize, Deserialize, Schema)]
struct State<'a> {
    interrupts: u8,
    line: u8,
    modem: u8,
    scratch: u8,
    divisor: [u8; 2],
    fifo: u8,
    sending: u8,
    sequence: u64,
    #[serde(borrow)]
    receive: &'a [u8],
    #[serde(borrow)]
    transmit: &'a [u8],
    records: [Record; VCPUS_PER_VM],
    received: u64,
    events: u64,
}

impl Durable {
    /// The state as bytes.
    pub fn encode<'b>(&self, buffer: &'b mut [u8; MOST]) -> &'b [u8] {
        let uart = &self.uart;
        let state = State {
            interrupts: uart.interrupts,
            line: uart.line,
            modem: uart.modem,
            scratch: uart.scratch,
            divisor: uart.divisor,
            fifo: uart.fifo,
            sending: uart.sending,
            sequence: uart.sequence,
            receive: &uart.receive,
            transmit: &uart.transmit,
            records: self.records,
            received: uart.received,
            events: self.events,
        };
        // The buffer holds the largest state; a test says so.
        postcard::to_slice(&state, buffer).map_or(&[], |used| used)
    }

    /// Reads the state back; `None` when it does not decode.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let state: State<'_> = postcard::from_bytes(bytes).ok()?;
        let transmit: ArrayVec<u8, _> = state.transmit.try_into().ok()?;
        let uart = Uart {
            interrupts: state.interrupts,
            line: state.line,
            modem: state.modem,
            scratch: state.scratch,
            divisor: state.divisor,
            fifo: state.fifo,
            receive: state.receive.try_into().ok()?,
            sending: state.sending.min(transmit.len() as u8),
            transmit,
            sequence: state.sequence,
            received: state.received,
        };
        Some(Self { uart, records: state.records, events: state.events })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> Durable {
        let mut state = Durable::default();
        state.uart.write(7, 0x55);
        state.uart.write(3, 3);
        b"login: ".iter().for_each(|&byte| state.uart.write(0, byte));
        state.uart.sequence = 300;
        state.uart.fix_message();
        state.uart.receive.extend(*b"ro");
        state.uart.received = 2;
        state.events = 1;
        state.records[1] = Record { sequence: 70_000, value: 0xff, cr8: 2 };
        state
    }

    #[test]
    fn the_state_comes_back_and_its_bytes_are_those_of_version_1() {
        let mut buffer = [0; MOST];
        let state = example();
        let bytes = state.encode(&mut buffer);
        assert_eq!(bytes, include_bytes!("../golden/state-1.bin"));
        assert_eq!(Durable::decode(bytes), Some(state));
        assert_eq!(SCHEMA, 0x2962_0f17_152f_1204);
    }

    #[test]
    fn the_largest_state_fits() {
        let uart = Uart {
            interrupts: 255,
            line: 255,
            modem: 255,
            scratch: 255,
            divisor: [255; 2],
            fifo: 255,
            receive: [255; 16].into(),
            transmit: [255; 128].into(),
            sending: 128,
            sequence: u64::MAX,
            received: u64::MAX,
        };
        let record = Record { sequence: u64::MAX, value: u32::MAX, cr8: 255 };
        let state = Durable { uart, records: [record; VCPUS_PER_VM], events: u64::MAX };
        let mut buffer = [0; MOST];
        assert_eq!(Durable::decode(state.encode(&mut buffer)), Some(state));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_a_usable_state_or_to_none(
            bytes in prop::collection::vec(any::<u8>(), 0..300)
        ) {
            if let Some(state) = Durable::decode(&bytes) {
                let _ = state.uart.message();
            }
        }
    }
}
