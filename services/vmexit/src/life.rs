//! Power and the lives of the vCPUs: what starts, stops and resets them.
//!
//! A machine starts when all its vCPUs are stopped: its devices are reset, the guest is loaded by exits of vCPU 0, and
//! that enters. Each step is durable before the next, so an instance that ends anywhere in between leaves
//! something that the next one finishes.

use crate::apic::ioapic::Ioapic;
use crate::apic::lapic::Lapic;
use crate::boot::{Turn, at_reset};
use crate::firmware::MAILBOX;
use crate::host::{Host, Note};
use crate::machine::{Machine, Step};
use crate::saved::{Block, Vcpu, life, pending, power, start, untold};
use crate::startup;
use portcullis_ipc::exit::{ExitPage, Reason};
use portcullis_ipc::proto::link::VmEventKind;
use portcullis_ipc::proto::vmport::MachineReset;
use portcullis_ipc::syscall::{Resume, rights};

impl<H: Host> Machine<H> {
    /// vCPUs of the VM.
    pub(crate) fn vcpus(&self) -> u16 {
        self.identity.vcpus as u16
    }

    /// What is remembered of a vCPU, to be changed.
    pub(crate) fn vcpu(&mut self, number: usize) -> Option<&mut Vcpu> {
        self.touched.add(Block::Vcpu(number));
        self.durable.vcpus.get_mut(number)
    }

    /// The first thing that an instance does: goes on where the one before ended. `refused`: that one ended
    /// because the processor refused a vCPU's state, and the core stopped the VM. It may also have been one before
    /// that, which the vCPUs say.
    pub fn start(&mut self, refused: bool) {
        let refused = refused || self.host.stopped(0).is_some_and(|page| page.reason == Reason::BadState as u32);
        if refused && self.durable.board.power == power::RUNNING {
            self.board().power = power::REFUSED;
            self.commit();
        }
        if self.durable.board.power == power::REFUSED {
            self.announce(VmEventKind::Stopped);
            self.board().power = power::OFF;
            self.commit();
        }
        self.flush();
        self.rearm = true;
        let power = self.durable.board.power;
        match power {
            power::STARTING | power::LOADING if self.others_stopped(None) => self.wake(),
            power::RUNNING => {
                for vcpu in 0..self.vcpus() {
                    let state = self.durable.vcpus.get(usize::from(vcpu)).copied().unwrap_or_default();
                    let lives = matches!(state.life, life::RUNNING | life::HALTED);
                    // One that should run and cannot be recalled was not entered before the end.
                    if lives && !self.host.recall(vcpu) {
                        self.enter_stopped(vcpu);
                    }
                    self.awaited |= 1 << vcpu;
                }
            }
            _ => {}
        }
        self.input();
    }

    /// Brings vCPU 0 of a machine that is to start to an exit, before its first instruction: the guest is loaded
    /// there, so that the vCPU pays for it.
    fn wake(&mut self) {
        if let Some(page) = self.host.stopped(0) {
            at_reset(page);
            self.host.resume(0);
            self.host.recall(0);
            self.awaited |= 1;
        }
    }

    /// A load that waits is tried again.
    pub(crate) fn start_again(&mut self) {
        let waits = core::mem::take(&mut self.loads_later);
        if waits && self.durable.board.power == power::LOADING && self.others_stopped(None) {
            self.wake();
        }
    }

    /// Every vCPU but `serving` is stopped; those that are not will come and ask.
    fn others_stopped(&mut self, serving: Option<u16>) -> bool {
        let mut stopped = true;
        for vcpu in (0..self.vcpus()).filter(|vcpu| Some(*vcpu) != serving) {
            if self.host.recall(vcpu) {
                self.awaited |= 1 << vcpu;
                stopped = false;
            }
        }
        stopped
    }

