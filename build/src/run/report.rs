//! What a run tells a script with `--json`: one object a line on standard output, each with the member
//! `event`. Members are only ever added.

use super::demo::Check;
use crate::logs::render::printable;
use portcullis_ipc::proto::link::VmEventKind;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The lines for scripts; silent unless asked for.
pub struct Report {
    wanted: bool,
    begun: Instant,
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

impl Report {
    /// A report that counts its time from now.
    pub fn new(wanted: bool) -> Self {
        Self { wanted, begun: Instant::now() }
    }

    /// Whether standard output is the script's.
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    fn say(&self, mut object: Value) {
        if self.wanted {
            object["at"] = json!(seconds(self.begun.elapsed()));
            println!("{object}");
        }
    }

    /// A part of the work is done: how long it took.
    pub fn phase(&self, name: &str, took: Duration) {
        self.say(json!({"event": "phase", "name": name, "seconds": seconds(took)}));
    }

    /// A whole line of a console.
    pub fn console(&self, vm: u8, line: &str) {
        self.say(json!({"event": "console", "vm": vm, "line": printable(line)}));
    }

    /// Something became of a VM.
    pub fn vm(&self, vm: u8, kind: VmEventKind) {
        let (kind, value) = match kind {
            VmEventKind::PowerOff => ("power-off", None),
            VmEventKind::Reset => ("reset", None),
            VmEventKind::Stopped => ("stopped", None),
            VmEventKind::TestExit(value) => ("test-exit", Some(value)),
        };
        let mut object = json!({"event": "vm", "vm": vm, "kind": kind});
        if let Some(value) = value {
            object["value"] = json!(value);
        }
        self.say(object);
    }

    /// A check of the demonstration.
    pub fn check(&self, check: &Check) {
        self.say(json!({"event": "check", "ok": check.ok, "text": printable(&check.text)}));
    }

    /// The end of the run.
    pub fn end(&self, status: u8, reason: &str) {
        self.say(json!({"event": "end", "status": status, "reason": reason}));
    }
}
