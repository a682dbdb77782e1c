//! Capability tables: kinds, their keys, names to indices, ranks of calls, notification bits.

use super::raw::{CapabilityTable, File};
use super::{Capability, Names, Object, Problem, Report, System, limit, one_of, range, rank_name, value};
use portcullis_ipc::image::rank;
use portcullis_ipc::limits;
use portcullis_ipc::syscall::rights;
use toml::Spanned;

/// Kinds and the keys that each has besides `name` and `kind`; keys in the second list may be left out.
const KINDS: [(&str, &[&str], &[&str]); 10] = [
    ("endpoint", &["target"], &["badge"]),
    ("notification", &["target", "bits"], &[]),
    ("timer", &[], &["bits"]),
    ("interrupt", &["gsi"], &["bits", "trigger", "polarity"]),
    ("ports", &["first", "count"], &[]),
    ("msrs", &["first", "count", "rights"], &[]),
    ("vm", &["vm", "rights"], &[]),
    ("partition", &["target", "rights"], &[]),
    ("log", &[], &[]),
    ("clock", &[], &[]),
];

/// Resolves the capabilities of all partitions into `system`.
pub fn resolve(file: &File, names: &Names, system: &mut System, report: &mut Report) {
    let mut timers = 0u16;
    for (index, table) in file.partition.iter().enumerate() {
        let raw = table.get_ref();
        limit("capabilities of one partition", raw.capability.len(), limits::SLOTS, &table.span(), report);
        let mut capabilities: Vec<Capability> = Vec::new();
        for table in &raw.capability {
            let raw = table.get_ref();
            super::check_name(&raw.name, report);
            let Some(object) = object(table, names, index, system, &mut timers, report) else {
                continue;
            };
            let twin = |other: &Capability| other.name == *raw.name.get_ref() && other.object.kind() == object.kind();
            if capabilities.iter().any(twin) {
                let name = raw.name.get_ref().clone();
                report.at(&raw.name.span(), Problem::DuplicateName { what: "capability", name });
            }
            let (name, line) = (raw.name.get_ref().clone(), report.line(&table.span()));
            capabilities.push(Capability { name, line, object });
        }
        if let Some(partition) = system.partitions.get_mut(index) {
            partition.capabilities = capabilities;
        }
    }
    limit("timers of the system", usize::from(timers), limits::TIMERS, &file.system.span(), report);
    assign_bits(system, report);
}

