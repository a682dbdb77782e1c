//! What a run shows on the terminal: console 0 as its guest writes it, and between its lines what this tool
//! has to say; and where the log goes.

use super::lines::Lines;
use super::record::Record;
use super::report::Report;
use super::session::Said;
use crate::logs::render::{Renderer, printable};
use crate::workspace;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};

/// The terminal and the log.
pub struct Screen {
    out: io::Stdout,
    renderer: Renderer,
    /// `None`: the log goes to the terminal.
    record: Option<Record>,
    /// Standard output is a script's: it gets `report`'s lines and nothing else.
    report: Report,
    at_line_start: bool,
    consoles: BTreeMap<u8, Lines>,
}

impl Screen {
    /// A screen whose log goes to `record`, or to the terminal without one.
    pub fn new(record: Option<Record>, report: Report) -> Self {
        let out = io::stdout();
        let colour = record.is_none() && out.is_terminal();
        let renderer = Renderer::new(colour, workspace::root());
        Self { out, renderer, record, report, at_line_start: true, consoles: BTreeMap::new() }
    }

    /// The lines for scripts.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Shows what the system said.
    pub fn show(&mut self, said: &Said) -> anyhow::Result<()> {
        match said {
            Said::Com1(bytes) if !self.report.is_wanted() => {
                self.at_line_start = bytes.ends_with(b"\n");
                self.out.write_all(bytes)?;
                self.out.flush()?;
            }
            Said::Log(line) => {
                let text = self.renderer.line(line);
                self.log(&text)?;
            }
            Said::Damage(damage) => self.log(&format!("damaged frame on COM2: {damage}"))?,
            Said::Console(number, bytes) => self.console(*number, bytes)?,
            Said::Vm(notice) => {
                self.log(&format!("VM {}: {:?}", notice.vm, notice.kind))?;
                self.report.vm(notice.vm, notice.kind);
            }
            Said::Com1(_) | Said::Frame(..) | Said::Event(_) => {}
        }
        Ok(())
    }

    /// COM1 carries console 0; the others have no terminal and go into the log, line by line.
    fn console(&mut self, number: u8, bytes: &[u8]) -> anyhow::Result<()> {
        for line in self.consoles.entry(number).or_default().push(bytes) {
            self.line(number, &line)?;
        }
        Ok(())
    }

    /// The last line of each console, which has no end.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        for (number, lines) in std::mem::take(&mut self.consoles) {
            if !lines.rest().is_empty() {
                self.line(number, &lines.rest())?;
            }
        }
        Ok(())
    }

    fn line(&mut self, number: u8, line: &str) -> anyhow::Result<()> {
        self.report.console(number, line);
        if number > 0 {
            self.log(&format!("[console {number}] {}", printable(line)))?;
        }
        Ok(())
    }

    fn log(&mut self, text: &str) -> anyhow::Result<()> {
        match &mut self.record {
            Some(record) => record.line(text),
            None => Ok(self.note(text)?),
        }
    }

    /// A line of this tool's own.
    pub fn note(&mut self, text: &str) -> io::Result<()> {
        if self.report.is_wanted() {
            return writeln!(io::stderr(), "{text}");
        }
        if !self.at_line_start {
            writeln!(self.out)?;
            self.at_line_start = true;
        }
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Makes what was shown and logged so far visible to others.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        match &mut self.record {
            Some(record) => record.flush(),
            None => Ok(self.out.flush()?),
        }
    }
}
