//! Guestinfo that a VM starts with: the form of the blob `guestinfo` of its `vmport-rpc`, and the limits
//! that hold for every entry, whoever sets it. The host tool writes the blob, the service reads it once,
//! at its cold start.
//!
//! Form, little endian, without padding: the magic number, the number of entries as u32, and for each
//! entry the length of its key as u16, the length of its value as u32, the key, the value. A key stands
//! without its prefix `guestinfo.`.

/// "PCGI".
pub const MAGIC: [u8; 4] = *b"PCGI";
/// What every key starts with in a request; the blob leaves it out.
pub const PREFIX: &[u8] = b"guestinfo.";
/// Bytes of a key at most, prefix left out.
pub const KEY_BYTES: usize = 255;
/// Bytes of a value at most: `info-get` answers with one message of 64 KiB, of which two bytes are its status.
pub const VALUE_BYTES: usize = 65_534;
/// Bytes of all keys and values of one VM at most.
pub const TOTAL_BYTES: usize = 1 << 20;
/// Entries of one VM unless the manifest says otherwise (`guestinfo.keys` of `vmport-rpc`).
pub const KEYS: usize = 512;

/// One entry: key without prefix, and value.
pub type Entry<'a> = (&'a [u8], &'a [u8]);

/// Why an entry or a blob is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// The key is empty, or longer than [`KEY_BYTES`].
    KeyLength,
    /// The key holds a blank or a control character, which would end it in a request.
    KeyCharacter,
    /// The value is empty, or longer than [`VALUE_BYTES`].
    ValueLength,
    /// The blob does not start with [`MAGIC`].
    Magic,
    /// The blob ends within an entry, or goes on after the last.
    Length,
}

impl core::fmt::Display for Invalid {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::KeyLength => write!(out, "the key is empty or longer than {KEY_BYTES} bytes: give it another name"),
            Self::KeyCharacter => out.write_str("the key holds a blank or a control character: leave it out"),
            Self::ValueLength => write!(out, "the value is empty or longer than {VALUE_BYTES} bytes: shorten it"),
            Self::Magic => out.write_str("the blob does not start with PCGI: it is not made by the host tool"),
            Self::Length => out.write_str("the blob does not end with its last entry: build the image again"),
        }
    }
}

impl core::error::Error for Invalid {}

/// The key after `guestinfo.`, whose letters may be of either case; `None` without that prefix.
pub fn strip_prefix(name: &[u8]) -> Option<&[u8]> {
    let (prefix, key) = name.split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then_some(key)
}

/// Whether an entry can be kept.
///
/// # Errors
/// What is wrong with it.
pub fn check((key, value): Entry<'_>) -> Result<(), Invalid> {
    check_key(key)?;
    if value.is_empty() || value.len() > VALUE_BYTES {
        return Err(Invalid::ValueLength);
    }
    Ok(())
}

/// Whether an entry can have this key.
///
/// # Errors
/// [`Invalid::KeyLength`] or [`Invalid::KeyCharacter`].
pub fn check_key(key: &[u8]) -> Result<(), Invalid> {
    if key.is_empty() || key.len() > KEY_BYTES {
        return Err(Invalid::KeyLength);
    }
    if key.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return Err(Invalid::KeyCharacter);
    }
    Ok(())
}

/// Appends the blob of `entries` to `out`.
///
/// # Errors
/// The first entry that [`check`] refuses; `out` then holds part of a blob.
pub fn write<'a>(
    entries: impl ExactSizeIterator<Item = Entry<'a>>,
    out: &mut impl Extend<u8>,
) -> Result<(), (&'a [u8], Invalid)> {
    out.extend(MAGIC);
    out.extend((entries.len() as u32).to_le_bytes());
    for (key, value) in entries {
        check((key, value)).map_err(|invalid| (key, invalid))?;
        out.extend((key.len() as u16).to_le_bytes());
        out.extend((value.len() as u32).to_le_bytes());
        out.extend(key.iter().copied());
        out.extend(value.iter().copied());
    }
    Ok(())
}

/// The entries of a blob. Each is checked as it is reached; the first error is the last item.
#[derive(Clone, Debug)]
pub struct Blob<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Blob<'a> {
    /// The blob in `bytes`, which may be followed by the zeros that fill its last page.
    ///
    /// # Errors
    /// [`Invalid::Magic`] or [`Invalid::Length`] when its head is not there.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Invalid> {
        let (magic, rest) = bytes.split_first_chunk::<4>().ok_or(Invalid::Magic)?;
        if *magic != MAGIC {
            return Err(Invalid::Magic);
        }
        let (count, rest) = rest.split_first_chunk::<4>().ok_or(Invalid::Length)?;
        Ok(Self { rest, left: u32::from_le_bytes(*count) })
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        let (key, rest) = self.rest.split_first_chunk::<2>()?;
        let (value, rest) = rest.split_first_chunk::<4>()?;
        let (key, rest) = rest.split_at_checked(u16::from_le_bytes(*key).into())?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value) as usize)?;
        self.rest = rest;
        Some((key, value))
    }
}

