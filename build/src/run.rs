//! `run`: builds a system, boots it in an emulator and gives the user its guest's console. The terminal is the
//! guest's; the log of core and services goes to a file.
//!
//! `session` is the booted system, `watch` decides when the run is over, `screen` shows it, `report` tells
//! scripts, `terminal`, `keys` and `input` are the user's side.

pub mod demo;
mod input;
pub mod keys;
pub mod lines;
pub mod options;
mod place;
mod record;
mod report;
mod screen;
pub mod session;
mod terminal;
mod typing;
pub mod watch;

use crate::emulator::Event;
use crate::emulator::machine::{Bios, Boot, Kind, MOST_MEMORY_MIB, Machine, QEMU_RUN, Target};
use crate::image::Image;
use crate::logs::render::printable;
use crate::{build, image, manifest, setup, workspace};
use anyhow::Context;
use input::Wish;
use place::Place;
use record::Record;
use report::Report;
use screen::Screen;
use session::{Said, Session};
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use watch::{End, Watch};

/// How the machine starts the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// The core's PVH note.
    Pvh,
    /// GRUB from a CD under a BIOS.
    Bios,
    /// GRUB from a CD under OVMF.
    Uefi,
}

/// Arguments of the verb.
#[derive(clap::Args)]
#[command(after_help = format!("On a terminal: {}.", keys::HELP))]
pub struct Args {
    /// System manifest.
    #[arg(long, default_value_os_t = workspace::debian_manifest())]
    system: PathBuf,
    #[command(flatten)]
    options: options::Options,
    /// End with the verdict of the checks that the demonstration's guest makes: status 0 when all are well.
    #[arg(long)]
    demo: bool,
    /// One JSON object a line on standard output, for scripts: phases, console lines, events, checks, the end.
    #[arg(long)]
    json: bool,
    /// Where the log of core and services goes; `-` for the terminal, between the console's lines. Default:
    /// out/run.log, or out/run-2.log while another run has that.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Keep COM2 as it came in this file; `cargo xtask log` decodes it.
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
    /// Write the machine's memory to this file at the end; `cargo xtask log` decodes the log ring in it.
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// End the run after so many seconds of wall time; building is not counted, nor is time in which the host gave the
    /// emulator no processor. Without it a run ends when its guest or the user ends it, and where nobody can type,
    /// after ten minutes.
    #[arg(long)]
    seconds: Option<u64>,
    /// The emulator.
    #[arg(long, value_enum, default_value_t)]
    emulator: Kind,
    /// Its processor: what QEMU takes as `-cpu`, or a model of Bochs's (`bochs --help cpu`); default: one with AMD-V and
    /// without CMPXCHG16B in QEMU, one with VT-x in Bochs.
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// The BIOS in Bochs.
    #[arg(long, value_enum, default_value_t)]
    bios: Bios,
    /// Keep what Bochs reports, each exit of a guest included, in this file.
    #[arg(long, value_name = "FILE")]
    emulator_log: Option<PathBuf>,
    /// How to boot; default: pvh in QEMU, bios in Bochs.
    #[arg(long, value_enum)]
    boot: Option<By>,
    /// Count instructions: every run takes the same course.
    #[arg(long)]
    icount: bool,
    /// RAM of the machine that everything runs in, MiB; default: what the system needs.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(32..=MOST_MEMORY_MIB))]
    machine_memory: Option<u32>,
    /// Command line of the core, instead of the manifest's.
    #[arg(long)]
    command_line: Option<String>,
    /// Level of the log statements that are compiled in.
    #[arg(long, default_value = "info")]
    log_level: String,
}

/// The value that a system, or a guest, writes to its exit port when all went well; all others mean failure.
pub const EXIT_PASS: u8 = 0x10;

/// A run without a time limit of the user's own, with somebody at the terminal.
const WATCHED: Duration = Duration::from_secs(7 * 24 * 3600);
/// The same where nobody can type.
const UNWATCHED: Duration = Duration::from_secs(600);
/// Time within which a wish of the user is heard.
const HEARING: Duration = Duration::from_millis(10);
/// Typed bytes that wait for the guest at most.
const MOST_WAITING: usize = 64 << 10;
/// Silence after which everything that belongs to an end has been said.
const SILENCE: Duration = Duration::from_millis(150);
/// The same for a system that talks on.
const LONGEST: Duration = Duration::from_secs(2);

