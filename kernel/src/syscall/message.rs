//! Wait, call, reply, notify, leases.

use super::{DONE, Decoded, Outcome};
use crate::arch::cpu::below;
use crate::fault::Misuse;
use crate::object::partition::Life;
use crate::object::{VcpuState, Work};
use crate::state::Core;
use portcullis_ipc::image::kind;
use portcullis_ipc::message::{Header, Lease};
use portcullis_ipc::record::misuse;
use portcullis_ipc::syscall::{Id, Status, rights};
use portcullis_ipc::{layout, limits, port};

const HEAD: usize = size_of::<Header>();

impl Core {
    pub(super) fn sys_wait(&mut self, caller: u8) -> Decoded {
        self.may_wait(caller)?;
        let mask = self.partitions[caller].thread.frame.rdi;
        self.wait(caller, mask);
        Ok(Outcome::Later)
    }

    pub(super) fn sys_call(&mut self, caller: u8) -> Decoded {
        let partition = &self.partitions[caller];
        let id = Id(partition.thread.frame.rdi);
        let capability = partition.slots.get(id.slot().into(), kind::ENDPOINT, 0)?;
        let (target, badge) = (capability.object as u8, capability.badge);
        let header = partition.thread.message.read::<Header, { layout::SEND }>();
        if header.length as usize > limits::PAYLOAD || header.leases as usize > limits::LEASES {
            return Err(Misuse(misuse::HEADER));
        }
        for index in 0..header.leases {
            self.lease(caller, index.into()).ok_or(Misuse(misuse::LEASE))?;
        }
        if let Some(outcome) = self.check_target(target, id) {
            return Ok(outcome);
        }
        self.call(caller, target, badge);
        Ok(Outcome::Later)
    }

    /// A stale id gets the dead code, whatever else is true of the target.
    pub(super) fn check_target(&self, target: u8, id: Id) -> Option<Outcome> {
        let partition = &self.partitions[target];
        if partition.generation != id.generation() {
            return Some(Outcome::Value(Status::Dead, partition.generation.into()));
        }
        (partition.life == Life::Gone).then_some(Outcome::Value(Status::Gone, 0))
    }

    pub(super) fn sys_reply_wait(&mut self, caller: u8) -> Decoded {
        let thread = &self.partitions[caller].thread;
        let mask = thread.frame.rdi;
        let header = thread.message.read::<Header, { layout::SEND }>();
        if header.length as usize > limits::PAYLOAD {
            return Err(Misuse(misuse::HEADER));
        }
        match thread.work {
            Work::Call(client) => self.reply(caller, client),
            Work::Port(vcpu) => {
                if (header.length as usize) < port::PORT_REPLY_BYTES || header.flags != 0 {
                    return Err(Misuse(misuse::PAYLOAD));
                }
                let bytes = thread.message.read::<[u8; port::PORT_REPLY_BYTES], { layout::SEND + HEAD }>();
                let reply = crate::port::decode_reply(&bytes).ok_or(Misuse(misuse::PAYLOAD))?;
                if self.vcpus[vcpu].state == VcpuState::Port {
                    self.end_port_call(vcpu, &reply);
                }
            }
            Work::Orphan => {}
            Work::None | Work::Own | Work::Exit(_) => return Err(Misuse(misuse::PROTOCOL)),
        }
        self.wait(caller, mask);
        Ok(Outcome::Later)
    }

    pub(super) fn sys_notify(&mut self, caller: u8) -> Decoded {
        let partition = &self.partitions[caller];
        let id = Id(partition.thread.frame.rdi);
        let bits = partition.thread.frame.rsi;
        let capability = partition.slots.get(id.slot().into(), kind::NOTIFICATION, 0)?;
        if bits & !capability.first != 0 {
            return Err(Misuse(misuse::RIGHT));
        }
        let target = capability.object as u8;
        if let Some(outcome) = self.check_target(target, id) {
            return Ok(outcome);
        }
        self.notify(target, bits);
        DONE
    }

    /// Lease `index` of the call that `lender` makes: its descriptor, if the lender's memory backs it.
    fn lease(&self, lender: u8, index: u64) -> Option<Lease> {
        let partition = &self.partitions[lender];
        let table = partition.thread.message.read::<[Lease; limits::LEASES], { layout::LEASE_TABLE }>();
        let lease = *table.get(usize::from(below::<{ limits::LEASES }>(index)?))?;
        let known = lease.rights & !u32::from(rights::READ | rights::WRITE) == 0;
        let backed = partition.translate(lease.address, lease.length.into(), lease.rights as u8).is_some();
        (known && backed && lease.length <= limits::LEASE_BYTES).then_some(lease)
    }

    pub(super) fn lease_copy(&mut self, caller: u8, direction: u8) -> Decoded {
        let partition = &self.partitions[caller];
        let frame = &partition.thread.frame;
        let (id, offset, address, length) = (frame.rdi, frame.rsi, frame.rdx, frame.r10());
        if length > limits::LEASE_COPY as u64 {
            return Err(Misuse(misuse::ARGUMENT));
        }
        let own_rights = if direction == rights::READ { rights::WRITE } else { rights::READ };
        let own = partition.translate(address, length, own_rights).ok_or(Misuse(misuse::MEMORY))?;
        let Some(theirs) = self.borrowed(caller, id, offset, length, direction) else {
            return Ok(Outcome::Value(Status::BadLease, 0));
        };
        let (source, target) = if direction == rights::READ { (theirs, own) } else { (own, theirs) };
        let mut done = 0u64;
        while done < length {
            let (from, to) = (source.wrapping_add(done), target.wrapping_add(done));
            let room = 4096u64.wrapping_sub((from & 0xfff).max(to & 0xfff));
            let part = room.min(length.wrapping_sub(done));
            self.windows.copy(from, to, part as usize);
            done = done.wrapping_add(part);
        }
        DONE
    }

    /// Frame address of a part of a lease of the call that `borrower` serves.
    fn borrowed(&self, borrower: u8, id: u64, offset: u64, length: u64, direction: u8) -> Option<u64> {
        let thread = &self.partitions[borrower].thread;
        let Work::Call(lender) = thread.work else {
            return None;
        };
        let leases = self.partitions[lender].thread.message.read::<Header, { layout::SEND }>().leases;
        let index = id & 0xffff;
        if id >> 32 != u64::from(thread.sequence) || index >= u64::from(leases) {
            return None;
        }
        let lease = self.lease(lender, index)?;
        if lease.rights as u8 & direction == 0 || offset.checked_add(length)? > lease.length.into() {
            return None;
        }
        self.partitions[lender].translate(lease.address.wrapping_add(offset), length, direction)
    }
}
