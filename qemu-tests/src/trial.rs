//! One trial: boots an image, lets the judge listen, audits the machine, and on failure hands back all
//! that was said.

use crate::directives::{By, Directives};
use crate::judge::{Judge, Verdict};
use crate::place::{self, Place};
use crate::stalls::Busy;
use crate::watch;
use anyhow::Context;
use portcullis_build::emulator::Event;
use portcullis_build::emulator::machine::{Boot, Machine};
use portcullis_build::image::Image;
use portcullis_build::logs::render::Renderer;
use portcullis_build::run::lines::Lines;
use portcullis_build::run::session::{self, Said, Session};
use portcullis_build::{audit, image, workspace};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A line that was said.
pub struct Heard {
    /// When the end of it arrived.
    pub at: Instant,
    /// The line.
    pub text: String,
}

/// How a trial ended and everything that was said.
pub struct Report {
    /// The verdict.
    pub verdict: Verdict,
    /// COM1, the log and what the audit found, as lines.
    pub transcript: Vec<Heard>,
}

/// Time that a failed system is listened to further.
const MORE: Duration = Duration::from_secs(2);

/// Lines of the transcript that a failure shows; all of them are in the file.
const SHOWN: usize = 110;

impl Report {
    /// The trial's outcome; a failure shows the end of what was said. The whole is written beside the
    /// image, as `said.txt`.
    pub fn outcome(&self, image: &Image) -> anyhow::Result<()> {
        let file = image.bundle.with_file_name("said.txt");
        let text = self.text();
        std::fs::write(&file, &text).context("the transcript cannot be written")?;
        let Verdict::Fail(why) = &self.verdict else {
            return Ok(());
        };
        let left_out = self.transcript.len().saturating_sub(SHOWN);
        let shown: String = text.split_inclusive('\n').skip(left_out).collect();
        let file = workspace::display(&file);
        anyhow::bail!("{why}\n... {left_out} lines before are in {file}\n{shown}{why}")
    }

    /// All that was said.
    pub fn text(&self) -> String {
        self.transcript.iter().map(|line| line.text.clone() + "\n").collect()
    }
}

/// Boots `image` in QEMU as the directives say and judges it. An error is one of the harness, not of the system.
pub fn run(image: &Image, directives: &Directives) -> anyhow::Result<Report> {
    run_at(image, directives, place::QEMU)
}

/// The same at another place, which can do what the directives say.
pub fn run_at(image: &Image, directives: &Directives, place: Place) -> anyhow::Result<Report> {
    let mut session = start(image, directives, place)?;
    let mut listener = Listener::new(directives);
    let busy = directives.stalls.then(|| Busy::host(session.emulator().process()));
    let verdict = listener.listen(&mut session);
    drop(busy);
    if verdict != Verdict::Pass {
        // What follows the first failure often tells more.
        listener.listen_on(&mut session, Instant::now() + MORE);
    }
    let verdict = after(&mut session, image, directives, &mut listener, verdict)?;
    let rest = listener.com1.rest();
    if !rest.is_empty() {
        listener.note(rest);
    }
    Ok(Report { verdict, transcript: listener.transcript })
}

/// Boots `image` at a place until it has passed as the directives say, and captures it for an audit.
pub fn capture(image: &Image, directives: &Directives, place: Place) -> anyhow::Result<audit::Scene> {
    let mut session = start(image, directives, place)?;
    if let Verdict::Fail(why) = Listener::new(directives).listen(&mut session) {
        anyhow::bail!(why);
    }
    let snapshot = session.snapshot()?;
    audit::capture(session.emulator(), snapshot, image)
}

fn start(image: &Image, directives: &Directives, place: Place) -> anyhow::Result<Session> {
    let boot = boot(image, directives)?;
    let memory_mib = image.memory_mib(directives.memory_mib);
    let machine = Machine { icount: directives.icount, target: place.target(), ..Machine::new(boot, memory_mib) };
    Session::start(&machine, image, directives.limit)
}

fn boot(image: &Image, directives: &Directives) -> anyhow::Result<Boot> {
    let line = directives.command_line.as_deref();
    let iso = || image::iso(image, line.unwrap_or(&image.system.command_line), &directives.grub);
    Ok(match directives.boot {
        By::Pvh => session::pvh(image, line),
        By::Bios => Boot::IsoBios(iso()?),
        By::Uefi => Boot::IsoUefi(iso()?),
    })
}

