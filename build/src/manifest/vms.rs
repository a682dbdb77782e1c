//! VM tables: numbers, the conflicts of the port, and who serves a VM.

use super::raw::{PassthroughTable, VcpuTable, VmTable};
use super::{Names, Object, Problem, Report, System, Vcpu, Vm, cpu, devices, limit, priority, range, value};
use portcullis_ipc::image::rank;
use portcullis_ipc::port::{PORT, PORT_HIGH_BANDWIDTH};
use portcullis_ipc::syscall::rights;
use portcullis_ipc::{layout, limits, ram};
use std::ops::Range;
use toml::Spanned;

/// XCR0 bits that a guest may have: x87, SSE, AVX.
const XCR0: u64 = 7;
/// Guest memory is mapped for vmexit in pages of this size.
const LARGE_PAGE: u64 = 2 << 20;

/// Platform version of a VM whose table names none: the first, so that a manifest goes on describing the same machine.
const PLATFORM: u16 = 1;
/// Version of the virtual hardware unless the table names one.
const HARDWARE: u8 = 13;

/// Resolves one table.
pub fn resolve(table: &Spanned<VmTable>, names: &Names, report: &mut Report) -> Vm {
    let raw = table.get_ref();
    limit("vCPUs of one VM", raw.vcpus.len(), limits::VCPUS_PER_VM, &table.span(), report);
    if raw.vcpus.is_empty() {
        let problem =
            Problem::Value { key: "vcpus", value: "empty".to_owned(), expected: "a VM has at least one".to_owned() };
        report.at(&table.span(), problem);
    }
    let memory = raw.memory.get_ref().0;
    if memory == 0 || !memory.is_multiple_of(LARGE_PAGE) || memory > ram::MOST {
        let found = Spanned::new(raw.memory.span(), memory);
        value("memory", &found, "a multiple of 2M, at most 64G", report);
    }
    let xcr0 = raw.xcr0.as_ref().map_or(XCR0, |found| {
        if found.get_ref() & !XCR0 != 0 || found.get_ref() & 1 == 0 {
            value("xcr0", found, "1 (x87), 3 (with SSE) or 7 (with AVX)", report);
        }
        *found.get_ref()
    });
    let vm = Vm {
        name: raw.name.get_ref().clone(),
        line: report.line(&table.span()),
        vmexit: names.partition(&raw.vmexit, report).unwrap_or(u16::MAX),
        port: raw.port.as_ref().and_then(|name| names.partition(name, report)),
        badge: raw.badge.as_ref().map_or(0, |found| *found.get_ref()),
        identity: flag(&raw.identity),
        platform: raw.platform.as_ref().map_or(PLATFORM, |found| platform(found, report)),
        hardware_version: raw
            .hardware_version
            .as_ref()
            .map_or(HARDWARE, |found| range("hardware_version", found, 1, 99, report) as u8),
        memory_pages: memory / layout::PAGE as u64,
        xcr0,
        intercept_rdtsc: flag(&raw.intercept_rdtsc),
        intercept_pause: raw.intercept_pause.as_ref().map(|found| *found.get_ref()),
        vcpus: raw.vcpus.iter().map(|table| resolve_vcpu(table, report)).collect(),
    };
    check_conflicts(raw, &vm, report);
    vm
}

fn platform(found: &Spanned<u32>, report: &mut Report) -> u16 {
    let (first, last) = (*limits::PLATFORMS.start(), *limits::PLATFORMS.end());
    range("platform", found, first.into(), last.into(), report) as u16
}

fn flag(found: &Option<Spanned<bool>>) -> bool {
    found.as_ref().is_some_and(|found| *found.get_ref())
}

fn resolve_vcpu(table: &Spanned<VcpuTable>, report: &mut Report) -> Vcpu {
    let raw = table.get_ref();
    let period_us = range("period_us", &raw.period_us, 100, 10_000_000, report);
    Vcpu {
        cpu: cpu(&raw.cpu, report),
        priority: priority(&raw.priority, report),
        budget_us: range("budget_us", &raw.budget_us, 1, period_us.max(1), report),
        period_us,
        cap: raw.cap,
    }
}

