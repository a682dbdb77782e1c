//! `cargo xtask run` as a user has it: on a terminal, here a pseudo terminal, with a guest that echoes what is typed.

use anyhow::{Context, bail, ensure};
use libtest_mimic::{Failed, Trial};
use portcullis_build::emulator::machine::{MEMORY_MIB, Machine};
use portcullis_build::run::session::{self, Said, Session};
use portcullis_build::{build, image, process, setup, workspace};
use portcullis_qemu_tests::chosen::Chosen;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What the guest says when it listens.
const LISTENS: &str = "guest echo: note listens";
/// Time for anything to come, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

fn main() -> ExitCode {
    // Runs of one system write one image.
    let chosen = Chosen::from_args(1);
    chosen.run(trials(&chosen))
}

fn trials(chosen: &Chosen) -> anyhow::Result<Vec<Trial>> {
    let trials: [(&str, Run); 6] = [
        ("keys-and-a-reboot", keys_and_a_reboot),
        ("the-guest-ends-the-run", the_guest_ends_the_run),
        ("a-signal-leaves-the-terminal-as-it-was", a_signal),
        ("killed-link-loses-nothing", killed_link),
        ("a-person-at-com1", a_person_at_com1),
        (KEYS_END, keys_that_end_a_program),
    ];
    let trial = |(name, run): (&str, Run)| {
        Trial::test(format!("console::{name}"), move || run().map_err(|error| Failed::from(format!("{error:#}"))))
            .with_ignored_flag(name == KEYS_END)
    };
    let mut trials: Vec<Trial> = trials.into_iter().map(trial).collect();
    trials.retain(|trial| chosen.wants(trial.name()));
    if !chosen.only_lists() && !trials.is_empty() {
        prepare()?;
    }
    Ok(trials)
}

type Run = fn() -> anyhow::Result<()>;

fn prepare() -> anyhow::Result<()> {
    setup::ensure(&[setup::Need::Toolchain, setup::Need::Qemu])?;
    build::compile("info", |_| true)?;
    process::run(Command::new("cargo").args(["build", "-q", "-p", "portcullis-build"]), "cargo build")?;
    Ok(())
}

/// The tool that this test was built beside.
fn tool() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let directory = own.parent().and_then(|path| path.parent()).context("the test has no directory")?;
    Ok(directory.join("portcullis-build"))
}

/// A run on a terminal of its own.
struct Terminal {
    child: Child,
    typed: File,
    /// The other end, to look at its mode.
    line: File,
    screen: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    log: PathBuf,
}

impl Terminal {
    fn run(system: &str, name: &str) -> anyhow::Result<Self> {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&controller)?;
        unlockpt(&controller)?;
        let path = ptsname(&controller, Vec::new())?;
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
        let line = File::options().read(true).write(true).open(path)?;
        let log = workspace::out_dir().join("tests/console").join(format!("{name}.log"));
        let mut command = Command::new(tool()?);
        command.arg("run").arg("--system").arg(workspace::root().join("systems").join(system));
        command.arg("--log").arg(&log);
        let child = command.stdin(line.try_clone()?).stdout(line.try_clone()?).stderr(line.try_clone()?).spawn()?;
        let (typed, mut read) = (File::from(controller.try_clone()?), File::from(controller));
        let (sender, screen) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = read.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, typed, line, screen, seen: Vec::new(), log })
    }

    fn type_in(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.typed.write_all(bytes)?)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Waits until `text` has come so many times.
    fn wait_for(&mut self, text: &str, times: usize) -> anyhow::Result<()> {
        let latest = Instant::now() + PATIENCE;
        while self.text().matches(text).count() < times {
            match self.screen.recv_timeout(latest.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(_) => bail!("`{text}` did not come {times} times; the screen shows:\n{}", self.text()),
            }
        }
        Ok(())
    }

    fn is_raw(&self) -> anyhow::Result<bool> {
        Ok(!tcgetattr(&self.line)?.local_modes.contains(LocalModes::ICANON))
    }

    /// Waits for the end of the run: its status, with the terminal as it was before.
    fn end(&mut self) -> anyhow::Result<i32> {
        let latest = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > latest => bail!("the run did not end; the screen shows:\n{}", self.text()),
                None => self.seen.extend(self.screen.recv_timeout(Duration::from_millis(50)).unwrap_or_default()),
            }
        };
        while let Ok(bytes) = self.screen.recv_timeout(Duration::from_millis(200)) {
            self.seen.extend(bytes);
        }
        ensure!(!self.is_raw()?, "the terminal was left in raw mode");
        status.code().context("the run was ended by a signal")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keys_and_a_reboot() -> anyhow::Result<()> {
    let mut terminal = Terminal::run("tests/console.toml", "keys")?;
    terminal.wait_for(LISTENS, 1)?;
    ensure!(terminal.is_raw()?, "the terminal is not in raw mode");
    terminal.type_in(b"hello\x03 guest\r")?;
    terminal.wait_for("hello\x03 guest", 1)?;
    terminal.type_in(b"\x01h\x01\x01\r")?;
    terminal.wait_for("Ctrl-A x ends the run", 2)?;
    terminal.wait_for("\x01", 1)?;
    // Ctrl-R resets the guest's machine, and the run goes on.
    terminal.type_in(b"\x12")?;
    terminal.wait_for(LISTENS, 2)?;
    terminal.type_in(b"again")?;
    terminal.wait_for("again", 1)?;
    terminal.type_in(b"\x01x")?;
    let status = terminal.end()?;
    let text = terminal.text();
    ensure!(status == 0 && text.contains("ended by Ctrl-A x"), "status {status}:\n{text}");
    ensure!(text.matches("hello").count() == 1, "typed text came more than once:\n{text}");
    let log = std::fs::read_to_string(&terminal.log)?;
    ensure!(log.contains("link ready, generation 1") && !text.contains("link ready"), "the log is not in its file");
    Ok(())
}

