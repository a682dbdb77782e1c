//! Typed calls and replies without the system call: how a message is encoded and read, and what a
//! client does with each status.

use portcullis_ipc::limits::PAYLOAD;
use portcullis_ipc::message::{ERROR, Header};
use portcullis_ipc::proto::{Refusal, Request};
use portcullis_ipc::syscall::Status;
use serde::{Deserialize, Serialize};

/// Why a call brought no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The callee was restarted; the endpoint now names the new instance. Whether the call had an
    /// effect is not known.
    Dead,
    /// The callee used up the lent budget and its reserve.
    Timeout,
    /// The callee was given up.
    Gone,
    /// The callee refused.
    Refused(Refusal),
    /// The request is longer than a message, or the reply is not what the operation returns.
    Malformed,
}

/// What a client does after a call returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read the reply.
    Read,
    /// Remember this generation; then call again if the request may be repeated.
    Renew(u32),
    /// Give up with this error.
    Fail(CallError),
}

/// What follows from the status and value of a call. A status that the core never gives here counts as
/// malformed.
pub fn after(status: Option<Status>, value: u64) -> Next {
    match status {
        Some(Status::Ok) => Next::Read,
        Some(Status::Dead) => Next::Renew(value as u32),
        Some(Status::Timeout) => Next::Fail(CallError::Timeout),
        Some(Status::Gone) => Next::Fail(CallError::Gone),
        _ => Next::Fail(CallError::Malformed),
    }
}

/// Reads a reply with this header and payload.
pub fn read_reply<'a, T: Deserialize<'a>>(header: &Header, payload: &'a [u8]) -> Result<T, CallError> {
    if header.flags & ERROR != 0 {
        let refusal = postcard::from_bytes(payload).map_err(|_| CallError::Malformed)?;
        return Err(CallError::Refused(refusal));
    }
    postcard::from_bytes(payload).map_err(|_| CallError::Malformed)
}

/// A call that arrived: its header and payload.
#[derive(Clone, Copy)]
pub struct Incoming<'a> {
    /// The header as the core completed it.
    pub header: Header,
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> Incoming<'a> {
    /// The payload as the request `R`; [`Refusal::Malformed`] when it does not decode.
    pub fn decode<R: Request + Deserialize<'a>>(&self) -> Result<R, Refusal> {
        postcard::from_bytes(self.payload).map_err(|_| Refusal::Malformed)
    }
}

/// The reply under construction.
pub struct Reply {
    bytes: [u8; PAYLOAD],
    length: usize,
}

impl Default for Reply {
    fn default() -> Self {
        Self { bytes: [0; PAYLOAD], length: 0 }
    }
}

impl Reply {
    /// Puts `value` into the reply. A value longer than a message is a defect of the service; the
    /// caller is told that the answer is malformed by an empty payload.
    pub fn put<T: Serialize>(&mut self, value: &T) {
        self.length = postcard::to_slice(value, &mut self.bytes).map_or(0, |used| used.len());
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Empties the reply.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// The header that goes with the payload in answer to `key`.
    pub fn header(&self, key: u64, refused: bool) -> Header {
        let flags = if refused { ERROR } else { 0 };
        Header { key, length: self.length as u16, flags, ..Header::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_ipc::proto::health::{Health, Healthy};

    #[test]
    fn every_status_of_a_call_has_one_consequence() {
        assert_eq!(after(Some(Status::Ok), 0), Next::Read);
        assert_eq!(after(Some(Status::Dead), 7), Next::Renew(7));
        assert_eq!(after(Some(Status::Timeout), 0), Next::Fail(CallError::Timeout));
        assert_eq!(after(Some(Status::Gone), 0), Next::Fail(CallError::Gone));
        assert_eq!(after(Some(Status::Notified), 0), Next::Fail(CallError::Malformed));
        assert_eq!(after(None, 0), Next::Fail(CallError::Malformed));
    }

    #[test]
    fn a_reply_reads_back_and_a_refusal_is_told_apart() {
        let healthy = Healthy { generation: 3, state_version: 1, served: 900 };
        let mut reply = Reply::default();
        reply.put(&healthy);
        let header = reply.header(Health::KEY, false);
        assert_eq!(usize::from(header.length), reply.payload().len());
        assert_eq!(read_reply::<Healthy>(&header, reply.payload()), Ok(healthy));
        reply.put(&Refusal::Full);
        let header = reply.header(Health::KEY, true);
        let read = read_reply::<Healthy>(&header, reply.payload());
        assert_eq!(read, Err(CallError::Refused(Refusal::Full)));
    }

    #[test]
    fn a_payload_that_does_not_decode_is_refused_as_malformed() {
        use portcullis_ipc::proto::link::ConsoleRead;
        let call = Incoming { header: Header::default(), payload: &[] };
        assert_eq!(call.decode::<ConsoleRead>(), Err(Refusal::Malformed));
        assert_eq!(read_reply::<Healthy>(&Header::default(), &[]), Err(CallError::Malformed));
    }

    #[test]
    fn a_reply_that_is_too_long_leaves_an_empty_payload() {
        let mut reply = Reply::default();
        reply.put(&[[7u8; 32]; 9].as_slice());
        assert!(reply.payload().is_empty());
    }
}
