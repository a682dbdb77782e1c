//! What the user types, on its way from a thread that reads to the run.

use super::keys::{Key, Keys};
use std::io::Read;
use std::sync::mpsc::{Receiver, Sender, sync_channel};

/// A wish of the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The guest gets this.
    Type(Vec<u8>),
    /// End the run.
    End,
    /// Show the keys.
    Help,
    /// This signal arrived.
    Signal(i32),
}

/// Reads `input`. `keys`: a terminal, whose Ctrl-A leads to a wish and which is read on, so that no key waits. What
/// comes from elsewhere goes to the guest as it is, by the receiver, and is read no faster than it is taken there.
pub fn listen(mut input: impl Read + Send + 'static, keys: bool, wishes: Sender<Wish>) -> Receiver<Vec<u8>> {
    let (texts, taken) = sync_channel(1);
    std::thread::spawn(move || {
        let mut decoder = Keys::default();
        let mut buffer = [0; PIECE];
        while let Ok(count @ 1..) = input.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default();
            let heard = match keys {
                true => split(&mut decoder, bytes).into_iter().all(|wish| wishes.send(wish).is_ok()),
                false => texts.send(bytes.to_vec()).is_ok(),
            };
            if !heard {
                return;
            }
        }
    });
    taken
}

/// Bytes that are read at once.
const PIECE: usize = 4096;

/// What typed bytes wish, in their order.
fn split(decoder: &mut Keys, bytes: &[u8]) -> Vec<Wish> {
    let mut wishes = Vec::new();
    for key in bytes.iter().filter_map(|byte| decoder.push(*byte)) {
        match (key, wishes.last_mut()) {
            (Key::Send(byte), Some(Wish::Type(bytes))) => bytes.push(byte),
            (Key::Send(byte), _) => wishes.push(Wish::Type(vec![byte])),
            (Key::End, _) => wishes.push(Wish::End),
            (Key::Help, _) => wishes.push(Wish::Help),
        }
    }
    wishes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    /// Says yes for ever, and counts how often.
    struct Yes(Arc<AtomicUsize>);

    impl Read for Yes {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            into.fill(b'y');
            self.0.fetch_add(into.len(), Ordering::SeqCst);
            Ok(into.len())
        }
    }

    #[test]
    fn input_without_end_is_read_no_faster_than_it_is_taken() {
        let count = Arc::new(AtomicUsize::new(0));
        let (wishes, _heard) = channel();
        let texts = listen(Yes(Arc::clone(&count)), false, wishes);
        for taken in 1..200 {
            assert_eq!(texts.recv().unwrap().len(), PIECE);
            // One in the channel, one that waits to be put there, one that was read just now.
            assert!(count.load(Ordering::SeqCst) <= (taken + 3) * PIECE);
        }
    }

    #[test]
    fn a_key_that_is_cut_in_two_by_a_read_is_still_a_key() {
        let typed = |text: &str| Wish::Type(text.into());
        let mut decoder = Keys::default();
        assert_eq!(split(&mut decoder, b"ab\x01"), [typed("ab")]);
        assert_eq!(split(&mut decoder, b"xc\x01hd"), [Wish::End, typed("c"), Wish::Help, typed("d")]);
    }
}
