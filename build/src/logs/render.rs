//! How a line of the merged log looks in a terminal.

use super::decode::Line;
use super::symbols::Level;
use std::path::{Path, PathBuf};

/// Renders lines, with or without colour.
pub struct Renderer {
    colour: bool,
    root: PathBuf,
}

impl Renderer {
    /// `root` is the directory below which source files are shown by their relative path.
    pub fn new(colour: bool, root: impl Into<PathBuf>) -> Self {
        Self { colour, root: root.into() }
    }

    /// One line without its end: time, level, origin and generation, text, source place.
    pub fn line(&self, line: &Line) -> String {
        let (name, colour) = match line.level {
            Some(Level::Trace) => ("TRACE", "90"),
            Some(Level::Debug) => ("DEBUG", "90"),
            Some(Level::Info) => ("INFO ", "32"),
            Some(Level::Warn) => ("WARN ", "33"),
            Some(Level::Error) => ("ERROR", "31"),
            None => ("     ", "0"),
        };
        let origin = match line.generation {
            0 | 1 => line.origin.clone(),
            generation => format!("{}#{generation}", line.origin),
        };
        let mut out = format!(
            "{} {} {} {}",
            self.paint("90", &format!("{:12.6}", line.seconds)),
            self.paint(colour, name),
            self.paint("36", &format!("{origin:<14}")),
            printable(&line.text),
        );
        if let Some((file, number)) = &line.place {
            let place = format!("  ({}:{number})", self.relative(file).display());
            out.push_str(&self.paint("90", &place));
        }
        out
    }

    fn relative<'a>(&self, file: &'a Path) -> &'a Path {
        file.strip_prefix(&self.root).unwrap_or(file)
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The text with control characters replaced: what a partition says must not steer the terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line {
            sequence: 3,
            tsc: 0,
            seconds: 1.25,
            origin: "vmexit".into(),
            generation: 2,
            level: Some(Level::Warn),
            text: "a\x1b[2Jb".into(),
            place: Some(("/src/services/vmexit/main.rs".into(), 12)),
        }
    }

    #[test]
    fn a_plain_line_holds_time_level_origin_text_and_place() {
        let text = Renderer::new(false, "/src").line(&line());
        assert_eq!(text, "    1.250000 WARN  vmexit#2       a\u{fffd}[2Jb  (services/vmexit/main.rs:12)");
    }

    #[test]
    fn a_coloured_line_resets_every_colour() {
        let text = Renderer::new(true, "/src").line(&line());
        assert_eq!(text.matches("\x1b[0m").count(), 4);
        assert!(text.contains("\x1b[33mWARN"));
    }
}
