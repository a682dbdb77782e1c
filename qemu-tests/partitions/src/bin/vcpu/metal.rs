//! Capabilities: VM `vm`, timer `tick`, the console.

use portcullis_ipc::exit::{Reason, access, event, group, shadow, window};
use portcullis_ipc::syscall::{Resume, Status, rights};
use portcullis_runtime::handle::{Timer, missing};
use portcullis_runtime::start::Start;
use portcullis_runtime::syscall;
use portcullis_runtime::time::{ticks, tsc};
use portcullis_test_partitions::console::Console;
use portcullis_test_partitions::field;
use portcullis_test_partitions::vcpu::{CODE, STACK, Vcpu};

portcullis_runtime::entry!(main);

/// Guest address of the handler that [`Test::vector`] sets up: `OUT 0x10, AL; CPUID`.
const HANDLER: u64 = 0x2000;
/// A page of its own for accesses that are refused.
const GUARDED: u64 = 0x1_0000;
const CPUID: [u8; 2] = [0x0f, 0xa2];
const INTERRUPTS_ON: u64 = 1 << 9;

struct Test {
    vcpu: Vcpu,
    tick: Timer,
    console: Console,
    failed: u32,
}

fn main(_start: Start) -> ! {
    let Some(tick) = Timer::find("tick") else { missing("tick") };
    let mut test = Test { vcpu: Vcpu::find(), tick, console: Console::find(), failed: 0 };
    test.registers();
    test.injection();
    test.windows();
    test.interrupted_event();
    test.nested_faults();
    test.parking_and_recall();
    test.time();
    test.extended_state();
    test.system_registers();
    test.shutdown();
    let failed = test.failed;
    test.console.demand(failed == 0, format_args!("vcpu: {failed} checks failed"));
    test.console.pass("vcpu")
}

impl Test {
    fn check(&mut self, pass: bool, what: &str, reason: Option<u32>) {
        self.failed += u32::from(!pass);
        let word = if pass { "ok" } else { "FAIL" };
        let (rip, first) = (self.vcpu.get(field!(rip)), self.vcpu.get(field!(qualification)));
        self.console.line(format_args!("vcpu {word}: {what}: reason {reason:?} rip {rip:#x} qualification {first:#x}"));
    }

    /// A fresh real-mode state with this code.
    fn code(&self, bytes: &[u8]) -> Vcpu {
        self.vcpu.memory(CODE, &[0xf4; 64]);
        self.vcpu.memory(CODE, bytes);
        self.vcpu.real_mode();
        self.vcpu
    }

    fn vector(&self, vector: u8) {
        self.vcpu.memory(HANDLER, &[0xe6, 0x10, 0x0f, 0xa2]);
        self.vcpu.memory(u64::from(vector) * 4, &[0, 0x20, 0, 0]);
    }

    fn in_handler(&self, reason: Option<u32>) -> bool {
        reason == Some(Reason::Io as u32) && self.vcpu.get(field!(rip)) == HANDLER
    }

    fn registers(&mut self) {
        let vcpu = self.code(&CPUID);
        let value = |index: usize| 0x1111_2222_3333_0000u64.wrapping_mul(index as u64 + 1);
        for index in 0..16 {
            vcpu.set(field!(registers, index), value(index));
        }
        let reason = vcpu.enter();
        let kept = (0..16).all(|index| vcpu.get(field!(registers, index)) == value(index));
        self.check(
            reason == Some(Reason::Cpuid as u32) && kept && vcpu.get(field!(rip)) == CODE,
            "registers kept over an exit",
            reason,
        );
    }

    fn injection(&mut self) {
        for (what, vector, word) in [
            ("interrupt", 0x40, event::interrupt(0x40)),
            ("NMI", 2, event::VALID | event::NMI << event::TYPE_SHIFT | 2),
            ("#UD", 6, event::exception(6, None)),
        ] {
            self.vector(vector);
            let vcpu = self.code(&CPUID);
            vcpu.set(field!(rflags), 2 | INTERRUPTS_ON);
            vcpu.set(field!(event), word);
            let reason = vcpu.enter();
            let pass = self.in_handler(reason) && vcpu.get(field!(event)) == 0;
            self.check(pass, what, reason);
        }
    }

