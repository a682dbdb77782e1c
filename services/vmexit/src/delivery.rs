//! The end of every exit: what waits for the vCPU is injected, or a window is asked for; what changed is
//! made durable; and then other vCPUs are told.
//!
//! A bit of `attention` says that something waits for a vCPU; while it is clear an exit costs one test. A
//! bit of `awaited` says that such a vCPU comes back by itself: it was recalled, a window was asked for, or
//! it halts with interrupts off. A vCPU with attention that is not awaited is recalled; the core keeps
//! a recall of a vCPU that runs or has an exit to be served, so none is lost on the way into a halt.

use crate::host::Host;
use crate::machine::Machine;
use crate::registers::INTERRUPTS;
use crate::saved::{Block, life, pending, power};
use portcullis_ipc::exit::{ExitPage, event, group, shadow, window};
use portcullis_ipc::syscall::Resume;

/// After this many ticks of the host's TSC a second try is made to bring in an NMI that found another
/// event in delivery: no window opens for that.
const RETRY: u64 = 50_000;

/// NMI, vector 2.
const NMI: u64 = event::VALID | event::NMI << event::TYPE_SHIFT | 2;

impl<H: Host> Machine<H> {
    /// Ends the service of an exit that was to be answered with `word`: the word that answers it.
    pub(crate) fn settle(&mut self, vcpu: u16, page: &mut ExitPage, word: u64) -> u64 {
        self.send_output(word == Resume::PARK);
        self.look();
        let word = if self.attention >> vcpu & 1 != 0 { self.attend(vcpu, page, word) } else { word };
        self.conclude(Some(vcpu));
        word
    }

    /// The answer to an exit that is not to be served: the machine does not run, or the vCPU does not, or this
    /// exit was served before and ended in the vCPU's start.
    pub(crate) fn ended(&mut self, vcpu: u16, page: &mut ExitPage) -> Option<u64> {
        let number = usize::from(vcpu);
        let state = self.durable.vcpus.get(number).copied().unwrap_or_default();
        let first = self.unseen >> number & 1 != 0 && self.crashed;
        let given_up = if first { self.too_often(vcpu, page) } else { None };
        let runs = matches!(state.life, life::RUNNING | life::HALTED);
        let word = if let Some(word) = given_up {
            word
        } else if self.durable.board.power != power::RUNNING {
            self.stand_by(vcpu, page)
        } else if runs && state.restarted != page.sequence {
            return None;
        } else if runs {
            self.enter_again(vcpu, page)
        } else {
            Resume::STOP
        };
        self.unseen &= !(1 << number);
        self.look();
        self.note_attention(number);
        self.awaited |= 1 << number;
        self.conclude(Some(vcpu));
        Some(word)
    }

    /// Follows what was changed up to the vCPUs that must look at it.
    pub(crate) fn look(&mut self) {
        self.lines();
        if self.touched.is_empty() {
            return;
        }
        for number in 0..usize::from(self.vcpus()) {
            if self.touched.has(Block::Board)
                || self.touched.has(Block::Vcpu(number))
                || self.touched.has(Block::Lapic(number))
            {
                self.note_attention(number);
            }
        }
    }

    fn note_attention(&mut self, number: usize) {
        let bit = 1 << number;
        let waits = match (self.durable.vcpus.get(number), self.durable.lapics.get(number)) {
            (Some(state), Some(lapic)) => {
                self.durable.board.power != power::RUNNING
                    || state.pending != 0
                    || !matches!(state.life, life::RUNNING | life::HALTED)
                    || lapic.pending().is_some()
            }
            _ => false,
        };
        if !waits && self.unseen & bit == 0 {
            self.attention &= !bit;
            return;
        }
        let window = self.durable.lapics.get(number).is_some_and(|lapic| lapic.pending().is_some());
        if self.attention & bit == 0 || window && self.no_window & bit != 0 {
            self.attention |= bit;
            self.awaited &= !bit;
            self.no_window &= !bit;
        }
    }

