//! The ways in which `test-crash` ends while it serves a VM, and the fault record that each must leave. What it served is
//! given to the next instance again.

use crate::faults::{Fault, misused, raw, slot};
use portcullis_ipc::exit::group;
use portcullis_ipc::image::kind;
use portcullis_ipc::limits::ANSWERS;
use portcullis_ipc::message::Header;
use portcullis_ipc::port::{ANSWER_BYTES, PORT_REPLY_BYTES};
use portcullis_ipc::record::misuse;
use portcullis_ipc::syscall::{Call, Resume, Status, VcpuId};
use portcullis_runtime::pages::exit_page;
use portcullis_runtime::syscall::Returned;
use portcullis_runtime::{message, syscall};

/// Faults of a partition that serves a VM's port, with the right to answer only.
pub static PORT: &[Fault] = &[
    misused("wait while a port call is served", Call::Wait, misuse::PROTOCOL, || {
        served();
        syscall::wait(0);
    }),
    misused("port reply of 257 bytes", Call::ReplyWait, misuse::HEADER, || reply(257, 0, 0)),
    misused("port reply without its last byte", Call::ReplyWait, misuse::PAYLOAD, || reply(PORT_REPLY_BYTES - 1, 0, 0)),
    misused("port reply with flags", Call::ReplyWait, misuse::PAYLOAD, || reply(PORT_REPLY_BYTES, 1, 0)),
    misused("port reply that sets a seventh register", Call::ReplyWait, misuse::PAYLOAD, || {
        reply(PORT_REPLY_BYTES, 0, 1 << 6);
    }),
    misused("answer for privilege level 4", Call::VmAnswer, misuse::PAYLOAD, || answer(0, 4, 1, 0)),
    misused("answer neither in use nor not", Call::VmAnswer, misuse::PAYLOAD, || answer(0, 3, 2, 0)),
    misused("answer that sets a seventh register", Call::VmAnswer, misuse::PAYLOAD, || answer(0, 3, 1, 1 << 6)),
    misused("answer past the table", Call::VmAnswer, misuse::ARGUMENT, || answer(ANSWERS as u64, 3, 1, 0)),
    misused("resume with the right to answer only", Call::VcpuResume, misuse::RIGHT, || resume(0, Resume::ENTER)),
    misused("fetch with the right to answer only", Call::VcpuFetch, misuse::RIGHT, || fetch(0, group::ALL)),
    misused("recall with the right to answer only", Call::VcpuRecall, misuse::RIGHT, || recall(0)),
    misused("protect with the right to answer only", Call::VmProtect, misuse::RIGHT, || protect(0, 1, 7)),
];

