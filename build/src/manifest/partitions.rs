//! Partition tables: names, numbers and sizes; the supervisor; the sums of budgets.

use super::raw::{Bytes, File, PartitionTable};
use super::{Blob, Object, Partition, Problem, RANKS, Report, System, cpu, one_of, priority, range, unique, value};
use portcullis_ipc::image::rank;
use portcullis_ipc::{layout, limits};
use toml::Spanned;

/// Resolves one table; its capabilities come later, when all names are known.
pub fn resolve(table: &Spanned<PartitionTable>, report: &mut Report) -> Partition {
    let raw = table.get_ref();
    let line = report.line(&table.span());
    let rank = match RANKS.iter().find(|(name, _)| name == raw.rank.get_ref()) {
        Some((_, rank)) => *rank,
        None => {
            value("rank", &raw.rank, &one_of(RANKS.iter().map(|(name, _)| *name)), report);
            rank::CLIENT
        }
    };
    let period_us = range("period_us", &raw.period_us, 100, 10_000_000, report);
    let state_version = raw.state_version.as_ref().map_or(1, |found| *found.get_ref());
    let state_reads_from = raw
        .state_reads_from
        .as_ref()
        .map_or(state_version, |found| range("state_reads_from", found, 0, state_version, report));
    let state_pages = optional_pages("state region pages", &raw.state, limits::STATE_PAGES as u64, report);
    let state_limit = optional_pages("state region pages", &raw.state_limit, limits::STATE_PAGES as u64, report);
    unique("blob", raw.blobs.iter().map(|blob| &blob.get_ref().name), report);
    let blobs = &raw.blobs;
    super::limit("blobs of one partition", blobs.len(), limits::BLOBS, &table.span(), report);
    Partition {
        name: raw.name.get_ref().clone(),
        line,
        elf: raw.elf.get_ref().clone(),
        rank,
        priority: priority(&raw.priority, report),
        cpu: cpu(&raw.cpu, report),
        stack_pages: pages("stack pages", &raw.stack, limits::WRITABLE_PAGES as u64, report),
        heap_pages: optional_pages("heap pages", &raw.heap, limits::WRITABLE_PAGES as u64, report),
        budget_us: range("budget_us", &raw.budget_us, 1, period_us.max(1), report),
        period_us,
        cap: raw.cap,
        reserve_us: range("reserve_us", &raw.reserve_us, 1, 1_000_000, report),
        call_limit_us: range("call_limit_us", &raw.call_limit_us, 1, 60_000_000, report),
        state_pages,
        state_version,
        state_reads_from,
        state_limit_pages: state_limit.max(state_pages),
        spare_pages: raw.replacement.as_ref().map(|found| pages("spare pages", found, 1 << 16, report)),
        config: config(raw, report),
        blobs: blobs.iter().map(|blob| resolve_blob(blob, report)).collect(),
        capabilities: Vec::new(),
    }
}

fn resolve_blob(table: &Spanned<super::raw::BlobTable>, report: &Report) -> Blob {
    let raw = table.get_ref();
    Blob { name: raw.name.get_ref().clone(), file: raw.file.get_ref().clone(), line: report.line(&table.span()) }
}

fn optional_pages(what: &'static str, found: &Option<Spanned<Bytes>>, most: u64, report: &mut Report) -> u32 {
    found.as_ref().map_or(0, |found| pages(what, found, most, report))
}

fn pages(what: &'static str, found: &Spanned<Bytes>, most: u64, report: &mut Report) -> u32 {
    let wanted = found.get_ref().0.div_ceil(layout::PAGE as u64);
    if wanted > most {
        report.at(&found.span(), Problem::Limit { what, wanted, limit: most });
    }
    u32::try_from(wanted).unwrap_or(u32::MAX)
}

/// The configuration text of the information page.
fn config(raw: &PartitionTable, report: &mut Report) -> String {
    let mut text = String::new();
    for (key, found) in &raw.config {
        let value_text = match found.get_ref() {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            other => {
                value("config", &Spanned::new(found.span(), other.to_string()), "use text, integer or boolean", report);
                continue;
            }
        };
        if value_text.contains('\n') || key.contains(['=', '\n']) {
            value(
                "config",
                &Spanned::new(found.span(), key.clone()),
                "keys and values are one line, keys without `=`",
                report,
            );
        }
        text.push_str(&format!("{key}={value_text}\n"));
    }
    text
}

/// Exactly one partition supervises.
pub fn check_supervisor(file: &File, system: &System, report: &mut Report) {
    let count = system.partitions.iter().filter(|partition| partition.rank == rank::SUPERVISOR).count();
    if count != 1 {
        let second = system.partitions.iter().filter(|partition| partition.rank == rank::SUPERVISOR).nth(1);
        let line = second.map_or(report.line(&file.system.span()), |partition| partition.line);
        report.at_line(line, Problem::Supervisors(count));
    }
}

/// Budgets of partitions and vCPUs on each CPU.
pub fn check_budgets(system: &System, report: &mut Report) {
    for cpu in 0..limits::CPUS as u16 {
        let partitions = system.partitions.iter().filter(|partition| partition.cpu == cpu);
        let vcpus = system.vms.iter().flat_map(|vm| &vm.vcpus).filter(|vcpu| vcpu.cpu == cpu);
        let shares = partitions
            .map(|partition| share(partition.budget_us, partition.period_us))
            .chain(vcpus.map(|vcpu| share(vcpu.budget_us, vcpu.period_us)));
        let millionths: u64 = shares.sum();
        if millionths > 1_000_000 {
            let line = system.partitions.first().map_or(1, |partition| partition.line);
            report.at_line(line, Problem::Overcommitted { cpu, percent: millionths.div_ceil(10_000) });
        }
    }
}

/// Nobody may use more than its period at once: its budget and the greatest reserve that it can be lent fit into it.
pub fn check_reserves(system: &System, report: &mut Report) {
    let mut check = |line, payer: &str, budget_us: u32, period_us, servers: &[u16]| {
        let lender = servers.iter().filter_map(|index| lender(system, *index)).max_by_key(|lender| lender.reserve_us);
        if let Some(lender) = lender
            && budget_us.saturating_add(lender.reserve_us) > period_us
        {
            let (payer, lender, reserve_us) = (payer.to_owned(), lender.name.clone(), lender.reserve_us);
            report.at_line(line, Problem::Reserve { payer, budget_us, lender, reserve_us, period_us });
        }
    };
    for (index, partition) in system.partitions.iter().enumerate() {
        check(partition.line, &partition.name, partition.budget_us, partition.period_us, &[index as u16]);
    }
    for vm in &system.vms {
        let servers: Vec<u16> = [Some(vm.vmexit), vm.port].into_iter().flatten().collect();
        for (number, vcpu) in vm.vcpus.iter().enumerate() {
            check(vm.line, &format!("vCPU {number} of {}", vm.name), vcpu.budget_us, vcpu.period_us, &servers);
        }
    }
}

/// The partition with the greatest reserve among this one and all that work for it. Calls go up in rank, so this ends.
fn lender(system: &System, index: u16) -> Option<&Partition> {
    let partition = system.partitions.get(usize::from(index))?;
    let callees = partition.capabilities.iter().filter_map(|capability| match capability.object {
        Object::Endpoint { partition, .. } => lender(system, partition),
        _ => None,
    });
    callees.chain([partition]).max_by_key(|partition| partition.reserve_us)
}

/// Part of a CPU, in millionths, rounded up.
fn share(budget_us: u32, period_us: u32) -> u64 {
    (u64::from(budget_us) * 1_000_000).div_ceil(u64::from(period_us.max(1)))
}
