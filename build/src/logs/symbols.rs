//! The symbol store: unstripped ELFs by build id, and what the decoder needs of each, loaded once.

use super::records::BuildId;
use anyhow::Context;
use defmt_decoder::{Locations, Table};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Format strings and source places of one ELF.
pub struct Symbols {
    table: Table,
    locations: Locations,
}

/// A decoded defmt frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Level as defmt names it; `None` for `println`.
    pub level: Option<Level>,
    /// The text.
    pub text: String,
    /// Source file and line, where the ELF has them.
    pub place: Option<(PathBuf, u64)>,
}

/// Level of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl Symbols {
    /// Reads an ELF's tables; fails when it is not an ELF or has no defmt strings.
    pub fn parse(elf: &[u8]) -> anyhow::Result<Self> {
        let table = Table::parse(elf)?.context("the ELF has no .defmt section")?;
        let locations = table.get_locations(elf).unwrap_or_default();
        Ok(Self { table, locations })
    }

    /// Decodes one raw frame; the error says why it cannot be.
    pub fn decode(&self, frame: &[u8]) -> Result<Message, String> {
        // The decoder was written for bytes that the ELF itself sent; a hostile partition sends others.
        std::panic::catch_unwind(|| self.decode_trusting(frame))
            .unwrap_or_else(|_| Err("the decoder gave up on it".into()))
    }

    fn decode_trusting(&self, bytes: &[u8]) -> Result<Message, String> {
        let (frame, used) = self.table.decode(bytes).map_err(|error| error.to_string())?;
        if used != bytes.len() {
            return Err(format!("{} bytes too many", bytes.len() - used));
        }
        let place = self.locations.get(&frame.index()).map(|at| (at.file.clone(), at.line));
        let level = frame.level().map(|level| match level.as_str() {
            "trace" => Level::Trace,
            "debug" => Level::Debug,
            "warn" => Level::Warn,
            "error" => Level::Error,
            _ => Level::Info,
        });
        Ok(Message { level, text: frame.display_message().to_string(), place })
    }
}

/// The directory of ELFs.
pub struct Store {
    directory: PathBuf,
    loaded: HashMap<BuildId, Result<Rc<Symbols>, String>>,
}

impl Store {
    /// The store in `directory` (`target/symbols`); it need not exist.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), loaded: HashMap::new() }
    }

    /// Where the ELF with this build id is kept.
    pub fn path(&self, id: &BuildId) -> PathBuf {
        self.directory.join(id.to_string())
    }

    /// Tables of the ELF with this build id; the error says what is missing.
    pub fn get(&mut self, id: &BuildId) -> Result<Rc<Symbols>, String> {
        let path = self.path(id);
        self.loaded.entry(*id).or_insert_with(|| load(&path).map(Rc::new)).clone()
    }
}

fn load(path: &Path) -> Result<Symbols, String> {
    let bytes = std::fs::read(path).map_err(|_| format!("no symbols: {} is not there", path.display()))?;
    Symbols::parse(&bytes).map_err(|error| format!("no symbols: {}: {error:#}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::elf;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_is_decoded_with_the_strings_of_its_own_elf() {
        let symbols = Symbols::parse(&elf(&[("defmt_warn", "slot {=u8} of {=str}")])).unwrap();
        let message = symbols.decode(&[1, 0, 9, 2, 0, 0, 0, b'a', b'b']).unwrap();
        assert_eq!(message, Message { level: Some(Level::Warn), text: "slot 9 of ab".into(), place: None });
    }

    #[test]
    fn unknown_indices_short_and_long_frames_are_errors() {
        let symbols = Symbols::parse(&elf(&[("defmt_info", "{=u16}")])).unwrap();
        assert!(symbols.decode(&[7, 0]).is_err());
        assert!(symbols.decode(&[1, 0, 5]).is_err());
        assert_eq!(symbols.decode(&[1, 0, 5, 0, 1]), Err("1 bytes too many".into()));
    }

    #[test]
    fn a_missing_elf_is_named_with_its_path() {
        let error = Store::new("/nowhere").get(&BuildId([1; 20])).err().unwrap();
        assert!(error.contains("/nowhere/0101010101"), "{error}");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(frame in proptest::collection::vec(any::<u8>(), 0..64)) {
            let strings = [("defmt_info", "{=u64} {=str} {=bool}"), ("defmt_error", "{=[u8]:x} {=0..4}")];
            let symbols = Symbols::parse(&elf(&strings)).unwrap();
            let _ = symbols.decode(&frame);
        }
    }
}
