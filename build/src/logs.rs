//! `log`: decodes what a system said: a captured control line, or the ring in a raw memory dump.
//!
//! The way of a log record on the host: [`frames`] cuts the line into frames, [`records`] takes a LOG
//! frame apart, [`symbols`] holds the strings of each ELF by build id, [`decode`] makes lines of records,
//! [`render`] shows them. [`dump`] reads the core's ring out of captured memory.

pub mod decode;
pub mod dump;
pub mod frames;
pub mod records;
pub mod render;
pub mod symbols;

use anyhow::{Context, bail};
use portcullis_ipc::frame::channel;
use portcullis_ipc::log::CORE;
use records::{Body, Record};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// A captured control line (COM2), or a raw dump of the machine's memory.
    file: PathBuf,
    /// Directory with the ELFs by build id.
    #[arg(long, default_value_os_t = crate::workspace::symbols_dir())]
    symbols: PathBuf,
    /// Write the raw defmt frames of one partition (its name, or `core`) to --output, for defmt-print.
    #[arg(long, value_name = "PARTITION", requires = "output")]
    export: Option<String>,
    /// File for --export.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs the verb.
pub fn command(args: &Args) -> anyhow::Result<()> {
    let bytes = std::fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let captured = read(&bytes);
    if captured.records.is_empty() && captured.epitaph.is_none() {
        bail!(
            "{}: {} damaged frames and no log record in {} bytes; name a captured COM2 or a raw memory dump",
            args.file.display(),
            captured.damaged,
            bytes.len()
        );
    }
    match (&args.export, &args.output) {
        (Some(name), Some(output)) => export(&captured.records, name, output, &args.symbols),
        _ => show(&captured, &args.symbols),
    }
}

/// What a file held.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// Records in the order of the file.
    pub records: Vec<Record>,
    /// Pieces of the line that were not frames.
    pub damaged: usize,
    /// Why the core stopped, from a dump.
    pub epitaph: Option<String>,
}

/// Reads a captured line or a dump; which of the two it is, its content says.
pub fn read(bytes: &[u8]) -> Captured {
    if let Some(ring) = dump::find(bytes) {
        return Captured { records: ring.records, damaged: 0, epitaph: ring.epitaph };
    }
    let mut captured = Captured::default();
    let mut reader = frames::Reader::default();
    for read in reader.push(bytes) {
        match read {
            Ok(frame) if frame.channel == channel::LOG => {
                captured.records.extend(records::split(&frame.payload).0);
            }
            Ok(_) => {}
            Err(_) => captured.damaged += 1,
        }
    }
    captured
}

fn show(captured: &Captured, symbols: &Path) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let renderer = render::Renderer::new(out.is_terminal(), crate::workspace::root());
    let mut decoder = decode::Decoder::new(symbols::Store::new(symbols));
    for line in captured.records.iter().flat_map(|record| decoder.record(record)) {
        writeln!(out, "{}", renderer.line(&line))?;
    }
    if captured.damaged > 0 {
        writeln!(out, "{} damaged frames were left out", captured.damaged)?;
    }
    if let Some(epitaph) = &captured.epitaph {
        writeln!(out, "epitaph of the core: {}", render::printable(epitaph))?;
    }
    Ok(())
}

/// The raw defmt stream of one partition's newest ELF, and that ELF's build id.
pub fn stream_of(records: &[Record], name: &str) -> Option<(records::BuildId, Vec<u8>)> {
    let start = records.iter().rev().find_map(|record| match record.body() {
        Body::Start { build_id, name: said } => {
            let is_it = said == name || (name == "core" && record.head.partition == CORE);
            is_it.then_some((record.head, build_id))
        }
        _ => None,
    });
    let (head, build_id) = start?;
    let same = |r: &&Record| r.head.partition == head.partition && r.head.generation == head.generation;
    let frames = records.iter().filter(same).filter_map(|record| match record.body() {
        Body::Defmt(frame) => Some(frame),
        _ => None,
    });
    Some((build_id, frames.flatten().copied().collect()))
}

