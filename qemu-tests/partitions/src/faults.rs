//! The ways in which `test-crash` ends, and the fault record that each must leave.

use crate::vm_faults;
use core::arch::asm;
use portcullis_ipc::image::kind;
use portcullis_ipc::layout::{INFO_PAGE, STATE_REGION, USER_BASE};
use portcullis_ipc::message::{Header, Lease};
use portcullis_ipc::platform::PlatformPage;
use portcullis_ipc::record::{cause, misuse};
use portcullis_ipc::syscall::{Call, Id, Resume, Status, control, rights};
use portcullis_runtime::pages::{info, platform};
use portcullis_runtime::{message, syscall};

/// One way to end.
pub struct Fault {
    /// Name.
    pub name: &'static str,
    /// Ends the instance.
    pub run: fn(),
    /// Cause in the fault record.
    pub cause: u8,
    /// Vector or system call; `None`: any.
    pub detail: Option<u8>,
    /// Error code, misuse or reason; `None`: any.
    pub code: Option<u32>,
}

const fn exception(name: &'static str, vector: u8, code: Option<u32>, run: fn()) -> Fault {
    Fault { name, run, cause: cause::EXCEPTION, detail: Some(vector), code }
}

pub(crate) const fn misused(name: &'static str, call: Call, code: u32, run: fn()) -> Fault {
    Fault { name, run, cause: cause::MISUSE, detail: Some(call as u8), code: Some(code) }
}

/// A slot that no manifest of a test fills.
const EMPTY: u64 = 60;
const USER_NOT_PRESENT: u32 = 4;
const USER_WRITE: u32 = 7;

/// The table that the configuration of both sides names with `table`: faults of a partition on its own (0), of one that
/// serves a VM's port (1), and of one that serves a VM's exits (2).
pub fn table() -> &'static [Fault] {
    match info().number("table") {
        Some(1) => vm_faults::PORT,
        Some(2) => vm_faults::EXIT,
        _ => FAULTS,
    }
}

