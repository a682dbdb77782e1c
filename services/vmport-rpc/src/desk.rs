//! The service at work: table filled, calls answered, channels swept.

use crate::channels::{Channels, Outside};
use crate::clock::wall;
use crate::commands::{Machine, Now, command};
use crate::layout::{FEWEST_BLOCKS, MOST_KEYS};
use crate::notes::{BURST, escaped};
use crate::preset::Omitted;
use crate::store::Store;
use crate::sweep::PERIOD;
use portcullis_ipc::guestinfo::{KEYS, TOTAL_BYTES};
use portcullis_ipc::message::{FROM_CORE, Header};
use portcullis_ipc::port::{PortCall, register};
use portcullis_ipc::proto::vmport::{HighBandwidth, MachineReset, MachineResetDone, PIECE};
use portcullis_ipc::proto::{Refusal, Request};
use portcullis_runtime::allowance::Allowance;
use portcullis_runtime::call::{Incoming, Reply};
use portcullis_runtime::handle::{Timer, Vm, bad_config, missing};
use portcullis_runtime::lease::Borrowed;
use portcullis_runtime::pages::{Damaged, RegionWords, blob, info, journal, platform};
use portcullis_runtime::random::random;
use portcullis_runtime::serve::{Service, serve};
use portcullis_runtime::start::Start;
use portcullis_runtime::time::tsc;
use portcullis_runtime::{message, syscall};

portcullis_runtime::entry!(main);

/// Version of the virtual hardware where the image names none.
const HARDWARE: u64 = 13;
/// Version of the state.
const VERSION: u32 = 1;
/// Schema of the state: its layout, and the number of keys, on which places depend.
const SCHEMA: u64 = 0x7670_7270_6301_0000;

fn main(start: Start) -> ! {
    let Some(vm) = Vm::find("vm") else { missing("vm") };
    let hardware = info().number("vm.hardware").unwrap_or(HARDWARE);
    let hardware = match u32::try_from(hardware) {
        Ok(version @ 1..=99) => version,
        _ => bad_config("vm.hardware", "a number from 1 to 99"),
    };
    let keys = info().number("guestinfo.keys").unwrap_or(KEYS as u64);
    if !(1..=MOST_KEYS as u64).contains(&keys) {
        bad_config("guestinfo.keys", "a number from 1 to 1024");
    }
    let platform = platform();
    let machine = Machine { tsc_hz: platform.tsc_hz, lapic_hz: platform.lapic_hz, hardware };
    let filled = fill(vm, &machine);
    let (journal, _) = journal("vmport-rpc", VERSION, SCHEMA | keys, 0);
    let channels = Store::open(journal, keys as usize).map(|store| Channels { store });
    let mut desk = Desk {
        machine,
        channels,
        around: Around { tsc_hz: platform.tsc_hz.max(1), allowance: Allowance::new(BURST) },
        sweep: Timer::find("sweep"),
        piece: [0; PIECE],
    };
    desk.announce();
    desk.preset();
    desk.arm();
    defmt::info!("vmport-rpc ready, generation {=u32}, {=usize} answers in the core", start.generation, filled);
    serve(start, &mut desk)
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
    /// `None` without a state region that can hold them.
    channels: Option<Channels<RegionWords>>,
    around: Around,
    sweep: Option<Timer>,
    piece: [u8; PIECE],
}

/// The machine as the channels see it.
struct Around {
    tsc_hz: u64,
    allowance: Allowance,
}

impl Outside for Around {
    fn second(&self) -> u32 {
        (tsc() / self.tsc_hz) as u32
    }

    fn entropy(&mut self) -> u64 {
        random().unwrap_or_else(tsc)
    }

    fn log(&mut self, line: &[u8]) {
        if self.may_say() {
            defmt::info!("guest: {=str}", escaped(line).as_str());
        }
    }

    fn told(&mut self, what: &'static str, value: &[u8]) {
        if self.may_say() {
            defmt::info!("the guest's {=str}: {=str}", what, escaped(value).as_str());
        }
    }

    fn told_structure(&mut self, what: &'static str, bytes: usize) {
        if self.may_say() {
            defmt::info!("the guest's {=str}: {=usize} bytes that are not text", what, bytes);
        }
    }

    fn refused(&mut self, name: &[u8]) {
        if self.may_say() {
            defmt::warn!("a second program of the guest is \"{=str}\": it gets no commands", escaped(name).as_str());
        }
    }
}