fn export(records: &[Record], name: &str, output: &Path, symbols: &Path) -> anyhow::Result<()> {
    let Some((build_id, stream)) = stream_of(records, name) else {
        bail!("no instance of `{name}` started in this capture, so its ELF is unknown");
    };
    std::fs::write(output, &stream).with_context(|| format!("cannot write {}", output.display()))?;
    let elf = symbols::Store::new(symbols).path(&build_id);
    println!("{} bytes; read them with: defmt-print -e {} < {}", stream.len(), elf.display(), output.display());
    Ok(())
}

#[cfg(test)]
mod fixture {
    //! ELFs and payloads for the tests of this directory.
    use object::write::{Object, Symbol, SymbolSection};
    use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope};

    /// An ELF whose defmt table holds the strings (tag, format), with indices from 1.
    pub fn elf(strings: &[(&str, &str)]) -> Vec<u8> {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
        let section = object.add_section(vec![], b".defmt".to_vec(), SectionKind::ReadOnlyData);
        object.set_section_data(section, vec![0; strings.len() + 1], 1);
        let mut symbol = |name: String, value, section| {
            object.add_symbol(Symbol {
                name: name.into_bytes(),
                value,
                size: 1,
                kind: SymbolKind::Data,
                scope: SymbolScope::Linkage,
                weak: false,
                section,
                flags: SymbolFlags::None,
            });
        };
        for name in ["_defmt_version_ = 4", "_defmt_encoding_ = raw"] {
            symbol(name.into(), 0, SymbolSection::Absolute);
        }
        for (index, (tag, format)) in strings.iter().enumerate() {
            let name = serde_json::json!({
                "package": "p", "tag": tag, "data": format, "disambiguator": index.to_string(), "crate_name": "c",
            });
            symbol(name.to_string(), index as u64 + 1, SymbolSection::Section(section));
        }
        object.write().unwrap()
    }

    /// Payload of a START record with a build id of equal bytes.
    pub fn start(id: u8, name: &str) -> Vec<u8> {
        [&[id; 20], name.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::records::fixture::{bytes, record};
    use super::*;
    use portcullis_ipc::log::payload::{DEFMT, START};

    fn line(payloads: &[Vec<u8>]) -> Vec<u8> {
        let frame = |(n, payload): (usize, &Vec<u8>)| {
            frames::encode(&frames::Frame { channel: channel::LOG, sequence: n as u32, payload: payload.clone() })
        };
        payloads.iter().enumerate().flat_map(|p| frame(p).unwrap()).collect()
    }

    #[test]
    fn a_captured_line_gives_its_records_and_counts_its_damage() {
        let first = record(0, DEFMT, 0, &[1, 0]);
        let second = record(0, DEFMT, 1, &[2, 0]);
        let mut captured = line(&[bytes(&first), bytes(&second)]);
        captured.extend_from_slice(&[3, 3, 3, 0]);
        let expected = Captured { records: vec![first, second], damaged: 1, epitaph: None };
        assert_eq!(read(&captured), expected);
    }

    #[test]
    fn a_dump_gives_the_ring_and_the_epitaph() {
        let first = record(0, DEFMT, 1, &[1, 0]);
        let captured = read(&dump::fixture::ring(512, std::slice::from_ref(&first), "why"));
        assert_eq!(captured, Captured { records: vec![first], damaged: 0, epitaph: Some("why".into()) });
    }

    #[test]
    fn an_export_holds_the_frames_of_the_newest_instance_only() {
        let mut records = vec![
            record(1, START, 0, &fixture::start(1, "link")),
            record(1, DEFMT, 1, &[1, 0]),
            record(2, START, 2, &fixture::start(9, "vmexit")),
            record(2, DEFMT, 3, &[9, 9]),
            record(1, START, 4, &fixture::start(2, "link")),
            record(1, DEFMT, 5, &[2, 0]),
            record(1, DEFMT, 6, &[3, 0]),
        ];
        for record in &mut records[4..] {
            record.head.generation = 2;
        }
        let (id, stream) = stream_of(&records, "link").unwrap();
        assert_eq!((id.0, stream), ([2; 20], vec![2, 0, 3, 0]));
        assert_eq!(stream_of(&records, "migration"), None);
    }
}
