//! The machine of one guest: takes an exit, changes the exit page, and says how the vCPU goes on.
//!
//! Here stand the dispatch and what several kinds of exit need; each kind has its own file below
//! `exits`.

use crate::config::Config;
use crate::cpuid::{Identity, Vendor, address_bits, cr4_allowed};
use crate::exception::{raise, vector};
use crate::fetch::{Bytes, Expected, length};
use crate::host::{Host, Note};
use crate::memory::all_ones;
use crate::paging::{Miss, PageFault};
use crate::ports::Claimed;
use crate::registers::{INTERRUPTS, TRAP, after, finish, merge};
use crate::saved::{Block, Board, Durable, Touched, life};
use crate::uart::Uart;
use alloc::boxed::Box;
use alloc::vec;
use iced_x86::Mnemonic;
use portcullis_ipc::exit::{ExitPage, Reason, group, io};
use portcullis_ipc::proto::vmport::PIECE;
use portcullis_ipc::syscall::Resume;

/// How the vCPU goes on, or in the error case: goes on without the instruction being done.
pub type Step<T = u64> = Result<T, u64>;

/// A guest's machine.
pub struct Machine<H> {
    /// The outside.
    pub host: H,
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) cr4_allowed: u64,
    /// Whose processor the host has.
    pub(crate) vendor: Vendor,
    /// Width of the guest's physical addresses, bits.
    pub(crate) address_bits: u32,
    pub(crate) claimed: Claimed,
    pub(crate) durable: Durable,
    /// Blocks of it that are not committed.
    pub(crate) touched: Touched,
    /// The console may hold input that was not fetched.
    pub(crate) more_input: bool,
    /// It does not answer: it is asked again when the host calls for output.
    pub(crate) input_later: bool,
    /// The load of the guest waits for the same.
    pub(crate) loads_later: bool,
    /// vCPUs that something waits for, one bit each; see `delivery`.
    pub(crate) attention: u16,
    /// vCPUs none of whose exits this instance has served: the first may be one that was served before.
    pub(crate) unseen: u16,
    /// The instance before ended by its own doing, not by a kill.
    pub crashed: bool,
    /// Those with attention that come back by themselves.
    pub(crate) awaited: u16,
    /// vCPUs that are stopped and are to enter.
    pub(crate) starting: u16,
    /// A deadline may have changed.
    pub(crate) rearm: bool,
    /// What the host's timer is set to, 0 for nothing.
    pub(crate) armed: u64,
    /// When a second try is made to bring in an NMI.
    pub(crate) retry: Option<u64>,
    /// Hz of the TSC, and of the local APIC's timer.
    pub(crate) rates: (u64, u64),
    /// Those that asked for no interrupt window: an NMI is all that waited.
    pub(crate) no_window: u16,
    /// A piece of a string at the high-bandwidth port.
    pub(crate) piece: Box<[u8]>,
}

macro_rules! reasons {
    ($($name:ident $variant:ident,)*) => { $(const $name: u32 = Reason::$variant as u32;)* };
}

reasons! {
    EXCEPTION Exception, INTERRUPT_WINDOW InterruptWindow, NMI_WINDOW NmiWindow, CPUID Cpuid, HLT Hlt,
    IO Io, MSR Msr, RDTSC Rdtsc, RDTSCP Rdtscp, RDPMC Rdpmc, INVLPG Invlpg,
    CONTROL_REGISTER ControlRegister, DEBUG_REGISTER DebugRegister, NESTED_FAULT NestedFault, SHUTDOWN Shutdown, HYPERCALL Hypercall,
    PAUSE Pause, WBINVD Wbinvd, XSETBV Xsetbv, MONITOR Monitor, MWAIT Mwait,
    VIRTUALIZATION Virtualization, TASK_SWITCH TaskSwitch, IRET Iret, RECALL Recall,
    SYSTEM_SIGNAL SystemSignal, BAD_STATE BadState,
}

impl<H: Host> Machine<H> {
    /// A machine with the state that an instance before left, or the default.
    pub fn new(mut host: H, config: Config, identity: Identity) -> Self {
        let durable = Durable::load(host.journal());
        let cr4_allowed = cr4_allowed(&identity, |leaf, subleaf| host.cpuid(leaf, subleaf));
        let vendor = Vendor::of(|leaf, subleaf| host.cpuid(leaf, subleaf));
        let address_bits = address_bits(|leaf, subleaf| host.cpuid(leaf, subleaf));
        let rates = host.rates();
        Self {
            host,
            config,
            identity,
            cr4_allowed,
            vendor,
            address_bits,
            claimed: Claimed::new(&config),
            durable,
            touched: Touched::default(),
            more_input: true,
            input_later: false,
            loads_later: false,
            attention: u16::MAX,
            unseen: u16::MAX,
            crashed: false,
            awaited: 0,
            starting: 0,
            rearm: true,
            armed: 0,
            retry: None,
            rates,
            no_window: 0,
            piece: vec![0; PIECE].into_boxed_slice(),
        }
    }