fn object(
    table: &Spanned<CapabilityTable>,
    names: &Names,
    holder: usize,
    system: &System,
    timers: &mut u16,
    report: &mut Report,
) -> Option<Object> {
    let raw = table.get_ref();
    let kind = raw.kind.get_ref().as_str();
    let Some((_, needed, allowed)) = KINDS.iter().find(|(name, _, _)| *name == kind) else {
        value("kind", &raw.kind, &one_of(KINDS.iter().map(|(name, _, _)| *name)), report);
        return None;
    };
    let mut complete = true;
    for (key, present) in keys(raw) {
        if present && !needed.contains(&key) && !allowed.contains(&key) {
            report.at(&table.span(), Problem::ForeignKey { kind: kind.to_owned(), key });
            complete = false;
        }
        if !present && needed.contains(&key) {
            report.at(&table.span(), Problem::MissingKey { kind: kind.to_owned(), key });
            complete = false;
        }
    }
    if !complete {
        return None;
    }
    let bits = raw.bits.as_ref().map_or(0, |found| bit_mask(found, report));
    Some(match kind {
        "endpoint" => {
            let partition = names.partition(raw.target.as_ref()?, report)?;
            check_call(system, holder, partition, &raw.kind, report);
            Object::Endpoint { partition, badge: raw.badge.as_ref().map_or(0, |found| *found.get_ref()) }
        }
        "notification" => Object::Notification { partition: names.partition(raw.target.as_ref()?, report)?, bits },
        "timer" => {
            let timer = *timers;
            *timers += 1;
            Object::Timer { timer, bits }
        }
        "interrupt" => Object::Interrupt {
            gsi: range("gsi", raw.gsi.as_ref()?, 0, limits::INTERRUPTS as u32 - 1, report) as u16,
            level: choice("trigger", &raw.trigger, ["edge", "level"], report),
            low: choice("polarity", &raw.polarity, ["high", "low"], report),
            bits,
        },
        "ports" => {
            let (first, count) = span_of(raw, 0xffff, report)?;
            if system.partitions.get(holder)?.rank == rank::SUPERVISOR {
                let name = system.partitions.get(holder)?.name.clone();
                report.at(&table.span(), Problem::SupervisorServes(name));
            }
            Object::Ports { first, count }
        }
        "msrs" => {
            let (first, count) = span_of(raw, u64::from(u32::MAX), report)?;
            let names = [("read", rights::READ), ("write", rights::WRITE)];
            Object::Msrs { first, count, rights: rights_of(raw, &names, report) }
        }
        "vm" => {
            let vm = names.vm(raw.vm.as_ref()?, report)?;
            let rights = rights_of(raw, &[("run", rights::RUN), ("answer", rights::ANSWER)], report);
            check_vm_rights(table, system, holder, vm, rights, report);
            Object::Vm { vm, rights }
        }
        "partition" => {
            let names_of_rights = [("status", rights::STATUS), ("restart", rights::RESTART), ("kill", rights::KILL)];
            let partition = names.partition(raw.target.as_ref()?, report)?;
            Object::Partition { partition, rights: rights_of(raw, &names_of_rights, report) }
        }
        "log" => Object::Log,
        _ => Object::Clock,
    })
}

