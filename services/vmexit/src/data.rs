//! Data accesses on behalf of an emulated instruction: linear addresses, page by page. Addresses beyond
//! which there is no memory read all ones and swallow writes.

use crate::memory::GuestMemory;
use crate::paging::{Access, Miss, Translation};

const PAGE: u64 = 4096;

/// The two pieces of an access of `length` bytes (at most 4096) at `address`: address and length.
fn pieces(address: u64, length: usize) -> [(u64, usize); 2] {
    let first = ((PAGE - address % PAGE) as usize).min(length);
    [(address, first), (address.wrapping_add(first as u64), length - first)]
}

/// Guest-physical address and length of the pieces of an access.
pub type Places = [(u64, usize); 2];

/// Translates both pieces before anything is moved, so that a fault changes nothing.
pub fn translate(
    translation: &Translation,
    memory: &mut impl GuestMemory,
    address: u64,
    length: usize,
    access: Access,
) -> Result<Places, Miss> {
    let mut result = [(0, 0); 2];
    for (to, (linear, length)) in result.iter_mut().zip(pieces(address, length)) {
        if length > 0 {
            *to = (translation.translate(memory, linear, access)?, length);
        }
    }
    Ok(result)
}

/// Reads `bytes` at a linear address.
pub fn read(
    translation: &Translation,
    memory: &mut impl GuestMemory,
    address: u64,
    bytes: &mut [u8],
) -> Result<(), Miss> {
    let places = translate(translation, memory, address, bytes.len(), Access::Read)?;
    read_at(memory, places, bytes);
    Ok(())
}

/// Reads `bytes` where [`translate`] found so many.
pub fn read_at(memory: &impl GuestMemory, places: Places, bytes: &mut [u8]) {
    let mut rest = bytes;
    for (physical, length) in places {
        let (piece, after) = rest.split_at_mut(length);
        if !memory.read(physical, piece) {
            piece.fill(0xff);
        }
        rest = after;
    }
}

/// Writes `bytes` at a linear address.
pub fn write(translation: &Translation, memory: &mut impl GuestMemory, address: u64, bytes: &[u8]) -> Result<(), Miss> {
    let places = translate(translation, memory, address, bytes.len(), Access::Write)?;
    write_at(memory, places, bytes);
    Ok(())
}

/// Writes `bytes` where [`translate`] found so many.
pub fn write_at(memory: &mut impl GuestMemory, places: Places, bytes: &[u8]) {
    let mut rest = bytes;
    for (physical, length) in places {
        let (piece, after) = rest.split_at(length);
        memory.write(physical, piece);
        rest = after;
    }
}

/// Replaces `old` by `new` in the byte where [`translate`] found one, while it is `old`: what another vCPU changed
/// stays as that vCPU left it.
pub fn exchange_at(memory: &mut impl GuestMemory, places: Places, old: u8, new: u8) {
    let [(physical, _), _] = places;
    memory.exchange(physical, 1, old.into(), new.into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::Plain;
    use crate::paging::PageFault;

    #[test]
    fn an_access_crosses_from_memory_into_nothing() {
        let mut memory = Plain::new(0x1000);
        let flat = Translation::default();
        assert_eq!(write(&flat, &mut memory, 0xffe, &[1, 2, 3, 4]), Ok(()));
        let mut bytes = [0; 4];
        assert_eq!(read(&flat, &mut memory, 0xffe, &mut bytes), Ok(()));
        assert_eq!(bytes, [1, 2, 0xff, 0xff]);
    }

    #[test]
    fn a_fault_in_the_second_page_changes_nothing() {
        let mut memory = Plain::new(0x4000);
        memory.put(0x1000, &0x2003u32.to_le_bytes());
        memory.put(0x2004, &0x3003u32.to_le_bytes());
        let paged = Translation { cr0: 1 << 31, cr3: 0x1000, ..Default::default() };
        let result = write(&paged, &mut memory, 0x1ffe, &[1, 2, 3, 4]);
        assert_eq!(result, Err(Miss::Fault(PageFault { address: 0x2000, error: 2 })));
        assert_eq!(memory.0[0x3ffe..], [0, 0]);
    }
}
