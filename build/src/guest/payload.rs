//! Decompresses the payload of a bzImage: gzip, xz, zstd and the legacy frame of lz4, told apart by
//! their first bytes. What the payload holds is not looked at here.
//!
//! The kernel's build appends the size of what it compressed, as 4 bytes little endian, to every format
//! (gzip ends with it by itself): the end of the payload is not part of the stream.

use std::io::{self, Read};

/// Bytes of the size at the end.
const SIZE: usize = 4;
/// No kernel is larger; a payload that says so is corrupt.
const LARGEST: u64 = 1 << 30;
/// Uncompressed bytes of a block of the lz4 legacy frame, at most.
const LZ4_BLOCK: usize = 8 << 20;

/// Why a payload cannot be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A format that is known and not read.
    #[error(
        "is compressed with {0}, which is not read here; rebuild the kernel with CONFIG_KERNEL_XZ, _ZSTD, _LZ4 or _GZIP"
    )]
    Unread(&'static str),
    /// No format begins like this.
    #[error("begins with {0:02x?}, which no known compression does")]
    Unknown(Vec<u8>),
    /// The stream is damaged.
    #[error("is damaged ({0})")]
    Damaged(#[from] io::Error),
    /// The size at the end is not what came out.
    #[error("is damaged ({found} bytes came out, and its end says {said})")]
    Size {
        /// Bytes that came out.
        found: u64,
        /// Bytes that the end says.
        said: u64,
    },
}

/// First bytes of the formats that are known.
const FORMATS: [(&[u8], Format); 7] = [
    (&[0x1f, 0x8b], Format::Read(Kind::Gzip)),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], Format::Read(Kind::Xz)),
    (&[0x28, 0xb5, 0x2f, 0xfd], Format::Read(Kind::Zstd)),
    (&[0x02, 0x21, 0x4c, 0x18], Format::Read(Kind::Lz4)),
    (b"BZh", Format::Unread("bzip2")),
    (&[0x5d, 0, 0], Format::Unread("lzma")),
    (&[0x89, b'L', b'Z', b'O'], Format::Unread("lzo")),
];

enum Format {
    Read(Kind),
    Unread(&'static str),
}

enum Kind {
    Gzip,
    Xz,
    Zstd,
    Lz4,
}

/// Decompresses a payload.
pub fn decompress(payload: &[u8]) -> Result<Vec<u8>, Error> {
    let known = FORMATS.iter().find(|(magic, _)| payload.starts_with(magic));
    let format = match known {
        Some((_, Format::Unread(name))) => return Err(Error::Unread(name)),
        Some((_, Format::Read(kind))) => kind,
        None => return Err(Error::Unknown(payload.iter().copied().take(6).collect())),
    };
    let (stream, size) = payload.split_at(payload.len().saturating_sub(SIZE));
    let said = u64::from(u32::from_le_bytes(size.try_into().map_err(|_| cut_off())?));
    if said > LARGEST {
        return Err(Error::Size { found: 0, said });
    }
    let bytes = match format {
        Kind::Gzip => read(flate2::read::GzDecoder::new(payload), said)?,
        Kind::Xz => read(lzma_rust2::XzReader::new(stream, false), said)?,
        Kind::Zstd => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(stream);
            read(decoder.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?, said)?
        }
        Kind::Lz4 => lz4_legacy(stream, said)?,
    };
    let found = bytes.len() as u64;
    if found == said { Ok(bytes) } else { Err(Error::Size { found, said }) }
}

/// Reads a stream to its end, and one byte more than it may have at most.
fn read(stream: impl Read, said: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(said as usize);
    stream.take(said + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn cut_off() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

/// The legacy frame: the magic, then blocks that each begin with their compressed size.
fn lz4_legacy(stream: &[u8], said: u64) -> io::Result<Vec<u8>> {
    let mut bytes: Vec<u8> = Vec::with_capacity(said as usize);
    let mut block = vec![0; LZ4_BLOCK];
    let mut rest = stream.get(4..).ok_or_else(cut_off)?;
    while bytes.len() as u64 <= said && !rest.is_empty() {
        let (size, after) = rest.split_first_chunk().ok_or_else(cut_off)?;
        let (compressed, after) = after.split_at_checked(u32::from_le_bytes(*size) as usize).ok_or_else(cut_off)?;
        let count = lz4_flex::block::decompress_into(compressed, &mut block)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        bytes.extend_from_slice(block.get(..count).unwrap_or_default());
        rest = after;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    const TEXT: &[u8] = b"a kernel, a kernel, a kernel, my kingdom for a kernel";

    fn with_size(mut stream: Vec<u8>, size: usize) -> Vec<u8> {
        stream.extend((size as u32).to_le_bytes());
        stream
    }

    fn gzip() -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(TEXT).unwrap();
        encoder.finish().unwrap()
    }

    fn xz() -> Vec<u8> {
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
        writer.write_all(TEXT).unwrap();
        with_size(writer.finish().unwrap(), TEXT.len())
    }

    fn zstd() -> Vec<u8> {
        let level = ruzstd::encoding::CompressionLevel::Uncompressed;
        with_size(ruzstd::encoding::compress_to_vec(TEXT, level), TEXT.len())
    }

    fn lz4() -> Vec<u8> {
        let mut stream = vec![0x02, 0x21, 0x4c, 0x18];
        for part in TEXT.chunks(20) {
            let block = lz4_flex::block::compress(part);
            stream.extend((block.len() as u32).to_le_bytes());
            stream.extend(block);
        }
        with_size(stream, TEXT.len())
    }

    #[test]
    fn every_format_that_is_read_gives_back_the_text() {
        for (name, payload) in [("gzip", gzip()), ("xz", xz()), ("zstd", zstd()), ("lz4", lz4())] {
            assert_eq!(decompress(&payload).unwrap(), TEXT, "{name}");
        }
    }

    #[test]
    fn a_stream_cut_off_anywhere_is_an_error() {
        for (name, payload) in [("gzip", gzip()), ("xz", xz()), ("zstd", zstd()), ("lz4", lz4())] {
            for length in 0..payload.len() {
                assert!(decompress(&payload[..length]).is_err(), "{name} {length}");
            }
        }
    }

    #[test]
    fn a_size_that_is_not_what_comes_out_is_an_error() {
        let mut payload = xz();
        let end = payload.len() - 4;
        payload[end] += 1;
        assert!(matches!(decompress(&payload), Err(Error::Size { found, said }) if said == found + 1));
    }

    #[test]
    fn a_format_that_is_not_read_is_named_with_the_way_out() {
        let text = decompress(b"BZh91AY").unwrap_err().to_string();
        assert!(text.contains("bzip2") && text.contains("CONFIG_KERNEL_XZ"), "{text}");
        assert!(matches!(decompress(b"MZ"), Err(Error::Unknown(_))));
    }

    proptest! {
        #[test]
        fn damage_never_panics_nor_passes_as_another_text(at in 0usize..1000, value: u8, which in 0usize..4) {
            let mut payload = [gzip(), xz(), zstd(), lz4()][which].clone();
            let at = at % payload.len();
            payload[at] = value;
            if let Ok(bytes) = decompress(&payload) {
                prop_assert_eq!(bytes.len(), TEXT.len());
            }
        }
    }
}
