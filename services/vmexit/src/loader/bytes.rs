//! Little-endian fields of a file that nobody has checked.

/// `N` bytes at `offset`; `None` beyond the end.
pub fn array<const N: usize>(file: &[u8], offset: u64) -> Option<[u8; N]> {
    let start = usize::try_from(offset).ok()?;
    file.get(start..start.checked_add(N)?)?.try_into().ok()
}

/// A byte.
pub fn u8_at(file: &[u8], offset: u64) -> Option<u8> {
    array(file, offset).map(u8::from_le_bytes)
}

/// Two bytes.
pub fn u16_at(file: &[u8], offset: u64) -> Option<u16> {
    array(file, offset).map(u16::from_le_bytes)
}

/// Four bytes.
pub fn u32_at(file: &[u8], offset: u64) -> Option<u32> {
    array(file, offset).map(u32::from_le_bytes)
}

/// Eight bytes.
pub fn u64_at(file: &[u8], offset: u64) -> Option<u64> {
    array(file, offset).map(u64::from_le_bytes)
}

/// `length` bytes at `offset`; `None` when they are not all there.
pub fn slice(file: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    file.get(start..start.checked_add(usize::try_from(length).ok()?)?)
}
