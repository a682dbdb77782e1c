//! Console input on its way to a guest: a bounded queue; what does not fit is dropped, as by a real
//! line without flow control.

/// Bytes that wait for the guest at most.
pub const CAPACITY: usize = 256;

/// A queue of bytes.
#[derive(Clone, Copy)]
pub struct Input {
    bytes: [u8; CAPACITY],
    first: usize,
    length: usize,
}

impl Input {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { bytes: [0; CAPACITY], first: 0, length: 0 }
    }

    /// Adds a byte; `false` when the queue is full and the byte is lost.
    pub fn push(&mut self, byte: u8) -> bool {
        if self.length == CAPACITY {
            return false;
        }
        if let Some(place) = self.bytes.get_mut((self.first + self.length) % CAPACITY) {
            *place = byte;
        }
        self.length += 1;
        true
    }

    /// Takes bytes out into `buffer`, as many as there are and fit.
    pub fn take<'b>(&mut self, buffer: &'b mut [u8]) -> &'b [u8] {
        let count = self.length.min(buffer.len());
        for (index, to) in buffer.iter_mut().take(count).enumerate() {
            *to = self.bytes.get((self.first + index) % CAPACITY).copied().unwrap_or(0);
        }
        self.first = (self.first + count) % CAPACITY;
        self.length -= count;
        buffer.get(..count).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_across_the_end_of_the_ring() {
        let mut input = Input::new();
        let mut buffer = [0; 200];
        for round in 0..10u8 {
            assert!((0..150).all(|byte: u8| input.push(byte ^ round)));
            let taken = input.take(&mut buffer).to_vec();
            assert_eq!(taken, (0..150).map(|byte: u8| byte ^ round).collect::<Vec<_>>());
        }
        assert!(input.take(&mut buffer).is_empty());
    }

    #[test]
    fn what_does_not_fit_is_lost_and_what_fitted_stays() {
        let mut input = Input::new();
        assert!((0..CAPACITY).all(|_| input.push(1)));
        assert!(!input.push(2));
        assert_eq!(input.take(&mut [0; 300]), [1; CAPACITY]);
    }
}
