//! The service at work: events in, lines polled, frames out.

use crate::console::Console;
use crate::control::{self, REPLY};
use crate::events::Events;
use crate::frame::{Outgoing, Receiver};
use crate::input::Input;
use crate::lines::Line;
use crate::saved::{self, Consoles};
use crate::spill::{self, Spill};
use alloc::boxed::Box;
use alloc::vec;
use arrayvec::ArrayVec;
use portcullis_ipc::frame::channel;
use portcullis_ipc::limits::{LOG_READ, VMS};
use portcullis_ipc::proto::control::{self as notices, NOTICE};
use portcullis_ipc::proto::health::Healthy;
use portcullis_ipc::proto::link::{
    CONSOLE_BYTES, ConsoleInput, ConsoleRead, ConsoleWrite, ConsoleWritten, VmEvent, VmEventTaken,
};
use portcullis_ipc::proto::{Refusal, Request};
use portcullis_runtime::call::{Incoming, Reply};
use portcullis_runtime::handle::{LogReader, Notifier, Timer, missing};
use portcullis_runtime::pages::{RegionWords, counters, info, state_region};
use portcullis_runtime::serve::{Service, serve};
use portcullis_runtime::start::Start;
use portcullis_runtime::state::{StateRegion, Words};
use portcullis_runtime::time::{ticks, tsc};

portcullis_runtime::entry!(main);

/// Transmitter fillings (16 bytes) for each line at one call, on the caller's budget.
const FILLS_AT_CALL: usize = 8;
/// Transmitter fillings for each line at a tick: the longest frame and some.
const FILLS_AT_TICK: usize = 72;
/// Time between two ticks while bytes wait, microseconds.
const BUSY_TICK: u64 = 500;
/// Time between two ticks otherwise unless configured, microseconds.
const IDLE_TICK: u64 = 10_000;
/// Control replies that wait at most; a host that asks faster asks again.
const REPLIES: usize = 4;

fn main(start: Start) -> ! {
    let Some(timer) = Timer::find("tick") else { missing("tick") };
    let mut hub = Hub::new(start, timer);
    defmt::info!(
        "link ready, generation {=u32}: com1 {=bool}, com2 {=bool}",
        start.generation,
        hub.com1.is_some(),
        hub.com2.is_some()
    );
    hub.notified(timer.bits);
    serve(start, &mut hub)
}

/// What the frame on COM2 carries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Console(usize),
    Log,
    /// An event: of which VM, and its sequence.
    Event(usize, u64),
    Other,
}

struct Hub {
    com1: Option<Line>,
    com2: Option<Line>,
    timer: Timer,
    idle: u64,
    log: Option<LogReader>,
    log_frame: Spill<RegionWords>,
    log_buffer: Box<[u8; LOG_READ]>,
    listeners: [Option<Notifier>; VMS],
    consoles: Consoles,
    inputs: Box<[Input; VMS]>,
    events: [Events; VMS],
    notices: u32,
    region: StateRegion<RegionWords>,
    encoded: Box<[u8]>,
    /// Bytes of console 0 that COM1 ever took, kept in a counter of the state region.
    plain: u64,
    plain_counter: RegionWords,
    unsaved: bool,
    outgoing: Box<Outgoing>,
    source: Source,
    turn: usize,
    receiver: Box<Receiver>,
    replies: ArrayVec<(u32, ArrayVec<u8, REPLY>), REPLIES>,
    healthy: Healthy,
}

impl Hub {
    fn new(start: Start, timer: Timer) -> Self {
        let region = state_region("link", saved::VERSION, saved::SCHEMA, 1 + spill::SIZE);
        let (plain_counter, spill) = counters(1 + spill::SIZE).split(1);
        let mut encoded = vec![0; saved::MOST].into_boxed_slice();
        if region.capacity() < saved::MOST {
            defmt::warn!(
                "state region holds {=usize} bytes of {=usize} wanted: console output may be lost when link restarts",
                region.capacity(),
                saved::MOST
            );
        }
        let consoles = region
            .read(&mut encoded)
            .filter(|(head, _)| head.version == saved::VERSION)
            .map_or_else(Consoles::default, |(_, bytes)| saved::decode(bytes));
        let plain = plain_counter.load(0).max(consoles.first().map_or(0, |one| one.base));
        let names =
            ["console-0", "console-1", "console-2", "console-3", "console-4", "console-5", "console-6", "console-7"];
        Self {
            com1: Line::open("com1", "com1-irq", 0x3f8),
            com2: Line::open("com2", "com2-irq", 0x2f8),
            timer,
            idle: ticks(info().number("tick-us").unwrap_or(IDLE_TICK)),
            log: LogReader::find("log"),
            log_frame: Spill::open(spill),
            log_buffer: Box::new([0; LOG_READ]),
            listeners: names.map(Notifier::find),
            consoles,
            inputs: Box::new([Input::new(); VMS]),
            events: Default::default(),
            notices: 0,
            region,
            encoded,
            plain,
            plain_counter,
            unsaved: false,
            outgoing: Box::new(Outgoing::new()),
            source: Source::Other,
            turn: 0,
            receiver: Box::new(Receiver::new()),
            replies: ArrayVec::new(),
            healthy: Healthy { generation: start.generation, state_version: saved::VERSION, served: 0 },
        }
    }