    /// Serves an exit: the [`Resume`] word that answers it.
    #[inline(always)]
    pub fn exited(&mut self, vcpu: u16, page: &mut ExitPage) -> u64 {
        if self.attention >> vcpu & 1 != 0 {
            if let Some(word) = self.ended(vcpu, page) {
                return word;
            }
        } else if page.reason == IO
            && let Some(word) = self.unclaimed(page)
        {
            return word;
        }
        self.dispatch(vcpu, page)
    }

    /// The frequent case: an access to a port that nobody claims.
    #[inline(always)]
    fn unclaimed(&mut self, page: &mut ExitPage) -> Option<u64> {
        let [access, ..] = page.qualification;
        let width = (access >> io::WIDTH_SHIFT) as u32 & 7;
        let plain = access & io::STRING == 0 && page.next_rip != 0 && page.rflags & TRAP == 0;
        if !plain || self.claimed.may_have(access as u16, width) {
            return None;
        }
        if access & io::INPUT != 0 {
            let [rax, ..] = &mut page.registers;
            *rax = merge(*rax, width as usize, u64::MAX);
            page.dirty |= group::GENERAL;
        }
        finish(page, page.next_rip);
        Some(Resume::ENTER)
    }

    fn dispatch(&mut self, vcpu: u16, page: &mut ExitPage) -> u64 {
        if page.rflags & TRAP != 0 {
            self.host.fetch(vcpu, page, group::DEBUG);
        }
        let step = match page.reason {
            IO => self.port(vcpu, page),
            CPUID => self.cpuid(vcpu, page),
            MSR => self.msr(vcpu, page),
            HLT => self.hlt(vcpu, page),
            EXCEPTION => self.exception(vcpu, page),
            NESTED_FAULT => self.nested_fault(vcpu, page),
            CONTROL_REGISTER => self.control_register(vcpu, page),
            DEBUG_REGISTER => self.debug_register(vcpu, page),
            XSETBV => self.xsetbv(vcpu, page),
            RDTSC | RDTSCP => self.rdtsc(vcpu, page),
            PAUSE => self.skip(vcpu, page, &[crate::fetch::PAUSE]).map(|_| Resume::YIELD),
            INVLPG => self.skip(vcpu, page, &[crate::fetch::INVLPG]),
            WBINVD => {
                let candidates = [crate::fetch::WBINVD, crate::fetch::WBNOINVD, crate::fetch::INVD];
                self.skip(vcpu, page, &candidates)
            }
            RDPMC => self.rdpmc(vcpu, page),
            HYPERCALL | VIRTUALIZATION | MONITOR | MWAIT => {
                raise(page, vector::UNDEFINED, None);
                Ok(Resume::ENTER)
            }
            RECALL => Ok(self.back(vcpu)),
            // The core delivers again what the exit interrupted.
            INTERRUPT_WINDOW | NMI_WINDOW | IRET | SYSTEM_SIGNAL => Ok(Resume::ENTER),
            SHUTDOWN => self.triple_fault(vcpu, page),
            TASK_SWITCH => self.task_switch(vcpu, page),
            BAD_STATE => self.stop(vcpu, page, "guest state that the processor refuses", page.qualification[0]),
            reason => self.stop(vcpu, page, "exit that is not served", reason.into()),
        };
        self.settle(vcpu, page, step.unwrap_or_else(|word| word))
    }

    /// Where the guest goes on after the current instruction, and which of the candidates it is; makes
    /// `groups` valid.
    ///
    /// An instruction that is none of them was changed after the exit: the guest runs what stands there
    /// now.
    pub(crate) fn next(
        &mut self,
        vcpu: u16,
        page: &mut ExitPage,
        candidates: &[Expected],
        groups: u32,
    ) -> Step<(u64, Mnemonic)> {
        if let ([only], true) = (candidates, page.next_rip != 0) {
            if groups != 0 {
                self.host.fetch(vcpu, page, groups);
            }
            return Ok((page.next_rip, only.mnemonic));
        }
        let bytes = self.bytes(vcpu, page, groups)?;
        let (length, mnemonic) = length(&bytes, page.rip, candidates).ok_or(Resume::ENTER)?;
        Ok((after(page, length, bytes.bits), mnemonic))
    }

    /// The bytes of the current instruction; makes the groups CONTROL and SEGMENTS and `groups` valid.
    pub(crate) fn bytes(&mut self, vcpu: u16, page: &mut ExitPage, groups: u32) -> Step<Bytes> {
        self.host.fetch(vcpu, page, group::CONTROL | group::SEGMENTS | groups);
        match Bytes::fetch(self.host.memory(), page) {
            Ok(bytes) => Ok(bytes),
            Err(miss) => Err(self.missed(page, miss)),
        }
    }

