//! A booted system and everything it says: COM1 as bytes, COM2 as log lines and consoles. What becomes of
//! it is the caller's: `run` shows it, the emulator tests judge it.

use super::typing::Typing;
use crate::emulator::machine::{Boot, Machine};
use crate::emulator::{self, Emulator, Event, Snapshot};
use crate::logs::decode::{Decoder, Line};
use crate::logs::records::BuildId;
use crate::logs::symbols::Store;
use crate::logs::{dump, frames, records};
use crate::{bundle, elf_file, image, workspace};
use anyhow::Context;
use portcullis_ipc::frame::channel;
use portcullis_ipc::log::CORE;
use portcullis_ipc::proto::control::{self, Hello, InputTaken, VmNotice};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::time::{Duration, Instant};

/// Something that the system said or did.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// Bytes on COM1.
    Com1(Vec<u8>),
    /// A line of the log.
    Log(Line),
    /// Output of a VM's console.
    Console(u8, Vec<u8>),
    /// Something became of a VM.
    Vm(VmNotice),
    /// A frame of another kind.
    Frame(u8, Vec<u8>),
    /// A piece of COM2 that is not a frame.
    Damage(frames::Damage),
    /// Everything else.
    Event(Event),
}

/// The core is linked at 2 MiB and ends below this address; its log ring is not looked for elsewhere.
const CORE_END: usize = 16 << 20;

/// The last sequence of each console or VM that was seen. A `link` that died before it knew that a frame had
/// left sends it again with the same sequence.
#[derive(Default)]
struct Shown(HashMap<u8, u64>);

impl Shown {
    fn is_new(&mut self, number: u8, sequence: u64) -> bool {
        let new = self.0.get(&number).is_none_or(|last| sequence > *last);
        if new {
            self.0.insert(number, sequence);
        }
        new
    }
}

/// A system that runs.
pub struct Session {
    emulator: Emulator,
    reader: frames::Reader,
    decoder: Decoder,
    last_sequence: Option<u64>,
    shown: Shown,
    told: Shown,
    typing: Typing,
    /// The boot of the system that all these belong to.
    boot: Option<[u8; 8]>,
    /// Where COM2 is kept as it comes.
    capture: Option<BufWriter<File>>,
    /// Why it is not kept whole.
    lost: Option<io::Error>,
}

impl Session {
    /// Boots `machine`. `image` tells whose log records are whose where a START record is missing.
    pub fn start(machine: &Machine, image: &image::Image, limit: Duration) -> anyhow::Result<Self> {
        let mut decoder = Decoder::new(Store::new(workspace::symbols_dir()));
        assume(&mut decoder, image)?;
        Ok(Self {
            emulator: Emulator::start(machine, limit)?,
            reader: frames::Reader::default(),
            decoder,
            last_sequence: None,
            shown: Shown::default(),
            told: Shown::default(),
            typing: Typing::default(),
            boot: None,
            capture: None,
            lost: None,
        })
    }

    /// What the system says next; one [`Event::Quiet`] when it says nothing for `patience`.
    pub fn next(&mut self, patience: Duration) -> Vec<Said> {
        // A line that is gone shows as the next event.
        let _ = self.send_typed();
        match self.emulator.next(patience) {
            Event::Com1(bytes) => vec![Said::Com1(bytes)],
            Event::Com2(bytes) => {
                if let Some(Err(error)) = self.capture.as_mut().map(|file| file.write_all(&bytes)) {
                    self.lost.get_or_insert(error);
                }
                let read = self.reader.push(&bytes);
                read.into_iter().flat_map(|frame| self.frame(frame)).collect()
            }
            event => vec![Said::Event(event)],
        }
    }

    fn notice(&mut self, payload: Vec<u8>) -> Vec<Said> {
        if let Some(notice) = control::decode::<VmNotice>(&payload) {
            let new = self.told.is_new(notice.vm, notice.sequence);
            return if new { vec![Said::Vm(notice)] } else { Vec::new() };
        }
        if let Some(hello) = control::decode::<Hello>(&payload) {
            if self.boot.replace(hello.session).is_some_and(|before| before != hello.session) {
                (self.shown, self.told, self.last_sequence) = (Shown::default(), Shown::default(), None);
                self.typing.forget();
            }
            return Vec::new();
        }
        match control::decode::<InputTaken>(&payload) {
            Some(notice) => {
                if notice.console == 0 {
                    self.typing.taken(&notice);
                }
                Vec::new()
            }
            None => vec![Said::Frame(channel::CONTROL, payload)],
        }
    }

