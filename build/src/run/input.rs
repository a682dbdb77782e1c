//! What the user types, on its way from a thread that reads to the run.

use super::keys::{Key, Keys};
use std::io::{self, Read};
use std::sync::mpsc::Sender;

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

/// Reads standard input. `keys`: a terminal, whose Ctrl-A leads to a wish; what comes from elsewhere goes to the
/// guest as it is.
pub fn listen(keys: bool, wishes: Sender<Wish>) {
    std::thread::spawn(move || {
        let mut decoder = Keys::default();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = io::stdin().read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default();
            let all = if keys { split(&mut decoder, bytes) } else { vec![Wish::Type(bytes.to_vec())] };
            if all.into_iter().any(|wish| wishes.send(wish).is_err()) {
                return;
            }
        }
    });
}

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

    #[test]
    fn a_key_that_is_cut_in_two_by_a_read_is_still_a_key() {
        let typed = |text: &str| Wish::Type(text.into());
        let mut decoder = Keys::default();
        assert_eq!(split(&mut decoder, b"ab\x01"), [typed("ab")]);
        assert_eq!(split(&mut decoder, b"xc\x01hd"), [Wish::End, typed("c"), Wish::Help, typed("d")]);
    }
}
