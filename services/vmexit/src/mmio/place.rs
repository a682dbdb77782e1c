//! Where an operand lies: one piece, or two when it crosses a page; each in memory, a device's, or
//! nobody's.

use super::{Bus, Stop};
use crate::data;
use crate::memory::GuestMemory;
use crate::paging::{Access, Translation};
use portcullis_ipc::exit::ExitPage;

/// Bytes of a device's register: an access is split so that none of its parts crosses one.
const REGISTER: u64 = 4;

/// Whose a piece is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Memory,
    Device,
    Nobody,
}

/// The pieces of an operand: guest-physical address and bytes, none of them across a page.
#[derive(Clone, Copy)]
pub struct Place([(u64, usize); 2]);

impl Place {
    /// Translates an operand of `length` bytes (at most 8) before anything is moved.
    pub fn translate(
        page: &ExitPage,
        bus: &mut impl Bus,
        linear: u64,
        length: usize,
        writes: bool,
    ) -> Result<Self, Stop> {
        let access = if writes { Access::Write } else { Access::Read };
        let pieces = data::translate(&Translation::of(page), bus.memory(), linear, length, access);
        pieces.map(Self).map_err(Stop::Missed)
    }

    /// The pieces with their owners.
    fn pieces<B: Bus>(self, bus: &mut B) -> impl Iterator<Item = (Owner, u64, usize)> + use<B> {
        let owners = self.0.map(|(address, _)| {
            if bus.memory().holds(address, 1) {
                Owner::Memory
            } else if bus.claims(address) {
                Owner::Device
            } else {
                Owner::Nobody
            }
        });
        let with = self.0.into_iter().zip(owners);
        with.map(|((address, length), owner)| (owner, address, length)).filter(|(_, _, length)| *length > 0)
    }

    /// Whether it lies in memory as a whole, and the guest may write there itself.
    pub fn is_memory(self, bus: &mut impl Bus) -> bool {
        !self.is_watched(bus) && self.pieces(bus).all(|(owner, ..)| owner == Owner::Memory)
    }

    fn is_watched(self, bus: &impl Bus) -> bool {
        self.0.iter().any(|(address, length)| *length > 0 && bus.watches(*address))
    }

    /// Whether an access is remembered as one of its exit: a part of the operand is a device's, or is memory whose
    /// value may depend on what this exit stored there before.
    pub fn is_remembered(self, bus: &mut impl Bus) -> bool {
        self.is_watched(bus) || self.pieces(bus).any(|(owner, ..)| owner == Owner::Device)
    }

    /// Makes an access through [`Bus::once`] if it is one of those that are remembered.
    pub fn once<B: Bus>(self, bus: &mut B, access: impl FnOnce(&mut B) -> u64) -> u64 {
        if self.is_remembered(bus) { bus.once(access) } else { access(bus) }
    }

    /// Its value, little endian.
    pub fn load(self, bus: &mut impl Bus) -> u64 {
        let (mut buffer, mut start) = ([0; 8], 0);
        for (owner, address, length) in self.pieces(bus) {
            let bytes = buffer.get_mut(start..start + length).unwrap_or_default();
            match owner {
                Owner::Memory => {
                    bus.memory().read(address, bytes);
                }
                Owner::Device => read_device(bus, address, bytes),
                Owner::Nobody => bytes.fill(0xff),
            }
            start += length;
        }
        u64::from_le_bytes(buffer)
    }

    /// Writes those pieces that are not memory.
    pub fn store_outside(self, bus: &mut impl Bus, value: u64) {
        self.store(bus, value, |bus, owner, address, bytes| {
            if owner == Owner::Device {
                write_device(bus, address, bytes);
            }
        });
    }

    /// Writes those pieces that are memory.
    pub fn store_inside(self, bus: &mut impl Bus, value: u64) {
        self.store(bus, value, |bus, owner, address, bytes| {
            if owner == Owner::Memory {
                bus.memory().write(address, bytes);
            }
        });
    }

    fn store<B: Bus>(self, bus: &mut B, value: u64, mut put: impl FnMut(&mut B, Owner, u64, &[u8])) {
        let (buffer, mut start) = (value.to_le_bytes(), 0);
        for (owner, address, length) in self.pieces(bus) {
            put(bus, owner, address, buffer.get(start..start + length).unwrap_or_default());
            start += length;
        }
    }
}

/// Parts of an access to a device: the aligned word, the first byte in it, and the bytes.
fn parts(address: u64, length: usize) -> impl Iterator<Item = (u64, usize, core::ops::Range<usize>)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let at = address + done as u64;
        let skip = (at % REGISTER) as usize;
        let count = (REGISTER as usize - skip).min(length - done);
        let part = (at - skip as u64, skip, done..done + count);
        done += count;
        (count > 0).then_some(part)
    })
}

fn read_device(bus: &mut impl Bus, address: u64, bytes: &mut [u8]) {
    for (word, skip, range) in parts(address, bytes.len()) {
        let value = bus.read(word) >> (8 * skip);
        for (to, from) in bytes.get_mut(range).unwrap_or_default().iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }
}

/// Registers are written as a whole: a part that is narrower is ignored.
fn write_device(bus: &mut impl Bus, address: u64, bytes: &[u8]) {
    for (word, _, range) in parts(address, bytes.len()) {
        if let Some(Ok(value)) = bytes.get(range).map(<[u8; REGISTER as usize]>::try_from) {
            bus.write(word, u32::from_le_bytes(value));
        }
    }
}
