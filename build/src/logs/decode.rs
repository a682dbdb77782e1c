//! From records to lines: which instance sent a record, with whose strings it is read, when it was
//! made, and what is missing. How a line looks is `render`'s.

use super::records::{Body, BuildId, Record};
use super::symbols::{Level, Store};
use portcullis_ipc::log::CORE;
use std::collections::HashMap;
use std::path::PathBuf;

/// One line of the merged log.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Sequence over all records of the system.
    pub sequence: u64,
    /// TSC when it was made.
    pub tsc: u64,
    /// Seconds of TSC time, once the system has told its frequency; before that 0.
    pub seconds: f64,
    /// Name of the partition, `core`, or `log` for what the decoder itself has to say.
    pub origin: String,
    /// Generation of the partition, 0 for the core and the decoder.
    pub generation: u32,
    /// Level; `None` for what has none.
    pub level: Option<Level>,
    /// The text.
    pub text: String,
    /// Source file and line.
    pub place: Option<(PathBuf, u64)>,
}

struct Instance {
    name: String,
    build_id: BuildId,
}

/// Turns records into lines. Keeps what START and CLOCK records have told.
pub struct Decoder {
    store: Store,
    instances: HashMap<(u8, u32), Instance>,
    assumed: HashMap<u8, Instance>,
    tsc_hz: u64,
    next_sequence: Option<u64>,
}

impl Decoder {
    /// A decoder that looks ELFs up in `store`.
    pub fn new(store: Store) -> Self {
        Self { store, instances: HashMap::new(), assumed: HashMap::new(), tsc_hz: 0, next_sequence: None }
    }

    /// Tells who `partition` is if its START record should be missing, as the system's image has it.
    pub fn assume(&mut self, partition: u8, name: &str, build_id: BuildId) {
        self.assumed.insert(partition, Instance { name: name.to_owned(), build_id });
    }

    /// TSC ticks per second, 0 while unknown.
    pub fn tsc_hz(&self) -> u64 {
        self.tsc_hz
    }

    /// The lines of the next record: itself, and before it what was lost.
    pub fn record(&mut self, record: &Record) -> Vec<Line> {
        let mut lines = Vec::new();
        let head = &record.head;
        let lost = self.next_sequence.map_or(0, |next| head.sequence.saturating_sub(next));
        if lost > 0 {
            let text = format!("{lost} records are missing");
            lines.push(Line { level: Some(Level::Warn), ..self.own_line(record, text) });
        }
        self.next_sequence = Some(head.sequence.saturating_add(1));
        lines.push(match record.body() {
            Body::Clock(hz) => {
                self.tsc_hz = hz;
                self.line(record, Some(Level::Debug), format!("the clock runs at {hz} Hz"))
            }
            Body::Start { build_id, name } => {
                let text = format!("started, build {build_id}");
                let instance = Instance { name, build_id };
                self.instances.insert((head.partition, head.generation), instance);
                self.line(record, Some(Level::Debug), text)
            }
            Body::Dropped(count) => self.line(record, Some(Level::Warn), format!("{count} records were dropped")),
            Body::Unknown(kind) => self.line(record, Some(Level::Warn), format!("record of unknown kind {kind}")),
            Body::Defmt(frame) => self.message(record, frame),
        });
        lines
    }

    fn message(&mut self, record: &Record, frame: &[u8]) -> Line {
        let build_id = self.instance(record).map(|instance| instance.build_id);
        let decoded = match build_id {
            Some(id) => self.store.get(&id).and_then(|symbols| symbols.decode(frame)),
            None => Err("its START record is missing".into()),
        };
        match decoded {
            Ok(message) => {
                let line = self.line(record, message.level, message.text);
                Line { place: message.place, ..line }
            }
            Err(why) => {
                let text = format!("undecoded ({why}): {}", hex(frame));
                self.line(record, Some(Level::Warn), text)
            }
        }
    }

    fn instance(&self, record: &Record) -> Option<&Instance> {
        let head = &record.head;
        self.instances.get(&(head.partition, head.generation)).or_else(|| self.assumed.get(&head.partition))
    }

    fn line(&self, record: &Record, level: Option<Level>, text: String) -> Line {
        let head = &record.head;
        let origin = match (head.partition, self.instance(record)) {
            (CORE, _) => "core".to_owned(),
            (_, Some(instance)) => instance.name.clone(),
            (partition, None) => format!("partition {partition}"),
        };
        let generation = if head.partition == CORE { 0 } else { head.generation };
        let seconds = self.seconds(head.tsc);
        Line { sequence: head.sequence, tsc: head.tsc, seconds, origin, generation, level, text, place: None }
    }