/// Faults of a partition on its own; `crash` takes number generation - 1.
static FAULTS: &[Fault] = &[
    exception("read at 0", 14, None, || read(0)),
    exception("read of the core", 14, None, || read(0x20_0000)),
    exception("read above the segments", 14, Some(USER_NOT_PRESENT), || read(0x6fff_f000)),
    exception("read at a non-canonical address", 13, Some(0), || read(1 << 47)),
    exception("write to code", 14, Some(USER_WRITE), || write(USER_BASE)),
    exception("write to the information page", 14, Some(USER_WRITE), || write(INFO_PAGE)),
    exception("jump to data", 14, Some(0x15), jump_to_data),
    exception("stack overflow", 14, Some(6), || {
        recurse(u64::MAX);
    }),
    // SAFETY: each of these blocks ends the instance with an exception; nothing runs after it.
    exception("ud2", 6, None, || unsafe { asm!("ud2") }),
    // SAFETY: as above.
    exception("division by zero", 0, None, || unsafe {
        asm!("xor ecx, ecx", "div ecx", out("eax") _, out("ecx") _, out("edx") _)
    }),
    // SAFETY: as above.
    exception("fninit", 7, None, || unsafe { asm!("fninit") }),
    // SAFETY: as above.
    exception("cli", 13, Some(0), || unsafe { asm!("cli") }),
    // SAFETY: as above.
    exception("hlt", 13, Some(0), || unsafe { asm!("hlt") }),
    // SAFETY: as above.
    exception("in without a capability", 13, Some(0), || unsafe { asm!("in al, dx", in("dx") 0x3f8u16, out("al") _) }),
    // SAFETY: as above.
    exception("rdmsr", 13, Some(0), || unsafe { asm!("rdmsr", in("ecx") 0xc000_0080u32, out("eax") _, out("edx") _) }),
    // SAFETY: as above.
    exception("mov from cr3", 13, Some(0), || unsafe { asm!("mov {}, cr3", out(reg) _) }),
    // SAFETY: as above.
    exception("int 0x80", 13, None, || unsafe { asm!("int 0x80") }),
    // SAFETY: as above; the trap comes after the instruction that follows POPFQ, the system call's included.
    exception("trap flag across a system call", 1, None, || unsafe {
        asm!("pushfq", "or qword ptr [rsp], 0x100", "mov eax, 3", "popfq", "nop", out("rax") _)
    }),
    Fault {
        name: "no such system call",
        run: || raw(22, [0; 4]),
        cause: cause::MISUSE,
        detail: None,
        code: Some(misuse::NUMBER),
    },
    Fault {
        name: "system call -1",
        run: || raw(u64::MAX, [0; 4]),
        cause: cause::MISUSE,
        detail: None,
        code: Some(misuse::NUMBER),
    },
    misused("call of an empty slot", Call::Call, misuse::SLOT, || with_header(Header::default(), EMPTY)),
    misused("call of a slot of another kind", Call::Call, misuse::SLOT, || {
        with_header(Header::default(), slot("timer", kind::TIMER))
    }),
    misused("call of slot 65535", Call::Call, misuse::SLOT, || with_header(Header::default(), 0xffff)),
    misused("call with 257 bytes", Call::Call, misuse::HEADER, || {
        with_header(Header { length: 257, ..Header::default() }, peer())
    }),
    misused("call with 5 leases", Call::Call, misuse::HEADER, || {
        with_header(Header { leases: 5, ..Header::default() }, peer())
    }),
    misused("lease of the core", Call::Call, misuse::LEASE, || lend(0x20_0000, 4096, rights::READ)),
    misused("lease of code for execution", Call::Call, misuse::LEASE, || {
        lend(USER_BASE, 64, rights::READ | rights::EXECUTE);
    }),
    misused("lease with an unknown right", Call::Call, misuse::LEASE, || {
        lend_word(USER_BASE, 64, u32::from(rights::READ) | 1 << 8);
    }),
    misused("lease of 1 MiB and a byte of its state", Call::Call, misuse::LEASE, || {
        lend(STATE_REGION, (1 << 20) + 1, rights::READ);
    }),
    misused("lease that wraps around", Call::Call, misuse::LEASE, || lend(u64::MAX - 100, 4096, rights::READ)),
    misused("lease over 1 MiB", Call::Call, misuse::LEASE, || lend(USER_BASE, (1 << 20) + 1, rights::READ)),
    misused("lease of code for writing", Call::Call, misuse::LEASE, || lend(USER_BASE, 64, rights::WRITE)),
    misused("reply to nobody", Call::ReplyWait, misuse::PROTOCOL, || raw(Call::ReplyWait as u64, [u64::MAX, 0, 0, 0])),
    misused("notify of an empty slot", Call::Notify, misuse::SLOT, || {
        raw(Call::Notify as u64, [EMPTY | 1 << 32, 1, 0, 0])
    }),
    misused("notify of foreign bits", Call::Notify, misuse::RIGHT, || {
        raw(Call::Notify as u64, [slot("note", kind::NOTIFICATION) | 1 << 32, u64::MAX, 0, 0]);
    }),
    misused("lease read into code", Call::LeaseRead, misuse::MEMORY, || {
        raw(Call::LeaseRead as u64, [0, 0, USER_BASE, 8]);
    }),
    misused("lease write from the core", Call::LeaseWrite, misuse::MEMORY, || {
        raw(Call::LeaseWrite as u64, [0, 0, 0x20_0000, 8]);
    }),
    misused("lease copy of 4097 bytes", Call::LeaseWrite, misuse::ARGUMENT, || {
        raw(Call::LeaseWrite as u64, [0, 0, USER_BASE, 4097]);
    }),
    misused("resume without a VM", Call::VcpuResume, misuse::SLOT, || {
        raw(Call::VcpuResume as u64, [EMPTY, Resume::ENTER, 0, 0])
    }),
    misused("fetch without a VM", Call::VcpuFetch, misuse::SLOT, || raw(Call::VcpuFetch as u64, [EMPTY, 1, 0, 0])),
    misused("recall without a VM", Call::VcpuRecall, misuse::SLOT, || raw(Call::VcpuRecall as u64, [EMPTY, 0, 0, 0])),
    misused("protect without a VM", Call::VmProtect, misuse::SLOT, || raw(Call::VmProtect as u64, [EMPTY, 0, 1, 1])),
    misused("answer without a VM", Call::VmAnswer, misuse::SLOT, || raw(Call::VmAnswer as u64, [EMPTY, 0, 0, 0])),
    misused("port in an empty slot", Call::PortIo, misuse::SLOT, || raw(Call::PortIo as u64, [EMPTY, 0x3f8, 0, 1])),
    misused("port below the range", Call::PortIo, misuse::RIGHT, || port(0x2e7, 1)),
    misused("port at the end of the range, 4 bytes", Call::PortIo, misuse::RIGHT, || port(0x2ef, 4)),
    misused("port access of 3 bytes", Call::PortIo, misuse::ARGUMENT, || port(0x2e8, 3)),
    misused("port access of an unknown form", Call::PortIo, misuse::ARGUMENT, || port(0x2e8, 1 | 1 << 9)),
    misused("port past 16 bits", Call::PortIo, misuse::ARGUMENT, || port(0x1_02e8, 1)),
    misused("msr read in an empty slot", Call::MsrRead, misuse::SLOT, || {
        raw(Call::MsrRead as u64, [EMPTY, 0x10, 0, 0])
    }),
    misused("msr write in an empty slot", Call::MsrWrite, misuse::SLOT, || {
        raw(Call::MsrWrite as u64, [EMPTY, 0x10, 0, 0])
    }),
    misused("acknowledge of an empty slot", Call::InterruptAck, misuse::SLOT, || {
        raw(Call::InterruptAck as u64, [EMPTY, 0, 0, 0])
    }),
    misused("timer in an empty slot", Call::TimerSet, misuse::SLOT, || raw(Call::TimerSet as u64, [EMPTY, 0, 0, 0])),
    misused("timer in a slot of another kind", Call::TimerSet, misuse::SLOT, || {
        raw(Call::TimerSet as u64, [slot("ports", kind::PORTS), 0, 0, 0])
    }),
    misused("kill without the right", Call::PartitionControl, misuse::RIGHT, || {
        raw(Call::PartitionControl as u64, [slot("peer", kind::PARTITION) | 1 << 32, control::KILL, 0, 0]);
    }),
    misused("restart without the right", Call::PartitionControl, misuse::RIGHT, || {
        raw(Call::PartitionControl as u64, [slot("peer", kind::PARTITION) | 1 << 32, control::RESTART, 0, 0]);
    }),
    misused("status without the right", Call::PartitionStatus, misuse::RIGHT, || {
        raw(Call::PartitionStatus as u64, [slot("judge", kind::PARTITION), 0, 0, 0]);
    }),
    misused("msr read below the range", Call::MsrRead, misuse::RIGHT, || msr(Call::MsrRead, "msr-read", 0xe6)),
    misused("msr read past the range", Call::MsrRead, misuse::RIGHT, || msr(Call::MsrRead, "msr-read", 0xe8)),
    misused("msr read past 32 bits", Call::MsrRead, misuse::RIGHT, || msr(Call::MsrRead, "msr-read", 0x1_0000_00e7)),
    misused("msr write without the right", Call::MsrWrite, misuse::RIGHT, || msr(Call::MsrWrite, "msr-read", 0xe7)),
    misused("status in an empty slot", Call::PartitionStatus, misuse::SLOT, || {
        raw(Call::PartitionStatus as u64, [EMPTY, 0, 0, 0])
    }),
    misused("log frame of 513 bytes", Call::LogWrite, misuse::ARGUMENT, || raw(Call::LogWrite as u64, [513, 0, 0, 0])),
    misused("log read without the capability", Call::LogRead, misuse::SLOT, || {
        raw(Call::LogRead as u64, [EMPTY, 0, 0, 0])
    }),
    misused("clock without the capability", Call::ClockSet, misuse::SLOT, || {
        raw(Call::ClockSet as u64, [EMPTY, 1, 1, 0])
    }),
    Fault {
        name: "abort after the clock was set once",
        run: clock_twice,
        cause: cause::ABORTED,
        detail: None,
        code: Some(SET_ONCE),
    },
    Fault { name: "abort", run: || syscall::abort(0x1234), cause: cause::ABORTED, detail: None, code: Some(0x1234) },
    Fault { name: "endless work", run: || forever(), cause: cause::HUNG, detail: None, code: None },
];