    /// The exit of a vCPU of a machine that is off or about to start.
    pub(crate) fn stand_by(&mut self, vcpu: u16, page: &mut ExitPage) -> u64 {
        let stopped = self.starts() && self.others_stopped(Some(vcpu));
        if stopped && self.durable.board.power == power::STARTING {
            self.reset_devices();
        }
        if !stopped || self.durable.board.power != power::LOADING {
            return Resume::STOP;
        }
        if vcpu == 0 {
            return self.load_on(page);
        }
        self.wake();
        Resume::STOP
    }

    /// Whether the machine is to start, or does so already.
    fn starts(&self) -> bool {
        matches!(self.durable.board.power, power::STARTING | power::LOADING)
    }

    /// Puts all that the machine has besides its memory into its first state; no vCPU runs.
    fn reset_devices(&mut self) {
        // Each in a transaction of its own: together they are too many words.
        for number in 0..usize::from(self.vcpus()) {
            if let Some(lapic) = self.lapic(number) {
                *lapic = Lapic::reset(number as u32, number == 0);
            }
            if let Some(state) = self.vcpu(number) {
                *state = Vcpu { tsc_offset: state.tsc_offset, ..Vcpu::default() };
            }
            self.commit();
        }
        self.touched.add(Block::Ioapic);
        self.durable.ioapic = Ioapic::default();
        if self.watches_mailbox() {
            self.host.protect(MAILBOX.into(), rights::READ);
        }
        self.uart().reset();
        self.board().clock_index = 0;
        self.commit();
        let sequence = self.durable.board.reset;
        if sequence != 0 {
            self.host.machine_reset(&MachineReset { sequence });
        }
        (self.unseen, self.awaited, self.starting, self.retry) = (0, 0, 0, None);
        self.rearm = true;
        self.board().power = power::LOADING;
        self.commit();
    }

    /// An exit of vCPU 0 while the guest is being loaded: loads it, or more of it.
    fn load_on(&mut self, page: &mut ExitPage) -> u64 {
        match self.boot(page) {
            Turn::Failed => return Resume::STOP,
            Turn::Paused => {
                // It comes back before its first instruction.
                self.commit();
                self.host.recall(0);
                return Resume::ENTER;
            }
            Turn::Loaded => {}
        }
        if let Some(state) = self.vcpu(0) {
            (state.life, state.start, state.restarted) = (life::RUNNING, start::BOOT, page.sequence);
        }
        self.board().power = power::RUNNING;
        self.durable.falls.began = self.host.tsc();
        self.touched.add(Block::Falls);
        self.commit();
        Resume::ENTER
    }

    /// The guest asked for a reset.
    pub(crate) fn reset(&mut self, vcpu: u16, page: &mut ExitPage, why: &'static str) -> Step {
        self.flush();
        self.once(vcpu, page.sequence, |machine| {
            machine.start_over(why);
            0
        });
        Ok(Resume::STOP)
    }

    /// The machine is to start anew, as soon as all its vCPUs are stopped.
    pub(crate) fn start_over(&mut self, why: &'static str) {
        self.host.note(Note::Reset(why));
        self.announce(VmEventKind::Reset);
        let board = self.board();
        // The number that the event gets when it is told.
        (board.power, board.reset) = (power::STARTING, board.events + 1);
        self.touched.add(Block::Load);
        self.durable.load.written = 0;
        self.halt_all();
    }

    /// No vCPU runs on, whatever it waits for, and no timer.
    fn halt_all(&mut self) {
        self.awaited = 0;
        self.rearm = true;
    }

    /// The machine goes off, with all its vCPUs.
    pub(crate) fn power_off(&mut self, vcpu: u16, page: &mut ExitPage, kind: VmEventKind, note: Note) -> Step {
        self.flush();
        self.once(vcpu, page.sequence, |machine| {
            machine.host.note(note);
            machine.off(kind);
            0
        });
        Ok(Resume::STOP)
    }

