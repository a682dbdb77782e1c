//! Things that have one holder: ports, registers, interrupts, the log's end, the clock (R3), and what
//! the core and DMA-capable devices keep.

use super::{Object, Problem, Report, System, devices};
use portcullis_ipc::syscall::rights::WRITE;

/// Checks all capabilities of the system against each other.
pub fn check(system: &System, report: &mut Report) {
    let mut held: Vec<(Thing, &str)> = Vec::new();
    for partition in &system.partitions {
        for capability in &partition.capabilities {
            let kept = match capability.object {
                Object::Ports { first, count } => devices::check_ports(first, count),
                Object::Msrs { first, count, rights } => devices::check_msrs(first, count, rights & WRITE != 0),
                _ => None,
            };
            if let Some(problem) = kept {
                report.at_line(capability.line, problem);
            }
            let Some(thing) = Thing::of(&capability.object) else {
                continue;
            };
            if let Some((_, holder)) = held.iter().find(|(other, _)| other.overlaps(&thing)) {
                let problem = Problem::HeldTwice { what: thing.name(), holder: (*holder).to_owned() };
                report.at_line(capability.line, problem);
            }
            held.push((thing, &partition.name));
        }
    }
}

/// A thing with one holder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Thing {
    Ports { first: u64, count: u64 },
    Msrs { first: u64, count: u64 },
    Gsi(u16),
    Log,
    Clock,
}

impl Thing {
    fn of(object: &Object) -> Option<Self> {
        Some(match *object {
            Object::Ports { first, count } => Self::Ports { first, count },
            Object::Msrs { first, count, .. } => Self::Msrs { first, count },
            Object::Interrupt { gsi, .. } => Self::Gsi(gsi),
            Object::Log => Self::Log,
            Object::Clock => Self::Clock,
            _ => return None,
        })
    }

    fn overlaps(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Self::Ports { first, count }, Self::Ports { first: other_first, count: other_count })
            | (Self::Msrs { first, count }, Self::Msrs { first: other_first, count: other_count }) => {
                first < other_first.saturating_add(other_count) && other_first < first.saturating_add(count)
            }
            _ => self == other,
        }
    }

    fn name(&self) -> String {
        match *self {
            Self::Ports { first, count } => {
                format!("a port of {first:#x}-{:#x}", first + count - 1)
            }
            Self::Msrs { first, count } => format!("an MSR of {first:#x}-{:#x}", first + count - 1),
            Self::Gsi(gsi) => format!("interrupt {gsi}"),
            Self::Log => "the log's reading end".to_owned(),
            Self::Clock => "the clock".to_owned(),
        }
    }
}
