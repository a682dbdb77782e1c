//! Messages and notifications: who gets what when. Checks are done by the system-call layer; nothing
//! here can fail (R5).

use crate::mem::page::CorePage;
use crate::object::partition::{Life, queue};
use crate::object::{VcpuState, Work};
use crate::schedule::bits;
use crate::state::{Core, Index};
use portcullis_ipc::message::{FROM_CORE, Header};
use portcullis_ipc::syscall::Status;
use portcullis_ipc::{layout, limits, port};

const HEAD: usize = size_of::<Header>();

/// Copy header and payload, and not a byte more: what stands after the payload may have been for others.
#[inline(always)]
fn copy_message(from: CorePage, to: CorePage, header: &Header) {
    let length = (header.length as usize).min(limits::PAYLOAD);
    from.copy_words(layout::SEND + HEAD, to, layout::RECEIVE + HEAD, length >> 3);
    let (whole, rest) = (length & !7, (length & 7) as u32);
    if rest != 0 {
        let mask = u64::MAX.wrapping_shr(64u32.wrapping_sub(rest << 3));
        let place = (layout::RECEIVE + HEAD).wrapping_add(whole);
        let kept = to.word(place) & !mask;
        to.set_word(place, kept | from.word((layout::SEND + HEAD).wrapping_add(whole)) & mask);
    }
    to.write::<Header, { layout::RECEIVE }>(header);
}

impl Core {
    /// OR bits into the notification word of `target`, and wake it if it waits for one of them.
    pub fn notify(&mut self, target: u8, bits: u64) {
        let partition = &mut self.partitions[target];
        if partition.life != Life::Alive {
            return;
        }
        partition.thread.pending |= bits;
        if partition.thread.work == Work::None {
            self.offer(target);
        }
    }

    /// Thread `target` waits: give it the next piece of work, if there is any. Requests come before
    /// notifications, the highest priority first.
    #[inline(always)]
    pub fn offer(&mut self, target: u8) {
        let thread = &mut self.partitions[target].thread;
        if thread.queue != 0 {
            self.serve_queue(target);
        } else if thread.pending & thread.mask != 0 {
            let bits = thread.pending & thread.mask;
            thread.pending &= !bits;
            thread.frame.rax = Status::Notified as u64;
            thread.frame.rdx = bits;
            self.begin(target, Work::Own);
            self.activate(target);
        }
    }

    #[inline(never)]
    fn serve_queue(&mut self, target: u8) {
        let bit = self.first_in_queue(target);
        let thread = &mut self.partitions[target].thread;
        thread.queue &= !(1u64 << (bit & 63));
        thread.served = bit;
        self.deliver(target, bit);
    }

    /// The request of the highest priority, among equals the next after the one that was taken last: each has its turn.
    fn first_in_queue(&self, target: u8) -> u8 {
        let thread = &self.partitions[target].thread;
        let start = thread.served.wrapping_add(1);
        let (mut first, mut highest) = (0, 0);
        for place in bits(thread.queue.rotate_right(start.into())) {
            let bit = place.wrapping_add(start) & 63;
            // Partitions and exits are numbered as their accounts are; port calls follow.
            let account = if bit < 48 { bit } else { bit.wrapping_sub(16) };
            let priority = self.accounts[account].priority;
            if priority > highest {
                (first, highest) = (bit, priority);
            }
        }
        first
    }

    #[inline(always)]
    fn begin(&mut self, target: u8, work: Work) {
        let thread = &mut self.partitions[target].thread;
        thread.work = work;
        thread.used = 0;
    }

    /// Whether `target` can take a request right now.
    #[inline(always)]
    fn is_idle(&self, target: u8) -> bool {
        let partition = &self.partitions[target];
        partition.thread.work == Work::None && partition.life == Life::Alive
    }

    /// Put a request into the queue of `target`, or right into its hands if it waits.
    #[inline(always)]
    pub fn ask(&mut self, target: u8, bit: u8) {
        if self.is_idle(target) {
            self.deliver(target, bit);
        } else {
            self.partitions[target].thread.queue |= 1u64 << (bit & 63);
        }
    }

    #[inline(always)]
    fn deliver(&mut self, target: u8, bit: u8) {
        match bit {
            0..32 => self.deliver_call(target, bit),
            32..48 => self.deliver_exit(target, bit.wrapping_sub(32)),
            _ => self.deliver_port(target, bit.wrapping_sub(48)),
        }
    }

