//! The rules that mappings and registers must keep (R7 of the design), and each breach in one line. Where
//! the facts come from is `subject`'s.

use super::platform;
use super::registers::{self, Control};
use super::subject::{Kind, Owner, Space, Subject};
use super::walk::{Format, Mapping, Memory, Rights, Tree, walk};
use crate::emulator::Features;
use portcullis_ipc::layout::USER_BASE;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One rule broken, at one place. Neighbouring frames with the same breach are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Which rule.
    pub rule: &'static str,
    /// Where and by whom.
    pub place: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.place)
    }
}

/// What was looked at, for the line that says that all is well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Address spaces and nested tables.
    pub spaces: usize,
    /// Leaves.
    pub mappings: usize,
    /// Page-table pages.
    pub tables: usize,
}

/// Checks everything; `control` are the registers of the processors, which have these features, while the core's own
/// tables were in force.
pub fn check(memory: Memory<'_>, subject: &Subject, control: &[Control], features: Features) -> (Vec<Breach>, Extent) {
    let nested = if features.vmx { Format::Ept } else { Format::Plain };
    let format = |space: &Space| if matches!(space.kind, Kind::Vm(_)) { nested } else { Format::Plain };
    let tree = |space: &Space| walk(memory, space.root, format(space));
    let trees: Vec<(&Space, Tree)> = subject.spaces.iter().map(|space| (space, tree(space))).collect();
    let mut report = Report::default();
    for processor in control {
        for bit in registers::clear_bits(processor, features, !subject.vmexit.is_empty()) {
            report.add("control bit is clear", bit, None);
        }
    }
    for pair in subject.overlaps() {
        report.add("a frame has two owners", &pair, None);
    }
    let small = subject.first_of(Owner::Platform).is_some_and(|frame| platform::small_pages(memory, frame));
    for (space, tree) in &trees {
        space_rules(subject, space, tree, &mut report);
        if small && matches!(space.kind, Kind::Vm(_)) && tree.mappings.iter().any(|mapping| mapping.pages > 1) {
            report.add("a nested table has a large page against the mitigation in force", &space.name, None);
        }
    }
    write_or_execute(&trees, &mut report);
    writable_by_two(subject, &trees, &mut report);
    core_half_alike(&trees, &mut report);
    let sum = |of: fn(&Tree) -> usize| trees.iter().map(|(_, tree)| of(tree)).sum();
    let extent = Extent { spaces: trees.len(), mappings: sum(|t| t.mappings.len()), tables: sum(|t| t.tables.len()) };
    (report.breaches(), extent)
}

/// Breaches; of the frames of one how many there are, and the first.
#[derive(Default)]
struct Report {
    plain: Vec<Breach>,
    frames: BTreeMap<(&'static str, String), (u64, u64)>,
}

impl Report {
    fn add(&mut self, rule: &'static str, place: &str, frame: Option<u64>) {
        match frame {
            Some(frame) => self.add_frames(rule, place, frame, 1),
            None => self.plain.push(Breach { rule, place: place.to_owned() }),
        }
    }

    fn add_frames(&mut self, rule: &'static str, place: &str, first: u64, count: u64) {
        let (all, lowest) = self.frames.entry((rule, place.to_owned())).or_insert((0, first));
        (*all, *lowest) = (*all + count, first.min(*lowest));
    }

