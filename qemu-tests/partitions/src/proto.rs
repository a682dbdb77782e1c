//! Messages between test partitions.

use portcullis_ipc::proto::Request;
use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

/// Append a value to the ledger; a sequence that is there already is acknowledged without effect.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, Schema)]
pub struct Append {
    /// One more than the last.
    pub sequence: u64,
    /// The value.
    pub value: u64,
}

/// The append is durable.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, Schema)]
pub struct Appended {
    /// Last sequence of the ledger.
    pub last: u64,
    /// How often the relay on the way found the ledger dead.
    pub dead: u32,
}

impl Request for Append {
    const PATH: &'static str = "test/append";
    type Reply = Appended;
}

/// Read the ledger's totals.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, Schema)]
pub struct Totals;

/// All that the ledger ever did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Ledger {
    /// Last sequence appended.
    pub last: u64,
    /// Appends that had an effect.
    pub effects: u64,
    /// Sum of all values, wrapping.
    pub sum: u64,
}

impl Request for Totals {
    const PATH: &'static str = "test/totals";
    type Reply = Ledger;
}

/// The client tells the sweeper that an exchange is over.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, Schema)]
pub struct Done {
    /// Its sequence.
    pub sequence: u64,
    /// Dead codes that the client saw.
    pub dead: u32,
    /// Dead codes that the relay saw.
    pub relay_dead: u32,
    /// Other failures of calls.
    pub failed: u32,
}

/// Nothing.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, Schema)]
pub struct Noted;

impl Request for Done {
    const PATH: &'static str = "test/done";
    type Reply = Noted;
}

/// The hostile partition's progress.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, Schema)]
pub struct Progress {
    /// Operations so far, over all instances.
    pub operations: u64,
    /// Times it found another partition's secret.
    pub leaks: u64,
    /// State of its generator.
    pub state: u64,
}

impl Request for Progress {
    const PATH: &'static str = "test/progress";
    type Reply = Noted;
}

/// Sends back what came, for measurements: 64 bytes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, Schema)]
pub struct Echo64(pub [[u8; 32]; 2]);

impl Request for Echo64 {
    const PATH: &'static str = "test/echo-64";
    type Reply = Echo64;
}

/// Sends back what came, for measurements: 256 bytes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, Schema)]
pub struct Echo256(pub [[u8; 32]; 8]);

impl Request for Echo256 {
    const PATH: &'static str = "test/echo-256";
    type Reply = Echo256;
}
