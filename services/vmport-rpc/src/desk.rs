//! The service at work: table filled, calls answered.

use crate::commands::Machine;
use portcullis_ipc::message::{FROM_CORE, Header};
use portcullis_ipc::port::PortCall;
use portcullis_ipc::proto::{Refusal, Request};
use portcullis_runtime::call::{Incoming, Reply};
use portcullis_runtime::handle::{Vm, bad_config, missing};
use portcullis_runtime::pages::{info, platform};
use portcullis_runtime::serve::{Service, serve};
use portcullis_runtime::start::Start;
use portcullis_runtime::{message, syscall};

portcullis_runtime::entry!(main);

/// Version of the virtual hardware unless configured.
const HARDWARE: u64 = 13;

fn main(start: Start) -> ! {
    let Some(vm) = Vm::find("vm") else { missing("vm") };
    let hardware = info().number("hardware-version").unwrap_or(HARDWARE);
    let hardware = match u32::try_from(hardware) {
        Ok(version @ 1..=99) => version,
        _ => bad_config("hardware-version", "a number from 1 to 99"),
    };
    let platform = platform();
    let machine = Machine { tsc_hz: platform.tsc_hz, lapic_hz: platform.lapic_hz, hardware };
    let filled = fill(vm, &machine);
    defmt::info!("vmport-rpc ready, generation {=u32}, {=usize} answers in the core", start.generation, filled);
    serve(start, &mut Desk { machine })
}

/// Fills the answer table; what the core does not take is answered by call all the same.
fn fill(vm: Vm, machine: &Machine) -> usize {
    let mut filled = 0;
    for (index, answer) in machine.table().iter().enumerate() {
        let mut buffer = [0; portcullis_ipc::port::ANSWER_BYTES];
        let Ok(payload) = postcard::to_slice(answer, &mut buffer) else {
            continue;
        };
        let header = Header { length: payload.len() as u16, ..Header::default() };
        message::send(&header, payload);
        filled += usize::from(syscall::vm_answer(vm.slot(), index as u64).ok());
    }
    filled
}

struct Desk {
    machine: Machine,
}

impl Service for Desk {
    fn called(&mut self, call: &Incoming<'_>, reply: &mut Reply) -> Result<(), Refusal> {
        if call.header.key != PortCall::KEY {
            return Err(Refusal::Unsupported);
        }
        if call.header.source != FROM_CORE {
            return Err(Refusal::Denied);
        }
        reply.put(&self.machine.answer(&call.decode::<PortCall>()?));
        Ok(())
    }
}