    /// Gives a vCPU what waits for it.
    fn attend(&mut self, vcpu: u16, page: &mut ExitPage, word: u64) -> u64 {
        let number = usize::from(vcpu);
        self.unseen &= !(1 << number);
        if self.durable.board.power != power::RUNNING {
            return self.stand_by(vcpu, page);
        }
        let state = self.durable.vcpus.get(number).copied().unwrap_or_default();
        let word = if state.pending & pending::INIT != 0 {
            self.take_init(vcpu, page)
        } else if !matches!(state.life, life::RUNNING | life::HALTED) || word == Resume::STOP {
            Resume::STOP
        } else {
            self.inject(vcpu, page, word)
        };
        self.note_attention(number);
        self.awaited |= 1 << number;
        word
    }

    /// Injects the NMI or interrupt that waits, if the vCPU can take it, and asks for a window if it cannot.
    fn inject(&mut self, vcpu: u16, page: &mut ExitPage, word: u64) -> u64 {
        let number = usize::from(vcpu);
        let state = self.durable.vcpus.get(number).copied().unwrap_or_default();
        let mut word = word;
        if state.injected == page.sequence && state.event != 0 {
            page.event = state.event;
        } else if page.event & event::VALID == 0
            && word & 0xff != Resume::PORT
            && let Some(injected) = self.acceptable(number, page)
        {
            page.event = injected;
            if let Some(state) = self.vcpu(number) {
                if injected == NMI {
                    state.pending &= !pending::NMI;
                }
                (state.injected, state.event) = (page.sequence, injected);
            }
        }
        if page.event & event::VALID != 0 {
            page.dirty |= group::EVENT;
            word = if word == Resume::PARK { Resume::ENTER } else { word };
            if state.life == life::HALTED
                && let Some(state) = self.vcpu(number)
            {
                state.life = life::RUNNING;
            }
        }
        self.ask_windows(number, page);
        word
    }

    /// The event that the vCPU can take now.
    fn acceptable(&mut self, number: usize, page: &ExitPage) -> Option<u64> {
        if page.shadow & shadow::INTERRUPT != 0 {
            return None;
        }
        let state = self.durable.vcpus.get(number)?;
        if state.pending & pending::NMI != 0 && page.shadow & shadow::NMI == 0 {
            return Some(NMI);
        }
        if page.rflags & INTERRUPTS == 0 {
            return None;
        }
        let vector = self.durable.lapics.get(number)?.pending()?;
        self.lapic(number)?.take(vector);
        Some(event::interrupt(vector))
    }

    /// Asks for the windows of what still waits.
    fn ask_windows(&mut self, number: usize, page: &mut ExitPage) {
        let mut windows = 0;
        if self.durable.lapics.get(number).is_some_and(|lapic| lapic.pending().is_some()) {
            windows |= window::INTERRUPT;
        }
        if self.durable.vcpus.get(number).is_some_and(|state| state.pending & pending::NMI != 0) {
            if page.shadow & shadow::NMI != 0 {
                windows |= window::NMI;
            } else {
                self.retry = Some(self.host.tsc().wrapping_add(RETRY));
                self.rearm = true;
            }
        }
        let no_window = u16::from(windows & window::INTERRUPT == 0) << number;
        self.no_window = self.no_window & !(1 << number) | no_window;
        if page.windows != windows {
            page.windows = windows;
            page.dirty |= group::EVENT;
        }
    }

    /// Makes what was changed durable, and then acts on it outside. `serving` is the vCPU whose exit is
    /// being served: it was attended to.
    pub(crate) fn conclude(&mut self, serving: Option<u16>) {
        self.commit();
        self.tell_after_output();
        let others = self.attention & !self.awaited & !serving.map_or(0, |vcpu| 1 << vcpu);
        for vcpu in (0..self.vcpus()).filter(|vcpu| others >> vcpu & 1 != 0) {
            self.awaited |= 1 << vcpu;
            self.host.recall(vcpu);
        }
        let starting = core::mem::take(&mut self.starting);
        for vcpu in (0..self.vcpus()).filter(|vcpu| starting >> vcpu & 1 != 0) {
            self.enter_stopped(vcpu);
        }
        self.arm();
    }

    /// The host's timer fired.
    pub fn timer(&mut self) {
        self.armed = 0;
        if self.retry.is_some_and(|at| at <= self.host.tsc()) {
            self.retry = None;
            let waits = |state: &crate::saved::Vcpu| state.pending & pending::NMI != 0;
            for (number, state) in self.durable.vcpus.iter().enumerate() {
                self.awaited &= !(u16::from(waits(state)) << number);
            }
        }
        self.expire();
        self.conclude(None);
    }
}
