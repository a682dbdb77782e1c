//! The service at work: events in, lines polled, frames out. What an event changed of a console is saved
//! before it is acknowledged to anybody.

use crate::control::{self, REPLY};
use crate::frame::{Outgoing, Receiver};
use crate::lines::Line;
use crate::records::span;
use crate::saved::{self, Console};
use crate::turns::{Kind, Turns};
use crate::wall::set_clock;
use alloc::boxed::Box;
use alloc::vec;
use arrayvec::ArrayVec;
use portcullis_ipc::frame::channel;
use portcullis_ipc::limits::{LOG_READ, VMS};
use portcullis_ipc::proto::control::{Hello, NOTICE, Notice, encode};
use portcullis_ipc::proto::health::Healthy;
use portcullis_ipc::proto::link::{
    CONSOLE_BYTES, ConsoleInput, ConsoleRead, ConsoleWrite, ConsoleWritten, VmEvent, VmEventTaken,
};
use portcullis_ipc::proto::{Refusal, Request};
use portcullis_runtime::allowance::Allowance;
use portcullis_runtime::call::{Incoming, Reply};
use portcullis_runtime::handle::{LogReader, Notifier, Timer, missing};
use portcullis_runtime::journal::{HEAD_WORDS, Journal};
use portcullis_runtime::pages::{RegionWords, counters, info, journal, platform};
use portcullis_runtime::random::random;
use portcullis_runtime::serve::{Service, serve};
use portcullis_runtime::start::Start;
use portcullis_runtime::state::Words;
use portcullis_runtime::time::{ticks, tsc};
use serde::Serialize;

portcullis_runtime::entry!(main);

/// Transmitter fillings (16 bytes) for each line at one call, on the caller's budget.
const FILLS_AT_CALL: usize = 8;
/// Transmitter fillings for each line in a round of a tick, between two looks at what arrives.
const FILLS_AT_ROUND: usize = 8;
/// Rounds of one tick: together they send the longest frame and some.
const ROUNDS: usize = 9;
/// Time between two ticks while bytes wait, microseconds.
const BUSY_TICK: u64 = 500;
/// Time between two ticks otherwise unless configured, microseconds.
const IDLE_TICK: u64 = 10_000;
/// Control replies that wait at most; a host that asks faster asks again.
const REPLIES: usize = 4;
/// Room for input of which a host is told as soon as there is more.
const LITTLE: usize = 64;
/// Events of one VM that are told at once; then it is one a second, because a guest can cause any number.
const EVENTS: u32 = 16;
/// Number of the console that COM1 carries.
const PLAIN: usize = 0;

fn main(start: Start) -> ! {
    let Some(timer) = Timer::find("tick") else { missing("tick") };
    let mut hub = Hub::new(start, timer);
    defmt::info!(
        "link ready, generation {=u32}: com1 {=bool}, com2 {=bool}",
        start.generation,
        hub.com1.is_some(),
        hub.com2.is_some()
    );
    set_clock();
    hub.remind();
    hub.notified(timer.bits);
    serve(start, &mut hub)
}

/// What the frame on COM2 carries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Console(usize),
    /// Log records below this sequence.
    Log(u64),
    /// An event: of which VM, and its sequence.
    Event(usize, u64),
    Other,
}

struct Hub {
    com1: Option<Line>,
    com2: Option<Line>,
    timer: Timer,
    /// TSC of the next tick.
    due: u64,
    idle: u64,
    log: Option<LogReader>,
    /// Log records below this sequence have left.
    logged: u64,
    log_buffer: Box<[u8; LOG_READ]>,
    listeners: [Option<Notifier>; VMS],
    consoles: Box<[Console]>,
    journal: Journal<RegionWords>,
    /// Bytes of console 0 that COM1 ever took.
    plain: u64,
    /// The same in the state region, times two and one more; 0: the line was never used.
    plain_counter: RegionWords,
    /// Consoles whose host is to be told how much of its input was taken.
    tell: [bool; VMS],
    outgoing: Box<Outgoing>,
    source: Source,
    turns: Turns,
    /// The number of this boot, and whether the host is to be told it.
    session: u64,
    hello: bool,
    allowances: [Allowance; VMS],
    receiver: Box<Receiver>,
    replies: ArrayVec<(u32, ArrayVec<u8, REPLY>), REPLIES>,
    notices: u32,
    healthy: Healthy,
}