    /// Sends what the lines take now, at most `fills` transmitter fillings each. Says whether more waits.
    fn pump(&mut self, fills: usize) -> bool {
        let plain = self.pump_plain(fills);
        let framed = self.pump_frames(fills);
        self.drop_done();
        self.save();
        plain || framed
    }

    fn pump_plain(&mut self, fills: usize) -> bool {
        let (Some(line), Some(console)) = (&self.com1, self.consoles.first()) else {
            return false;
        };
        for _ in 0..fills {
            for _ in 0..line.uart.room() {
                let Some(byte) = console.byte(self.plain) else {
                    return false;
                };
                line.uart.send(byte);
                self.plain += 1;
                // An end between the two repeats this one byte: port and counter cannot change at once.
                self.plain_counter.store(0, self.plain);
            }
        }
        console.byte(self.plain).is_some()
    }

    fn pump_frames(&mut self, fills: usize) -> bool {
        if self.com2.is_none() {
            self.consoles.iter_mut().for_each(Console::no_frames);
            return false;
        }
        for _ in 0..fills {
            let room = self.com2.as_ref().map_or(0, |line| line.uart.room());
            for _ in 0..room {
                let Some(byte) = self.next_byte() else {
                    return false;
                };
                if let Some(line) = &self.com2 {
                    line.uart.send(byte);
                }
            }
        }
        true
    }

    /// The next byte for COM2, from the frame that is being sent or the next one.
    fn next_byte(&mut self) -> Option<u8> {
        if self.outgoing.is_done() {
            self.frame_done();
            self.next_frame();
        }
        self.outgoing.next()
    }

    /// COM2 has the whole frame: what it carried need not be kept.
    fn frame_done(&mut self) {
        match core::mem::replace(&mut self.source, Source::Other) {
            Source::Console(number) => {
                if let Some(console) = self.consoles.get_mut(number) {
                    console.framed += 1;
                    self.unsaved = true;
                }
                // At once, not at the end of the event: or instances that end early send it for ever.
                self.drop_done();
                self.save();
            }
            Source::Log => self.log_frame.done(),
            Source::Event(vm, sequence) => {
                if let Some(events) = self.events.get_mut(vm) {
                    events.sent(sequence);
                }
            }
            Source::Other => {}
        }
    }

    /// Starts the next frame, if there is one: replies and notices first, then consoles and log in turn.
    fn next_frame(&mut self) {
        if let Some((sequence, reply)) = self.replies.pop_at(0) {
            self.outgoing.start(channel::REPLY, sequence, &reply);
            return;
        }
        if self.start_notice() {
            return;
        }
        for _ in 0..=VMS {
            self.turn = (self.turn + 1) % (VMS + 1);
            let started = if self.turn == VMS { self.start_log() } else { self.start_console(self.turn) };
            if started {
                return;
            }
        }
    }

    fn start_notice(&mut self) -> bool {
        let mut waiting = (0u8..).zip(self.events.iter().zip(&self.consoles));
        let Some(notice) = waiting.find_map(|(vm, (events, console))| events.notice(vm, console.base)) else {
            return false;
        };
        let mut buffer = [0; NOTICE];
        self.outgoing.start(channel::CONTROL, self.notices, notices::encode(&notice, &mut buffer));
        self.notices = self.notices.wrapping_add(1);
        self.source = Source::Event(notice.vm.into(), notice.sequence);
        true
    }

    fn start_log(&mut self) -> bool {
        let frame = match self.log_frame.pending(&mut self.log_buffer) {
            Some(left_over) => left_over,
            None => {
                let Some(log) = self.log else { return false };
                let records = log.read(&mut self.log_buffer);
                if records.is_empty() {
                    return false;
                }
                (self.log_frame.start(records), records)
            }
        };
        let (sequence, records) = frame;
        self.outgoing.start(channel::LOG, sequence, records);
        self.source = Source::Log;
        true
    }