    fn breaches(self) -> Vec<Breach> {
        let joined = self.frames.into_iter().map(|((rule, place), (count, first))| Breach {
            rule,
            place: format!("{place}, {count} frames, the first {first:#x}"),
        });
        self.plain.into_iter().chain(joined).collect()
    }
}

fn space_rules(subject: &Subject, space: &Space, tree: &Tree, report: &mut Report) {
    for (address, frame) in &tree.missing {
        let place = format!("{}, table {frame:#x} for {address:#x}", space.name);
        report.add("a page table lies outside RAM or forms a loop", &place, None);
    }
    for (address, what) in &tree.malformed {
        report.add("an entry of a nested table is malformed", &format!("{} at {address:#x}, {what}", space.name), None);
    }
    for &frame in &tree.tables {
        if !matches!(subject.owner(frame), Some(Owner::Tables | Owner::Core)) {
            report.add("a page table is not in the pool", &space.name, Some(frame));
        }
    }
    for mapping in &tree.mappings {
        // A large page with one owner and one grant is as its first page is.
        let pages = if is_uniform(subject, space, mapping) { 1 } else { mapping.pages };
        for page in 0..pages {
            let frame = mapping.physical + (page << 12);
            let address = mapping.address + (page << 12);
            if let Some(rule) = page_rule(subject, space, mapping, address, frame) {
                let owner = subject.owner(frame).map_or("nobody".into(), |owner| owner.to_string());
                let count = mapping.pages / pages;
                report.add_frames(rule, &format!("{} maps a frame of {owner}", space.name), frame, count);
            }
        }
    }
}

/// Whether every page of the mapping lies in the same range of an owner and, of a partition, in the same grant.
fn is_uniform(subject: &Subject, space: &Space, mapping: &Mapping) -> bool {
    let granted = match space.kind {
        Kind::Vm(_) => true,
        Kind::Core => false,
        Kind::Partition(of) => {
            let grants = subject.grants.get(usize::from(of)).map_or(&[][..], Vec::as_slice);
            mapping.address >= USER_BASE && grants.iter().any(|grant| grant.covers(mapping.address, mapping.pages))
        }
    };
    granted && subject.one_owner(mapping.physical, mapping.pages)
}

fn page_rule(subject: &Subject, space: &Space, mapping: &Mapping, address: u64, frame: u64) -> Option<&'static str> {
    let owner = subject.owner(frame);
    let rights = mapping.rights;
    if let Kind::Vm(vm) = space.kind {
        return (owner != Some(Owner::Guest(vm))).then_some("a nested table maps what is not its VM's");
    }
    if rights.write && rights.execute {
        return Some("a page is writable and executable");
    }
    if address < USER_BASE {
        if rights.user {
            return Some("a page of the core's half is open to ring 3");
        }
        let allowed = subject.windows.contains(&address)
            || frame == subject.local_apic
            || matches!(
                owner,
                Some(Owner::Core | Owner::Tables | Owner::Platform | Owner::Message(_) | Owner::Exit(_))
            );
        return (!allowed).then_some("the core's half maps what R7 does not list");
    }
    if !rights.user {
        return Some("a supervisor page lies above the core's half");
    }
    let Kind::Partition(partition) = space.kind else {
        return Some("a ring 3 page in a space that is not a partition's");
    };
    let serves = |vm: u16| subject.vmexit.get(usize::from(vm)) == Some(&partition);
    let allowed = match owner {
        Some(Owner::Image) => !rights.write,
        Some(Owner::Platform) => !rights.write && !rights.execute,
        Some(Owner::Partition(of)) => of == partition,
        Some(Owner::State(of) | Owner::Message(of)) => of == partition && !rights.execute,
        Some(Owner::Exit(vm) | Owner::Guest(vm)) => serves(vm) && !rights.execute,
        Some(Owner::Core | Owner::Tables | Owner::Spare(_)) | None => false,
    };
    if !allowed {
        return Some("a partition maps what is not its own");
    }
    let grants = subject.grants.get(usize::from(partition)).map_or(&[][..], Vec::as_slice);
    let granted = grants.iter().any(|grant| grant.allows(address, frame, rights, subject.first_of(Owner::Image)));
    (!granted).then_some("a partition maps a page otherwise than the image says")
}

/// Frames that one space reaches with the same rights.
struct Run<'a> {
    start: u64,
    end: u64,
    rights: Rights,
    name: &'a str,
}

