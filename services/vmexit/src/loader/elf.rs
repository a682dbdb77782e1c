//! ELF files of both classes: head, loadable segments, notes. Segments go to their physical addresses;
//! sections are not read.

use super::bytes::{slice, u8_at, u16_at, u32_at, u64_at};
use super::error::{Error, SEGMENTS};
use super::segments::{Segment, Segments};
use arrayvec::ArrayVec;

const MAGIC: &[u8] = b"\x7fELF";
const LITTLE_ENDIAN: u8 = 1;
/// Executable, and shared object: what a position-independent kernel is.
const TYPES: [u16; 2] = [2, 3];
/// 80386 and x86-64.
const MACHINES: [u16; 2] = [3, 62];
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Program headers that are read at most.
const HEADERS: u16 = 128;

/// A file whose head and program headers are sound.
pub struct Elf<'a> {
    file: &'a [u8],
    /// First instruction, as the file says.
    pub entry: u64,
    /// Loadable segments that take space.
    pub segments: Segments<'a>,
    notes: ArrayVec<(u64, u64), SEGMENTS>,
}

/// Whether the file says that it is an ELF file.
pub fn is_elf(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

struct Header {
    kind: u32,
    offset: u64,
    linked: u64,
    physical: u64,
    in_file: u64,
    in_memory: u64,
    align: u64,
}

impl Header {
    fn read(file: &[u8], at: u64, wide: bool) -> Option<Self> {
        let kind = u32_at(file, at)?;
        let word = |index: u64| {
            if wide { u64_at(file, at + 8 * index) } else { u32_at(file, at + 4 * index).map(u64::from) }
        };
        Some(Self {
            kind,
            offset: word(1)?,
            linked: word(2)?,
            physical: word(3)?,
            in_file: word(4)?,
            in_memory: word(5)?,
            // The narrow form has the flags before the alignment, the wide one after the kind.
            align: if wide { word(6)? } else { word(7)? },
        })
    }
}

impl<'a> Elf<'a> {
    /// Reads the head and the program headers.
    pub fn read(file: &'a [u8]) -> Result<Self, Error> {
        const HEAD: Error = Error::Corrupt("its ELF head ends too early");
        const HEADER: Error = Error::Corrupt("its program headers reach beyond the file");
        if !is_elf(file) {
            return Err(Error::Unusable("it is not an ELF file; give a vmlinux, or another guest.entry"));
        }
        let wide = match u8_at(file, 4).ok_or(HEAD)? {
            1 => false,
            2 => true,
            _ => return Err(Error::Corrupt("its ELF class is neither 32 nor 64 bits")),
        };
        let [kind, machine] = [16, 18].map(|at| u16_at(file, at).unwrap_or(0));
        if u8_at(file, 5) != Some(LITTLE_ENDIAN) || !TYPES.contains(&kind) || !MACHINES.contains(&machine) {
            return Err(Error::Unusable("it is not an x86 executable; give one that is"));
        }
        let address = |wide_at, narrow_at| {
            let value = if wide { u64_at(file, wide_at) } else { u32_at(file, narrow_at).map(u64::from) };
            value.ok_or(HEAD)
        };
        let (entry, table) = (address(24, 24)?, address(32, 28)?);
        let [size, count] = if wide { [54, 56] } else { [42, 44] }.map(|at| u16_at(file, at).unwrap_or(0));
        if size < if wide { 56 } else { 32 } || count > HEADERS {
            return Err(Error::Corrupt("its ELF head gives no sensible program headers"));
        }
        let mut elf = Self { file, entry, segments: Segments::default(), notes: ArrayVec::new() };
        let mut loads = 0;
        for index in 0..u64::from(count) {
            let at = table.checked_add(index * u64::from(size)).ok_or(HEADER)?;
            // A header is shorter than this; addresses near the end of the number range have no file.
            let header = at.checked_add(0x1000).and_then(|_| Header::read(file, at, wide)).ok_or(HEADER)?;
            match header.kind {
                PT_LOAD if header.in_memory > 0 => {
                    loads += 1;
                    let segment = Self::segment(file, &header)?;
                    let _ = elf.segments.0.try_push(segment);
                }
                PT_NOTE => {
                    let _ = elf.notes.try_push((header.offset, header.in_file));
                }
                _ => {}
            }
        }
        match loads {
            0 => Err(Error::Corrupt("it has no loadable segment")),
            1..=SEGMENTS => Ok(elf),
            found => Err(Error::Segments { found }),
        }
    }

    fn segment(file: &'a [u8], header: &Header) -> Result<Segment<'a>, Error> {
        let bytes =
            slice(file, header.offset, header.in_file).ok_or(Error::Corrupt("a segment reaches beyond the file"))?;
        if header.in_file > header.in_memory {
            return Err(Error::Corrupt("a segment is larger in the file than in memory"));
        }
        header.physical.checked_add(header.in_memory).ok_or(Error::Corrupt("a segment wraps"))?;
        Ok(Segment {
            bytes,
            physical: header.physical,
            linked: header.linked,
            length: header.in_memory,
            align: header.align,
        })
    }

    /// The descriptor of the first note of this name, without its final zero, and type.
    pub fn note(&self, name: &[u8], kind: u32) -> Option<&'a [u8]> {
        self.notes.iter().find_map(|(offset, length)| {
            let notes = slice(self.file, *offset, *length)?;
            Notes { notes }.find(|note| note.name == name && note.kind == kind).map(|note| note.descriptor)
        })
    }

    /// The entry as a physical address: one that lies in a segment's linked range moves with it.
    pub fn physical_entry(&self) -> u64 {
        let home = self.segments.0.iter().find_map(|segment| {
            let inside = self.entry.checked_sub(segment.linked).filter(|inside| *inside < segment.length)?;
            segment.physical.checked_add(inside)
        });
        home.unwrap_or(self.entry)
    }
}

struct Note<'a> {
    name: &'a [u8],
    kind: u32,
    descriptor: &'a [u8],
}

