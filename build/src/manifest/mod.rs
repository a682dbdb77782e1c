//! The system manifest: TOML in, a checked [`System`] out, or findings that name line and rule.
//!
//! `raw` is the file's shape, `model` the checked system, `finding` the errors; `partitions`,
//! `capabilities`, `vms` and `exclusive` resolve and check their part. What needs the partitions' ELFs
//! (R7, memory limits) is checked when the image is laid out (`bundle`).

mod capabilities;
mod devices;
mod exclusive;
mod finding;
mod model;
mod partitions;
mod raw;
#[cfg(test)]
mod tests;
mod vms;

pub use finding::{Finding, Findings, Problem, Report};
pub use model::{Blob, Capability, Object, Partition, RANKS, System, Vcpu, Vm, rank_name};

use portcullis_ipc::{image::mitigation, limits};
use std::path::Path;

/// Reads and checks a manifest.
pub fn load(path: &Path) -> Result<System, Findings> {
    let name = crate::workspace::display(path);
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&name, &text),
        Err(reason) => {
            let problem = Problem::File(format!("cannot be read ({reason}); name an existing manifest"));
            Err(Findings(vec![Finding { file: name, line: 1, problem }]))
        }
    }
}

/// Checks the text of a manifest; `name` is what findings call the file.
pub fn parse(name: &str, text: &str) -> Result<System, Findings> {
    let file: raw::File = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| finding::line_of(text, span.start));
        let message = error.message().lines().collect::<Vec<_>>().join("; ");
        Findings(vec![Finding { file: name.to_owned(), line, problem: Problem::Syntax(message) }])
    })?;
    let mut report = Report::new(name, text);
    let system = resolve(&file, &mut report);
    if report.is_clean() {
        exclusive::check(&system, &mut report);
        vms::check_servers(&system, &mut report);
        partitions::check_budgets(&system, &mut report);
        partitions::check_reserves(&system, &mut report);
    }
    report.into_result(system)
}

fn resolve(file: &raw::File, report: &mut Report) -> System {
    let table = file.system.get_ref();
    check_name(&table.name, report);
    range("slice_us", &table.slice_us, 100, 1_000_000, report);
    let mut mitigations_off = 0;
    for name in &table.mitigations_off {
        match mitigation::names(u32::MAX).position(|known| known == name.get_ref()) {
            Some(bit) => mitigations_off |= 1 << bit,
            None => value("mitigations_off", name, &one_of(mitigation::names(u32::MAX)), report),
        }
    }
    limit("partitions", file.partition.len(), limits::PARTITIONS, &file.system.span(), report);
    limit("VMs", file.vm.len(), limits::VMS, &file.system.span(), report);
    let names = Names {
        partitions: unique("partition", file.partition.iter().map(|table| &table.get_ref().name), report),
        vms: unique("VM", file.vm.iter().map(|table| &table.get_ref().name), report),
    };
    let mut system = System {
        name: table.name.get_ref().clone(),
        slice_us: *table.slice_us.get_ref(),
        supervisor_restarts: table.supervisor.restarts,
        supervisor_window_us: u64::from(table.supervisor.window_ms) * 1000,
        mitigations_off,
        command_line: table.command_line.as_ref().map(|line| line.get_ref().clone()).unwrap_or_default(),
        partitions: file.partition.iter().map(|table| partitions::resolve(table, report)).collect(),
        vms: file.vm.iter().map(|table| vms::resolve(table, &names, report)).collect(),
    };
    vms::check_count(&file.vm, &file.system.span(), report);
    vms::check_roles(&system, report);
    partitions::check_supervisor(file, &system, report);
    capabilities::resolve(file, &names, &mut system, report);
    system
}

/// Names in the order of their indices.
struct Names {
    partitions: Vec<String>,
    vms: Vec<String>,
}

impl Names {
    fn partition(&self, name: &toml::Spanned<String>, report: &mut Report) -> Option<u16> {
        find("partition", &self.partitions, name, report)
    }
    fn vm(&self, name: &toml::Spanned<String>, report: &mut Report) -> Option<u16> {
        find("VM", &self.vms, name, report)
    }
}

fn find(what: &'static str, known: &[String], name: &toml::Spanned<String>, report: &mut Report) -> Option<u16> {
    let position = known.iter().position(|known| known == name.get_ref());
    if position.is_none() {
        let name_text = name.get_ref().clone();
        report.at(&name.span(), Problem::Unresolved { what, name: name_text, known: known.join(", ") });
    }
    position.and_then(|position| u16::try_from(position).ok())
}

fn unique<'a>(
    what: &'static str,
    names: impl Iterator<Item = &'a toml::Spanned<String>>,
    report: &mut Report,
) -> Vec<String> {
    let mut known: Vec<String> = Vec::new();
    for name in names {
        check_name(name, report);
        if known.contains(name.get_ref()) {
            report.at(&name.span(), Problem::DuplicateName { what, name: name.get_ref().clone() });
        }
        known.push(name.get_ref().clone());
    }
    known
}

/// Names fit the image's fixed fields and are safe as file names.
fn check_name(name: &toml::Spanned<String>, report: &mut Report) {
    let text = name.get_ref();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > 24 || text.starts_with('.') || !text.chars().all(plain) {
        value("name", name, "1 to 24 letters, digits, `-`, `_`, `.`", report);
    }
}

fn one_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    format!("use one of {}", names.collect::<Vec<_>>().join(", "))
}

fn value<T: std::fmt::Display>(key: &'static str, found: &toml::Spanned<T>, expected: &str, report: &mut Report) {
    let value = found.get_ref().to_string();
    report.at(&found.span(), Problem::Value { key, value, expected: expected.to_owned() });
}

fn range(key: &'static str, found: &toml::Spanned<u32>, low: u32, high: u32, report: &mut Report) -> u32 {
    let number = *found.get_ref();
    if !(low..=high).contains(&number) {
        value(key, found, &format!("use {low} to {high}"), report);
    }
    number
}

fn limit(what: &'static str, wanted: usize, limit: usize, span: &std::ops::Range<usize>, report: &mut Report) {
    if wanted > limit {
        report.at(span, Problem::Limit { what, wanted: wanted as u64, limit: limit as u64 });
    }
}

fn cpu(found: &Option<toml::Spanned<u32>>, report: &mut Report) -> u16 {
    let Some(found) = found else { return 0 };
    range("cpu", found, 0, limits::CPUS as u32 - 1, report) as u16
}

fn priority(found: &toml::Spanned<u32>, report: &mut Report) -> u8 {
    u8::try_from(range("priority", found, 1, 255, report)).unwrap_or(u8::MAX)
}
