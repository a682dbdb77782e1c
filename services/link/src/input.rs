//! Console input on its way to a guest: a bounded queue of numbered bytes. What was given stays until the
//! reader acknowledges it, so that a reply which is lost with an instance is given again.

/// Bytes that wait for the guest at most.
pub const CAPACITY: usize = 256;

/// A queue of bytes.
#[derive(Clone, Copy)]
pub struct Input {
    bytes: [u8; CAPACITY],
    /// Number of the first byte that is kept.
    first: u64,
    length: usize,
}

impl Input {
    /// An empty queue.
    pub const fn new() -> Self {
        Self { bytes: [0; CAPACITY], first: 0, length: 0 }
    }

    /// Bytes that fit.
    pub fn room(&self) -> usize {
        CAPACITY - self.length
    }

    /// Adds a byte; `false` when the queue is full and the byte is lost.
    pub fn push(&mut self, byte: u8) -> bool {
        if self.room() == 0 {
            return false;
        }
        if let Some(place) = self.bytes.get_mut((self.first as usize).wrapping_add(self.length) % CAPACITY) {
            *place = byte;
        }
        self.length += 1;
        true
    }

    /// Forgets the bytes before number `from` and copies those behind it into `buffer`, as many as there are
    /// and fit; returns the number of the first.
    ///
    /// A number that lies behind all input comes from a reader that outlived this queue: it is believed.
    pub fn read<'b>(&mut self, from: u64, buffer: &'b mut [u8]) -> (u64, &'b [u8]) {
        if from > self.first {
            let passed = usize::try_from(from - self.first).unwrap_or(usize::MAX).min(self.length);
            self.length -= passed;
            self.first = from;
        }
        let count = self.length.min(buffer.len());
        for (index, to) in buffer.iter_mut().take(count).enumerate() {
            *to = self.bytes.get((self.first as usize).wrapping_add(index) % CAPACITY).copied().unwrap_or(0);
        }
        (self.first, buffer.get(..count).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_across_the_end_of_the_ring() {
        let mut input = Input::new();
        let mut buffer = [0; 200];
        let mut next = 0;
        for round in 0..10u8 {
            assert!((0..150).all(|byte: u8| input.push(byte ^ round)));
            let (first, taken) = input.read(next, &mut buffer);
            assert_eq!((first, taken), (next, &(0..150).map(|byte: u8| byte ^ round).collect::<Vec<_>>()[..]));
            next += 150;
            input.read(next, &mut []);
        }
        assert!(input.read(next, &mut buffer).1.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_lost_and_what_fitted_stays() {
        let mut input = Input::new();
        assert!((0..CAPACITY).all(|_| input.push(1)));
        assert!(!input.push(2));
        assert_eq!(input.read(0, &mut [0; 300]), (0, &[1; CAPACITY][..]));
    }

    #[test]
    fn input_is_given_again_until_it_is_acknowledged() {
        let mut input = Input::new();
        b"root".iter().for_each(|byte| assert!(input.push(*byte)));
        let mut buffer = [0; 8];
        assert_eq!(input.read(0, &mut buffer), (0, &b"root"[..]));
        assert_eq!(input.read(0, &mut buffer[..2]), (0, &b"ro"[..]));
        assert_eq!(input.read(2, &mut buffer), (2, &b"ot"[..]));
        assert_eq!(input.read(0, &mut buffer), (2, &b"ot"[..]));
        assert_eq!(input.read(4, &mut buffer), (4, &b""[..]));
    }

    #[test]
    fn a_reader_that_knows_more_than_the_queue_goes_on_where_it_was() {
        let mut input = Input::new();
        assert!(input.push(1));
        assert_eq!(input.read(900, &mut [0; 8]), (900, &b""[..]));
        assert!(input.push(b'x'));
        assert_eq!(input.read(900, &mut [0; 8]), (900, &b"x"[..]));
    }
}