/// The notes of one segment; ends at the first that is not whole.
struct Notes<'a> {
    notes: &'a [u8],
}

impl<'a> Iterator for Notes<'a> {
    type Item = Note<'a>;

    fn next(&mut self) -> Option<Note<'a>> {
        let [name, descriptor, kind] = [0, 4, 8].map(|at| u32_at(self.notes, at));
        let (name, descriptor) = (u64::from(name?), u64::from(descriptor?));
        let after = 12 + name.next_multiple_of(4);
        let note = Note {
            name: slice(self.notes, 12, name)?.strip_suffix(b"\0").unwrap_or_default(),
            kind: kind?,
            descriptor: slice(self.notes, after, descriptor)?,
        };
        let end = usize::try_from(after + descriptor.next_multiple_of(4)).ok()?;
        self.notes = self.notes.get(end..).unwrap_or_default();
        Some(note)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A segment of a test file: physical and linked address, bytes in memory, bytes.
    pub type Piece<'a> = (u64, u64, u64, &'a [u8]);

    /// An ELF file with these segments and one note segment.
    pub fn file(wide: bool, entry: u64, pieces: &[Piece<'_>], notes: &[u8]) -> Vec<u8> {
        let (head, size) = if wide { (64, 56) } else { (52, 32) };
        let mut file = vec![0; head + size * (pieces.len() + 1)];
        file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 1 + u8::from(wide), 1, 1]);
        let mut put = |at: usize, value: u64, bytes: usize| {
            file[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        };
        put(16, 2, 2);
        put(18, if wide { 62 } else { 3 }, 2);
        put(24, entry, if wide { 8 } else { 4 });
        put(if wide { 32 } else { 28 }, head as u64, 4);
        put(if wide { 54 } else { 42 }, size as u64, 2);
        put(if wide { 56 } else { 44 }, pieces.len() as u64 + 1, 2);
        let mut offset = head + size * (pieces.len() + 1);
        let note = (4, 0, 0, notes.len() as u64, notes);
        let all = pieces.iter().map(|(physical, linked, length, bytes)| (1, *physical, *linked, *length, *bytes));
        for (index, (kind, physical, linked, length, bytes)) in all.chain([note]).enumerate() {
            let at = head + index * size;
            put(at, kind, 4);
            let word = if wide { 8 } else { 4 };
            for (place, value) in [(1, offset as u64), (2, linked), (3, physical), (4, bytes.len() as u64), (5, length)]
            {
                put(at + place * word, value, word);
            }
            put(at + if wide { 6 } else { 7 } * word, 0x1000, word);
            offset += bytes.len();
        }
        pieces.iter().for_each(|piece| file.extend(piece.3));
        file.extend(notes);
        file
    }

    /// A note.
    pub fn note(name: &str, kind: u32, descriptor: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for value in [name.len() as u32 + 1, descriptor.len() as u32, kind] {
            note.extend(value.to_le_bytes());
        }
        note.extend(name.as_bytes());
        note.push(0);
        note.resize(note.len().next_multiple_of(4), 0);
        note.extend(descriptor);
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }

    #[test]
    fn both_classes_read_alike() {
        let notes = [note("GNU", 18, &[9]), note("Xen", 18, &[1, 2, 3, 4])].concat();
        for wide in [false, true] {
            let pieces = [(0x10_0000, 0x8010_0000, 0x2000, &[1, 2, 3][..]), (0x20_0000, 0, 0x10, &[4])];
            let file = file(wide, 0x8010_0001, &pieces, &notes);
            let elf = Elf::read(&file).unwrap();
            assert_eq!((elf.entry, elf.physical_entry()), (0x8010_0001, 0x10_0001));
            assert_eq!(elf.segments.extent(), (0x10_0000, 0x20_0010));
            assert_eq!(elf.segments.0.len(), 2);
            assert_eq!(elf.segments.0[0].bytes, [1, 2, 3]);
            assert_eq!((elf.segments.0[1].length, elf.segments.0[1].align), (0x10, 0x1000));
            assert_eq!(elf.note(b"Xen", 18), Some(&[1, 2, 3, 4][..]));
            assert_eq!(elf.note(b"Xen", 19), None);
        }
    }

    #[test]
    fn a_file_that_contradicts_itself_is_refused_with_the_reason() {
        let good = file(true, 0, &[(0x10_0000, 0, 2, &[1, 2])], &[]);
        let changed = |at: usize, value: &[u8]| {
            let mut file = good.clone();
            file[at..at + value.len()].copy_from_slice(value);
            Elf::read(&file).err().unwrap()
        };
        let corrupt = |error| assert!(matches!(error, Error::Corrupt(_)), "{error}");
        corrupt(changed(4, &[3]));
        corrupt(changed(32, &[0xff; 8]));
        corrupt(changed(54, &[10, 0]));
        corrupt(changed(56, &[0xff, 0xff]));
        corrupt(changed(64, &[2]));
        corrupt(changed(64 + 8, &[0xff; 8]));
        corrupt(changed(64 + 24, &[0xff; 8]));
        corrupt(changed(64 + 40, &[1]));
        assert!(matches!(changed(18, &[40]), Error::Unusable(_)));
        let pieces = [(0x10_0000, 0, 1, &[1][..]); SEGMENTS + 1];
        let many = file(false, 0, &pieces, &[]);
        assert_eq!(Elf::read(&many).err(), Some(Error::Segments { found: SEGMENTS + 1 }));
    }

    #[test]
    fn notes_end_at_the_first_that_is_not_whole() {
        let mut notes = note("Xen", 18, &[1, 2, 3, 4]);
        notes.extend(note("Xen", 19, &[5, 6, 7, 8]));
        notes.truncate(notes.len() - 1);
        let file = file(true, 0, &[(0x10_0000, 0, 1, &[])], &notes);
        let elf = Elf::read(&file).unwrap();
        assert!(elf.note(b"Xen", 18).is_some());
        assert!(elf.note(b"Xen", 19).is_none());
    }
}
