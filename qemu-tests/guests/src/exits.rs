//! One test for each reason that makes the processor leave a guest, in the mode that is given.

use crate::code::{Code, Place, ended};
use crate::machine::{CODE, DATA};
use crate::memory::{cpuid, peek, place as put, poke};
use crate::paging;
use crate::report::Report;
use crate::run::{Mode, State, reg};

const PAT: u64 = 0x277;
const EFER: u64 = 0xc000_0080;
const NO_MSR: u64 = 0x1234_5678;
/// A port without a device.
const NO_PORT: u64 = 0x1234;
const GENERAL_PROTECTION: u64 = 13;
const UNDEFINED: u64 = 6;
const DEBUG: u64 = 1;
/// GD of DR7 and BD of DR6.
const GENERAL_DETECT: u64 = 1 << 13;

/// The tests of one mode.
pub struct Tests<'a> {
    /// Where results go.
    pub report: &'a mut Report,
    /// Where the code runs.
    pub place: Place,
}

impl Tests<'_> {
    fn code(&self) -> Code {
        Code::new(self.place.mode)
    }

    fn low(&self, value: u64) -> u64 {
        if self.place.mode == Mode::Long { value } else { value & 0xffff_ffff }
    }

    fn quiet(
        &mut self,
        what: &str,
        code: Code,
        set: impl FnOnce(&mut State),
        accept: impl FnOnce(&State) -> bool,
    ) -> State {
        let after = code.run(self.place, set);
        let [rax, rcx, rdx, rbx, ..] = after.registers;
        self.report.check(
            ended(&after, &code) && accept(&after),
            what,
            format_args!(
                "{} vector {} rip {:x} rax {rax:x} rbx {rbx:x} rcx {rcx:x} rdx {rdx:x}",
                self.place, after.vector, after.rip
            ),
        );
        after
    }

    fn fault(&mut self, what: &str, code: Code, vectors: &[u64], set: impl FnOnce(&mut State)) {
        let after = code.run(self.place, set);
        self.report.check(
            vectors.contains(&after.vector) && after.rip == CODE && after.error == 0,
            what,
            format_args!("{} vector {} error {:#x} rip {:x}", self.place, after.vector, after.error, after.rip),
        );
    }

    /// All tests that every mode can make.
    pub fn common(&mut self) {
        self.processor_identity();
        self.ports();
        self.string_io();
        self.model_specific_registers();
        self.counters();
        self.control_registers();
        self.caches_and_hints();
        self.virtualization();
        self.patched_code();
    }

    fn processor_identity(&mut self) {
        self.quiet("cpuid 0", self.code().raw(&[0x0f, 0xa2]), |_| {}, |state| state.registers[reg::RAX] >= 1);
        let long = self.place.mode == Mode::Long;
        self.quiet(
            "cpuid clears upper halves",
            self.code().raw(&[0x0f, 0xa2]),
            |state| state.registers[reg::RBX] = u64::MAX,
            |state| !long || state.registers[reg::RBX] >> 32 == 0,
        );
        self.quiet(
            "cpuid with 13 prefixes",
            self.code().raw(&[0x3e; 13]).raw(&[0x0f, 0xa2]),
            |_| {},
            |state| state.registers[reg::RAX] >= 1,
        );
    }

    fn ports(&mut self) {
        let load = |state: &mut State| {
            state.registers[reg::RAX] = 0x1122_3344_5566_7788;
            state.registers[reg::RDX] = NO_PORT;
        };
        let long = self.place.mode == Mode::Long;
        let wide = if long { 0xffff_ffff } else { 0x1122_3344_ffff_ffff };
        self.quiet("in al, dx", self.code().raw(&[0xec]), load, |s| s.registers[reg::RAX] == 0x1122_3344_5566_77ff);
        self.quiet("in ax, dx", self.code().op16(&[0xed]), load, |s| s.registers[reg::RAX] == 0x1122_3344_5566_ffff);
        self.quiet("in eax, dx", self.code().op32(&[0xed]), load, |s| s.registers[reg::RAX] == wide);
        self.quiet("in al, imm8", self.code().raw(&[0xe4, 0xe7]), load, |s| {
            s.registers[reg::RAX] == 0x1122_3344_5566_77ff
        });
        self.quiet("in eax, imm8", self.code().op32(&[0xe5, 0xe7]), load, |s| s.registers[reg::RAX] == wide);
        for (what, code) in [
            ("out dx, al", self.code().raw(&[0xee])),
            ("out dx, ax", self.code().op16(&[0xef])),
            ("out dx, eax", self.code().op32(&[0xef])),
            ("out imm8, al", self.code().raw(&[0xe6, 0xe7])),
        ] {
            self.quiet(what, code, load, |s| s.registers[reg::RAX] == 0x1122_3344_5566_7788);
        }
    }

    fn string_io(&mut self) {
        const COUNT: u64 = 5;
        for (name, code, width) in [
            ("insb", self.code().raw(&[0x6c]), 1),
            ("insw", self.code().op16(&[0x6d]), 2),
            ("insd", self.code().op32(&[0x6d]), 4),
        ] {
            put(DATA, &[0; 32]);
            let after = code.run(self.place, |s| {
                (s.registers[reg::RDX], s.registers[reg::RDI], s.registers[reg::RCX]) = (NO_PORT, DATA, COUNT);
            });
            let stored = peek::<u64>(DATA);
            let pass = ended(&after, &code)
                && stored == !0u64 >> (64 - 8 * width)
                && after.registers[reg::RDI] == DATA + width;
            self.report.check(
                pass && after.registers[reg::RCX] == COUNT,
                name,
                format_args!(
                    "{} vector {} stored {stored:x} rdi {:x}",
                    self.place,
                    after.vector,
                    after.registers[reg::RDI]
                ),
            );
        }
        for (name, backwards) in [("rep insb", false), ("rep insb backwards", true)] {
            put(DATA, &[0; 32]);
            let code = self.code().raw(&[0xf3, 0x6c]);
            let start = if backwards { DATA + 4 } else { DATA };
            let after = code.run(self.place, |s| {
                (s.registers[reg::RDX], s.registers[reg::RDI], s.registers[reg::RCX]) = (NO_PORT, start, COUNT);
                s.rflags |= if backwards { 0x400 } else { 0 };
            });
            let end = if backwards { DATA - 1 } else { DATA + COUNT };
            self.report.check(
                ended(&after, &code)
                    && peek::<u64>(DATA) == 0xff_ffff_ffff
                    && after.registers[reg::RDI] == end
                    && after.registers[reg::RCX] == 0,
                name,
                format_args!(
                    "{} vector {} stored {:x} rdi {:x} rcx {:x}",
                    self.place,
                    after.vector,
                    peek::<u64>(DATA),
                    after.registers[reg::RDI],
                    after.registers[reg::RCX]
                ),
            );
        }
        let source = |s: &mut State| {
            (s.registers[reg::RDX], s.registers[reg::RSI], s.registers[reg::RCX]) = (NO_PORT, DATA, COUNT);
        };
        self.quiet("outsb", self.code().raw(&[0x6e]), source, |s| s.registers[reg::RSI] == DATA + 1);
        self.quiet("outsw", self.code().op16(&[0x6f]), source, |s| s.registers[reg::RSI] == DATA + 2);
        self.quiet("outsd", self.code().op32(&[0x6f]), source, |s| s.registers[reg::RSI] == DATA + 4);
        self.quiet("rep outsb", self.code().raw(&[0xf3, 0x6e]), source, |s| {
            s.registers[reg::RSI] == DATA + COUNT && s.registers[reg::RCX] == 0
        });
        self.quiet("rep outsd", self.code().raw(&[0xf3]).op32(&[0x6f]), source, |s| {
            s.registers[reg::RSI] == DATA + 4 * COUNT && s.registers[reg::RCX] == 0
        });
        self.quiet(
            "rep insb, count 0",
            self.code().raw(&[0xf3, 0x6c]),
            |s| s.registers[reg::RDX] = NO_PORT,
            |s| s.registers[reg::RDI] == 0,
        );
        for byte in b"\r\n" {
            poke(DATA, *byte);
            let serial = |s: &mut State| (s.registers[reg::RDX], s.registers[reg::RSI]) = (0x3f8, DATA);
            self.quiet("outsb at COM1", self.code().raw(&[0x6e]), serial, |s| s.registers[reg::RSI] == DATA + 1);
        }
    }

    fn model_specific_registers(&mut self) {
        let (read, write) = (self.code().raw(&[0x0f, 0x32]), self.code().raw(&[0x0f, 0x30]));
        self.quiet("rdmsr EFER", read, |s| s.registers[reg::RCX] = EFER, |s| s.registers[reg::RDX] == 0);
        let pattern = |s: &mut State| {
            (s.registers[reg::RCX], s.registers[reg::RAX], s.registers[reg::RDX]) = (PAT, 0x0007_0406, 0x0007_0406);
        };
        self.quiet("wrmsr PAT", write, pattern, |_| true);
        self.quiet("rdmsr PAT", read, |s| s.registers[reg::RCX] = PAT, |s| s.registers[reg::RAX] as u32 == 0x0007_0406);
        self.fault("rdmsr of no register", read, &[GENERAL_PROTECTION], |s| s.registers[reg::RCX] = NO_MSR);
        self.fault("wrmsr of no register", write, &[GENERAL_PROTECTION], |s| s.registers[reg::RCX] = NO_MSR);
        for msr in [0xc000_0100u64, 0xc000_0102, 0xc000_0082, 0x176] {
            // In one run: on the way to legacy code FS and its base are loaded anew.
            let both = self.code().raw(&[0x0f, 0x30, 0x31, 0xc0, 0x0f, 0x32]);
            let set = |s: &mut State| (s.registers[reg::RCX], s.registers[reg::RAX]) = (msr, 0x1234_5000);
            self.quiet("wrmsr, rdmsr of a base register", both, set, |s| s.registers[reg::RAX] as u32 == 0x1234_5000);
        }
    }

    fn counters(&mut self) {
        let read = self.code().raw(&[0x0f, 0x31]);
        let first = self.quiet("rdtsc", read, |_| {}, |_| true);
        self.quiet(
            "rdtsc again",
            read,
            |_| {},
            |s| {
                let value = |s: &State| s.registers[reg::RDX] << 32 | s.registers[reg::RAX] & 0xffff_ffff;
                value(s) > value(&first)
            },
        );
        if cpuid(0x8000_0001)[3] & 1 << 27 != 0 {
            self.quiet("rdtscp", self.code().raw(&[0x0f, 0x01, 0xf9]), |_| {}, |_| true);
        }
        self.fault("rdpmc", self.code().raw(&[0x0f, 0x33]), &[GENERAL_PROTECTION, UNDEFINED], |s| {
            s.registers[reg::RCX] = 0xffff;
        });
    }

    fn control_registers(&mut self) {
        let low = |value: u64| value & 0xffff_ffff;
        let read0 = self.code().raw(&[0x0f, 0x20, 0xc0]);
        let value = self
            .quiet("mov rax, cr0", read0, |_| {}, |s| (s.registers[reg::RAX] & 1 == 0) == (s.real == 1))
            .registers[reg::RAX];
        let value = self.low(value);
        // WP, AM, NE and TS come and go; the value read back is the one written.
        for bit in [16, 18, 3] {
            let code = self.code().raw(&[0x0f, 0x22, 0xc0, 0x0f, 0x20, 0xc3]);
            self.quiet(
                "mov cr0, rax",
                code,
                |s| s.registers[reg::RAX] = value ^ 1 << bit,
                |s| low(s.registers[reg::RBX] ^ value) == 1 << bit,
            );
        }
        let restore = self.code().raw(&[0x0f, 0x22, 0xc0]);
        self.quiet("mov cr0 with cache disable", restore, |s| s.registers[reg::RAX] = value | 1 << 30, |_| true);
        self.quiet("mov cr0 back", restore, |s| s.registers[reg::RAX] = value, |_| true);
        self.quiet("clts", self.code().raw(&[0x0f, 0x06]), |_| {}, |_| true);
        self.quiet("smsw", self.code().raw(&[0x0f, 0x01, 0xe0]), |_| {}, |_| true);
        self.quiet("lmsw", self.code().raw(&[0x0f, 0x01, 0xe0, 0x0f, 0x01, 0xf0]), |_| {}, |_| true);
        let two = self.code().raw(&[0x0f, 0x22, 0xd0, 0x0f, 0x20, 0xd3]);
        self.quiet("mov cr2", two, |s| s.registers[reg::RAX] = 0x1234_5000, |s| s.registers[reg::RBX] == 0x1234_5000);
        let three = self.code().raw(&[0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8, 0x0f, 0x20, 0xdb]);
        self.quiet("mov cr3", three, |_| {}, |s| low(s.registers[reg::RAX]) == low(s.registers[reg::RBX]));
        let four = self.code().raw(&[0x0f, 0x20, 0xe0]);
        let value = self.quiet("mov rax, cr4", four, |_| {}, |_| true).registers[reg::RAX];
        let value = self.low(value);
        let four = self.code().raw(&[0x0f, 0x22, 0xe0, 0x0f, 0x20, 0xe3]);
        self.quiet(
            "mov cr4, rax",
            four,
            |s| s.registers[reg::RAX] = value | 1 << 7,
            |s| low(s.registers[reg::RBX]) == value | 1 << 7,
        );
        self.quiet("mov cr4 back", four, |s| s.registers[reg::RAX] = value, |s| low(s.registers[reg::RBX]) == value);
        let debug = self.code().raw(&[0x0f, 0x23, 0xc0, 0x0f, 0x21, 0xc3]);
        self.quiet("mov dr0", debug, |s| s.registers[reg::RAX] = 0x5000, |s| s.registers[reg::RBX] == 0x5000);
        self.quiet(
            "mov rax, dr7",
            self.code().raw(&[0x0f, 0x21, 0xf8]),
            |_| {},
            |s| s.registers[reg::RAX] & 0x400 != 0,
        );
        self.general_detect();
        self.quiet("mov rax, dr6", self.code().raw(&[0x0f, 0x21, 0xf0]), |_| {}, |_| true);
        self.extended_control();
    }

    /// DR7.GD: the next write of a debug register traps before it is done, DR6.BD says so, and the one after it is done.
    fn general_detect(&mut self) {
        let write = self.code().raw(&[0x0f, 0x23, 0xf8, 0x0f, 0x23, 0xc3]);
        let after = write.run(self.place, |s| s.registers[reg::RAX] = GENERAL_DETECT | 0x400);
        let look = self.code().raw(&[0x0f, 0x21, 0xf0, 0x0f, 0x21, 0xfb]);
        let found = look.run(self.place, |_| {});
        let [status, control] = [found.registers[reg::RAX], found.registers[reg::RBX]].map(|it| it & GENERAL_DETECT);
        self.report.check(
            after.vector == DEBUG && after.rip == CODE + 3 && control == 0,
            "mov dr0 under DR7.GD",
            format_args!("{} vector {} rip {:x}, GD {control:x}", self.place, after.vector, after.rip),
        );
        self.report.check(status != 0, "DR6.BD", format_args!("{} {status:x}", self.place));
        let back = self.code().raw(&[0x0f, 0x23, 0xf0]);
        self.quiet("mov dr6", back, |s| s.registers[reg::RAX] = 0xffff_0ff0, |_| true);
    }

    fn extended_control(&mut self) {
        if cpuid(1)[2] & 1 << 26 == 0 {
            self.fault("xsetbv without XSAVE", self.code().raw(&[0x0f, 0x01, 0xd1]), &[UNDEFINED], |s| {
                s.registers[reg::RAX] = 1
            });
            return;
        }
        // CR4.OSXSAVE on, XSETBV, XGETBV, CR4 back, in one run: legacy runs load CR4 anew each time.
        let code = self
            .code()
            .raw(&[0x0f, 0x20, 0xe5])
            .raw(&[0x0f, 0x20, 0xe6])
            .op32(&[0x0f, 0xba, 0xee, 18])
            .raw(&[0x0f, 0x22, 0xe6])
            .raw(&[0x0f, 0x01, 0xd1])
            .raw(&[0x0f, 0x01, 0xd0])
            .raw(&[0x0f, 0x22, 0xe5]);
        self.quiet("xsetbv", code, |s| s.registers[reg::RAX] = 3, |s| s.registers[reg::RAX] == 3);
        let bad = self
            .code()
            .raw(&[0x0f, 0x20, 0xe6])
            .op32(&[0x0f, 0xba, 0xee, 18])
            .raw(&[0x0f, 0x22, 0xe6, 0x0f, 0x01, 0xd1]);
        let after = bad.run(self.place, |s| s.registers[reg::RAX] = 2);
        self.report.check(
            after.vector == GENERAL_PROTECTION && after.rip == CODE + bad.length() - 3,
            "xsetbv of a bad value",
            format_args!("{} vector {} rip {:x}", self.place, after.vector, after.rip),
        );
    }

    fn caches_and_hints(&mut self) {
        let pointer = |s: &mut State| s.registers[reg::RDI] = DATA;
        for (what, code) in [
            ("invlpg", self.code().through_di(&[0x0f, 0x01], 7)),
            ("wbinvd", self.code().raw(&[0x0f, 0x09])),
            ("invd", self.code().raw(&[0x0f, 0x08])),
            ("pause", self.code().raw(&[0xf3, 0x90])),
        ] {
            self.quiet(what, code, pointer, |_| true);
        }
        if cpuid(1)[2] & 1 << 3 == 0 {
            self.fault("monitor, not offered", self.code().raw(&[0x0f, 0x01, 0xc8]), &[UNDEFINED], |s| {
                s.registers[reg::RAX] = DATA
            });
            self.fault("mwait, not offered", self.code().raw(&[0x0f, 0x01, 0xc9]), &[UNDEFINED], |_| {});
        } else {
            self.quiet("monitor", self.code().raw(&[0x0f, 0x01, 0xc8]), |s| s.registers[reg::RAX] = DATA, |_| true);
        }
    }

    fn virtualization(&mut self) {
        for (what, last) in [
            ("vmrun", 0xd8),
            ("vmmcall", 0xd9),
            ("vmload", 0xda),
            ("vmsave", 0xdb),
            ("stgi", 0xdc),
            ("clgi", 0xdd),
            ("skinit", 0xde),
            ("invlpga", 0xdf),
            ("vmcall", 0xc1),
        ] {
            // Real mode knows some of them as #UD for another reason; it is #UD everywhere.
            self.fault(what, self.code().raw(&[0x0f, 0x01, last]), &[UNDEFINED], |s| s.registers[reg::RAX] = DATA);
        }
    }

    fn patched_code(&mut self) {
        // The store turns the UD2 that follows it into CPUID.
        let code = self.code().through_di(&[0x88], 1).raw(&[0x0f, 0x0b]);
        self.quiet(
            "self-modifying code",
            code,
            |s| (s.registers[reg::RDI], s.registers[reg::RCX]) = (CODE + code.length() - 1, 0xa2),
            |s| s.registers[reg::RAX] >= 1,
        );
    }

    /// Instructions that exit and lie across two pages.
    pub fn straddling(&mut self) {
        for (what, code) in [
            ("cpuid across two pages", self.code().raw(&[0x0f, 0xa2])),
            ("rdmsr across two pages", self.code().raw(&[0x0f, 0x32])),
            ("in ax, dx across two pages", self.code().raw(&[0x66, 0xed])),
            ("rep outsb across two pages", self.code().raw(&[0xf3, 0x6e])),
        ] {
            let after = code.run_straddling(self.place, 1, true, |s| {
                (s.registers[reg::RCX], s.registers[reg::RDX], s.registers[reg::RSI]) = (PAT, NO_PORT, DATA);
            });
            self.report.check(
                after.vector == crate::run::END && after.rip == paging::WINDOW + 0xfff + 4,
                what,
                format_args!("{} vector {} rip {:x}", self.place, after.vector, after.rip),
            );
        }
    }

    /// Accesses to guest-physical addresses without memory.
    pub fn outside_memory(&mut self, memory: u64) {
        let hole = memory + (64 << 20);
        let pointer = |s: &mut State| (s.registers[reg::RDI], s.registers[reg::RAX]) = (hole, 0x1122_3344);
        self.quiet("read dword outside memory", self.code().raw(&[0x8b, 0x07]), pointer, |s| {
            s.registers[reg::RAX] as u32 == u32::MAX
        });
        self.quiet("read byte outside memory", self.code().raw(&[0x8a, 0x07]), pointer, |s| {
            s.registers[reg::RAX] as u32 == 0x1122_33ff
        });
        self.quiet("write outside memory", self.code().raw(&[0x89, 0x07]), pointer, |_| true);
        self.quiet("read it again", self.code().raw(&[0x8b, 0x07]), pointer, |s| {
            s.registers[reg::RAX] as u32 == u32::MAX
        });
    }
}
