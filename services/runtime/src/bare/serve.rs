//! The server loop: one event at a time, each answered before the next is taken.

use super::start::Start;
use super::syscall::{self, Returned};
use super::{message, pages};
use crate::call::{Incoming, Reply};
use crate::reason;
use portcullis_ipc::limits::PAYLOAD;
use portcullis_ipc::proto::health::{Health, Healthy};
use portcullis_ipc::proto::{Refusal, Request};
use portcullis_ipc::syscall::{Resume, Status, VcpuId};

/// What a service does with each kind of event. All notification bits are waited for.
pub trait Service {
    /// Serves a call: puts the answer into `reply`, or refuses. The health request is answered already.
    fn called(&mut self, call: &Incoming<'_>, reply: &mut Reply) -> Result<(), Refusal> {
        let _ = (call, reply);
        Err(Refusal::Unsupported)
    }

    /// Serves notification bits.
    fn notified(&mut self, bits: u64) {
        let _ = bits;
    }

    /// Serves the exit of a vCPU and says how it goes on: its id and a [`Resume`] word. Only a `vmexit`
    /// ever sees one.
    fn exited(&mut self, vcpu: u16) -> (VcpuId, u64) {
        let _ = vcpu;
        syscall::abort(reason::UNEXPECTED_EVENT)
    }
}

/// Serves for ever.
pub fn serve(start: Start, service: &mut impl Service) -> ! {
    let mut desk = Desk {
        generation: start.generation,
        state_version: pages::info().page().state_version,
        served: 0,
        payload: [0; PAYLOAD],
        reply: Reply::default(),
    };
    let mut event = syscall::wait(u64::MAX);
    loop {
        event = desk.answer(event, service);
    }
}

/// What the loop keeps between events.
struct Desk {
    generation: u32,
    state_version: u32,
    served: u64,
    payload: [u8; PAYLOAD],
    reply: Reply,
}

impl Desk {
    #[inline(always)]
    fn answer(&mut self, event: Returned, service: &mut impl Service) -> Returned {
        self.served += 1;
        match event.status() {
            Some(Status::Exited) => {
                let (vcpu, word) = service.exited(event.value as u16);
                syscall::vcpu_resume(vcpu, word | Resume::THEN_WAIT, u64::MAX)
            }
            Some(Status::Called) => {
                self.call(service);
                syscall::reply_wait(u64::MAX)
            }
            Some(Status::Notified) => {
                service.notified(event.value);
                syscall::wait(u64::MAX)
            }
            _ => syscall::abort(reason::UNEXPECTED_EVENT),
        }
    }

    fn call(&mut self, service: &mut impl Service) {
        let header = message::received_header();
        let payload = message::received(header.length.into(), &mut self.payload);
        self.reply.clear();
        let refusal = if header.key == Health::KEY {
            self.reply.put(&Healthy {
                generation: self.generation,
                state_version: self.state_version,
                served: self.served,
            });
            None
        } else {
            service.called(&Incoming { header, payload }, &mut self.reply).err()
        };
        if let Some(refusal) = refusal {
            self.reply.put(&refusal);
        }
        message::send(&self.reply.header(header.key, refusal.is_some()), self.reply.payload());
    }
}