impl Around {
    /// Whether a line that the guest causes may be logged; tells how many were left out before it.
    fn may_say(&mut self) -> bool {
        let Some(omitted) = self.allowance.take(self.second()) else { return false };
        if omitted > 0 {
            defmt::warn!("{=u32} lines of the guest left out: it may log one a second", omitted);
        }
        true
    }
}

impl Desk {
    fn announce(&self) {
        match &self.channels {
            Some(channels) => defmt::info!(
                "{=usize} of {=usize} blocks free, guestinfo {=usize} of {=usize} keys, {=usize} of {=usize} bytes",
                channels.store.free_blocks,
                channels.store.layout.blocks,
                channels.store.entries(),
                channels.store.layout.keys,
                channels.store.info_bytes,
                TOTAL_BYTES
            ),
            None => defmt::info!(
                "no message channels: they need a state region with {=usize} blocks, add state = \"1792K\"",
                FEWEST_BLOCKS
            ),
        }
    }

    /// Takes over the guestinfo that the image brings.
    fn preset(&mut self) {
        let Some(channels) = &mut self.channels else { return };
        let bytes = match blob("guestinfo") {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return,
            Err(Damaged) => {
                defmt::error!(
                    "guestinfo of the image is corrupt, its CRC-32C differs: build the image anew; no key is set"
                );
                return;
            }
        };
        match channels.preset(bytes) {
            Ok(0) => {}
            Ok(count) => defmt::info!("guestinfo of the image: {=usize} keys", count),
            Err((index, why)) => {
                let why = match why {
                    Omitted::Invalid(_) => "the blob is damaged: build the image again",
                    Omitted::Keys => "too many keys: raise guestinfo.keys",
                    Omitted::Bytes => "too many bytes: shorten values, or enlarge the state region",
                };
                defmt::error!("guestinfo of the image ends before entry {=usize}: {=str}", index, why);
            }
        }
    }

    fn arm(&self) {
        if let Some(timer) = self.sweep {
            timer.set(tsc() + u64::from(PERIOD) * self.around.tsc_hz);
        }
    }

    fn port(&mut self, call: &Incoming<'_>, reply: &mut Reply) -> Result<(), Refusal> {
        if call.header.source != FROM_CORE {
            return Err(Refusal::Denied);
        }
        let call = call.decode::<PortCall>()?;
        let answer = match &mut self.channels {
            Some(channels) if call.register(register::ECX) as u16 == command::MESSAGE => {
                channels.message(&call, &mut self.around)
            }
            channels => {
                let synchronizes = channels.as_ref().is_some_and(|channels| channels.synchronizes());
                self.machine.answer(&call, &Now { wall: wall(&platform(), tsc()), synchronizes })
            }
        };
        reply.put(&answer);
        Ok(())
    }

    fn string(&mut self, call: &Incoming<'_>, reply: &mut Reply) -> Result<(), Refusal> {
        let request = call.decode::<HighBandwidth>()?;
        let lease = Borrowed::of(&call.header, 0).ok_or(Refusal::Malformed)?;
        let channels = self.channels.as_mut().ok_or(Refusal::Unsupported)?;
        let length = request.count.min(PIECE as u64) as usize;
        let length = length.min(request.lent.into());
        let piece = self.piece.get_mut(..length).unwrap_or_default();
        if !request.input {
            lease.read(0, piece).map_err(|_| Refusal::Malformed)?;
        }
        let moved = channels.string(&request, piece, &mut self.around);
        if request.input && moved.ebx != 0 {
            let moved = moved.moved.min(length as u64) as usize;
            lease.write(0, piece.get(..moved).unwrap_or_default()).map_err(|_| Refusal::Malformed)?;
        }
        reply.put(&moved);
        Ok(())
    }
}

impl Service for Desk {
    fn called(&mut self, call: &Incoming<'_>, reply: &mut Reply) -> Result<(), Refusal> {
        match call.header.key {
            PortCall::KEY => self.port(call, reply),
            HighBandwidth::KEY if call.header.source != FROM_CORE => self.string(call, reply),
            MachineReset::KEY if call.header.source != FROM_CORE => {
                let request = call.decode::<MachineReset>()?;
                if let Some(channels) = &mut self.channels {
                    channels.machine_reset(request.sequence);
                }
                reply.put(&MachineResetDone);
                Ok(())
            }
            _ => Err(Refusal::Unsupported),
        }
    }

    fn notified(&mut self, bits: u64) {
        if self.sweep.is_some_and(|timer| bits & timer.bits != 0) {
            let second = self.around.second();
            let closed = self.channels.as_mut().map_or(0, |channels| channels.sweep(second));
            if closed > 0 {
                defmt::info!("{=u32} idle channels closed", closed);
            }
            self.arm();
        }
    }
}
