//! The edges of a machine's memory: below 3 GiB, from 4 GiB on, and the hole between them, touched by the processor
//! itself and by what the hypervisor does for it there: emulated accesses, strings at ports, walks of page tables.
#![no_std]
#![no_main]

use guests::{
    code::{Code, Place, ended},
    machine,
    memory::{peek, place as put, poke},
    paging,
    report::Report,
    run::{Mode, State, reg},
};

guests::entry!(long64, main);

const PLACE: Place = Place::ring0(Mode::Long);
const GIB: u64 = 1 << 30;
const LOW_END: u64 = 3 * GIB;
const HIGH: u64 = 4 * GIB;
const COM1: u64 = 0x3f8;
/// A port without a device.
const NO_PORT: u64 = 0x1234;
/// What COM1 must show: it is sent out of memory above 4 GiB.
const TEXT: &[u8] = b"guest edges: this line lies above 4 GiB\n";
/// The tables of the fifth GiB, in low memory that nothing else uses.
const DIRECTORY: u64 = 0x80_0000;
/// Present, writable, ring 3; and a page of 2 MiB.
const TABLE: u64 = 7;
const LARGE: u64 = 0x87;
/// A GiB whose directory lies in memory above 4 GiB and maps the hole.
const MIRROR: u64 = 6;

extern "C" fn main(memory: u64) -> ! {
    machine::init();
    let end = HIGH + memory - LOW_END;
    for index in 0..512 {
        poke(DIRECTORY + index * 8, (HIGH + (index << 21)) | LARGE);
    }
    paging::set_pointer(HIGH / GIB, DIRECTORY | TABLE);
    paging::flush();
    let mut report = Report::new("edges");
    report.note(format_args!("{} MiB, the last byte at {:#x}", memory >> 20, end - 1));
    Tests { report: &mut report, end }.all();
    report.done()
}

struct Tests<'a> {
    report: &'a mut Report,
    /// End of the memory above 4 GiB.
    end: u64,
}

impl Tests<'_> {
    fn all(&mut self) {
        self.memory_is_there();
        self.the_hole_is_not();
        self.accesses_that_straddle();
        self.strings();
        self.tables_above();
        self.code_above();
    }

    fn equal(&mut self, what: &str, found: u64, expected: u64) {
        self.report.check(found == expected, what, format_args!("{found:#x}, {expected:#x} is right"));
    }

    /// Runs code with RDI at `address`; RAX, RCX and RDX as given.
    fn run(&mut self, what: &str, bytes: &[u8], address: u64, values: [u64; 3]) -> State {
        let code = Code::new(Mode::Long).raw(bytes);
        let after = code.run(PLACE, |state| {
            state.registers[reg::RDI] = address;
            state.registers[reg::RSI] = address;
            [state.registers[reg::RAX], state.registers[reg::RCX], state.registers[reg::RDX]] = values;
        });
        self.report.check(ended(&after, &code), what, format_args!("vector {} rip {:x}", after.vector, after.rip));
        after
    }

    fn memory_is_there(&mut self) {
        let places = [0x90_0000, LOW_END - 8, HIGH, self.end - 8];
        for (index, address) in places.into_iter().enumerate() {
            self.equal("memory starts as zero", peek(address), 0);
            poke(address, 0x0101_0101_0101_0101 * (index as u64 + 1));
        }
        for (index, address) in places.into_iter().enumerate() {
            self.equal("each edge has a word of its own", peek(address), 0x0101_0101_0101_0101 * (index as u64 + 1));
        }
    }

    fn the_hole_is_not(&mut self) {
        for address in [LOW_END, LOW_END + 0x1000, HIGH - 8, self.end, HIGH + GIB - 8] {
            poke(address, 0x5555_5555_5555_5555_u64);
            self.equal("outside memory a word reads all ones", peek(address), u64::MAX);
        }
        self.equal("no word of the hole is one at 0", peek::<u64>(0x90_0000), 0x0101_0101_0101_0101);
        self.equal("nor one at 4 GiB", peek::<u64>(HIGH), 0x0303_0303_0303_0303);
        self.equal("nor the last one", peek::<u64>(self.end - 8), 0x0404_0404_0404_0404);
    }

    /// MOV with eight bytes, four of them in memory.
    fn accesses_that_straddle(&mut self) {
        let read = [0x48, 0x8b, 0x07];
        let write = [0x48, 0x89, 0x07];
        let value = 0x1122_3344_5566_7788;
        for (what, address, inside, read_back) in [
            ("across 3 GiB", LOW_END - 4, LOW_END - 4, 0xffff_ffff_5566_7788),
            ("across 4 GiB", HIGH - 4, HIGH, 0x1122_3344_ffff_ffff),
            ("across the end", self.end - 4, self.end - 4, 0xffff_ffff_5566_7788),
        ] {
            self.run(what, &write, address, [value, 0, 0]);
            let part = if inside == HIGH { 0x1122_3344 } else { 0x5566_7788 };
            self.equal("what lies in memory is written", peek::<u32>(inside).into(), part);
            let after = self.run(what, &read, address, [0; 3]);
            self.equal("the rest reads all ones", after.registers[reg::RAX], read_back);
        }
    }

    fn strings(&mut self) {
        // REP INSB from a port without a device, up to the end of memory below 3 GiB and on above 4 GiB.
        for (what, address) in [("INSB below 3 GiB", LOW_END - 16), ("INSB above 4 GiB", HIGH + 0x1000)] {
            for index in 0..16 {
                poke(address + index, 0x33_u8);
            }
            self.run(what, &[0xf3, 0x6c], address, [0, 15, NO_PORT]);
            self.equal("the bytes of the port are in memory", peek(address), u64::MAX);
            self.equal("and no more of them", peek::<u8>(address + 15).into(), 0x33);
        }
        put(self.end - TEXT.len() as u64, TEXT);
        let first = self.end - TEXT.len() as u64;
        let after = self.run("OUTSB above 4 GiB", &[0xf3, 0x6e], first, [0, TEXT.len() as u64, COM1]);
        self.equal("all bytes went", after.registers[reg::RSI], self.end);
    }

    fn tables_above(&mut self) {
        let directory = HIGH + 0x10_0000;
        poke(directory, LOW_END | LARGE);
        poke(directory + 8, HIGH | LARGE);
        paging::set_pointer(MIRROR, directory | TABLE);
        paging::flush();
        let mirrored = MIRROR * GIB + (2 << 20);
        self.equal("tables above 4 GiB are tables", peek(mirrored + 8), peek(HIGH + 8));
        let after = self.run("an access that is emulated walks them", &[0x48, 0x8b, 0x07], MIRROR * GIB, [0; 3]);
        self.equal("it finds no memory", after.registers[reg::RAX], u64::MAX);
    }

    /// Code above 4 GiB, which the hypervisor fetches to emulate it.
    fn code_above(&mut self) {
        let target = HIGH + 0x3000;
        put(target, &[0x48, 0x8b, 0x07, 0xc3]);
        // The register that holds the address is RCX.
        let state = self.run("code above 4 GiB reads the hole", &[0xff, 0xd1], LOW_END, [0, target, 0]);
        self.equal("and finds no memory", state.registers[reg::RAX], u64::MAX);
    }
}