    fn start_console(&mut self, number: usize) -> bool {
        let Some((sequence, bytes)) = self.consoles.get(number).and_then(Console::next_frame) else {
            return false;
        };
        self.outgoing.start(channel::CONSOLE + number as u8, sequence, bytes);
        self.source = Source::Console(number);
        true
    }

    fn drop_done(&mut self) {
        for (number, console) in self.consoles.iter_mut().enumerate() {
            let carried = number == 0 && self.com1.is_some();
            let plain = if carried { self.plain } else { u64::MAX };
            self.unsaved |= console.drop_done(plain);
        }
    }

    fn save(&mut self) {
        if core::mem::take(&mut self.unsaved) {
            // A region that is too small was reported at the start.
            let _ = self.region.commit(saved::encode(&self.consoles, &mut self.encoded));
        }
    }

    /// Takes what has arrived on both lines and acknowledges the interrupts in `bits`.
    fn receive(&mut self, bits: u64) {
        let mut heard = [false; VMS];
        if let Some(line) = &self.com1 {
            for byte in line.received(bits) {
                hear(&mut self.inputs, &mut heard, 0, &[byte]);
            }
        }
        if let Some(line) = &self.com2 {
            for byte in line.received(bits) {
                let Some((head, payload)) = self.receiver.take(byte) else {
                    continue;
                };
                match head.channel {
                    channel::REQUEST => {
                        let reply = control::answer(payload, &self.healthy);
                        let _ = self.replies.try_push((head.sequence, reply));
                    }
                    channel::CONSOLE.. => {
                        let number = usize::from(head.channel - channel::CONSOLE);
                        hear(&mut self.inputs, &mut heard, number, payload);
                    }
                    _ => {}
                }
            }
        }
        for (listener, _) in self.listeners.iter_mut().zip(heard).filter(|(_, heard)| *heard) {
            if let Some(listener) = listener {
                listener.notify();
            }
        }
    }

    fn write(&mut self, number: u32, request: &ConsoleWrite<'_>) -> Result<ConsoleWritten, Refusal> {
        let console = self.consoles.get_mut(number as usize).ok_or(Refusal::Denied)?;
        let taken = console.take(request.sequence, request.bytes)?;
        let sequence = console.sequence;
        self.unsaved |= taken;
        self.save();
        Ok(ConsoleWritten { sequence })
    }
}

fn hear(inputs: &mut [Input; VMS], heard: &mut [bool; VMS], number: usize, bytes: &[u8]) {
    if let (Some(input), Some(heard)) = (inputs.get_mut(number), heard.get_mut(number)) {
        for &byte in bytes {
            *heard |= input.push(byte);
        }
    }
}

impl Service for Hub {
    fn called(&mut self, call: &Incoming<'_>, reply: &mut Reply) -> Result<(), Refusal> {
        self.healthy.served += 1;
        let number = call.header.badge;
        match call.header.key {
            ConsoleWrite::KEY => {
                let request = call.decode::<ConsoleWrite<'_>>()?;
                let mut outcome = self.write(number, &request);
                if outcome == Err(Refusal::Full) {
                    self.pump(FILLS_AT_CALL);
                    outcome = self.write(number, &request);
                }
                reply.put(&outcome?);
                if self.pump(FILLS_AT_CALL) {
                    self.timer.set(tsc() + ticks(BUSY_TICK));
                }
                Ok(())
            }
            ConsoleRead::KEY => {
                let request = call.decode::<ConsoleRead>()?;
                let input = self.inputs.get_mut(number as usize).ok_or(Refusal::Denied)?;
                let mut bytes = [0; CONSOLE_BYTES];
                let most = usize::from(request.most).min(CONSOLE_BYTES);
                let (from, bytes) = input.read(request.from, bytes.get_mut(..most).unwrap_or_default());
                reply.put(&ConsoleInput { from, bytes });
                Ok(())
            }
            VmEvent::KEY => {
                let request = call.decode::<VmEvent>()?;
                let events = self.events.get_mut(number as usize).ok_or(Refusal::Denied)?;
                let console = self.consoles.get(number as usize);
                events.take(&request, console.map_or(0, Console::end));
                reply.put(&VmEventTaken { sequence: events.sequence });
                self.timer.set(tsc() + ticks(BUSY_TICK));
                Ok(())
            }
            _ => Err(Refusal::Unsupported),
        }
    }

    fn notified(&mut self, bits: u64) {
        self.healthy.served += 1;
        self.receive(bits);
        let more = self.pump(FILLS_AT_TICK);
        if bits & self.timer.bits != 0 || more {
            self.timer.set(tsc() + if more { ticks(BUSY_TICK) } else { self.idle });
        }
    }
}
