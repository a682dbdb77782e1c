//! The typed messages of the services. One module a service; a path and a type make the schema key
//! that a header carries, so that a changed type is refused instead of misread.
//!
//! Vocabulary: a *request* type `T` implements [`Request`], which names the path, the reply type and
//! the key.

use postcard_schema::Schema;
use postcard_schema::key::Key;
use serde::{Deserialize, Serialize};

/// A request: its path, the type of the answer, and its key.
pub trait Request: Schema {
    /// Path of the operation, `service/operation`.
    const PATH: &'static str;
    /// Type of the reply.
    type Reply: Schema;
    /// Key of a request, in the header of the call and of the reply.
    const KEY: u64 = u64::from_le_bytes(Key::for_path::<Self>(Self::PATH).to_bytes());
}

/// Why a service did not serve a call; the payload of a reply with the error flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Refusal {
    /// The key names no operation of this service.
    Unsupported,
    /// The payload does not decode.
    Malformed,
    /// The caller's badge has no right to it.
    Denied,
    /// A table or queue of the service is full.
    Full,
}

/// What every service answers.
pub mod health {
    use super::*;

    /// Are you there?
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub struct Health;

    /// I am.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub struct Healthy {
        /// Generation of the instance.
        pub generation: u32,
        /// Version of the state it writes.
        pub state_version: u32,
        /// Pieces of work served by this instance.
        pub served: u64,
    }

    impl Request for Health {
        const PATH: &'static str = "any/health";
        type Reply = Healthy;
    }
}

/// `link`: consoles and the control line.
pub mod link {
    use super::*;

    /// Bytes of one console message.
    pub const CONSOLE_BYTES: usize = 128;

    /// Console output. The badge names the console. Repeating a sequence has no effect: the service
    /// that is given an exit again may say the same again.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub struct ConsoleWrite<'a> {
        /// Rises with every write of this console, from 1; a sequence not above the last one taken is acknowledged and
        /// dropped.
        pub sequence: u64,
        /// At most [`CONSOLE_BYTES`].
        #[serde(borrow)]
        pub bytes: &'a [u8],
    }

    /// What was taken.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub struct ConsoleWritten {
        /// Last sequence taken of this console, over all instances of `link`.
        pub sequence: u64,
    }

    impl Request for ConsoleWrite<'_> {
        const PATH: &'static str = "link/console-write";
        type Reply = ConsoleWritten;
    }

    /// Take console input that has arrived. Input is a stream of numbered bytes: what lies before `from`
    /// the service forgets, what comes after it is given again until a later request acknowledges it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub struct ConsoleRead {
        /// Number of the first byte that the caller has not durably taken, from 0.
        pub from: u64,
        /// Bytes wanted at most.
        pub most: u8,
    }

    /// Console input; empty when there is none.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub struct ConsoleInput<'a> {
        /// Number of the first of these bytes: the one asked for, or a later one when those before were
        /// acknowledged already.
        pub from: u64,
        /// The bytes.
        #[serde(borrow)]
        pub bytes: &'a [u8],
    }

    impl Request for ConsoleRead {
        const PATH: &'static str = "link/console-read";
        type Reply = ConsoleInput<'static>;
    }

    /// What became of a VM.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub enum VmEventKind {
        /// The guest switched its machine off; its vCPUs run no more.
        PowerOff,
        /// The guest reset its machine, which starts anew.
        Reset,
        /// A vCPU stopped for good because of something that its `vmexit` does not serve; the log says what.
        Stopped,
        /// The guest wrote this value to its test exit port and runs no more.
        TestExit(u32),
    }

    /// Something became of a VM. The badge names the VM, as it names its console. Repeating a sequence has no
    /// effect.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub struct VmEvent {
        /// Rises with every event of this VM, from 1.
        pub sequence: u64,
        /// What happened.
        pub kind: VmEventKind,
    }

    /// What was taken.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub struct VmEventTaken {
        /// Sequence of the last event taken of this VM, over all instances of `link`.
        pub sequence: u64,
    }

    impl Request for VmEvent {
        const PATH: &'static str = "link/vm-event";
        type Reply = VmEventTaken;
    }
}

