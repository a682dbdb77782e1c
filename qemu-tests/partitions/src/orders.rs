//! What `test-stale` asks of `test-target`: the first byte of a call's payload.

/// Reply two bytes: calls and notifications that have reached this instance.
pub const COUNT: u8 = 0;
/// Wait, while the call is served.
pub const WAIT: u8 = 1;
/// Reply with 257 bytes.
pub const LONG: u8 = 2;
