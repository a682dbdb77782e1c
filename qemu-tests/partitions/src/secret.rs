//! A word that one partition holds and no other may ever see.

const HALF: u64 = 0x5ec2_e7c0_de00_0001;
const MASK: u64 = 0xa5a5_5a5a_c3c3_3c3c;

/// The secret; only its holder computes it.
pub fn secret() -> u64 {
    core::hint::black_box(HALF) ^ core::hint::black_box(MASK)
}

/// Whether a word is the secret, without holding it.
pub fn is_secret(word: u64) -> bool {
    word ^ core::hint::black_box(MASK) == HALF
}