/// Reason of the end by [`clock_twice`].
const SET_ONCE: u32 = 0x1235;

/// A clock that is set keeps its time.
fn clock_twice() {
    const FIRST: u64 = 1_700_000_000_000_000_000;
    let set = |time| system_call(Call::ClockSet as u64, [slot("clock", kind::CLOCK), time, 1, 0]).0;
    let both = [set(FIRST), set(FIRST + 1)];
    let PlatformPage { wall_ns, wall_tsc, .. } = platform();
    if both == [Status::Ok as u64, Status::Full as u64] && (wall_ns, wall_tsc) == (FIRST, 1) {
        syscall::abort(SET_ONCE.into());
    }
}

fn read(address: u64) {
    // SAFETY: the address is not readable; the load ends the instance.
    unsafe { asm!("mov al, [{}]", in(reg) address, out("al") _, options(nostack)) };
}

fn write(address: u64) {
    // SAFETY: the address is not writable; the store ends the instance.
    unsafe { asm!("mov byte ptr [{}], 0", in(reg) address, options(nostack)) };
}

fn jump_to_data() {
    let data = [0xc3u8; 16];
    // SAFETY: the stack is not executable; the call ends the instance.
    unsafe { asm!("call {}", in(reg) &data) };
}

#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let filler = core::hint::black_box([depth; 64]);
    if depth == 0 { 0 } else { recurse(depth - 1) ^ filler.iter().fold(0, |all, word| all ^ word) }
}