/// What the system tells the host unasked: the payload of a frame on the channel
/// [`crate::frame::channel::CONTROL`] is the key of a notice, little endian, and its postcard form. A
/// reader passes over a key that it does not know.
pub mod control {
    use super::link::VmEventKind;
    use super::*;

    /// Bytes of a notice at most, its key included.
    pub const NOTICE: usize = 64;

    /// A notice: its path and its key.
    pub trait Notice: Schema {
        /// Path, `control/what`.
        const PATH: &'static str;
        /// Key, before the notice in its frame.
        const KEY: u64 = u64::from_le_bytes(Key::for_path::<Self>(Self::PATH).to_bytes());
    }

    /// Something became of a VM. It may come again, with the same sequence.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub struct VmNotice {
        /// Number of the VM's console.
        pub vm: u8,
        /// Rises with every event of this VM, from 1.
        pub sequence: u64,
        /// What happened.
        pub kind: VmEventKind,
    }

    impl Notice for VmNotice {
        const PATH: &'static str = "control/vm";
    }

    /// Which boot of the system this is. It comes first from each instance of `link`, and as an answer to a frame of
    /// console input without bytes. A host that is told another number than before forgets all sequences that it counts.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub struct Hello {
        /// Number of the boot, little endian; not 0.
        pub session: [u8; 8],
    }

    impl Notice for Hello {
        const PATH: &'static str = "control/hello";
    }

    /// How far the frames of a console's input were taken. The sequence of such a frame is the number of its
    /// first byte; the host sends again what comes after `upto` until it is told that it was taken. One that does not
    /// know where the numbers stand opens with a frame without bytes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub struct InputTaken {
        /// Number of the console.
        pub console: u8,
        /// Bytes that ever were taken from frames, modulo 2^32.
        pub upto: u32,
        /// Bytes that would be taken now.
        pub room: u16,
    }

    impl Notice for InputTaken {
        const PATH: &'static str = "control/input";
    }

    /// Writes a notice into `buffer`: the payload of its frame, empty if the notice is longer than that.
    pub fn encode<'b, N: Notice + Serialize>(notice: &N, buffer: &'b mut [u8; NOTICE]) -> &'b [u8] {
        let (key, body) = buffer.split_at_mut(8);
        key.copy_from_slice(&N::KEY.to_le_bytes());
        let length = postcard::to_slice(notice, body).map_or(0, |used| 8 + used.len());
        buffer.get(..length).unwrap_or_default()
    }

    /// Reads a payload as a notice of this type; `None` when it is another, or damaged.
    pub fn decode<'a, N: Notice + Deserialize<'a>>(payload: &'a [u8]) -> Option<N> {
        let (key, body) = payload.split_first_chunk::<8>()?;
        (u64::from_le_bytes(*key) == N::KEY).then(|| postcard::from_bytes(body).ok())?
    }
}

/// `vmport-rpc`.
pub mod vmport {
    use super::*;
    use crate::port::{PortCall, PortReply};

    impl Request for PortCall {
        const PATH: &'static str = crate::port::PATH;
        type Reply = PortReply;
    }

    /// Bytes of a string that one call moves at most.
    pub const PIECE: usize = 4096;

    /// A piece of a string at the high-bandwidth port. The call carries one lease: for output the bytes, for
    /// input the memory that takes them, of at most [`PIECE`] bytes. A call given again carries the same
    /// sequence and is answered from the record.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub struct HighBandwidth {
        /// Sequence of the vCPU's exit.
        pub sequence: u64,
        /// Index of the vCPU in its VM.
        pub vcpu: u8,
        /// `true` for INSB, `false` for OUTSB.
        pub input: bool,
        /// Privilege level of the guest code, 0 to 3.
        pub cpl: u8,
        /// Low halves of EAX, EBX, ECX, EDX, ESI, EDI, EBP before this piece, little endian
        /// ([`crate::port::register`]).
        pub registers: [[u8; 4]; 7],
        /// Bytes that the string still has to move, this piece included; from 1.
        pub count: u64,
        /// Bytes of the lease.
        pub lent: u16,
    }

    /// What became of the piece.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub struct HighBandwidthMoved {
        /// Bytes moved. The whole `count` ends the string: also when nothing was moved because the string fits
        /// no message.
        pub moved: u64,
        /// EBX when the string has ended: 0x0001_0000 for success, 0 for failure.
        pub ebx: u32,
    }

    impl Request for HighBandwidth {
        const PATH: &'static str = "vmport/high-bandwidth";
        type Reply = HighBandwidthMoved;
    }

    /// The machine was reset: every channel closes. Guestinfo stays. A call given again has no effect.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub struct MachineReset {
        /// Number of the [`super::link::VmEvent`] that told the reset.
        pub sequence: u64,
    }

    /// The machine was reset.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub struct MachineResetDone;

    impl Request for MachineReset {
        const PATH: &'static str = "vmport/machine-reset";
        type Reply = MachineResetDone;
    }
}