impl<'a> Iterator for Blob<'a> {
    type Item = Result<Entry<'a>, Invalid>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let rest = core::mem::take(&mut self.rest);
            return rest.iter().any(|byte| *byte != 0).then_some(Err(Invalid::Length));
        }
        self.left -= 1;
        let entry = self.entry().ok_or(Invalid::Length);
        let entry = entry.and_then(|entry| check(entry).map(|()| entry));
        if entry.is_err() {
            (self.left, self.rest) = (0, &[]);
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blob(entries: &[Entry<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(entries.iter().copied(), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_form_is_that_of_version_1() {
        let bytes = blob(&[(b"a", b"b c"), (b"metadata", b"\n")]);
        assert_eq!(bytes, b"PCGI\x02\0\0\0\x01\0\x03\0\0\0ab c\x08\0\x01\0\0\0metadata\n");
    }

    #[test]
    fn an_entry_outside_the_limits_is_refused_by_writer_and_reader() {
        let (long_key, long_value) = ([b'k'; KEY_BYTES + 1], vec![0; VALUE_BYTES + 1]);
        let table: [(Entry<'_>, Option<Invalid>); 8] = [
            ((b"", b"v"), Some(Invalid::KeyLength)),
            ((&long_key, b"v"), Some(Invalid::KeyLength)),
            ((&long_key[1..], b"v"), None),
            ((b"a b", b"v"), Some(Invalid::KeyCharacter)),
            ((b"a\0", b"v"), Some(Invalid::KeyCharacter)),
            ((b"a", b""), Some(Invalid::ValueLength)),
            ((b"a", &long_value), Some(Invalid::ValueLength)),
            ((b"a", &long_value[1..]), None),
        ];
        for (entry, expected) in table {
            assert_eq!(check(entry).err(), expected);
            let mut bytes = Vec::new();
            assert_eq!(write([entry].into_iter(), &mut bytes).err().map(|(_, invalid)| invalid), expected);
            let mut raw = b"PCGI\x01\0\0\0".to_vec();
            raw.extend((entry.0.len() as u16).to_le_bytes());
            raw.extend((entry.1.len() as u32).to_le_bytes());
            raw.extend(entry.0);
            raw.extend(entry.1);
            let read: Vec<_> = Blob::new(&raw).unwrap().collect();
            assert_eq!(read, [expected.map_or(Ok(entry), Err)]);
        }
    }

    #[test]
    fn the_prefix_is_taken_in_either_case_and_nothing_else_is() {
        assert_eq!(strip_prefix(b"guestinfo.a"), Some(&b"a"[..]));
        assert_eq!(strip_prefix(b"GuestInfo.A"), Some(&b"A"[..]));
        assert_eq!(strip_prefix(b"guestinfo."), Some(&b""[..]));
        assert_eq!(strip_prefix(b"guestinfo"), None);
        assert_eq!(strip_prefix(b"guestinfX.a"), None);
    }

    #[test]
    fn a_blob_may_be_padded_with_zeros_and_nothing_else() {
        let mut bytes = blob(&[(b"a", b"b")]);
        bytes.extend([0; 9]);
        assert_eq!(Blob::new(&bytes).unwrap().count(), 1);
        bytes.push(1);
        assert_eq!(Blob::new(&bytes).unwrap().last(), Some(Err(Invalid::Length)));
        assert_eq!(Blob::new(b"PCG").err(), Some(Invalid::Magic));
        assert_eq!(Blob::new(b"PCGI\0").err(), Some(Invalid::Length));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_and_a_cut_is_noticed(
            entries in prop::collection::vec(("[a-zA-Z.]{1,20}", prop::collection::vec(any::<u8>(), 1..50)), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let entries: Vec<Entry<'_>> = entries.iter().map(|(key, value)| (key.as_bytes(), &value[..])).collect();
            let bytes = blob(&entries);
            let read: Result<Vec<_>, _> = Blob::new(&bytes).unwrap().collect();
            prop_assert_eq!(read.as_deref(), Ok(&entries[..]));
            let cut = cut.index(bytes.len());
            let short = Blob::new(&bytes[..cut]).and_then(|blob| blob.collect::<Result<Vec<_>, _>>());
            prop_assert!(short.is_err());
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let bytes = [&b"PCGI"[..], &bytes].concat();
            if let Ok(blob) = Blob::new(&bytes) {
                prop_assert!(blob.count() <= bytes.len());
            }
        }
    }
}