/// Runs the verb.
pub fn command(args: &Args) -> anyhow::Result<()> {
    let begun = Instant::now();
    setup::ensure(&[match args.emulator {
        Kind::Qemu => setup::Need::Qemu,
        Kind::Bochs => setup::Need::Bochs,
    }])?;
    let place = Place::claim(&workspace::out_dir().join("runs"))?;
    let log = args.log.clone().unwrap_or_else(|| place.log());
    let to_terminal = log == Path::new("-");
    let record = if to_terminal { None } else { Some(Record::create(&log)?) };
    // What cannot be written at the end is told before the start.
    let capture = args.capture.as_deref().map(|file| record::created("--capture", file)).transpose()?;
    let dump = args.dump.as_deref().map(|file| record::created("--dump", file)).transpose()?;
    args.emulator_log.as_deref().map(|file| record::created("--emulator-log", file)).transpose()?;
    let mut screen = Screen::new(record, Report::new(args.json));
    let image = make(args, place.directory())?;
    let machine = machine(args, &image)?;
    screen.report().phase("build", begun.elapsed());
    let log = if to_terminal { String::new() } else { format!(", log in {}", workspace::display(&log)) };
    eprintln!("run: {} ready in {:.1} s, booting{log}", image.system.name, begun.elapsed().as_secs_f64());
    let typed = io::stdin().is_terminal();
    if typed {
        eprintln!("run: {}", keys::HELP);
    }
    let longest = if typed { WATCHED } else { UNWATCHED };
    let begun = Instant::now();
    let mut session = Session::start(&machine, &image, args.seconds.map_or(longest, Duration::from_secs))?;
    if let Some(file) = capture {
        session.capture(file);
    }
    let (end, dumped) = attended(args, &image, &mut session, &mut screen, dump)?;
    screen.finish()?;
    screen.report().phase("run", begun.elapsed());
    session.captured().context("--capture: COM2 cannot be written whole")?;
    let verdict = verdict(&end, dumped.as_deref(), args.demo);
    let (status, text) = match &verdict {
        Ok(text) => (0, text),
        Err(text) => (1, text),
    };
    screen.report().end(status, text);
    screen.flush()?;
    match verdict {
        Ok(text) => Ok(screen.note(&format!("run: {text}"))?),
        Err(text) => anyhow::bail!(text),
    }
}

fn make(args: &Args, place: &Path) -> anyhow::Result<Image> {
    let mut system = manifest::load(&args.system)?;
    args.options.apply(&mut system, place)?;
    setup::ensure(&[setup::Need::Toolchain])?;
    let _building = build::alone()?;
    build::for_system(&args.log_level, &image::names(&system))?;
    image::assemble(&args.system, system, Some(place))
}

/// The part of a run in which the terminal is the guest's; how it ended, and the core's last words.
fn attended(
    args: &Args,
    image: &Image,
    session: &mut Session,
    screen: &mut Screen,
    dump: Option<File>,
) -> anyhow::Result<(End, Option<String>)> {
    let raw = terminal::Raw::enter().context("the terminal's mode cannot be changed")?;
    let (sender, wishes) = channel();
    terminal::signals(sender.clone(), Wish::Signal).context("signals cannot be caught")?;
    let texts = input::listen(io::stdin(), raw.is_some(), sender);
    let mut watch = Watch::new(&image.system, args.options.success(), args.demo);
    let end = until_the_end(session, screen, &mut watch, &wishes, &texts)?;
    let last_words = after_the_end(session, screen, &mut watch, &end, dump)?;
    Ok((end, last_words))
}

