//! Ways to spoil a system image, each with the words in which the core must refuse it. Only the bytes are
//! changed here; where a changed byte would be found by the checksum first, the checksum is made right.

use portcullis_ipc::checksum::crc32;
use portcullis_ipc::image::{ImageHead, MANDATORY, SegmentRecord, TableHead};
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
pub const ALL: [Spoiled; 12] = [
    Spoiled { name: "truncated", spoil: |image| image.truncate(image.len() - 4096), refusal: "image: truncated" },
    Spoiled { name: "head-only", spoil: |image| image.truncate(HEAD), refusal: "image: truncated" },
    Spoiled { name: "wrong-magic", spoil: |image| image[0] ^= 0x20, refusal: "not a Portcullis image" },
    Spoiled {
        name: "wrong-version",
        spoil: |image| image[offset_of!(ImageHead, version)] = 99,
        refusal: "image: not this core's format version; build core and image alike; version: 99",
    },
    Spoiled { name: "flipped-bit", spoil: |image| flip_last(image), refusal: "image: checksum" },
    Spoiled {
        name: "checked-past-the-end",
        spoil: |image| image[offset_of!(ImageHead, checked)..][..8].fill(0x7f),
        refusal: "image: truncated",
    },
    Spoiled {
        name: "unknown-mandatory-table",
        spoil: |image| change(image, 0, |head| TableHead { kind: 900, flags: MANDATORY, ..head }),
        refusal: "image: unknown mandatory table; use a newer core; kind: 900",
    },
    Spoiled {
        name: "table-over-the-end",
        spoil: |image| change(image, 0, |head| TableHead { count: u32::MAX, ..head }),
        refusal: "image: malformed table; build it anew; kind: 1",
    },
    Spoiled {
        name: "table-past-the-end",
        spoil: |image| change(image, 2, |head| TableHead { offset: 0xffff_fff8, ..head }),
        refusal: "image: malformed table; build it anew; kind: 3",
    },
    Spoiled {
        name: "records-of-another-size",
        spoil: |image| change(image, 1, |head| TableHead { record_bytes: 40, ..head }),
        refusal: "image: malformed table; build it anew; kind: 2",
    },
    Spoiled {
        name: "endless-tables",
        spoil: |image| {
            image[offset_of!(ImageHead, tables)..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
            seal(image);
        },
        refusal: "image: malformed table; build it anew; kind: 0",
    },
    Spoiled {
        name: "segment-of-no-partition",
        spoil: |image| {
            let first = directory(image, 1).offset as usize + offset_of!(SegmentRecord, partition);
            image[first..][..2].fill(0xee);
            seal(image);
        },
        refusal: "image: segment 0: no such partition",
    },
];

/// Flips a bit of the last byte that the core checks.
fn flip_last(image: &mut [u8]) {
    let end = checked(image);
    if let Some(last) = image.get_mut(end.saturating_sub(1)) {
        *last ^= 1;
    }
}

/// Flips a bit of the first file after what the core checks: its user is to find that.
pub fn flip_first_file(image: &mut [u8]) {
    let end = checked(image);
    if let Some(first) = image.get_mut(end) {
        *first ^= 1;
    }
}

/// End of what the core checks.
fn checked(image: &[u8]) -> usize {
    ImageHead::read_from_prefix(image).map_or(0, |(head, _)| head.checked as usize)
}

/// Place of entry `index` of the directory of tables.
fn place(index: usize) -> std::ops::Range<usize> {
    let start = HEAD + index * size_of::<TableHead>();
    start..start + size_of::<TableHead>()
}

/// Entry `index` of the directory of tables.
fn directory(image: &[u8], index: usize) -> TableHead {
    TableHead::read_from_bytes(&image[place(index)]).unwrap_or_default()
}

/// Changes entry `index` of the directory of tables.
fn change(image: &mut [u8], index: usize, change: fn(TableHead) -> TableHead) {
    let head = change(directory(image, index));
    image[place(index)].copy_from_slice(head.as_bytes());
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
            let segments = TableHead { offset: 1024, ..TableHead::default() };
            image[place(1)].copy_from_slice(segments.as_bytes());
            seal(&mut image);
            let sound = image.clone();
            (spoiled.spoil)(&mut image);
            let differing = sound.iter().zip(&image).filter(|(a, b)| a != b).count();
            let most = if image.len() == sound.len() { 1..=12 } else { 0..=0 };
            assert!(most.contains(&differing), "{}: {differing}", spoiled.name);
        }
    }

    #[test]
    fn a_spoiled_file_is_no_part_of_what_the_core_checks() {
        let mut image = vec![7; 3 * 4096];
        image[offset_of!(ImageHead, checked)..][..8].copy_from_slice(&8192_u64.to_le_bytes());
        let sound = image.clone();
        flip_first_file(&mut image);
        assert_eq!((&image[..8192], image[8192]), (&sound[..8192], 6));
    }
}