impl Hub {
    fn new(start: Start, timer: Timer) -> Self {
        let (mut journal, kept) = journal("link", saved::VERSION, saved::SCHEMA, 1);
        let mut plain_counter = counters(1);
        if journal.words() < saved::WORDS {
            defmt::warn!(
                "state region holds {=usize} bytes of {=usize} wanted: what consoles hold is lost when link restarts",
                (HEAD_WORDS + journal.words()) * 8,
                (HEAD_WORDS + saved::WORDS + 1) * 8
            );
        }
        let session = saved::session(&mut journal, random().unwrap_or_else(tsc));
        let mut consoles = vec![Console::default(); VMS].into_boxed_slice();
        saved::load(&journal, &mut consoles);
        if !kept {
            plain_counter.store(0, 0);
        }
        let com1 = Line::open("com1", "com1-irq", 0x3f8);
        let plain = com1.as_ref().map_or(0, |line| sent_on(line, &mut plain_counter));
        let names =
            ["console-0", "console-1", "console-2", "console-3", "console-4", "console-5", "console-6", "console-7"];
        let listeners = names.map(Notifier::find);
        Self {
            com1,
            com2: Line::open("com2", "com2-irq", 0x2f8),
            timer,
            due: 0,
            idle: ticks(info().number("tick-us").unwrap_or(IDLE_TICK)),
            log: LogReader::find("log"),
            logged: 0,
            log_buffer: Box::new([0; LOG_READ]),
            // A host that waits for an answer of the instance before need not wait longer.
            tell: listeners.each_ref().map(|listener| kept && listener.is_some()),
            listeners,
            consoles,
            journal,
            plain,
            plain_counter,
            outgoing: Box::new(Outgoing::new()),
            source: Source::Other,
            turns: Turns::new(),
            session,
            hello: true,
            allowances: [Allowance::new(EVENTS); VMS],
            receiver: Box::new(Receiver::new()),
            replies: ArrayVec::new(),
            notices: 0,
            healthy: Healthy { generation: start.generation, state_version: saved::VERSION, served: 0 },
        }
    }

    /// Tells those for whom input waits: the instance before may have ended between taking it and telling.
    fn remind(&mut self) {
        for (listener, console) in self.listeners.iter_mut().zip(&self.consoles) {
            if let Some(listener) = listener.as_mut().filter(|_| console.input.waits()) {
                listener.notify();
            }
        }
    }

    fn tick_at(&mut self, at: u64) {
        self.due = at;
        self.timer.set(at);
    }

    /// Has the tick come soon. One that is due sooner stays: callers that come fast never move it away.
    fn tick_soon(&mut self) {
        let soon = tsc() + ticks(BUSY_TICK);
        if soon < self.due {
            self.tick_at(soon);
        }
    }

    /// Makes a console durable as it is now.
    fn save(&mut self, number: usize) {
        if let Some(console) = self.consoles.get(number) {
            // A region that is too small was reported at the start.
            let _ = saved::save(&mut self.journal, number, console);
        }
    }

    /// Sends what the lines take now, at most `fills` transmitter fillings each. Says whether more waits.
    fn pump(&mut self, fills: usize) -> bool {
        let plain = self.pump_plain(fills);
        let framed = self.pump_frames(fills);
        (0..VMS).for_each(|number| self.drop_done(number));
        plain || framed
    }

    fn pump_plain(&mut self, fills: usize) -> bool {
        let (Some(line), Some(console)) = (&self.com1, self.consoles.get(PLAIN)) else {
            return false;
        };
        for _ in 0..fills {
            for _ in 0..line.uart.room() {
                let Some(byte) = console.output.byte(self.plain) else {
                    return false;
                };
                // An instance that ends between the two leaves a mark that the counter does not have yet.
                line.uart.send_marked(byte, is_odd(self.plain + 1));
                self.plain += 1;
                self.plain_counter.store(0, counted(self.plain));
            }
        }
        console.output.byte(self.plain).is_some()
    }