    fn own_line(&self, record: &Record, text: String) -> Line {
        Line { origin: "log".into(), generation: 0, ..self.line(record, None, text) }
    }

    fn seconds(&self, tsc: u64) -> f64 {
        if self.tsc_hz == 0 { 0.0 } else { tsc as f64 / self.tsc_hz as f64 }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{elf, start};
    use super::super::records::fixture::record;
    use super::*;
    use portcullis_ipc::log::payload::{CLOCK, DEFMT, DROPPED, START};
    use proptest::prelude::*;

    fn decoder(elves: &[([u8; 20], Vec<u8>)]) -> (tempfile::TempDir, Decoder) {
        let directory = tempfile::tempdir().unwrap();
        for (id, bytes) in elves {
            std::fs::write(directory.path().join(BuildId(*id).to_string()), bytes).unwrap();
        }
        let decoder = Decoder::new(Store::new(directory.path()));
        (directory, decoder)
    }

    fn texts(decoder: &mut Decoder, record: &Record) -> Vec<String> {
        decoder.record(record).into_iter().map(|line| format!("{}: {}", line.origin, line.text)).collect()
    }

    #[test]
    fn the_same_bytes_are_read_with_the_strings_of_the_instance_that_sent_them() {
        let elves = [([1; 20], elf(&[("defmt_info", "one {=u8}")])), ([2; 20], elf(&[("defmt_info", "two {=u8}")]))];
        let (_kept, mut decoder) = decoder(&elves);
        decoder.record(&record(4, START, 0, &start(1, "vmexit")));
        assert_eq!(texts(&mut decoder, &record(4, DEFMT, 1, &[1, 0, 7])), ["vmexit: one 7"]);
        let mut restarted = record(4, START, 2, &start(2, "vmexit"));
        restarted.head.generation = 2;
        decoder.record(&restarted);
        let mut late = record(4, DEFMT, 3, &[1, 0, 8]);
        assert_eq!(texts(&mut decoder, &late), ["vmexit: one 8"]);
        late.head.generation = 2;
        late.head.sequence = 4;
        assert_eq!(texts(&mut decoder, &late), ["vmexit: two 8"]);
    }

    #[test]
    fn a_gap_in_the_sequence_is_reported_before_the_record() {
        let (_kept, mut decoder) = decoder(&[]);
        decoder.record(&record(CORE, DROPPED, 5, &1u32.to_le_bytes()));
        let lines = texts(&mut decoder, &record(CORE, DROPPED, 9, &2u32.to_le_bytes()));
        assert_eq!(lines, ["log: 3 records are missing", "core: 2 records were dropped"]);
    }

    #[test]
    fn time_is_counted_with_the_frequency_that_the_system_told() {
        let (_kept, mut decoder) = decoder(&[]);
        decoder.record(&record(CORE, CLOCK, 0, &2000u64.to_le_bytes()));
        let lines = decoder.record(&record(CORE, DROPPED, 1, &[0; 4]));
        assert_eq!(lines[0].seconds, 0.5);
    }

    #[test]
    fn without_a_start_record_the_image_tells_who_it_was() {
        let (_kept, mut decoder) = decoder(&[([3; 20], elf(&[("defmt_error", "down")]))]);
        let lost = record(2, DEFMT, 0, &[1, 0]);
        assert!(texts(&mut decoder, &lost)[0].contains("START record is missing"));
        decoder.assume(2, "link", BuildId([3; 20]));
        let mut next = lost;
        next.head.sequence = 1;
        assert_eq!(texts(&mut decoder, &next), ["link: down"]);
    }

    proptest! {
        #[test]
        fn records_of_garbage_never_panic(
            heads in proptest::collection::vec(
                (any::<u8>(), 0u8..6, any::<u32>(), any::<u64>(), any::<u64>(),
                 proptest::collection::vec(any::<u8>(), 0..40)), 0..12),
        ) {
            let (_kept, mut decoder) = decoder(&[]);
            for (partition, kind, generation, sequence, tsc, payload) in heads {
                let mut record = record(partition, kind, sequence, &payload);
                record.head.generation = generation;
                record.head.tsc = tsc;
                decoder.record(&record);
            }
        }
    }
}