    fn windows(&mut self) {
        let open = |vcpu: Vcpu, window: u32, shadow: u32| {
            vcpu.set(field!(shadow), u64::from(window) << 32 | u64::from(shadow))
        };
        // sti; nop; nop; cpuid
        let vcpu = self.code(&[0xfb, 0x90, 0x90, 0x0f, 0xa2]);
        open(vcpu, window::INTERRUPT, 0);
        let reason = vcpu.enter();
        let place = vcpu.get(field!(rip));
        self.check(
            reason == Some(Reason::InterruptWindow as u32) && (CODE + 2..=CODE + 3).contains(&place),
            "window after STI",
            reason,
        );
        let vcpu = self.code(&[0x90, 0x0f, 0xa2]);
        open(vcpu, window::INTERRUPT, 0);
        let reason = vcpu.enter();
        self.check(reason == Some(Reason::Cpuid as u32), "no window with interrupts off", reason);
        let vcpu = self.code(&[0x90, 0x0f, 0xa2]);
        vcpu.set(field!(rflags), 2 | INTERRUPTS_ON);
        open(vcpu, window::INTERRUPT, 0);
        let reason = vcpu.enter();
        self.check(reason == Some(Reason::InterruptWindow as u32), "window at once", reason);
        // iret to the CPUID after it; NMIs are held until then.
        let vcpu = self.code(&[0xcf, 0x90, 0x90, 0x0f, 0xa2]);
        vcpu.memory(STACK - 6, &[1, 0x10, 0, 0, 2, 0]);
        vcpu.set(field!(registers, 4), STACK - 6);
        open(vcpu, window::NMI, shadow::NMI);
        let reason = vcpu.enter();
        self.check(reason == Some(Reason::NmiWindow as u32), "NMI window after IRET", reason);
    }

    fn interrupted_event(&mut self) {
        self.vector(0x41);
        let vcpu = self.code(&CPUID);
        vcpu.set(field!(rflags), 2 | INTERRUPTS_ON);
        vcpu.set(field!(event), event::interrupt(0x41));
        // The stack lies in a page that the nested table refuses.
        vcpu.set(field!(registers, 4), 0x800);
        vcpu.segment(2, (GUARDED >> 4) as u16, 0x93, 0xffff, GUARDED);
        syscall::vm_protect(vcpu.slot, GUARDED, 1, 0);
        let reason = vcpu.enter();
        let word = vcpu.get(field!(event));
        let seen = reason == Some(Reason::NestedFault as u32) && word & 0x8000_07ff == event::interrupt(0x41);
        self.check(seen, "event interrupted in delivery is shown", reason);
        syscall::vm_protect(vcpu.slot, GUARDED, 1, rights::READ | rights::WRITE | rights::EXECUTE);
        let reason = vcpu.enter();
        let pass = self.in_handler(reason);
        self.check(pass, "and delivered again", reason);
    }

    fn nested_faults(&mut self) {
        let whole = rights::READ | rights::WRITE | rights::EXECUTE;
        // mov es:[di], al with ES in the guarded page; the same as a load; a jump there.
        for (what, code, allowed, wanted) in [
            ("write to a read-only page", &[0x26, 0x88, 0x05][..], rights::READ, access::WRITE | access::PRESENT),
            ("write to an absent page", &[0x26, 0x88, 0x05], 0, access::WRITE),
            ("read of an absent page", &[0x26, 0x8a, 0x05], 0, 0),
            (
                "fetch from a page without execute",
                &[0xea, 0x10, 0, 0, 0x10],
                rights::READ | rights::WRITE,
                access::FETCH | access::PRESENT,
            ),
        ] {
            let vcpu = self.code(code);
            vcpu.segment(0, (GUARDED >> 4) as u16, 0x93, 0xffff, GUARDED);
            vcpu.set(field!(registers, 7), 0x10);
            syscall::vm_protect(vcpu.slot, GUARDED, 1, allowed);
            let reason = vcpu.enter();
            let (address, how) = (vcpu.get(field!(qualification)), vcpu.get(field!(qualification, 1)));
            let kinds = access::WRITE | access::PRESENT | access::FETCH;
            let place = address & !0xfff == GUARDED && how & kinds == wanted && how & access::GUEST_WALK == 0;
            self.check(reason == Some(Reason::NestedFault as u32) && place, what, reason);
            syscall::vm_protect(vcpu.slot, GUARDED, 1, whole);
        }
    }

    fn parking_and_recall(&mut self) {
        let vcpu = self.code(&[0xf4]);
        let reason = vcpu.enter();
        self.check(reason == Some(Reason::Hlt as u32), "HLT", reason);
        let parked = syscall::vcpu_resume(vcpu.id(), Resume::PARK, 0);
        let recalled = syscall::vcpu_recall(vcpu.id());
        let exited = syscall::wait(0);
        let pass = parked.ok()
            && recalled.ok()
            && exited.status() == Some(Status::Exited)
            && vcpu.reason() == Reason::Recall as u32;
        self.check(pass, "recall of a parked vCPU", Some(vcpu.reason()));
        // jmp $
        let vcpu = self.code(&[0xeb, 0xfe]);
        self.tick.set(tsc() + ticks(200));
        let woken = vcpu.resume_wait(Resume::ENTER, u64::MAX);
        let fetched = vcpu.fetch(group::ALL);
        let recalled = syscall::vcpu_recall(vcpu.id());
        let exited = syscall::wait(0);
        let pass = woken.status() == Some(Status::Notified)
            && fetched.status() == Some(Status::NotStopped)
            && recalled.ok()
            && exited.status() == Some(Status::Exited)
            && vcpu.reason() == Reason::Recall as u32
            && vcpu.get(field!(rip)) == CODE;
        self.check(pass, "recall of a running vCPU", Some(vcpu.reason()));
        let stopped = syscall::vcpu_resume(vcpu.id(), Resume::STOP, 0);
        let recalled = syscall::vcpu_recall(vcpu.id());
        let pass = stopped.ok() && recalled.status() == Some(Status::NotStopped);
        self.check(pass, "no recall of a stopped vCPU", None);
    }