/// `acpi-mangler`.
pub mod acpi {
    use super::*;

    /// Guest-physical address where a machine's firmware tables begin; the lease of [`BuildTables`] covers them.
    pub const WINDOW: u32 = 0xe_0000;
    /// Its bytes: it ends at 1 MiB.
    pub const WINDOW_BYTES: u32 = 0x2_0000;

    /// Build the firmware tables of this machine and write them into the call's one lease. Repeating the call with
    /// the same machine writes the same bytes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub struct BuildTables {
        /// Platform version: what the tables look like.
        pub platform: u16,
        /// Version of the virtual hardware, as VMware counts it.
        pub hardware: u8,
        /// Guest-physical address of the lease's first byte, a multiple of 16.
        pub base: u32,
        /// Bytes of RAM.
        pub memory: u64,
        /// vCPUs; the APIC id of each is its index.
        pub vcpus: u8,
        /// Build the ACPI tables.
        pub acpi: bool,
        /// Build the SMBIOS tables.
        pub smbios: bool,
        /// There are local APICs.
        pub lapic: bool,
        /// There is an IOAPIC.
        pub ioapic: bool,
        /// There is a serial port COM1.
        pub serial: bool,
        /// There is a CMOS clock.
        pub clock: bool,
        /// Guest-physical address of the mailbox by which further processors are started.
        pub mailbox: Option<u32>,
        /// UUID of the machine, in the order of its text.
        pub uuid: [u8; 16],
    }

    /// Where the tables are.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
    pub struct TablesBuilt {
        /// Guest-physical address of the RSDP; 0 without ACPI.
        pub rsdp: u32,
    }

    impl Request for BuildTables {
        const PATH: &'static str = "acpi/build-tables";
        type Reply = TablesBuilt;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden: a key changes only when a type or a path changes, and then every peer must know.
    #[test]
    fn schema_keys_are_those_of_version_1() {
        let keys = [
            ("any/health", health::Health::KEY),
            ("link/console-write", link::ConsoleWrite::KEY),
            ("link/console-read", link::ConsoleRead::KEY),
            ("link/vm-event", link::VmEvent::KEY),
            ("control/vm", <control::VmNotice as control::Notice>::KEY),
            ("control/hello", <control::Hello as control::Notice>::KEY),
            ("control/input", <control::InputTaken as control::Notice>::KEY),
            ("vmport/port", crate::port::PortCall::KEY),
            ("vmport/high-bandwidth", vmport::HighBandwidth::KEY),
            ("vmport/machine-reset", vmport::MachineReset::KEY),
            ("acpi/build-tables", acpi::BuildTables::KEY),
        ];
        let text: Vec<String> = keys.iter().map(|(path, key)| format!("{path} {key:016x}")).collect();
        let golden = include_str!("../golden/keys.txt");
        assert_eq!(text.join("\n"), golden.trim_end());
    }
    #[test]
    fn a_notice_reads_back_as_what_it_is_and_as_nothing_else() {
        let notice = control::VmNotice { vm: 7, sequence: u64::MAX, kind: link::VmEventKind::TestExit(u32::MAX) };
        let mut buffer = [0; control::NOTICE];
        let bytes = control::encode(&notice, &mut buffer);
        assert_eq!(control::decode(bytes), Some(notice));
        assert_eq!(control::decode::<control::VmNotice>(&bytes[..bytes.len() - 1]), None);
        let mut other = bytes.to_vec();
        other[0] ^= 1;
        assert_eq!(control::decode::<control::VmNotice>(&other), None);
        assert_eq!(control::decode::<control::VmNotice>(&[1; 7]), None);
    }
}
