//! What `bad-entry` and `bad-state` do in each generation, and the end that each must come to: known to them and
//! to `bad-judge`.

use crate::refused_state::{Case, REFUSED};
use portcullis_ipc::record::{Status, cause, phase};
use portcullis_ipc::syscall::Call;
use portcullis_runtime::syscall;

/// Reason of an instance that has nothing left to do.
pub const DONE: u32 = 0x100;
/// Reason: a call returned another status than it should. The detail is the status.
pub const STATUS: u32 = 0x101;
/// Reason: a wait brought another event than it should. The detail is the event.
pub const EVENT: u32 = 0x102;
/// Reason: the vCPU's state is another one than it should be. The detail is the offset of the first word.
pub const STATE: u32 = 0x103;
/// Reason: a state was taken that should have been refused.
pub const TAKEN: u32 = 0x104;
/// Reason: a state that should have been taken was not taken as it stood. The detail is the offset.
pub const CHANGED: u32 = 0x105;
/// Reason: the cause at the start is not that of the end before. The detail is the cause.
pub const CAUSE: u32 = 0x106;

/// Ends the instance: `reason`, the case at which it happened, below 256, and a detail, of which the record
/// shows 12 bits.
pub fn give_up(reason: u32, case: usize, detail: u64) -> ! {
    syscall::abort((detail & 0xfff) << 20 | (case as u64 & 0xff) << 12 | u64::from(reason & 0xfff))
}

/// How the fault record of an instance shows that it gave up.
pub struct GivenUp {
    /// Reason.
    pub reason: u32,
    /// Case.
    pub case: u32,
    /// Detail.
    pub detail: u32,
}

impl GivenUp {
    /// Reads a code.
    pub fn read(status: &Status) -> Option<Self> {
        let code = u32::from_le_bytes(status.code);
        let given_up = status.cause == cause::ABORTED;
        given_up.then_some(Self { reason: code & 0xfff, case: code >> 12 & 0xff, detail: code >> 20 })
    }
}

/// At what a vCPU is when it is resumed with a state that will be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Stopped.
    Stopped,
    /// Parked.
    Parked,
    /// Recalled; answered, then waited.
    Answer,
    /// Recalled; answered and waited in one call.
    AnswerAndWait,
    /// Left its guest by HLT, so that its registers are the ones that are loaded; answered and waited.
    Ran,
}

/// A round of `bad-entry`.
#[derive(Clone, Copy, Debug)]
pub struct EntryRound {
    /// vCPU, by its index in the VM.
    pub vcpu: u16,
    /// At what the vCPU is.
    pub way: Way,
    /// Which of the refused states.
    pub state: usize,
}

impl EntryRound {
    /// The round of a generation.
    pub fn of(generation: u32) -> Self {
        let number = generation as usize - 1;
        let ways = [Way::Stopped, Way::Parked, Way::Answer, Way::AnswerAndWait, Way::Ran];
        let way = ways.into_iter().cycle().nth(number % ways.len()).unwrap_or(Way::Stopped);
        Self { vcpu: (number / 10 % 2) as u16, way, state: number / 5 % 2 }
    }

    /// The fault record is the one that this round must leave, `first` being the number of the VM's first vCPU.
    pub fn fits(&self, status: &Status, first: u8) -> bool {
        status.cause == cause::BAD_GUEST_STATE
            && u16::from(status.detail) == u16::from(first) + self.vcpu
            && status.code == [0; 4]
    }
}

/// A round of `bad-state`.
#[derive(Clone, Copy, Debug)]
pub struct StateRound {
    /// Case of [`REFUSED`].
    pub case: usize,
    /// The vCPU has an exit that waits for its answer; else it is stopped.
    pub exited: bool,
}

impl StateRound {
    /// The round of a generation; `None` when all cases were had.
    pub fn of(generation: u32) -> Option<Self> {
        let number = generation as usize - 1;
        (number < REFUSED.len() * 2).then_some(Self { case: number / 2, exited: number % 2 == 1 })
    }

    /// The fault record is the one that this round must leave.
    pub fn fits(&self, status: &Status) -> bool {
        let code = REFUSED.get(self.case).map_or(0, Case::code);
        let at = if self.exited { phase::SERVING_EXIT } else { phase::OWN_WORK };
        // An instance whose state was taken gives up, which the next one is told.
        let taken = GivenUp::read(status).is_some_and(|given_up| given_up.reason == TAKEN);
        if code == 0 {
            return taken;
        }
        status.cause == cause::MISUSE
            && status.detail == Call::VcpuResume as u8
            && u32::from_le_bytes(status.code) == code
            && status.phase == at
    }
}