/// The frames that these mappings of one space reach; `name` is who answers for it.
fn runs<'a>(name: &'a str, mappings: impl Iterator<Item = &'a Mapping>, all: &mut Vec<Run<'a>>) {
    for &Mapping { physical: start, pages, rights, .. } in mappings {
        let end = start + (pages << 12);
        match all.last_mut() {
            Some(last) if last.name == name && last.end == start && last.rights == rights => last.end = end,
            _ => all.push(Run { start, end, rights, name }),
        }
    }
}

fn is_host(space: &Space) -> bool {
    !matches!(space.kind, Kind::Vm(_))
}

/// Calls `see` with each piece of memory in which the same runs lie, and with those.
fn pieces(mut runs: Vec<Run<'_>>, mut see: impl FnMut(u64, u64, &[&Run<'_>])) {
    runs.sort_by_key(|run| run.start);
    let edges: BTreeSet<u64> = runs.iter().flat_map(|run| [run.start, run.end]).collect();
    let edges: Vec<u64> = edges.into_iter().collect();
    let (mut coming, mut present) = (runs.iter().peekable(), Vec::new());
    for pair in edges.windows(2) {
        let [start, end] = [pair[0], pair[1]];
        present.retain(|run: &&Run<'_>| run.end > start);
        while let Some(run) = coming.next_if(|run| run.start <= start) {
            present.push(run);
        }
        see(start, (end - start) >> 12, &present);
    }
}

/// No frame is writable through one host mapping and executable through another.
fn write_or_execute(trees: &[(&Space, Tree)], report: &mut Report) {
    let mut all = Vec::new();
    for (space, tree) in trees.iter().filter(|(space, _)| is_host(space)) {
        runs(&space.name, tree.mappings.iter().filter(|one| one.rights.write || one.rights.execute), &mut all);
    }
    pieces(all, |start, pages, present| {
        let Some(executable) = present.iter().find(|run| run.rights.execute) else { return };
        for writable in present.iter().filter(|run| run.rights.write) {
            let place = format!("writable in {}, executable in {}", writable.name, executable.name);
            report.add_frames("a frame is writable and executable", &place, start, pages);
        }
    });
}

/// Whatever the core says about owners: no frame is open to two partitions if one of them may write.
fn writable_by_two(subject: &Subject, trees: &[(&Space, Tree)], report: &mut Report) {
    let mut all = Vec::new();
    for (space, tree) in trees {
        // A VM and the service that serves it count as one.
        let name = match space.kind {
            Kind::Vm(vm) => {
                let vmexit = subject.vmexit.get(usize::from(vm)).copied();
                let own = trees.iter().find(|(s, _)| vmexit.is_some_and(|p| s.kind == Kind::Partition(p)));
                own.map_or(&space.name, |(s, _)| &s.name)
            }
            _ => &space.name,
        };
        runs(name, tree.mappings.iter().filter(|one| !is_host(space) || one.rights.user), &mut all);
    }
    pieces(all, |start, pages, present| {
        let names: BTreeSet<&str> = present.iter().map(|run| run.name).collect();
        if names.len() > 1 && present.iter().any(|run| run.rights.write) {
            let names: Vec<&str> = names.into_iter().collect();
            report.add_frames("a writable frame is open to two", &names.join(" and "), start, pages);
        }
    });
}

/// Every address space holds the same core half.
fn core_half_alike(trees: &[(&Space, Tree)], report: &mut Report) {
    let half = |tree: &Tree| -> Vec<Mapping> {
        tree.mappings.iter().filter(|mapping| mapping.address < USER_BASE).copied().collect()
    };
    let mut host = trees.iter().filter(|(space, _)| !matches!(space.kind, Kind::Vm(_)));
    let Some((first, tree)) = host.next() else {
        return;
    };
    let expected = half(tree);
    for (space, tree) in host {
        if half(tree) != expected {
            let place = format!("{} and {}", first.name, space.name);
            report.add("the core's half differs between address spaces", &place, None);
        }
    }
}

#[cfg(test)]
mod tests;
