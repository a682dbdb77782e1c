//! Cookies that a guest program cannot guess: without the cookie it cannot use another program's channel.
//!
//! A permutation of 256 bits (SipHash's round) absorbs fresh entropy at every draw and gives 64 bits out.
//! The entropy is the processor's random source where CPUID shows one (RDSEED, else RDRAND), and the
//! time-stamp counter where it shows none; what was absorbed stays in the state, which is durable, so the
//! counter's few unknown bits add up over all draws.

/// The state of the generator.
pub type State = [u64; 4];

/// Rounds between two cookies.
const ROUNDS: u32 = 8;

fn round([mut a, mut b, mut c, mut d]: State) -> State {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

/// Absorbs `entropy`: the state after it, and a cookie.
pub fn draw(state: State, entropy: u64) -> (State, u64) {
    let [a, b, c, d] = state;
    // A state of zeros would stay one without entropy.
    let mut state = [a, b, c ^ 0xff, d ^ entropy];
    for _ in 0..ROUNDS {
        state = round(state);
    }
    let [a, b, c, d] = state;
    ([a ^ entropy, b, c, d], a ^ b ^ c ^ d)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn cookies_differ_even_when_the_entropy_does_not() {
        let mut state = [0; 4];
        let mut seen = BTreeSet::new();
        for _ in 0..10_000 {
            let (next, cookie) = draw(state, 0);
            assert!(seen.insert(cookie));
            state = next;
        }
    }

    #[test]
    fn every_bit_of_entropy_changes_about_half_of_the_cookie() {
        let (_, plain) = draw([1, 2, 3, 4], 5);
        for bit in 0..64 {
            let (_, other) = draw([1, 2, 3, 4], 5 ^ 1 << bit);
            assert!((10..=54).contains(&(plain ^ other).count_ones()), "bit {bit}");
        }
    }
}
