//! What the lender asks of the borrower, and the bytes that both expect.

/// What the borrower does with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// Read, and reply the checksum of what came.
    Read = 0,
    /// Write the pattern of the seed.
    Write = 1,
    /// Read by the lease of the call before, which is over.
    ReadOld = 2,
}

/// An order, as it stands in the payload of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// What to do.
    pub action: Action,
    /// Index of the lease.
    pub index: u8,
    /// Seed of the pattern to write.
    pub seed: u8,
    /// Bytes to copy, at most 8192.
    pub length: u32,
    /// First byte in the lease.
    pub offset: u64,
}

impl Order {
    /// As payload.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..3].copy_from_slice(&[self.action as u8, self.index, self.seed]);
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// From a payload.
    pub fn from_bytes(bytes: &[u8; 16]) -> Self {
        let [action, index, seed, _, a, b, c, d, offset @ ..] = *bytes;
        let action = match action {
            0 => Action::Read,
            1 => Action::Write,
            _ => Action::ReadOld,
        };
        Self { action, index, seed, length: u32::from_le_bytes([a, b, c, d]), offset: u64::from_le_bytes(offset) }
    }
}

/// Byte `index` of the pattern of `seed`: no two neighbours and no two pages are alike.
pub fn pattern(seed: u8, index: u64) -> u8 {
    (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ seed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reads_back() {
        let order = Order { action: Action::Write, index: 3, seed: 9, length: 4097, offset: u64::MAX - 1 };
        assert_eq!(Order::from_bytes(&order.to_bytes()), order);
    }
}