fn keys(raw: &CapabilityTable) -> [(&'static str, bool); 10] {
    [
        ("target", raw.target.is_some()),
        ("badge", raw.badge.is_some()),
        ("bits", raw.bits.is_some()),
        ("gsi", raw.gsi.is_some()),
        ("trigger", raw.trigger.is_some()),
        ("polarity", raw.polarity.is_some()),
        ("first", raw.first.is_some()),
        ("count", raw.count.is_some()),
        ("vm", raw.vm.is_some()),
        ("rights", raw.rights.is_some()),
    ]
}

/// Calls go strictly up, and the supervisor makes none.
fn check_call(system: &System, caller: usize, callee: u16, at: &Spanned<String>, report: &mut Report) {
    let (Some(caller), Some(callee)) = (system.partitions.get(caller), system.partitions.get(usize::from(callee)))
    else {
        return;
    };
    if caller.rank == rank::SUPERVISOR {
        report.at(&at.span(), Problem::SupervisorCalls(caller.name.clone()));
    } else if caller.rank >= callee.rank {
        let problem = Problem::CallNotUp {
            caller: caller.name.clone(),
            caller_rank: rank_name(caller.rank),
            callee: callee.name.clone(),
            callee_rank: rank_name(callee.rank),
        };
        report.at(&at.span(), problem);
    }
}

/// Only a VM's own vmexit runs it, only the partition of its port answers.
fn check_vm_rights(
    table: &Spanned<CapabilityTable>,
    system: &System,
    holder: usize,
    vm: u16,
    rights: u8,
    report: &mut Report,
) {
    let (Some(partition), Some(vm)) = (system.partitions.get(holder), system.vms.get(usize::from(vm))) else {
        return;
    };
    let mut wrong = |what| {
        let problem = Problem::VmServer { vmexit: partition.name.clone(), vm: vm.name.clone(), what };
        report.at(&table.span(), problem);
    };
    if rights & rights::RUN != 0 && usize::from(vm.vmexit) != holder {
        wrong("is not its vmexit; remove the right `run`");
    }
    if rights & rights::ANSWER != 0 && vm.port.map(usize::from) != Some(holder) {
        wrong("does not serve its port; remove the right `answer`");
    }
}

fn choice(key: &'static str, found: &Option<Spanned<String>>, names: [&str; 2], report: &mut Report) -> bool {
    let Some(found) = found else { return false };
    if !names.contains(&found.get_ref().as_str()) {
        value(key, found, &one_of(names.into_iter()), report);
    }
    found.get_ref() == names[1]
}

fn span_of(raw: &CapabilityTable, last: u64, report: &mut Report) -> Option<(u64, u64)> {
    let (first, count) = (raw.first.as_ref()?, raw.count.as_ref()?);
    let room = (last + 1).saturating_sub(*first.get_ref());
    if *count.get_ref() == 0 || *count.get_ref() > room {
        value("count", count, &format!("1 to {room} from {:#x}", first.get_ref()), report);
        return None;
    }
    Some((*first.get_ref(), *count.get_ref()))
}

fn rights_of(raw: &CapabilityTable, known: &[(&str, u8)], report: &mut Report) -> u8 {
    let Some(found) = &raw.rights else { return 0 };
    let mut rights = 0;
    for name in found.get_ref() {
        match known.iter().find(|(known, _)| known == name) {
            Some((_, right)) => rights |= right,
            None => {
                let wrong = Spanned::new(found.span(), name.clone());
                value("rights", &wrong, &one_of(known.iter().map(|(name, _)| *name)), report);
            }
        }
    }
    rights
}

fn bit_mask(found: &Spanned<Vec<u32>>, report: &mut Report) -> u64 {
    let mut mask = 0;
    for &bit in found.get_ref() {
        if bit > 31 {
            value(
                "bits",
                &Spanned::new(found.span(), bit),
                "bit numbers from 0 to 31, which the information page can name",
                report,
            );
        } else {
            mask |= 1 << bit;
        }
    }
    if mask == 0 {
        value("bits", &Spanned::new(found.span(), "empty"), "at least one bit number", report);
    }
    mask
}

/// Gives timers and interrupts without bits one of their own, among the 32 that the information page
/// can name; the supervisor's low bits belong to the partitions it is notified of.
fn assign_bits(system: &mut System, report: &mut Report) {
    let mut taken: Vec<u64> = Vec::new();
    for partition in &system.partitions {
        let count = system.partitions.len().min(limits::PARTITIONS);
        taken.push(if partition.rank == rank::SUPERVISOR { (1 << count) - 1 } else { 0 });
    }
    let reserved = taken.clone();
    for (index, partition) in system.partitions.iter().enumerate() {
        for capability in &partition.capabilities {
            let (target, bits) = match capability.object {
                Object::Notification { partition, bits } => (usize::from(partition), bits),
                Object::Timer { bits, .. } | Object::Interrupt { bits, .. } => (index, bits),
                _ => continue,
            };
            if reserved.get(target).is_some_and(|reserved| reserved & bits != 0) {
                let expected = "the supervisor's low bits name the partitions; use higher ones".to_owned();
                let problem = Problem::Value { key: "bits", value: format!("{bits:#x}"), expected };
                report.at_line(capability.line, problem);
            }
            if let Some(taken) = taken.get_mut(target) {
                *taken |= bits;
            }
        }
    }
    for (partition, taken) in system.partitions.iter_mut().zip(&mut taken) {
        for capability in &mut partition.capabilities {
            let (Object::Timer { bits, .. } | Object::Interrupt { bits, .. }) = &mut capability.object else {
                continue;
            };
            if *bits != 0 {
                continue;
            }
            let free = (0..32).find(|bit| *taken & 1 << bit == 0);
            match free {
                Some(bit) => {
                    *bits = 1 << bit;
                    *taken |= *bits;
                }
                None => {
                    let problem = Problem::Limit { what: "notification bits of one partition", wanted: 33, limit: 32 };
                    report.at_line(capability.line, problem);
                }
            }
        }
    }
}