    fn frame(&mut self, frame: Result<frames::Frame, frames::Damage>) -> Vec<Said> {
        let frame = match frame {
            Ok(frame) => frame,
            Err(damage) => return vec![Said::Damage(damage)],
        };
        match frame.channel {
            channel::LOG => {
                let mut records = records::split(&frame.payload).0;
                let last = self.last_sequence;
                records.retain(|record| last.is_none_or(|last| record.head.sequence > last));
                self.last_sequence = records.last().map_or(self.last_sequence, |r| Some(r.head.sequence));
                records.iter().flat_map(|record| self.decoder.record(record)).map(Said::Log).collect()
            }
            console if console >= channel::CONSOLE => match self.shown.is_new(console, frame.sequence.into()) {
                true => vec![Said::Console(console - channel::CONSOLE, frame.payload)],
                false => Vec::new(),
            },
            channel::CONTROL => self.notice(frame.payload),
            other => vec![Said::Frame(other, frame.payload)],
        }
    }

    /// Types for console 0.
    pub fn type_in(&mut self, bytes: &[u8]) -> Result<(), emulator::Error> {
        self.typing.push(bytes);
        self.send_typed()
    }

    fn send_typed(&mut self) -> Result<(), emulator::Error> {
        match self.typing.next(Instant::now()) {
            Some(bytes) => self.emulator.send_com2(&bytes),
            None => Ok(()),
        }
    }

    /// Bytes that were typed and that the guest has not taken.
    pub fn waiting(&self) -> usize {
        self.typing.waiting()
    }

    /// Keeps COM2 in `file` from now on, as it comes: what `log` reads.
    pub fn capture(&mut self, file: File) {
        self.capture = Some(BufWriter::new(file));
    }

    /// Ends the capture; the error says why it is not whole.
    pub fn captured(&mut self) -> io::Result<()> {
        let flushed = self.capture.take().map_or(Ok(()), |mut file| file.flush());
        self.lost.take().map_or(flushed, Err)
    }

    /// The machine.
    pub fn emulator(&mut self) -> &mut Emulator {
        &mut self.emulator
    }

    /// Stops the machine and captures it.
    pub fn snapshot(&mut self) -> Result<Snapshot, emulator::Error> {
        self.emulator.snapshot()
    }

    /// Stops the machine and captures the part of its memory that the core lies in.
    pub fn near_memory(&mut self) -> Result<Vec<u8>, emulator::Error> {
        self.emulator.memory(CORE_END as u64)
    }

    /// From a captured memory: the log lines that never came over COM2, and the core's epitaph.
    pub fn left_behind(&mut self, memory: &[u8]) -> (Vec<Line>, Option<String>) {
        let near = memory.get(..CORE_END).unwrap_or(memory);
        let Some(ring) = dump::find(near) else {
            return (Vec::new(), None);
        };
        let last = self.last_sequence;
        let unseen = ring.records.iter().filter(|record| last.is_none_or(|last| record.head.sequence > last));
        let lines = unseen.flat_map(|record| self.decoder.record(record)).collect();
        (lines, ring.epitaph)
    }
}

/// The machine that boots `image` by the PVH note.
pub fn pvh(image: &image::Image, command_line: Option<&str>) -> Boot {
    Boot::Pvh {
        core: image.core.clone(),
        bundle: Some(image.bundle.clone()),
        command_line: command_line.unwrap_or(&image.system.command_line).to_owned(),
    }
}

fn assume(decoder: &mut Decoder, image: &image::Image) -> anyhow::Result<()> {
    let bytes = std::fs::read(&image.bundle).with_context(|| format!("cannot read {}", image.bundle.display()))?;
    // An image that is bad on purpose is the core's to refuse.
    let Ok(bundle) = bundle::Bundle::read(&bytes) else {
        return Ok(());
    };
    for (index, partition) in (0u8..).zip(&bundle.partitions) {
        let name = String::from_utf8_lossy(&partition.record.name);
        decoder.assume(index, name.trim_end_matches('\0'), BuildId(partition.record.build_id));
    }
    let core = elf_file::Program::read(&workspace::metal_elf(image::CORE))?;
    decoder.assume(CORE, "core", BuildId(core.build_id));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_frame_that_comes_again_is_shown_once() {
        let mut shown = Shown::default();
        let seen: Vec<bool> = [(16, 0), (16, 1), (16, 1), (16, 0), (17, 0), (16, 2)]
            .into_iter()
            .map(|(console, sequence)| shown.is_new(console, sequence))
            .collect();
        assert_eq!(seen, [true, true, false, false, true, true]);
    }
}
