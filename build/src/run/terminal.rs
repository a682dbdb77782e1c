//! The terminal of a run: each key at once and unchanged to the guest, and the terminal as it was before on
//! every way out: a return, a panic, a signal.

use rustix::termios::{self, InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, IsTerminal};
use std::sync::Once;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};

/// The terminal's mode before it was changed.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Puts the terminal back into the mode that it had. Without effect where nothing was changed.
fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // The terminal may be gone, and then there is nothing to restore.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

/// The terminal in the mode of a run, until this is dropped.
pub struct Raw(());

impl Raw {
    /// Changes the mode; `None` where standard input is not a terminal.
    ///
    /// Output keeps its processing: a line end of the core's or of this tool's own goes to the first column.
    pub fn enter() -> io::Result<Option<Self>> {
        static HOOK: Once = Once::new();
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.input_modes -= InputModes::IGNBRK
            | InputModes::BRKINT
            | InputModes::PARMRK
            | InputModes::ISTRIP
            | InputModes::INLCR
            | InputModes::IGNCR
            | InputModes::ICRNL
            | InputModes::IXON;
        raw.local_modes -=
            LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN;
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        HOOK.call_once(|| {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                report(panic);
            }));
        });
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(Self(())))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Reports the first signal that asks this process to end; at the second one the process ends, with the
/// terminal as it was.
pub fn signals<T: Send + 'static>(to: Sender<T>, wrap: fn(i32) -> T) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
    std::thread::spawn(move || {
        let mut arrived = signals.forever();
        if let Some(first) = arrived.next()
            && to.send(wrap(first)).is_ok()
        {
            arrived.next();
        }
        restore();
        std::process::exit(1);
    });
    Ok(())
}
