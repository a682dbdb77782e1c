//! Calls to another partition. An endpoint remembers the generation it last saw; when the core says
//! that the instance is dead it takes over the new one.

use super::{message, syscall};
use crate::call::{CallError, Next, after, read_reply};
use portcullis_ipc::limits::{LEASES, PAYLOAD};
use portcullis_ipc::message::{Header, Lease};
use portcullis_ipc::proto::Request;
use portcullis_ipc::syscall::Id;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Times that an idempotent call is repeated when instance after instance dies.
pub const REPEATS: u32 = 8;

/// A partition that can be called.
pub struct Endpoint {
    slot: u16,
    generation: u32,
}

impl Endpoint {
    /// The endpoint in `slot`. Every partition starts with generation 1; a newer one is learnt from the
    /// first call.
    pub const fn new(slot: u16) -> Self {
        Self { slot, generation: 1 }
    }

    /// Calls once.
    ///
    /// # Errors
    /// [`CallError::Dead`] when the instance ended: whether the call had an effect is then unknown.
    pub fn call<R>(&mut self, request: &R) -> Result<R::Reply, CallError>
    where
        R: Request + Serialize,
        R::Reply: DeserializeOwned,
    {
        let mut buffer = [0; PAYLOAD];
        let header = self.transfer(request, &[], &mut buffer)?;
        read_reply(&header, buffer.get(..header.length.into()).unwrap_or_default())
    }

    /// Calls, and again with each new instance, up to [`REPEATS`] times: for requests whose repetition
    /// has no further effect.
    pub fn call_idempotent<R>(&mut self, request: &R) -> Result<R::Reply, CallError>
    where
        R: Request + Serialize,
        R::Reply: DeserializeOwned,
    {
        let mut outcome = self.call(request);
        for _ in 0..REPEATS {
            match outcome {
                Err(CallError::Dead) => outcome = self.call(request),
                _ => break,
            }
        }
        outcome
    }

    /// As [`Endpoint::call_idempotent`], with leases (at most [`LEASES`], more are left out).
    pub fn lend_idempotent<R>(&mut self, request: &R, leases: &[Lease]) -> Result<R::Reply, CallError>
    where
        R: Request + Serialize,
        R::Reply: DeserializeOwned,
    {
        let mut buffer = [0; PAYLOAD];
        let mut outcome = self.transfer(request, leases, &mut buffer);
        for _ in 0..REPEATS {
            match outcome {
                Err(CallError::Dead) => outcome = self.transfer(request, leases, &mut buffer),
                _ => break,
            }
        }
        let header = outcome?;
        read_reply(&header, buffer.get(..header.length.into()).unwrap_or_default())
    }

    /// Calls once with leases (at most [`LEASES`], more are left out) and leaves the reply's payload in
    /// `buffer`: for replies that borrow. The header's length says how much of the buffer is reply.
    pub fn transfer<R>(
        &mut self,
        request: &R,
        leases: &[Lease],
        buffer: &mut [u8; PAYLOAD],
    ) -> Result<Header, CallError>
    where
        R: Request + Serialize,
    {
        let payload = postcard::to_slice(request, buffer).map_err(|_| CallError::Malformed)?;
        let header = Header {
            key: R::KEY,
            length: payload.len() as u16,
            leases: leases.len().min(LEASES) as u8,
            ..Header::default()
        };
        message::send(&header, payload);
        message::leases(leases);
        let returned = syscall::call(Id::new(self.slot, self.generation));
        match after(returned.status(), returned.value) {
            Next::Read => {
                let header = message::received_header();
                message::received(header.length.into(), buffer);
                Ok(header)
            }
            Next::Renew(generation) => {
                self.generation = generation;
                Err(CallError::Dead)
            }
            Next::Fail(error) => Err(error),
        }
    }
}