/// Looks at the machine after the verdict: what the log ring still holds, and the audit.
fn after(
    session: &mut Session,
    image: &Image,
    directives: &Directives,
    listener: &mut Listener,
    verdict: Verdict,
) -> anyhow::Result<Verdict> {
    if verdict != Verdict::Pass {
        match session.emulator().state() {
            Ok(state) => state.lines().for_each(|line| listener.note(format!("the machine: {line}"))),
            Err(error) => listener.note(format!("where the machine is cannot be said: {error}")),
        }
    }
    if !directives.audit || verdict != Verdict::Pass {
        match session.near_memory() {
            Ok(memory) => listener.left_behind(session, &memory),
            Err(error) => listener.note(format!("the core's memory could not be captured: {error}")),
        }
        return Ok(verdict);
    }
    let snapshot = session.snapshot().context("the machine could not be captured afterwards")?;
    listener.left_behind(session, &snapshot.memory);
    let scene = audit::capture(session.emulator(), snapshot, image)?;
    let breaches = scene.judge().breaches;
    if breaches.is_empty() {
        let watched = directives.watch.as_ref().map_or(Ok(()), |name| watch::watch(session.emulator(), &scene, name));
        return Ok(watched.map_or_else(|error| Verdict::Fail(format!("{error:#}")), |()| Verdict::Pass));
    }
    breaches.iter().for_each(|breach| listener.note(format!("audit: {breach}")));
    Ok(Verdict::Fail(format!("the audit found {} breaches, the first: {}", breaches.len(), breaches[0])))
}

struct Listener {
    judge: Judge,
    com1: Lines,
    consoles: BTreeMap<u8, Lines>,
    renderer: Renderer,
    transcript: Vec<Heard>,
    /// When what is heard now arrived.
    arrived: Instant,
}

impl Listener {
    fn new(directives: &Directives) -> Self {
        Self {
            judge: Judge::new(directives),
            com1: Lines::default(),
            consoles: BTreeMap::new(),
            renderer: Renderer::new(false, workspace::root()),
            transcript: Vec::new(),
            arrived: Instant::now(),
        }
    }

    /// Listens until a verdict.
    fn listen(&mut self, session: &mut Session) -> Verdict {
        loop {
            if let (Some(verdict), _) = self.step(session) {
                return verdict;
            }
        }
    }

    /// Listens until `until`, for the transcript only.
    fn listen_on(&mut self, session: &mut Session, until: Instant) {
        while Instant::now() < until && !self.step(session).1 {}
    }

    /// Hears what comes next: the verdict, if any, and whether nothing can come any more.
    fn step(&mut self, session: &mut Session) -> (Option<Verdict>, bool) {
        let said = session.next(Duration::from_millis(500));
        self.arrived = session.emulator().arrived();
        let over = said.iter().any(|one| matches!(one, Said::Event(Event::Deadline | Event::Gone)));
        let verdict = said.into_iter().fold(None, |verdict, one| {
            let own = self.hear(one);
            verdict.or(own)
        });
        (verdict, over)
    }

    fn hear(&mut self, said: Said) -> Option<Verdict> {
        match said {
            Said::Com1(bytes) => {
                let lines = self.com1.push(&bytes);
                self.take_all(lines)
            }
            Said::Log(line) => {
                let text = self.renderer.line(&line);
                self.take(text)
            }
            Said::Damage(damage) => self.take(format!("damaged frame on COM2: {damage}")),
            // COM1 carries console 0.
            Said::Console(number @ 1.., bytes) => {
                let lines = self.consoles.entry(number).or_default().push(&bytes);
                self.take_all(lines.into_iter().map(|line| format!("[console {number}] {line}")))
            }
            Said::Console(..) | Said::Frame(..) => None,
            Said::Vm(notice) => self.take(format!("VM {}: {:?}, event {}", notice.vm, notice.kind, notice.sequence)),
            Said::Event(event) => self.event(&event),
        }
    }

    /// Takes lines; the first that ends the trial counts, the others still go into the transcript.
    fn take_all(&mut self, lines: impl IntoIterator<Item = String>) -> Option<Verdict> {
        lines.into_iter().fold(None, |verdict, line| {
            let own = self.take(line);
            verdict.or(own)
        })
    }

    fn take(&mut self, line: String) -> Option<Verdict> {
        let verdict = self.judge.line(&line);
        self.note(line);
        verdict
    }

    /// A line that is judged no more.
    fn note(&mut self, text: String) {
        self.transcript.push(Heard { at: self.arrived, text });
    }

    /// What the log ring and the epitaph in a captured memory say.
    fn left_behind(&mut self, session: &mut Session, memory: &[u8]) {
        let (lines, epitaph) = session.left_behind(memory);
        for line in lines {
            let _ = self.hear(Said::Log(line));
        }
        if let Some(text) = epitaph {
            self.note(format!("the core stopped: {text}"));
        }
    }

    fn event(&mut self, event: &Event) -> Option<Verdict> {
        match event {
            Event::Exit(value) => self.judge.exit(*value),
            Event::Deadline => Some(self.judge.unfinished("the trial's time was over")),
            Event::Stopped(why) => Some(self.judge.unfinished(&format!("the machine stopped ({why})"))),
            Event::Gone => Some(self.judge.unfinished("the emulator was gone")),
            Event::Com1(_) | Event::Com2(_) | Event::Quiet => None,
        }
    }
}