    /// Raises the page fault of an access, or lets the instruction run again; the group CONTROL is valid.
    pub(crate) fn missed(&mut self, page: &mut ExitPage, miss: Miss) -> u64 {
        if let Miss::Fault(PageFault { address, error }) = miss {
            page.cr2 = address;
            page.dirty |= group::CONTROL;
            raise(page, vector::PAGE, Some(error));
        }
        Resume::ENTER
    }

    /// Raises #GP(0).
    pub(crate) fn refuse(&mut self, page: &mut ExitPage) -> Step {
        raise(page, vector::PROTECTION, Some(0));
        Ok(Resume::ENTER)
    }

    /// Passes over an instruction that needs no work.
    fn skip(&mut self, vcpu: u16, page: &mut ExitPage, candidates: &[Expected]) -> Step {
        let (next, _) = self.next(vcpu, page, candidates, 0)?;
        finish(page, next);
        Ok(Resume::ENTER)
    }

    fn hlt(&mut self, vcpu: u16, page: &mut ExitPage) -> Step {
        let (next, _) = self.next(vcpu, page, &[crate::fetch::HLT], 0)?;
        let rip = page.rip;
        finish(page, next);
        if page.dirty & group::EVENT != 0 && page.event != 0 {
            return Ok(Resume::ENTER);
        }
        if page.rflags & INTERRUPTS == 0 && self.halts_for_good(vcpu) {
            page.rip = rip;
            return self.stop(
                vcpu,
                page,
                "it halts with interrupts off, and nothing is left that could wake it",
                page.rflags,
            );
        }
        if let Some(state) = self.vcpu(vcpu.into()) {
            state.life = life::HALTED;
        }
        Ok(Resume::PARK)
    }

    /// Whether nothing can wake a vCPU that halts with interrupts off: neither an NMI nor INIT waits for it or can
    /// come from the serial port, and no other vCPU runs or could be woken itself.
    #[cold]
    fn halts_for_good(&mut self, vcpu: u16) -> bool {
        let waits = self.durable.vcpus.get(usize::from(vcpu)).is_none_or(|state| state.pending != 0);
        if waits || self.serial_may_signal() {
            return false;
        }
        (0..self.vcpus()).filter(|other| *other != vcpu).all(|other| {
            let state = self.durable.vcpus.get(usize::from(other)).copied().unwrap_or_default();
            match state.life {
                life::WAITING | life::STOPPED => true,
                life::HALTED if state.pending == 0 => {
                    self.host.stopped(other).is_some_and(|page| page.rflags & INTERRUPTS == 0)
                }
                _ => false,
            }
        })
    }

    /// A vCPU that was recalled halts on if it halted, unless something is found for it.
    fn back(&self, vcpu: u16) -> u64 {
        let halted = self.durable.vcpus.get(usize::from(vcpu)).is_some_and(|state| state.life == life::HALTED);
        if halted { Resume::PARK } else { Resume::ENTER }
    }

    /// Does an access that may change a device, once for each exit: an exit that is given again is answered
    /// from its record.
    pub(crate) fn once(&mut self, vcpu: u16, sequence: u64, access: impl FnOnce(&mut Self) -> u64) -> u64 {
        if let Some(value) = self.answered(vcpu, sequence) {
            return value;
        }
        let value = access(self);
        self.record(vcpu, sequence, value);
        value
    }

    /// What the exit read, if it was served before.
    pub(crate) fn answered(&self, vcpu: u16, sequence: u64) -> Option<u64> {
        let record = self.durable.vcpus.get(usize::from(vcpu))?;
        (record.sequence == sequence).then_some(record.value)
    }

    /// Makes what the exit changed durable, if it changed anything, with what it read.
    pub(crate) fn record(&mut self, vcpu: u16, sequence: u64, value: u64) {
        let number = usize::from(vcpu);
        if !self.touched.is_empty()
            && let Some(record) = self.durable.vcpus.get_mut(number)
        {
            (record.sequence, record.value) = (sequence, value);
            self.touched.add(Block::Vcpu(number));
            self.commit();
        }
    }

    /// The board's registers, to be changed.
    pub(crate) fn board(&mut self) -> &mut Board {
        self.touched.add(Block::Board);
        &mut self.durable.board
    }

    /// The serial port, to be changed.
    pub(crate) fn uart(&mut self) -> &mut Uart {
        self.touched.add(Block::Uart);
        &mut self.durable.uart
    }

    /// Makes what was changed durable. Called after every effect, before the vCPU goes on.
    pub(crate) fn commit(&mut self) {
        self.look();
        let touched = core::mem::take(&mut self.touched);
        if !touched.is_empty() && self.durable.commit(self.host.journal(), touched).is_err() {
            self.host.note(Note::NotSaved);
        }
    }

    /// What a read of `width` bytes brings where nobody answers.
    pub(crate) const fn nobody(width: u32) -> u32 {
        all_ones(width as usize) as u32
    }
}
