//! Interrupts from their source to the local APIC of a vCPU: device lines, messages, timers. How a vCPU
//! then takes one is the matter of `delivery`.

use crate::apic::ioapic::Ioapic;
use crate::apic::lapic::{Clock, Effect, Lapic, Refused};
use crate::apic::message::{Message, Mode};
use crate::apic::route::targets;
use crate::config::ApStart;
use crate::host::Host;
use crate::machine::Machine;
use crate::msr::number::APIC_BASE;
use crate::saved::{Block, life, pending, power, start};

/// Where the IOAPIC's registers lie.
const IOAPIC: u64 = 0xfec0_0000;
/// Bytes of a page of registers.
const PAGE: u64 = 0x1000;
/// The IOAPIC's pin of the serial port.
const SERIAL_PIN: usize = 4;
/// Address bits of a start-up vector: it names a page below 1 MiB.
const STARTUP_SHIFT: u32 = 12;

impl<H: Host> Machine<H> {
    /// The clocks of a vCPU.
    fn clock(&self, number: usize) -> Clock {
        let (tsc_hz, lapic_hz) = self.rates;
        let offset = self.durable.vcpus.get(number).map_or(0, |state| state.tsc_offset);
        Clock { now: self.host.tsc(), offset, tsc_hz, lapic_hz }
    }

    /// A vCPU's local APIC, to be changed.
    pub(crate) fn lapic(&mut self, number: usize) -> Option<&mut Lapic> {
        self.touched.add(Block::Lapic(number));
        self.durable.lapics.get_mut(number)
    }

    fn ioapic(&mut self) -> &mut Ioapic {
        self.touched.add(Block::Ioapic);
        &mut self.durable.ioapic
    }

    /// Reads an MSR of the local APIC.
    pub(crate) fn read_lapic_msr(&self, vcpu: u16, msr: u32) -> Result<u64, Refused> {
        let clock = self.clock(vcpu.into());
        self.durable.lapics.get(usize::from(vcpu)).ok_or(Refused)?.read_msr(msr, &clock)
    }

    /// Writes an MSR of the local APIC.
    pub(crate) fn write_lapic_msr(&mut self, vcpu: u16, sequence: u64, msr: u32, value: u64) -> Result<(), Refused> {
        // The registers of a local APIC know no width of addresses.
        if msr == APIC_BASE && value >> self.address_bits != 0 {
            return Err(Refused);
        }
        let refused = self.once(vcpu, sequence, |machine| {
            let number = usize::from(vcpu);
            let clock = machine.clock(number);
            let written = machine.durable.lapics.get_mut(number).map(|lapic| lapic.write_msr(msr, value, &clock));
            let Some(Ok(effect)) = written else { return 1 };
            machine.touched.add(Block::Lapic(number));
            machine.follow(number, effect);
            0
        });
        if refused == 0 { Ok(()) } else { Err(Refused) }
    }

    /// Whether a device's registers lie at a guest-physical address.
    pub(crate) fn is_device(&self, vcpu: u16, address: u64) -> bool {
        self.ioapic_offset(address).is_some() || self.lapic_offset(vcpu.into(), address).is_some()
    }

    /// Offset in the IOAPIC's page.
    fn ioapic_offset(&self, address: u64) -> Option<u16> {
        let offset = address.wrapping_sub(IOAPIC);
        (self.config.ioapic && offset < PAGE).then_some(offset as u16)
    }

    /// Offset in the page of a vCPU's local APIC.
    fn lapic_offset(&self, number: usize, address: u64) -> Option<u16> {
        let page = self.durable.lapics.get(number).filter(|_| self.config.lapic)?.page()?;
        let offset = address.wrapping_sub(page);
        (offset < PAGE).then_some(offset as u16)
    }

    /// Reads the device register of 32 bits at a guest-physical address; all ones where there is no device. Called
    /// inside [`Machine::once`].
    pub(crate) fn read_device(&mut self, vcpu: u16, address: u64) -> u32 {
        let number = usize::from(vcpu);
        if let Some(offset) = self.lapic_offset(number, address) {
            let clock = self.clock(number);
            let Some(lapic) = self.durable.lapics.get_mut(number) else { return u32::MAX };
            let before = *lapic;
            let value = lapic.read(offset, &clock);
            if *lapic != before {
                self.touched.add(Block::Lapic(number));
            }
            return value;
        }
        match self.ioapic_offset(address) {
            Some(offset) => self.durable.ioapic.read(offset),
            None => u32::MAX,
        }
    }

    /// Writes the device register of 32 bits at a guest-physical address, if there is one. Called inside
    /// [`Machine::once`].
    pub(crate) fn write_device(&mut self, vcpu: u16, address: u64, value: u32) {
        let number = usize::from(vcpu);
        if let Some(offset) = self.lapic_offset(number, address) {
            let clock = self.clock(number);
            let effect = self.lapic(number).map(|lapic| lapic.write(offset, value, &clock));
            self.follow(number, effect.unwrap_or(Effect::None));
        } else if let Some(offset) = self.ioapic_offset(address) {
            for message in self.ioapic().write(offset, value) {
                self.raise(&message);
            }
        }
    }

