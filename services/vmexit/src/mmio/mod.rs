//! Instructions whose operand is not the guest's memory: device registers, and addresses beyond which
//! there is nothing. The instruction is decoded once, its operands are translated, and its data goes
//! piece by piece to whoever claims the address.
//!
//! Done are the forms that kernels and probing code use on device memory: moves of every width, the
//! arithmetic and bit operations that read, or read and write, one operand, and the string instructions
//! MOVS, STOS and LODS. Others are told as [`Stop::Unknown`].
//!
//! Not here: what a device does with an access, and which devices there are.

mod decode;
mod operand;
mod operation;
mod place;
mod string;

#[cfg(test)]
mod tests;

use crate::memory::GuestMemory;
use crate::paging::Miss;
use decode::Operation;
use iced_x86::Instruction;
use portcullis_ipc::exit::ExitPage;
use string::StringMove;

pub use operand::reach;

/// What the data of an instruction reaches.
pub trait Bus {
    /// Guest memory.
    type Memory: GuestMemory;
    /// Guest memory.
    fn memory(&mut self) -> &mut Self::Memory;
    /// Whether a guest-physical address lies in memory that the guest may not write itself.
    fn watches(&self, address: u64) -> bool {
        let _ = address;
        false
    }
    /// Whether a device claims the page of this guest-physical address.
    fn claims(&self, address: u64) -> bool;
    /// Reads an aligned word of four bytes of a device.
    fn read(&mut self, address: u64) -> u32;
    /// Writes an aligned word of four bytes of a device.
    fn write(&mut self, address: u64, value: u32);
    /// Makes an access to a device or to watched memory, or finds that this exit made it before the service was
    /// restarted; the value is the same.
    fn once(&mut self, access: impl FnOnce(&mut Self) -> u64) -> u64;
}

/// How far the instruction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is done.
    Whole,
    /// A repetition is done in part: the instruction runs again with its registers advanced.
    Part,
}

/// Why nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The operand has no address.
    Missed(Miss),
    /// It raises this exception with error code 0.
    Exception(u8),
    /// The operand lies in memory, so that the guest can do this itself: code or page tables were changed
    /// after the exit.
    Memory,
    /// An instruction that is not emulated.
    Unknown,
}

/// Does `instruction` on behalf of the vCPU whose groups GENERAL, FLOW, CONTROL and SEGMENTS are valid in
/// `page`. Changes its general registers and flags, not its RIP; nothing when it fails.
pub fn execute(
    page: &mut ExitPage,
    instruction: &Instruction,
    code_bits: u32,
    bus: &mut impl Bus,
) -> Result<Done, Stop> {
    if let Some(string) = StringMove::of(instruction) {
        return string.execute(page, code_bits, bus);
    }
    let operation = Operation::of(instruction).ok_or(Stop::Unknown)?;
    operation.execute(page, instruction, code_bits, bus)
}