fn forever() {
    loop {
        core::hint::spin_loop();
    }
}

pub(crate) fn raw(number: u64, arguments: [u64; 4]) {
    system_call(number, arguments);
}

/// A system call by number, with any arguments.
pub fn system_call(number: u64, arguments: [u64; 4]) -> (u64, u64) {
    let [a, b, c, d] = arguments;
    let (status, value);
    // SAFETY: the core writes only pages and buffers that nothing here borrows; a refused call ends the instance.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => status,
            in("rdi") a,
            in("rsi") b,
            inlateout("rdx") c => value,
            in("r10") d,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    (status, value)
}

pub(crate) fn slot(name: &str, kind: u8) -> u64 {
    info().slot(name, kind).map_or(EMPTY, |found| found.slot.into())
}

fn peer() -> u64 {
    slot("peer", kind::ENDPOINT)
}

fn with_header(header: Header, slot: u64) {
    message::send(&header, &[]);
    syscall::call(Id(slot | 1 << 32));
}

fn lend(address: u64, length: u32, rights: u8) {
    lend_word(address, length, rights.into());
}

fn lend_word(address: u64, length: u32, rights: u32) {
    message::leases(&[Lease { address, length, rights }]);
    with_header(Header { leases: 1, ..Header::default() }, peer());
}

fn msr(call: Call, name: &str, number: u64) {
    raw(call as u64, [slot(name, kind::MSRS), number, 0, 0]);
}

fn port(port: u64, width: u64) {
    raw(Call::PortIo as u64, [slot("ports", kind::PORTS), port, 0, width]);
}
