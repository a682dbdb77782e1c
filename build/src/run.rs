//! `run`: boots a system in QEMU and shows what it says: COM1 as it comes, and between its lines the
//! merged log of all partitions.

pub mod lines;
pub mod session;

use crate::emulator::Event;
use crate::emulator::command::{Boot, MEMORY_MIB, Machine};
use crate::logs::render::{Renderer, printable};
use crate::{image, setup, workspace};
use anyhow::Context;
use lines::Lines;
use session::{Said, Session};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How the machine starts the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// The core's PVH note.
    Pvh,
    /// GRUB from a CD under SeaBIOS.
    Bios,
    /// GRUB from a CD under OVMF.
    Uefi,
}

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// System manifest.
    #[arg(long, default_value_os_t = workspace::demo_manifest())]
    system: PathBuf,
    /// How to boot.
    #[arg(long, value_enum, default_value_t = By::Pvh)]
    boot: By,
    /// Keep COM2 as it came in this file; `log` decodes it.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Write the machine's memory to this file at the end; `log` decodes the log ring in it.
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// Count instructions: every run takes the same course.
    #[arg(long)]
    icount: bool,
    /// End the run after so many seconds of wall time. Without it a run ends when the system ends, and
    /// where nobody types, after a minute.
    #[arg(long)]
    seconds: Option<u64>,
    /// RAM of the machine, MiB.
    #[arg(long, default_value_t = MEMORY_MIB, value_parser = clap::value_parser!(u32).range(32..=2048))]
    memory: u32,
    /// Command line of the core, instead of the manifest's.
    #[arg(long)]
    command_line: Option<String>,
    /// Level of the log statements that are compiled in.
    #[arg(long, default_value = "info")]
    log_level: String,
}

/// The value that a system writes to the exit port when all went well.
pub const EXIT_PASS: u8 = 0x10;

/// A run without a time limit of the user's own, with somebody at the terminal.
const WATCHED: Duration = Duration::from_secs(7 * 24 * 3600);
/// The same where nobody types.
const UNWATCHED: Duration = Duration::from_secs(60);

/// Runs the verb.
pub fn command(args: &Args) -> anyhow::Result<()> {
    setup::ensure(&[setup::Need::Qemu])?;
    let image = image::make(&args.system, None, &args.log_level)?;
    let machine = Machine { boot: boot(args, &image)?, memory_mib: args.memory, icount: args.icount };
    let longest = if io::stdin().is_terminal() { WATCHED } else { UNWATCHED };
    let limit = args.seconds.map_or(longest, Duration::from_secs);
    let mut session = Session::start(&machine, &image, limit)?;
    forward_input(&mut session)?;
    let mut screen = Screen::new();
    let ended = loop {
        let said = session.next(Duration::from_millis(250));
        if let Some(event) = said.iter().find_map(end_of_run) {
            break event;
        }
        for one in said {
            screen.show(&one)?;
        }
    };
    // The captures are kept whatever the end was.
    let outcome = last_words(&mut session, &mut screen, &ended, args.dump.as_deref());
    if let Some(file) = &args.log {
        session::save(&session, file)?;
    }
    outcome
}

fn boot(args: &Args, image: &image::Image) -> anyhow::Result<Boot> {
    let line = args.command_line.as_ref().unwrap_or(&image.system.command_line);
    Ok(match args.boot {
        By::Pvh => session::pvh(image, args.command_line.as_deref()),
        By::Bios => Boot::IsoBios(image::iso(image, line)?),
        By::Uefi => {
            setup::ensure(&[setup::Need::Ovmf])?;
            Boot::IsoUefi(image::iso(image, line)?)
        }
    })
}

/// What is typed goes to COM1.
fn forward_input(session: &mut Session) -> anyhow::Result<()> {
    if io::stdin().is_terminal() {
        let mut line = session.emulator().com1_writer()?;
        std::thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok(count @ 1..) = io::stdin().read(&mut buffer) {
                if line.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

fn end_of_run(said: &Said) -> Option<Event> {
    match said {
        Said::Event(event @ (Event::Exit(_) | Event::Stopped(_) | Event::Gone | Event::Deadline)) => {
            Some(event.clone())
        }
        _ => None,
    }
}

fn last_words(session: &mut Session, screen: &mut Screen, ended: &Event, dump: Option<&Path>) -> anyhow::Result<()> {
    let verdict = match ended {
        Event::Exit(EXIT_PASS) => Ok("the system ended itself: all went well"),
        Event::Exit(value) => Err(format!("the system ended itself with value {value:#x}")),
        Event::Deadline => Ok("the time of the run is over"),
        Event::Stopped(why) if why == "guest-shutdown" => Ok("the machine was switched off"),
        Event::Stopped(why) => Err(format!("the machine stopped: {why}")),
        _ => Err("QEMU ended by itself".to_owned()),
    };
    if !matches!(ended, Event::Gone) {
        let memory = session.snapshot()?.memory;
        if let Some(file) = dump {
            std::fs::write(file, &memory).with_context(|| format!("cannot write {}", file.display()))?;
        }
        let (lines, epitaph) = session.left_behind(&memory);
        for line in lines {
            screen.show(&Said::Log(line))?;
        }
        if let Some(epitaph) = epitaph {
            screen.note(&format!("the core stopped: {}", printable(&epitaph)))?;
        }
    }
    match verdict {
        Ok(text) => Ok(screen.note(text)?),
        Err(text) => anyhow::bail!(text),
    }
}

/// The terminal: COM1's bytes, with whole lines of the log between its lines.
struct Screen {
    out: io::Stdout,
    renderer: Renderer,
    at_line_start: bool,
    consoles: BTreeMap<u8, Lines>,
}

impl Screen {
    fn new() -> Self {
        let out = io::stdout();
        let renderer = Renderer::new(out.is_terminal(), workspace::root());
        Self { out, renderer, at_line_start: true, consoles: BTreeMap::new() }
    }

    fn show(&mut self, said: &Said) -> io::Result<()> {
        match said {
            Said::Com1(bytes) => {
                self.at_line_start = bytes.ends_with(b"\n");
                self.out.write_all(bytes)?;
                self.out.flush()
            }
            Said::Log(line) => self.note(&self.renderer.line(line)),
            Said::Damage(damage) => self.note(&format!("damaged frame on COM2: {damage}")),
            // COM1 carries console 0.
            Said::Console(number @ 1.., bytes) => {
                let lines = self.consoles.entry(*number).or_default().push(bytes);
                lines.iter().try_for_each(|line| self.note(&format!("[console {number}] {}", printable(line))))
            }
            Said::Console(..) | Said::Frame(..) | Said::Vm(_) | Said::Event(_) => Ok(()),
        }
    }

    /// A line of its own.
    fn note(&mut self, text: &str) -> io::Result<()> {
        if !self.at_line_start {
            writeln!(self.out)?;
            self.at_line_start = true;
        }
        writeln!(self.out, "{text}")
    }
}