    /// Nothing of the machine runs on.
    pub(crate) fn off(&mut self, kind: VmEventKind) {
        self.announce(kind);
        self.board().power = power::OFF;
        self.halt_all();
    }

    /// Stops the vCPU for good and tells the log why.
    pub(crate) fn stop(&mut self, vcpu: u16, page: &ExitPage, why: &'static str, detail: u64) -> Step {
        self.flush();
        self.once(vcpu, page.sequence, |machine| {
            machine.host.note(Note::Stopped(why, page.rip, detail));
            machine.announce(VmEventKind::Stopped);
            if let Some(state) = machine.vcpu(vcpu.into()) {
                state.life = life::STOPPED;
            }
            machine.rearm = true;
            0
        });
        Ok(Resume::STOP)
    }

    /// Something became of the VM: `link` is told soon, and at once of what it was not told yet.
    pub(crate) fn announce(&mut self, kind: VmEventKind) {
        self.tell();
        self.board().untold = untold::word(kind);
    }

    /// Tells `link` what it was not told. Told again after an end it carries the same number.
    fn tell(&mut self) {
        let Some(kind) = untold::event(self.durable.board.untold) else { return };
        let number = self.durable.board.events + 1;
        self.host.event(number, kind);
        let board = self.board();
        (board.events, board.untold) = (number, 0);
    }

    /// Tells what became of the VM as soon as the console has what the guest wrote before; a console that takes
    /// nothing is tried again, where the host can call for it.
    pub(crate) fn tell_after_output(&mut self) {
        if self.durable.board.untold != 0 && (self.durable.uart.written == 0 || !self.host.flush_later()) {
            self.tell();
            self.commit();
        }
    }

    /// A vCPU that is stopped is to enter at `place`, a value of [`start`].
    pub(crate) fn start_at(&mut self, number: usize, place: u64) {
        if let Some(state) = self.vcpu(number) {
            (state.life, state.start) = (life::RUNNING, place);
            self.starting |= 1 << number;
        }
    }

    /// Enters a stopped vCPU at the place that is remembered for it.
    pub(crate) fn enter_stopped(&mut self, vcpu: u16) {
        if let Some(page) = self.host.stopped(vcpu)
            && self.fill(vcpu, page)
        {
            self.host.resume(vcpu);
        }
    }

    /// An exit from which the vCPU was started anew is given again.
    pub(crate) fn enter_again(&mut self, vcpu: u16, page: &mut ExitPage) -> u64 {
        if self.fill(vcpu, page) { Resume::ENTER } else { Resume::STOP }
    }

    /// INIT reached a vCPU that ran: it waits for its start-up, or starts at once if that came already.
    pub(crate) fn take_init(&mut self, vcpu: u16, page: &mut ExitPage) -> u64 {
        let number = usize::from(vcpu);
        if let Some(lapic) = self.lapic(number) {
            lapic.init();
        }
        self.rearm = true;
        let Some(state) = self.vcpu(number) else { return Resume::STOP };
        let waiting = core::mem::take(&mut state.pending);
        state.restarted = page.sequence;
        if waiting & pending::STARTUP == 0 {
            state.life = life::WAITING;
            return Resume::STOP;
        }
        let address = (waiting & pending::PAGE) >> pending::PAGE_SHIFT << 12;
        (state.life, state.start) = (life::RUNNING, start::real_mode(address));
        self.enter_again(vcpu, page)
    }

    /// Fills the page with the state in which the vCPU starts; `false` when the guest cannot be loaded.
    fn fill(&mut self, vcpu: u16, page: &mut ExitPage) -> bool {
        let begin = self.durable.vcpus.get(usize::from(vcpu)).map_or(start::BOOT, |state| state.start);
        match begin {
            start::BOOT => self.boot(page) == Turn::Loaded,
            _ if start::is_mailbox(begin) => startup::at_mailbox(page, self.host.memory(), start::address(begin)),
            _ => {
                startup::at_startup(page, start::address(begin));
                true
            }
        }
    }
}