    fn deliver_exit(&mut self, target: u8, vcpu: u8) {
        self.fill_exit(vcpu);
        let index = self.vcpus[vcpu].index;
        let frame = &mut self.partitions[target].thread.frame;
        frame.rax = Status::Exited as u64;
        frame.rdx = index.into();
        self.begin(target, Work::Exit(vcpu));
    }

    #[inline(always)]
    fn deliver_call(&mut self, target: u8, caller: u8) {
        let lender = &self.partitions[caller];
        let (from, generation, badge) = (lender.thread.message, lender.generation, lender.thread.badge);
        let thread = &mut self.partitions[target].thread;
        thread.sequence = thread.sequence.wrapping_add(1);
        let header = Header {
            sequence: thread.sequence,
            badge,
            source: caller.into(),
            generation,
            reserved: 0,
            ..from.read::<Header, { layout::SEND }>()
        };
        copy_message(from, thread.message, &header);
        thread.frame.rax = Status::Called as u64;
        self.begin(target, Work::Call(caller));
    }

    fn deliver_port(&mut self, target: u8, vcpu: u8) {
        let call = self.port_call(vcpu);
        let badge = self.vms[self.vcpus[vcpu].vm].badge;
        let thread = &mut self.partitions[target].thread;
        thread.sequence = thread.sequence.wrapping_add(1);
        let header = Header {
            key: port::KEY,
            length: size_of::<port::PortCall>() as u16,
            sequence: thread.sequence,
            badge,
            source: FROM_CORE,
            ..Header::default()
        };
        thread.message.write::<Header, { layout::RECEIVE }>(&header);
        thread.message.write::<port::PortCall, { layout::RECEIVE + HEAD }>(&call);
        thread.frame.rax = Status::Called as u64;
        self.begin(target, Work::Port(vcpu));
    }

    /// Thread `caller` calls `target` with `badge`; its message was checked.
    #[inline(always)]
    pub fn call(&mut self, caller: u8, target: u8, badge: u32) {
        let thread = &mut self.partitions[caller].thread;
        thread.calling = Index::of(target);
        thread.badge = badge;
        if self.is_idle(target) {
            self.deliver_call(target, caller);
        } else {
            self.partitions[target].thread.queue |= queue::call(caller);
        }
    }

    /// End the call of `caller` with a status and a value.
    #[inline(always)]
    pub fn end_call(&mut self, caller: u8, status: Status, value: u64) {
        let thread = &mut self.partitions[caller].thread;
        thread.calling = Index::NONE;
        thread.frame.rax = status as u64;
        thread.frame.rdx = value;
    }

    /// `server` replies to the partition it serves; its message was checked.
    #[inline(always)]
    pub fn reply(&mut self, server: u8, caller: u8) {
        let from = self.partitions[server].thread.message;
        let generation = self.partitions[server].generation;
        let to = self.partitions[caller].thread.message;
        let header = Header {
            sequence: self.partitions[server].thread.sequence,
            badge: 0,
            source: server.into(),
            generation,
            leases: 0,
            reserved: 0,
            ..from.read::<Header, { layout::SEND }>()
        };
        copy_message(from, to, &header);
        self.end_call(caller, Status::Ok, 0);
    }

    /// Thread `index` is done with its work and waits for events in `mask`.
    #[inline(always)]
    pub fn wait(&mut self, index: u8, mask: u64) {
        let thread = &mut self.partitions[index].thread;
        let own = matches!(thread.work, Work::Own | Work::Orphan);
        thread.work = Work::None;
        thread.mask = mask;
        if own {
            self.deactivate(index);
        }
        self.offer(index);
    }

    /// The request that `work` stands for goes back into the queue of `target`: it is held for the next
    /// instance.
    pub fn hold(&mut self, target: u8, work: Work) {
        let bits = match work {
            Work::Exit(vcpu) if self.vcpus[vcpu].state == VcpuState::Exited => queue::exit(vcpu),
            Work::Port(vcpu) if self.vcpus[vcpu].state == VcpuState::Port => queue::port(vcpu),
            _ => 0,
        };
        self.partitions[target].thread.queue |= bits;
    }
}
