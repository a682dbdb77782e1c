//! One line of the emulator: a Unix socket or a terminal of its own, read by a thread of its own into the run's
//! events.

use super::{Event, Events};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// A socket that waits for the emulator.
pub struct Listener(UnixListener);

/// Listens at `name` in `directory`, whose path may be longer than that of a socket.
pub fn listen(directory: &File, name: &Path) -> io::Result<Listener> {
    let here = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let listener = UnixListener::bind(Path::new(&here).join(name))?;
    listener.set_nonblocking(true)?;
    Ok(Listener(listener))
}

impl Listener {
    /// The connection, if the emulator has made it.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.0.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                Ok(Some(stream))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The sending end of a line; what comes in goes to the events.
pub struct Line(File);

impl Line {
    /// Starts the reader; `to_events` says what a piece of input is.
    pub fn new(stream: impl Into<OwnedFd>, events: Events, to_events: fn(&[u8]) -> Vec<Event>) -> io::Result<Self> {
        let stream = File::from(stream.into());
        let mut reader = stream.try_clone()?;
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The line ends with the emulator; its console reports that.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if to_events(&buffer[..count]).into_iter().any(|event| !events.send(event)) {
                    return;
                }
            }
        });
        Ok(Self(stream))
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
}
