//! QEMU's stub for debuggers, as far as it is needed to stop the machine at a place: the remote serial protocol with a
//! breakpoint (facts: GDB manual, appendix "GDB Remote Serial Protocol").

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Time within which the place must be reached; ends what would wait for ever.
const LIMIT: Duration = Duration::from_secs(180);

/// Runs the machine, which stands still, to the instruction at the linear address `place`. It stands still again then.
/// Without that within a time limit an error.
pub fn run_to(socket: &Path, place: u64) -> io::Result<()> {
    let mut stub = Stub(UnixStream::connect(socket)?);
    stub.0.set_read_timeout(Some(LIMIT))?;
    // A software breakpoint: the emulator keeps it beside the guest's memory, which stays as it is.
    stub.ask(&format!("Z0,{place:x},1"), |answer| answer == "OK")?;
    // The processor whose turn it is goes on with all others; the answer comes when they stop.
    stub.ask("vCont;c", |answer| answer.starts_with('T'))?;
    stub.ask(&format!("z0,{place:x},1"), |answer| answer == "OK")
}

/// A connection; generic so that a test can play the other side.
struct Stub<S>(S);

impl<S: Read + Write> Stub<S> {
    /// Sends a command and waits for the answer, which must be `fine`.
    fn ask(&mut self, command: &str, fine: impl Fn(&str) -> bool) -> io::Result<()> {
        self.0.write_all(packet(command).as_bytes())?;
        let answer = self.answer()?;
        if fine(&answer) {
            return Ok(());
        }
        Err(io::Error::other(format!("the stub answered `{answer}` to `{command}`")))
    }

    /// The next packet, acknowledged.
    fn answer(&mut self) -> io::Result<String> {
        while self.byte()? != b'$' {}
        let mut text = String::new();
        loop {
            match self.byte()? {
                b'#' => break,
                byte => text.push(char::from(byte)),
            }
        }
        // Two digits of a sum that a socket on the same machine does not need.
        let _ = [self.byte()?, self.byte()?];
        self.0.write_all(b"+")?;
        Ok(text)
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.0.read_exact(&mut byte)?;
        Ok(byte[0])
    }
}

/// A command with its frame and sum.
fn packet(command: &str) -> String {
    let sum = command.bytes().fold(0u8, u8::wrapping_add);
    format!("${command}#{sum:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_ends_with_the_sum_of_its_bytes() {
        assert_eq!(packet("OK"), "$OK#9a");
        assert_eq!(packet(""), "$#00");
    }

    #[test]
    fn an_answer_is_taken_out_of_its_frame_and_acknowledged() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"+$OK#9a+$E22#a9").unwrap();
        let mut stub = Stub(ours);
        stub.ask("Z0,1000,1", |answer| answer == "OK").unwrap();
        let error = stub.ask("vCont;c", |answer| answer.starts_with('T')).unwrap_err();
        assert_eq!(error.to_string(), "the stub answered `E22` to `vCont;c`");
        drop(stub);
        let mut sent = String::new();
        theirs.read_to_string(&mut sent).unwrap();
        assert_eq!(sent, format!("{}+{}+", packet("Z0,1000,1"), packet("vCont;c")));
    }
}