    fn time(&mut self) {
        // rdtsc; cpuid
        let vcpu = self.code(&[0x0f, 0x31, 0x0f, 0xa2]);
        let offset = 1u64 << 50;
        vcpu.set(field!(tsc_offset), offset);
        let before = tsc();
        let reason = vcpu.enter();
        let after = tsc();
        let seen = vcpu.get(field!(registers, 2)) << 32 | vcpu.get(field!(registers, 0)) & 0xffff_ffff;
        self.check((before + offset..=after + offset).contains(&seen), "TSC offset", reason);
    }

    fn extended_state(&mut self) {
        const LOW: u64 = 0x1122_3344;
        const HIGH: u64 = 0x5566_7788_99aa_bbcc;
        const FXSR: u64 = 1 << 9;
        // movd xmm0, eax; movd ecx, xmm1; fninit; fld1; cpuid
        let vcpu = self.code(&[0x66, 0x0f, 0x6e, 0xc0, 0x66, 0x0f, 0x7e, 0xc9, 0xdb, 0xe3, 0xd9, 0xe8, 0x0f, 0xa2]);
        vcpu.set(field!(registers, 0), LOW);
        vcpu.set(field!(cr4), FXSR);
        vcpu.set(field!(xcr0), 3);
        vcpu.set(field!(xsave, 3), 0x1f80);
        vcpu.set(field!(xsave, 64), 3);
        // XMM1 stands at byte 176.
        vcpu.set(field!(xsave, 22), HIGH);
        let reason = vcpu.enter();
        let loaded = vcpu.get(field!(registers, 1)) == HIGH & 0xffff_ffff;
        vcpu.fetch(group::EXTENDED);
        // XMM0 at byte 160; ST0 at byte 32 holds 1.0 in 80 bits.
        let stored = vcpu.get(field!(xsave, 20)) == LOW && vcpu.get(field!(xsave, 4)) == 1 << 63;
        self.check(loaded && stored, "SSE and x87 state in both directions", reason);
    }

    fn system_registers(&mut self) {
        // mov eax, dr0; cpuid
        let vcpu = self.code(&[0x0f, 0x21, 0xc0, 0x0f, 0xa2]);
        let fields = [
            (field!(dr), 0x1234),
            (field!(dr, 3), 0x5678),
            (field!(star), 0x0011_0022_0033_0044),
            (field!(lstar), 0xffff_8000_0000_1000),
            (field!(cstar), 0x7fff_0000_0000),
            (field!(sfmask), 0x4700),
            (field!(kernel_gs_base), 0xffff_ffff_8000_0000),
            (field!(sysenter_cs), 0x10),
            (field!(sysenter_esp), 0x9000),
            (field!(sysenter_eip), 0xa000),
            (field!(pat), 0x0007_0406_0001_0406),
            (field!(tsc_aux), 0x5a),
            (field!(cr2), 0xdead_b000),
            (field!(cr4), 1 << 7),
        ];
        for (offset, value) in fields {
            vcpu.set(offset, value);
        }
        let reason = vcpu.enter();
        // On VMX the read exits; on SVM it does not.
        let exits = reason == Some(Reason::DebugRegister as u32) && vcpu.get(field!(qualification)) == 0;
        let read = if vcpu.is_vmx() { exits } else { vcpu.get(field!(registers, 0)) == 0x1234 };
        for (offset, _) in fields {
            vcpu.set(offset, 0);
        }
        vcpu.fetch(group::ALL);
        let wrong = fields.iter().position(|(offset, value)| vcpu.get(*offset) != *value);
        if let Some(index) = wrong {
            self.console.line(format_args!("vcpu note: system register {index} of the list came back changed"));
        }
        self.check(read && wrong.is_none(), "system registers in both directions", reason);
    }

    fn shutdown(&mut self) {
        // lidt of an empty table, then ud2
        let vcpu = self.code(&[0x0f, 0x01, 0x1e, 0x00, 0x70, 0x0f, 0x0b]);
        vcpu.memory(0x7000, &[0; 6]);
        let reason = vcpu.enter();
        self.check(reason == Some(Reason::Shutdown as u32), "triple fault", reason);
        let vcpu = self.code(&CPUID);
        let reason = vcpu.enter();
        self.check(reason == Some(Reason::Cpuid as u32), "and a fresh start after it", reason);
    }
}