    /// What follows from an access to the local APIC of vCPU `number`.
    fn follow(&mut self, number: usize, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Send(message) => {
                self.send(Some(number), &message);
            }
            Effect::EndOfInterrupt(vector) => {
                for message in self.ioapic().end(vector) {
                    self.raise(&message);
                }
            }
            Effect::Timer => self.rearm = true,
        }
    }

    /// Sends a message of the IOAPIC. A level that no local APIC takes in waits in its pin until one does.
    fn raise(&mut self, message: &Message) {
        if !self.send(None, message) && message.level {
            self.ioapic().not_taken(message);
        }
    }

    /// Sends a message to the vCPUs that it addresses; `false` when it is an interrupt that none of their local APICs
    /// takes in.
    fn send(&mut self, from: Option<usize>, message: &Message) -> bool {
        let mut taken = !matches!(message.mode, Mode::Fixed | Mode::LowestPriority);
        let vcpus = usize::from(self.vcpus());
        let reached = targets(message, from, self.durable.lapics.iter().take(vcpus));
        for number in (0..vcpus).filter(|number| reached >> number & 1 != 0) {
            match message.mode {
                Mode::Fixed | Mode::LowestPriority => {
                    if let Some(lapic) = self.lapic(number) {
                        // One that takes in no vector below 16 has met its end there: an error tells of it.
                        taken |= lapic.software_enabled();
                        lapic.accept(message.vector, message.level);
                    }
                }
                Mode::Nmi => self.signal(number, pending::NMI),
                Mode::Init => self.init(number),
                Mode::Startup => self.startup(number, message.vector),
            }
        }
        taken
    }

    /// A vCPU that runs has to look at something that waits for no window.
    fn signal(&mut self, number: usize, bit: u64) {
        if let Some(state) = self.vcpu(number)
            && matches!(state.life, life::RUNNING | life::HALTED)
        {
            state.pending |= bit;
            self.awaited &= !(1 << number);
        }
    }

    /// INIT: the bootstrap processor would start anew, so the machine does; another one waits for its
    /// start-up.
    fn init(&mut self, number: usize) {
        if number == 0 {
            return self.start_over("INIT of the bootstrap processor");
        }
        let Some(state) = self.vcpu(number) else { return };
        if matches!(state.life, life::RUNNING | life::HALTED) {
            state.pending &= !(pending::STARTUP | pending::PAGE);
            return self.signal(number, pending::INIT);
        }
        state.life = life::WAITING;
        if let Some(lapic) = self.lapic(number) {
            lapic.init();
        }
    }

    /// Start-up: real mode at page `vector`, of a vCPU that waits for it or is about to.
    fn startup(&mut self, number: usize, vector: u8) {
        if self.config.ap_start == ApStart::Mailbox {
            return;
        }
        let Some(state) = self.vcpu(number) else { return };
        if state.pending & pending::INIT != 0 {
            state.pending |= pending::STARTUP | u64::from(vector) << pending::PAGE_SHIFT;
        } else if state.life == life::WAITING {
            self.start_at(number, start::real_mode(u64::from(vector) << STARTUP_SHIFT));
        }
    }

    /// Whether the serial port's pin sends something that is taken with interrupts off.
    pub(crate) fn serial_may_signal(&self) -> bool {
        self.config.ioapic && self.durable.ioapic.may_signal(SERIAL_PIN)
    }

    /// Passes on what the devices' lines say.
    pub(crate) fn lines(&mut self) {
        let waits = !self.touched.is_empty() && self.durable.ioapic.waits(SERIAL_PIN);
        if !self.config.ioapic || !self.touched.has(Block::Uart) && !waits {
            return;
        }
        let asserted = self.durable.uart.interrupt();
        let mut ioapic = self.durable.ioapic;
        let message = ioapic.line(SERIAL_PIN, asserted);
        if ioapic != self.durable.ioapic {
            *self.ioapic() = ioapic;
        }
        if let Some(message) = message {
            self.raise(&message);
        }
    }

    /// Requests the interrupts of the timers that are due. Something else may be due as well, so the caller
    /// lets all vCPUs be looked at that wait for a second try.
    pub(crate) fn expire(&mut self) {
        for number in 0..usize::from(self.vcpus()) {
            let clock = self.clock(number);
            let due = |lapic: &Lapic| lapic.deadline(&clock).is_some_and(|deadline| deadline <= clock.now);
            if self.durable.lapics.get(number).is_some_and(due)
                && let Some(lapic) = self.lapic(number)
            {
                lapic.expire(&clock);
            }
        }
        self.rearm = true;
    }

    /// Whether the timer of a vCPU can matter: the machine runs, and the vCPU does or halts.
    fn ticks(&self, number: usize) -> bool {
        self.durable.board.power == power::RUNNING
            && self.durable.vcpus.get(number).is_some_and(|state| matches!(state.life, life::RUNNING | life::HALTED))
    }

    /// Sets the host's timer to the earliest deadline, if one may have changed.
    pub(crate) fn arm(&mut self) {
        if !core::mem::take(&mut self.rearm) {
            return;
        }
        let vcpus = usize::from(self.vcpus());
        let deadlines = (0..vcpus).filter(|number| self.ticks(*number));
        let deadlines = deadlines.filter_map(|number| self.durable.lapics.get(number)?.deadline(&self.clock(number)));
        let earliest = deadlines.chain(self.retry).min().unwrap_or(0);
        if earliest != self.armed {
            self.armed = earliest;
            self.host.wake_at(earliest);
        }
    }
}