fn the_guest_ends_the_run() -> anyhow::Result<()> {
    let mut terminal = Terminal::run("tests/console.toml", "guest")?;
    terminal.wait_for(LISTENS, 1)?;
    terminal.type_in(b"bye\x04")?;
    let status = terminal.end()?;
    let text = terminal.text();
    ensure!(status == 0 && text.contains("bye"), "status {status}:\n{text}");
    Ok(())
}

fn a_signal() -> anyhow::Result<()> {
    let mut terminal = Terminal::run("tests/console.toml", "signal")?;
    terminal.wait_for(LISTENS, 1)?;
    let process = Pid::from_raw(terminal.child.id().cast_signed()).context("no process")?;
    kill_process(process, Signal::TERM)?;
    let status = terminal.end()?;
    ensure!(status == 1 && terminal.text().contains("ended by signal 15"), "status {status}:\n{}", terminal.text());
    Ok(())
}

/// Restarts of link that the text must have met.
const RESTARTS: usize = 20;

fn killed_link() -> anyhow::Result<()> {
    let text: String = (0..120).map(|number| format!("word {number}, ")).collect();
    let mut terminal = Terminal::run("tests/console-killed.toml", "killed")?;
    terminal.wait_for(LISTENS, 1)?;
    terminal.type_in(text.as_bytes())?;
    terminal.type_in(b"end of text")?;
    terminal.wait_for("end of text", 1)?;
    let shown = terminal.text();
    let echoed = shown.split_once("word 0,").map_or("", |(_, rest)| rest);
    let expected = text.split_once("word 0,").map_or("", |(_, rest)| rest).to_owned() + "end of text";
    ensure!(echoed == expected, "the text came back changed:\n{shown}");
    terminal.type_in(b"\x04")?;
    ensure!(terminal.end()? == 0, "{}", terminal.text());
    let log = std::fs::read_to_string(&terminal.log)?;
    let restarts = log.matches("link ready, generation").count();
    ensure!(restarts > RESTARTS, "link was restarted {restarts} times only, so nothing was shown");
    ensure!(!log.contains("records are missing"), "log records were lost:\n{log}");
    Ok(())
}

/// A trial of the Debian guest: it takes a minute, so it runs on demand.
const KEYS_END: &str = "keys-that-end-a-program";
/// What the shell shows when it waits.
const PROMPT: &str = "~ # ";
/// A program that prints a line of a file and then reads the terminal, and that line.
const PROGRAM: &[u8] = b"cat /etc/hosts -\r";
const RUNS: &str = "127.0.0.1 localhost debian";

/// The demonstration's shell has a terminal of its own: Ctrl-C and Ctrl-\ reach the program in the foreground.
fn keys_that_end_a_program() -> anyhow::Result<()> {
    let mut terminal = Terminal::run("debian.toml", "keys-end")?;
    terminal.wait_for("Ctrl-D ends the machine", 1)?;
    for (before, (key, status)) in [(b"\x03", "ended 130"), (b"\x1c", "ended 131")].into_iter().enumerate() {
        terminal.wait_for(PROMPT, 2 * before + 1)?;
        terminal.type_in(PROGRAM)?;
        terminal.wait_for(RUNS, before + 1)?;
        terminal.type_in(key)?;
        terminal.wait_for(PROMPT, 2 * before + 2)?;
        terminal.type_in(b"echo ended $?\r")?;
        terminal.wait_for(status, 1)?;
    }
    terminal.wait_for(PROMPT, 5)?;
    terminal.type_in(b"poweroff\r")?;
    let status = terminal.end()?;
    ensure!(status == 0, "status {status}:\n{}", terminal.text());
    Ok(())
}

/// Without numbers, as on a real line.
fn a_person_at_com1() -> anyhow::Result<()> {
    let system = workspace::root().join("systems/tests/console.toml");
    let out = workspace::out_dir().join("tests/console/com1");
    let image = image::assemble(&system, portcullis_build::manifest::load(&system)?, Some(&out))?;
    let machine = Machine::new(session::pvh(&image, None), MEMORY_MIB);
    let mut session = Session::start(&machine, &image, PATIENCE)?;
    let mut text = String::new();
    let mut typed = false;
    while !text.contains("typed on COM1") {
        for said in session.next(Duration::from_secs(1)) {
            match said {
                Said::Com1(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
                Said::Event(event) if event != portcullis_build::emulator::Event::Quiet => {
                    bail!("{event:?} before the echo came:\n{text}")
                }
                _ => {}
            }
        }
        if !typed && text.contains(LISTENS) {
            session.emulator().send_com1(b"typed on COM1")?;
            typed = true;
        }
    }
    Ok(())
}