/// Faults of a partition that serves the exits of a VM of [`PAGES`] pages and two vCPUs, without the port.
pub static EXIT: &[Fault] = &[
    misused("wait while an exit is served", Call::Wait, misuse::PROTOCOL, || {
        exited();
        syscall::wait(0);
    }),
    misused("reply while an exit is served", Call::ReplyWait, misuse::PROTOCOL, || {
        exited();
        message::send(&Header::default(), &[]);
        syscall::reply_wait(0);
    }),
    misused("resume of a vCPU with high bits", Call::VcpuResume, misuse::ARGUMENT, || resume(1 << 32, Resume::STOP)),
    misused("fetch of a vCPU with high bits", Call::VcpuFetch, misuse::ARGUMENT, || fetch(1 << 63, group::ALL)),
    misused("recall of a vCPU that the VM lacks", Call::VcpuRecall, misuse::ARGUMENT, || recall(VcpuId::new(0, 2).0)),
    misused("resume in no known way", Call::VcpuResume, misuse::ARGUMENT, || {
        exited();
        resume(0, Resume::YIELD + 1);
    }),
    misused("resume by a port that the VM lacks", Call::VcpuResume, misuse::ARGUMENT, || {
        exited();
        resume(0, Resume::PORT | 4 << 8 | 1 << 16 | 1 << 24);
    }),
    misused("fetch of an unknown group", Call::VcpuFetch, misuse::ARGUMENT, || fetch(0, group::ALL + 1)),
    misused("protect between two pages", Call::VmProtect, misuse::ARGUMENT, || protect(0x800, 1, 7)),
    misused("protect past the last page", Call::VmProtect, misuse::ARGUMENT, || protect(PAGES << 12, 0, 7)),
    misused("protect over the last page", Call::VmProtect, misuse::ARGUMENT, || protect((PAGES - 1) << 12, 2, 7)),
    misused("protect of too many pages", Call::VmProtect, misuse::ARGUMENT, || protect(0, 1025, 7)),
    misused("protect with an unknown right", Call::VmProtect, misuse::ARGUMENT, || protect(0, 1, 8)),
    misused("answer with the right to run only", Call::VmAnswer, misuse::RIGHT, || answer(0, 3, 1, 0)),
    misused("resume of another vCPU with a wait while an exit is served", Call::VcpuResume, misuse::PROTOCOL, || {
        exited();
        resume(SECOND, Resume::STOP | Resume::THEN_WAIT);
    }),
    misused("wait after an exit that is not yet served was left alone", Call::Wait, misuse::PROTOCOL, || {
        exited();
        let second = VcpuId(vm() | SECOND);
        demand(syscall::vcpu_resume(second, Resume::PARK, 0), Status::Ok);
        demand(syscall::vcpu_recall(second), Status::Ok);
        demand(syscall::vcpu_resume(second, Resume::STOP, 0), Status::NotStopped);
        demand(syscall::vcpu_fetch(second, group::ALL, exit_page(1)), Status::NotStopped);
        syscall::wait(0);
    }),
];

/// What the second vCPU's id has beside the slot.
const SECOND: u64 = VcpuId::new(0, 1).0;

/// Pages of the VM: more than one call may protect.
const PAGES: u64 = 2048;

fn vm() -> u64 {
    slot("vm", kind::VM)
}

/// Waits for the port call of the guest.
fn served() {
    demand(syscall::wait(0), Status::Called);
}

/// Waits for an exit: the one of the instance before, or a recall of the vCPU, which is never entered.
fn exited() {
    let vcpu = VcpuId(vm());
    syscall::vcpu_resume(vcpu, Resume::PARK, 0);
    syscall::vcpu_recall(vcpu);
    demand(syscall::wait(0), Status::Exited);
}

/// Ends the instance in another way than any fault if something else came.
fn demand(returned: Returned, wanted: Status) {
    if returned.status() != Some(wanted) {
        syscall::abort(returned.raw);
    }
}

fn reply(length: usize, flags: u8, mask: u8) {
    served();
    let mut payload = [0; PORT_REPLY_BYTES];
    payload[0] = mask;
    message::send(&Header { length: length as u16, flags, ..Header::default() }, &payload);
    syscall::reply_wait(0);
}

fn answer(entry: u64, highest_cpl: u8, used: u8, mask: u8) {
    let mut payload = [0; ANSWER_BYTES];
    payload[..5].copy_from_slice(&[0x0a, 0, highest_cpl, used, mask]);
    message::send(&Header { length: ANSWER_BYTES as u16, ..Header::default() }, &payload);
    raw(Call::VmAnswer as u64, [vm(), entry, 0, 0]);
}

fn resume(more: u64, word: u64) {
    raw(Call::VcpuResume as u64, [vm() | more, word, 0, 0]);
}

fn fetch(more: u64, groups: u32) {
    raw(Call::VcpuFetch as u64, [vm() | more, groups.into(), 0, 0]);
}

fn recall(more: u64) {
    raw(Call::VcpuRecall as u64, [vm() | more, 0, 0, 0]);
}

fn protect(address: u64, pages: u64, rights: u64) {
    raw(Call::VmProtect as u64, [vm(), address, pages, rights]);
}
