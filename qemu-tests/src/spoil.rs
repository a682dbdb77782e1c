//! Ways to spoil a system image, each with the words in which the core must refuse it. Only the bytes are
//! changed here; where a changed byte would be found by the checksum first, the checksum is made right.

use portcullis_ipc::checksum::crc32;
use portcullis_ipc::image::{ImageHead, MANDATORY, RecordHead};
use std::mem::offset_of;
use zerocopy::{FromBytes, IntoBytes};

/// One way.
pub struct Spoiled {
    /// Name of the trial.
    pub name: &'static str,
    /// What is done to the image.
    pub spoil: fn(&mut Vec<u8>),
    /// Part of the line with which the core refuses it.
    pub refusal: &'static str,
}

const HEAD: usize = size_of::<ImageHead>();

/// All ways.
pub const ALL: [Spoiled; 9] = [
    Spoiled { name: "truncated", spoil: |image| image.truncate(image.len() - 4096), refusal: "image: truncated" },
    Spoiled { name: "head-only", spoil: |image| image.truncate(HEAD), refusal: "image: truncated" },
    Spoiled { name: "wrong-magic", spoil: |image| image[0] ^= 0x20, refusal: "not a Portcullis image" },
    Spoiled {
        name: "wrong-version",
        spoil: |image| image[offset_of!(ImageHead, version)] = 99,
        refusal: "image: format version 99",
    },
    Spoiled { name: "flipped-bit", spoil: |image| flip_last(image), refusal: "image: checksum" },
    Spoiled {
        name: "checked-past-the-end",
        spoil: |image| image[offset_of!(ImageHead, checked)..][..8].fill(0x7f),
        refusal: "image: truncated",
    },
    Spoiled {
        name: "unknown-mandatory-record",
        spoil: |image| change_first(image, |head| RecordHead { kind: 900, flags: MANDATORY, ..head }),
        refusal: "unknown mandatory kind 900",
    },
    Spoiled {
        name: "record-over-the-end",
        spoil: |image| change_first(image, |head| RecordHead { length: u32::MAX - 7, ..head }),
        refusal: "image: record 0: malformed",
    },
    Spoiled {
        name: "endless-records",
        spoil: |image| {
            image[offset_of!(ImageHead, records)..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
            seal(image);
        },
        refusal: ": malformed",
    },
];

/// Flips a bit of the last byte that the core checks.
fn flip_last(image: &mut [u8]) {
    let end = checked(image);
    if let Some(last) = image.get_mut(end.saturating_sub(1)) {
        *last ^= 1;
    }
}

/// End of what the core checks.
fn checked(image: &[u8]) -> usize {
    ImageHead::read_from_prefix(image).map_or(0, |(head, _)| head.checked as usize)
}

/// Changes the head of the first record.
fn change_first(image: &mut [u8], change: fn(RecordHead) -> RecordHead) {
    let place = HEAD..HEAD + size_of::<RecordHead>();
    if let Ok(head) = RecordHead::read_from_bytes(&image[place.clone()]) {
        image[place].copy_from_slice(change(head).as_bytes());
    }
    seal(image);
}

/// Makes the checksum right.
fn seal(image: &mut [u8]) {
    let checksum = crc32(0, image.get(HEAD..checked(image)).unwrap_or_default());
    image[offset_of!(ImageHead, checksum)..][..4].copy_from_slice(&checksum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_changes_the_image_and_its_own_part_only() {
        for spoiled in &ALL {
            let mut image = vec![7; 3 * 4096];
            image[offset_of!(ImageHead, checked)..][..8].copy_from_slice(&(3u64 * 4096).to_le_bytes());
            seal(&mut image);
            let sound = image.clone();
            (spoiled.spoil)(&mut image);
            let differing = sound.iter().zip(&image).filter(|(a, b)| a != b).count();
            let most = if image.len() == sound.len() { 1..=12 } else { 0..=0 };
            assert!(most.contains(&differing), "{}: {differing}", spoiled.name);
        }
    }
}