fn until_the_end(
    session: &mut Session,
    screen: &mut Screen,
    watch: &mut Watch,
    wishes: &Receiver<Wish>,
    texts: &Receiver<Vec<u8>>,
) -> anyhow::Result<End> {
    let mut stopped: Option<Instant> = None;
    let mut full = false;
    loop {
        let heard = session.next(HEARING);
        let mut end = None;
        for said in &heard {
            screen.show(said)?;
            let (over, checks) = watch.hear(said);
            checks.iter().for_each(|check| screen.report().check(check));
            end = end.or(over);
        }
        if let Some(end) = end {
            return Ok(end);
        }
        if heard.contains(&Said::Event(Event::Quiet)) {
            screen.flush()?;
        }
        for wish in wishes.try_iter() {
            match wish {
                // The terminal is read on, for its keys; what no guest takes must not fill the memory.
                Wish::Type(bytes) if session.waiting() + bytes.len() > MOST_WAITING => {
                    if !full {
                        screen.note(&format!(
                            "run: the guest has not read {MOST_WAITING} bytes; what is typed until it does is left out"
                        ))?;
                    }
                    full = true;
                }
                Wish::Type(bytes) => {
                    full = false;
                    session.type_in(&bytes)?;
                }
                Wish::End => return Ok(End::User),
                Wish::Signal(number) => return Ok(End::Signal(number)),
                Wish::Help => screen.note(keys::HELP)?,
            }
        }
        // What does not come from a terminal waits there until the guest takes it.
        if session.waiting() < MOST_WAITING
            && let Ok(bytes) = texts.try_recv()
        {
            session.type_in(&bytes)?;
        }
        if watch.waits_for_the_log() {
            let since = stopped.get_or_insert_with(Instant::now);
            if since.elapsed() > LONGEST
                && let Some(end) = watch.stopped()
            {
                return Ok(end);
            }
        }
    }
}

/// Shows what was said before the end and arrived after it; returns the core's last words, if it stopped.
fn after_the_end(
    session: &mut Session,
    screen: &mut Screen,
    watch: &mut Watch,
    end: &End,
    dump: Option<File>,
) -> anyhow::Result<Option<String>> {
    if *end == End::Gone {
        return Ok(None);
    }
    let latest = Instant::now() + LONGEST;
    while Instant::now() < latest {
        let heard = session.next(SILENCE);
        for said in &heard {
            screen.show(said)?;
            watch.hear(said).1.iter().for_each(|check| screen.report().check(check));
        }
        if heard.iter().any(|said| matches!(said, Said::Event(Event::Quiet | Event::Deadline | Event::Gone))) {
            break;
        }
    }
    let memory = match dump {
        Some(mut file) => {
            let memory = session.snapshot()?.memory;
            file.write_all(&memory).context("--dump: the memory cannot be written")?;
            memory
        }
        None if end.may_be_the_cores() => session.near_memory()?,
        None => return Ok(None),
    };
    let (lines, epitaph) = session.left_behind(&memory);
    for line in lines {
        screen.show(&Said::Log(line))?;
    }
    Ok(epitaph)
}

/// What the run came to. A core that stopped says why itself.
fn verdict(end: &End, last_words: Option<&str>, demo: bool) -> Result<String, String> {
    match last_words {
        Some(words) => Err(format!("the core stopped: {}", printable(words))),
        None => end.judge(demo),
    }
}

/// The least RAM of a machine, MiB.
const LEAST_MIB: u32 = 256;

fn machine(args: &Args, image: &Image) -> anyhow::Result<Machine> {
    let line = args.command_line.as_ref().unwrap_or(&image.system.command_line);
    let usual = match args.emulator {
        Kind::Qemu => By::Pvh,
        Kind::Bochs => By::Bios,
    };
    let boot = match args.boot.unwrap_or(usual) {
        By::Pvh => session::pvh(image, args.command_line.as_deref()),
        By::Bios => Boot::IsoBios(image::iso(image, line, &[])?),
        By::Uefi => {
            setup::ensure(&[setup::Need::Ovmf])?;
            Boot::IsoUefi(image::iso(image, line, &[])?)
        }
    };
    let memory_mib = args.machine_memory.unwrap_or_else(|| image.memory_mib(LEAST_MIB));
    let processor = args.cpu.as_deref().or((args.emulator == Kind::Qemu).then_some(QEMU_RUN));
    let target = Target { bios: args.bios, ..Target::new(args.emulator, processor) };
    Ok(Machine { boot, memory_mib, icount: args.icount, target, log: args.emulator_log.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_core_says_last_is_the_reason_whatever_the_end_looks_like() {
        let end = End::System(EXIT_PASS);
        assert!(verdict(&end, None, false).is_ok());
        assert_eq!(verdict(&end, Some("pool\u{7}"), false), Err("the core stopped: pool\u{fffd}".into()));
    }
}