    fn pump_frames(&mut self, fills: usize) -> bool {
        if self.com2.is_none() {
            self.consoles.iter_mut().for_each(|console| console.output.no_frames());
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
                    console.output.frame_sent();
                }
                // At once, not at the end of the event: or instances that end early send it for ever.
                self.save(number);
                self.drop_done(number);
            }
            Source::Log(below) => self.logged = below,
            Source::Event(vm, sequence) => {
                if let Some(console) = self.consoles.get_mut(vm) {
                    console.events.sent(sequence);
                }
                self.save(vm);
            }
            Source::Other => {}
        }
    }

    /// Starts the next frame, if there is one.
    fn next_frame(&mut self) {
        let mut turns = self.turns;
        turns.next(|kind| self.start(kind));
        self.turns = turns;
    }

    /// Starts a frame of this kind, if there is one.
    fn start(&mut self, kind: Kind) -> bool {
        match kind {
            Kind::Hello => {
                core::mem::take(&mut self.hello) && {
                    self.start_notice(Source::Other, &Hello { session: self.session.to_le_bytes() })
                }
            }
            Kind::Reply => self.replies.pop_at(0).is_some_and(|(sequence, reply)| {
                self.outgoing.start(channel::REPLY, sequence, &reply);
                true
            }),
            Kind::Taken(number) => self.start_taken(number),
            Kind::Event(number) => self.start_event(number),
            Kind::Console(number) => self.start_console(number),
            Kind::Log => self.start_log(),
        }
    }

    fn start_notice(&mut self, source: Source, notice: &(impl Notice + Serialize)) -> bool {
        let mut buffer = [0; NOTICE];
        self.outgoing.start(channel::CONTROL, self.notices, encode(notice, &mut buffer));
        self.notices = self.notices.wrapping_add(1);
        self.source = source;
        true
    }

    fn start_taken(&mut self, number: usize) -> bool {
        let (Some(tell), Some(console)) = (self.tell.get_mut(number), self.consoles.get(number)) else {
            return false;
        };
        let taken = console.input.taken(number as u8);
        core::mem::take(tell) && self.start_notice(Source::Other, &taken)
    }

    /// An event that its VM may not tell yet waits, and newer ones take the place of those after it.
    fn start_event(&mut self, number: usize) -> bool {
        let (Some(console), Some(allowance)) = (self.consoles.get(number), self.allowances.get_mut(number)) else {
            return false;
        };
        let Some(notice) = console.events.notice(number as u8, console.output.base) else {
            return false;
        };
        let second = (tsc() / platform().tsc_hz.max(1)) as u32;
        allowance.has(second)
            && allowance.take(second).is_some()
            && self.start_notice(Source::Event(number, notice.sequence), &notice)
    }

    fn start_log(&mut self) -> bool {
        let Some(log) = self.log else { return false };
        let records = log.read(self.logged, &mut self.log_buffer);
        let Some((first, last)) = span(records) else {
            return false;
        };
        self.outgoing.start(channel::LOG, first as u32, records);
        self.source = Source::Log(last.saturating_add(1));
        true
    }

    fn start_console(&mut self, number: usize) -> bool {
        let Some((sequence, bytes)) = self.consoles.get(number).and_then(|console| console.output.next_frame()) else {
            return false;
        };
        self.outgoing.start(channel::CONSOLE + number as u8, sequence, bytes);
        self.source = Source::Console(number);
        true
    }

    fn drop_done(&mut self, number: usize) {
        let carried = number == PLAIN && self.com1.is_some();
        let plain = if carried { self.plain } else { u64::MAX };
        if self.consoles.get_mut(number).is_some_and(|console| console.output.drop_done(plain)) {
            self.save(number);
        }
    }

    /// Takes what has arrived on both lines and acknowledges the interrupts in `bits`. Says whether more is there
    /// that could be taken, for which no interrupt will come.
    fn receive(&mut self, bits: u64) -> bool {
        let mut heard = [false; VMS];
        let plain = self.receive_plain(&mut heard);
        let framed = self.receive_frames(&mut heard);
        for line in [&self.com1, &self.com2].into_iter().flatten() {
            line.acknowledge(bits);
        }
        for (listener, _) in self.listeners.iter_mut().zip(heard).filter(|(_, heard)| *heard) {
            if let Some(listener) = listener {
                listener.notify();
            }
        }
        plain || framed
    }

    /// What finds no room stays in the line.
    fn receive_plain(&mut self, heard: &mut [bool; VMS]) -> bool {
        for _ in 0..crate::uart::RECEIVE_MOST {
            let (Some(line), Some(console)) = (&self.com1, self.consoles.get_mut(PLAIN)) else {
                return false;
            };
            if console.input.room() == 0 {
                return false;
            }
            let Some(byte) = line.uart.receive() else {
                return false;
            };
            console.input.push(&[byte]);
            // One by one: what an instance has taken from the line and not saved is lost with it.
            self.save(PLAIN);
            let [heard, ..] = heard;
            *heard = true;
        }
        true
    }

    fn receive_frames(&mut self, heard: &mut [bool; VMS]) -> bool {
        let Some(line) = &self.com2 else { return false };
        let bytes = line.received();
        for &byte in &bytes {
            let Some((head, payload)) = self.receiver.take(byte) else {
                continue;
            };
            let number = usize::from(head.channel.wrapping_sub(channel::CONSOLE));
            match head.channel {
                channel::REQUEST => {
                    let reply = control::answer(payload, &self.healthy);
                    let _ = self.replies.try_push((head.sequence, reply));
                }
                channel::CONSOLE.. => {
                    let (Some(console), Some(heard), Some(tell)) =
                        (self.consoles.get_mut(number), heard.get_mut(number), self.tell.get_mut(number))
                    else {
                        continue;
                    };
                    if console.input.frame(head.sequence, payload) {
                        *heard = true;
                        let _ = saved::save(&mut self.journal, number, console);
                    }
                    *tell = true;
                    // A host that knows nothing yet opens with no bytes.
                    self.hello |= payload.is_empty();
                }
                _ => {}
            }
        }
        bytes.is_full()
    }

    fn write(&mut self, number: usize, request: &ConsoleWrite<'_>) -> Result<ConsoleWritten, Refusal> {
        let console = self.consoles.get_mut(number).ok_or(Refusal::Denied)?;
        let taken = console.output.take(request.sequence, request.bytes)?;
        let sequence = console.output.sequence;
        if taken {
            self.save(number);
        }
        Ok(ConsoleWritten { sequence })
    }

    fn read(&mut self, number: usize, request: &ConsoleRead, reply: &mut Reply) -> Result<(), Refusal> {
        let console = self.consoles.get_mut(number).ok_or(Refusal::Denied)?;
        let mut bytes = [0; CONSOLE_BYTES];
        let most = usize::from(request.most).min(CONSOLE_BYTES);
        let room = console.input.room();
        let (from, bytes) = console.input.read(request.from, bytes.get_mut(..most).unwrap_or_default());
        reply.put(&ConsoleInput { from, bytes });
        if console.input.room() > room {
            self.save(number);
            // A line or a host that found little room may have more.
            if let Some(tell) = self.tell.get_mut(number) {
                *tell |= room < LITTLE;
            }
            self.tick_soon();
        }
        Ok(())
    }

    fn event(&mut self, number: usize, request: &VmEvent) -> Result<VmEventTaken, Refusal> {
        let console = self.consoles.get_mut(number).ok_or(Refusal::Denied)?;
        let taken = console.events.take(request, console.output.end());
        let sequence = console.events.sequence;
        if taken {
            self.save(number);
            self.tick_soon();
        }
        Ok(VmEventTaken { sequence })
    }
}

