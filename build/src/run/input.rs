//! What the user types on its way to the guest: one thread reads, one writes to COM1, so that a guest which
//! takes no input keeps nobody from ending the run.

use super::keys::{Key, Keys};
use crate::emulator::Emulator;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Sender, channel};

/// A wish of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// End the run.
    End,
    /// Show the keys.
    Help,
    /// This signal arrived.
    Signal(i32),
}

/// Forwards standard input to COM1. `keys`: a terminal, whose Ctrl-A leads to a wish; what comes from
/// elsewhere goes to the guest as it is.
pub fn forward(emulator: &Emulator, keys: bool, wishes: Sender<Wish>) -> anyhow::Result<()> {
    let mut line = emulator.com1_writer()?;
    let (sender, typed) = channel::<Vec<u8>>();
    std::thread::spawn(move || {
        for bytes in typed {
            // The line ends with the emulator; the run's events tell.
            if line.write_all(&bytes).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        let mut decoder = Keys::default();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = io::stdin().read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default();
            let (bytes, wished) = if keys { split(&mut decoder, bytes) } else { (bytes.to_vec(), Vec::new()) };
            let gone = sender.send(bytes).is_err() || wished.into_iter().any(|wish| wishes.send(wish).is_err());
            if gone {
                return;
            }
        }
    });
    Ok(())
}

fn split(decoder: &mut Keys, bytes: &[u8]) -> (Vec<u8>, Vec<Wish>) {
    let (mut sent, mut wishes) = (Vec::new(), Vec::new());
    for key in bytes.iter().filter_map(|byte| decoder.push(*byte)) {
        match key {
            Key::Send(byte) => sent.push(byte),
            Key::End => wishes.push(Wish::End),
            Key::Help => wishes.push(Wish::Help),
        }
    }
    (sent, wishes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_cut_in_two_by_a_read_is_still_a_key() {
        let mut decoder = Keys::default();
        assert_eq!(split(&mut decoder, b"ab\x01"), (b"ab".to_vec(), vec![]));
        assert_eq!(split(&mut decoder, b"xc\x01h"), (b"c".to_vec(), vec![Wish::End, Wish::Help]));
    }
}