/// The port excludes what would answer the same accesses or show another machine.
fn check_conflicts(raw: &VmTable, vm: &Vm, report: &mut Report) {
    let name = || vm.name.clone();
    if let Some(other) = &raw.other_identity
        && (vm.port.is_some() || vm.identity)
    {
        report.at(&other.span(), Problem::IdentityConflict { vm: name(), other: other.get_ref().clone() });
    }
    if let Some(nested) = &raw.nested
        && *nested.get_ref()
        && vm.port.is_some()
    {
        report.at(&nested.span(), Problem::NestedConflict(name()));
    }
    for table in &raw.passthrough {
        check_passthrough(table, vm, report);
    }
}

fn check_passthrough(table: &Spanned<PassthroughTable>, vm: &Vm, report: &mut Report) {
    let raw = table.get_ref();
    let (first, count) = (*raw.first.get_ref(), *raw.count.get_ref());
    let ports = match raw.kind.get_ref().as_str() {
        "ports" => true,
        "memory" => false,
        _ => return value("kind", &raw.kind, "use one of ports, memory", report),
    };
    let range = first..first.saturating_add(count);
    if !ports {
        let what = format!("memory {:#x}-{:#x}", range.start, range.end.saturating_sub(1));
        report.at(&table.span(), Problem::Dma { what, device: "unknown: no IOMMU limits it" });
        return;
    }
    if vm.port.is_some() && (range.contains(&u64::from(PORT)) || range.contains(&u64::from(PORT_HIGH_BANDWIDTH))) {
        report.at(&table.span(), Problem::PassthroughConflict(vm.name.clone()));
        return;
    }
    match devices::check_ports(first, count) {
        Some(problem) => report.at(&table.span(), problem),
        None => report.at(&table.span(), Problem::NoPassthrough(vm.name.clone())),
    }
}

/// vCPUs of the whole system.
pub fn check_count(tables: &[Spanned<VmTable>], span: &Range<usize>, report: &mut Report) {
    let vcpus = tables.iter().map(|table| table.get_ref().vcpus.len()).sum();
    limit("vCPUs of the system", vcpus, limits::VCPUS, span, report);
}

/// The partitions that serve a VM: not the supervisor, and the port one of its own.
pub fn check_roles(system: &System, report: &mut Report) {
    for vm in &system.vms {
        for server in [Some(vm.vmexit), vm.port].into_iter().flatten() {
            let Some(partition) = system.partitions.get(usize::from(server)) else {
                continue;
            };
            if partition.rank == rank::SUPERVISOR {
                report.at_line(vm.line, Problem::SupervisorServes(partition.name.clone()));
            }
        }
        if vm.port == Some(vm.vmexit) {
            wrong_server(system, vm, "its port too; the port is served by a partition of its own", report);
        }
    }
}

/// Each VM has one vmexit of its own that holds the right to run it.
pub fn check_servers(system: &System, report: &mut Report) {
    for (index, vm) in system.vms.iter().enumerate() {
        if system.vms.iter().take(index).any(|other| other.vmexit == vm.vmexit) {
            wrong_server(system, vm, "another VM too; give each VM a vmexit of its own", report);
        } else if rights_on(system, vm.vmexit, index) & rights::RUN == 0 {
            wrong_server(system, vm, "holds no capability of kind `vm` with the right `run`; add it", report);
        }
    }
}

fn wrong_server(system: &System, vm: &Vm, what: &'static str, report: &mut Report) {
    let Some(vmexit) = system.partitions.get(usize::from(vm.vmexit)) else {
        return;
    };
    let problem = Problem::VmServer { vmexit: vmexit.name.clone(), vm: vm.name.clone(), what };
    report.at_line(vm.line, problem);
}

/// Rights that a partition holds on a VM.
fn rights_on(system: &System, partition: u16, vm: usize) -> u8 {
    let capabilities = system.partitions.get(usize::from(partition)).map(|partition| &partition.capabilities);
    let found = capabilities.into_iter().flatten().filter_map(|capability| match capability.object {
        Object::Vm { vm: named, rights } if usize::from(named) == vm => Some(rights),
        _ => None,
    });
    found.fold(0, |all, rights| all | rights)
}