const fn is_odd(number: u64) -> bool {
    number & 1 != 0
}

const fn counted(plain: u64) -> u64 {
    plain << 1 | 1
}

/// Bytes that COM1 ever took, from the counter and the mark on the line.
fn sent_on(line: &Line, counter: &mut RegionWords) -> u64 {
    let plain = match counter.load(0) {
        0 => {
            line.uart.mark(false);
            0
        }
        word => {
            let plain = word >> 1;
            // The last byte may have left without being counted.
            if is_odd(plain) == line.odd { plain } else { plain + 1 }
        }
    };
    counter.store(0, counted(plain));
    plain
}

impl Service for Hub {
    fn called(&mut self, call: &Incoming<'_>, reply: &mut Reply) -> Result<(), Refusal> {
        self.healthy.served += 1;
        let number = call.header.badge as usize;
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
                    self.tick_soon();
                }
                Ok(())
            }
            ConsoleRead::KEY => self.read(number, &call.decode::<ConsoleRead>()?, reply),
            VmEvent::KEY => {
                reply.put(&self.event(number, &call.decode::<VmEvent>()?)?);
                Ok(())
            }
            _ => Err(Refusal::Unsupported),
        }
    }

    fn notified(&mut self, bits: u64) {
        self.healthy.served += 1;
        let more = (0..ROUNDS).all(|_| self.receive(bits) | self.pump(FILLS_AT_ROUND));
        if bits & self.timer.bits != 0 {
            self.tick_at(tsc() + if more { ticks(BUSY_TICK) } else { self.idle });
        } else if more {
            self.tick_soon();
        }
    }
}
