//! The Debian system with one of its tests inside, as a trial wants it: other vCPUs, another way of entering or
//! of starting processors, and services that are killed all the while.

use anyhow::Context;
use portcullis_build::guest::kernel::{self, Entry};
use portcullis_build::guest::overrides::{Overrides, config, set_config};
use portcullis_build::guest::{self, kernels};
use portcullis_build::manifest::{self, Blob, Capability, Object, Partition, System};
use portcullis_build::run::options::Options;
use portcullis_build::workspace;
use portcullis_ipc::image::rank;
use portcullis_ipc::syscall::rights;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a trial wants.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Tests inside, by name.
    pub tests: &'static [&'static str],
    /// Text after the kernel's command line.
    pub append: &'static str,
    /// Bytes of the kernel's command line; `None`: as many as it takes.
    pub line: Option<usize>,
    /// Platform version; `None`: the manifest's.
    pub platform: Option<u16>,
    /// Number of vCPUs.
    pub vcpus: usize,
    /// Guest memory, MiB; `None`: the manifest's.
    pub memory_mib: Option<u64>,
    /// Kernel, by the name that the guest's maker gives it.
    pub kernel: &'static str,
    /// RAM disk, likewise.
    pub disk: &'static str,
    /// MiB of zeros after it, which a kernel passes over.
    pub fill_mib: u64,
    /// Guestinfo that is there from the start: keys, and files of the tool's sources with the values.
    pub guestinfo: &'static [(&'static str, &'static str)],
    /// How the usual kernel is entered; the others in the best way that fits.
    pub entry: Entry,
    /// How further processors are started.
    pub ap_start: &'static str,
    /// Services that are killed all the while.
    pub kills: &'static [Kill],
}

/// How a service is killed.
#[derive(Clone, Copy, Debug)]
pub struct Kill {
    /// Its name.
    pub service: &'static str,
    /// Milliseconds before the first kill.
    pub after: u64,
    /// Milliseconds between two.
    pub every: u64,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            tests: &[],
            append: "",
            line: None,
            platform: None,
            vcpus: 1,
            memory_mib: None,
            kernel: kernels::USUAL.name,
            disk: "debian-tests",
            fill_mib: 0,
            guestinfo: &[],
            entry: Entry::Pvh,
            ap_start: "sipi",
            kills: &[],
        }
    }
}

/// UUID of the machine.
const UUID: &str = "564d8e67-1234-0001-0203-0405060708ff";
/// As a guest reads it where the first three fields are written in the order of the text, as VMware does.
const UUID_SWAPPED: &str = "678e4d56-3412-0100-0203-0405060708ff";
/// The serial number that VMware makes of it, `_` for a blank.
const SERIAL: &str = "VMware-56_4d_8e_67_12_34_00_01-02_03_04_05_06_07_08_ff";

/// Budget of a partition that kills, microseconds of a period of 100 ms; the guest's vCPUs give it up.
const KILLER_US: u32 = 500;

impl Scenario {
    /// The system of this trial; the files that its wishes make are made in `place`.
    ///
    /// # Errors
    /// What is wrong with the manifest or the wishes.
    pub fn system(&self, place: &Path) -> anyhow::Result<System> {
        let mut system = manifest::load(&workspace::root().join("systems/debian.toml"))?;
        let uuid = self.set_machine(&mut system);
        let append = self.append(&system, &uuid)?;
        let entry = (self.entry != Entry::Pvh).then_some(self.entry);
        let (append, vcpus, memory_mib) = (Some(append), Some(self.vcpus), self.memory_mib);
        let initrd = self.filled_disk(place)?;
        let filled = !initrd.is_empty();
        let wishes = Overrides { entry, append, vcpus, memory_mib, initrd, ..Overrides::default() };
        Overrides { place: Some(place.to_owned()), ..wishes }.apply(&mut system)?;
        let vmexit = system.vms.first().map_or(usize::MAX, |vm| usize::from(vm.vmexit));
        if let Some(vmexit) = system.partitions.get_mut(vmexit) {
            set_config(vmexit, "ap-start", self.ap_start);
            let disk = |blob: &&mut Blob| blob.name == "initrd" && !filled;
            vmexit.blobs.iter_mut().filter(disk).for_each(|blob| blob.file = self.disk.to_owned());
            if self.kernel != kernels::USUAL.name {
                self.set_kernel(vmexit)?;
            }
        }
        if !self.guestinfo.is_empty() {
            let value = |(key, file): &(&str, &str)| format!("{key}=@{}", workspace::root().join(file).display());
            let values: Vec<String> = self.guestinfo.iter().map(value).collect();
            Options::with_guestinfo(&values).apply(&mut system, place)?;
        }
        for kill in self.kills {
            add_killer(&mut system, kill)?;
        }
        Ok(system)
    }

    /// The RAM disk and the zeros after it; nothing where none are wanted.
    fn filled_disk(&self, place: &Path) -> anyhow::Result<Vec<PathBuf>> {
        if self.fill_mib == 0 {
            return Ok(Vec::new());
        }
        guest::ensure(&[self.disk])?;
        let disk = guest::resolve(self.disk).with_context(|| format!("no RAM disk is named {}", self.disk))?;
        let zeros = place.join("zeros");
        std::fs::create_dir_all(place)?;
        File::create(&zeros)?.set_len(self.fill_mib << 20)?;
        Ok(vec![disk, zeros])
    }

    fn set_kernel(&self, vmexit: &mut Partition) -> anyhow::Result<()> {
        guest::ensure(&[self.kernel])?;
        let file = guest::resolve(self.kernel).with_context(|| format!("no kernel is named {}", self.kernel))?;
        let entry = kernel::read(&file, None)?.entry;
        let blob = |blob: &&mut Blob| blob.name == "kernel";
        vmexit.blobs.iter_mut().filter(blob).for_each(|blob| blob.file = self.kernel.to_owned());
        set_config(vmexit, "guest.entry", &entry.to_string());
        Ok(())
    }

    /// Gives the VM its platform version and UUID; returns the UUID as its guest reads it.
    fn set_machine(&self, system: &mut System) -> String {
        let Some(vm) = system.vms.first_mut() else { return String::new() };
        vm.platform = self.platform.unwrap_or(vm.platform);
        let as_vmware = vm.platform >= 2 && vm.hardware_version >= 13;
        if let Some(vmexit) = system.partitions.get_mut(usize::from(vm.vmexit)) {
            set_config(vmexit, "uuid", UUID);
        }
        if as_vmware { UUID_SWAPPED } else { UUID }.to_owned()
    }

    /// What comes after the manifest's own command line: filled up to the length that is wanted, which ends it.
    fn append(&self, system: &System, uuid: &str) -> anyhow::Result<String> {
        let text = format!("{} portcullis.uuid={uuid} {}", self.command_line(), self.append);
        let Some(line) = self.line else { return Ok(text) };
        let vmexit = system.vms.first().and_then(|vm| system.partitions.get(usize::from(vm.vmexit)));
        let own = vmexit.and_then(|vmexit| config(vmexit, "guest.append")).unwrap_or_default();
        let text = |fill: &str| format!("{text} portcullis.fill={fill} portcullis.line={line}");
        let least = own.len() + 1 + text("").len();
        let fill = line.checked_sub(least).with_context(|| format!("a line of {line} bytes has at least {least}"))?;
        Ok(text(&"x".repeat(fill)))
    }

    fn command_line(&self) -> String {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let (processors, last) = (self.vcpus, self.vcpus.saturating_sub(1));
        let online = if last == 0 { "0".to_owned() } else { format!("0-{last}") };
        let memory = self.memory_mib.unwrap_or(0);
        let run = match self.tests {
            [] => "demo".to_owned(),
            tests => format!("test:{}", tests.join(",")),
        };
        format!(
            "portcullis.run={run} portcullis.epoch={epoch} portcullis.processors={processors} \
             portcullis.online={online} portcullis.serial={SERIAL} portcullis.memory={memory}"
        )
    }
}

/// Adds a partition that kills a service again and again; the supervisor restarts that at once.
fn add_killer(system: &mut System, kill: &Kill) -> anyhow::Result<()> {
    let Kill { service, after, every } = *kill;
    let find = |one: &Partition| one.name == service;
    let Some(victim) = system.partitions.iter().position(find) else {
        anyhow::bail!("the Debian system has no service {service}");
    };
    let timers = system.partitions.iter().flat_map(|partition| &partition.capabilities);
    let timer = timers.filter(|one| matches!(one.object, Object::Timer { .. })).count() as u16;
    for supervisor in system.partitions.iter_mut().filter(|one| one.rank == rank::SUPERVISOR) {
        for key in ["restart.base", "restart.cap", "restart.stable"] {
            set_config(supervisor, key, "1");
        }
    }
    for vcpu in system.vms.iter_mut().flat_map(|vm| &mut vm.vcpus) {
        vcpu.budget_us -= KILLER_US;
    }
    let capability = |name: &str, object| Capability { name: name.to_owned(), line: 1, object };
    let kill = Object::Partition { partition: victim as u16, rights: rights::STATUS | rights::KILL };
    let killer = Partition {
        name: format!("kill-{service}"),
        line: 1,
        elf: "test-killer".to_owned(),
        rank: rank::CLIENT,
        priority: 240,
        cpu: 0,
        stack_pages: 4,
        heap_pages: 2,
        budget_us: KILLER_US,
        period_us: 100_000,
        cap: false,
        reserve_us: 1_000,
        call_limit_us: 1_000_000,
        state_pages: 0,
        state_version: 1,
        state_reads_from: 1,
        state_limit_pages: 0,
        spare_pages: None,
        config: format!("delay={}\npause={}\n", after * 1000, every * 1000),
        blobs: Vec::new(),
        capabilities: vec![capability(service, kill), capability("tick", Object::Timer { timer, bits: 1 })],
    };
    system.partitions.push(killer);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_build::guest::overrides::MOST_COMMAND_LINE;

    const TWO: [Kill; 2] =
        [Kill { service: "vmexit0", after: 1, every: 500 }, Kill { service: "vmport-rpc", after: 1, every: 300 }];
    const NOBODY: [Kill; 1] = [Kill { service: "nobody", after: 1, every: 1 }];

    #[test]
    fn a_killer_holds_its_victim_and_a_timer_of_its_own() {
        let scenario = Scenario { kills: &TWO, ..Scenario::default() };
        let system = scenario.system(Path::new("/nowhere")).unwrap();
        let timers: Vec<u16> = system
            .partitions
            .iter()
            .flat_map(|partition| &partition.capabilities)
            .filter_map(|one| if let Object::Timer { timer, .. } = one.object { Some(timer) } else { None })
            .collect();
        assert_eq!(timers, (0..timers.len() as u16).collect::<Vec<_>>());
        let killer = system.partitions.last().unwrap();
        assert_eq!(killer.config, "delay=1000\npause=300000\n");
        let Object::Partition { partition, .. } = killer.capabilities[0].object else { panic!() };
        assert_eq!(system.partitions[usize::from(partition)].name, "vmport-rpc");
    }

    #[test]
    fn the_guest_is_told_what_to_run_and_what_to_find() {
        let scenario = Scenario { tests: &["tools", "hygiene"], vcpus: 2, append: "a=1", ..Scenario::default() };
        let system = scenario.system(Path::new("/nowhere")).unwrap();
        let vmexit = &system.partitions[usize::from(system.vms[0].vmexit)];
        for text in ["portcullis.run=test:tools,hygiene ", "portcullis.online=0-1", " a=1\n"] {
            assert!(vmexit.config.contains(text), "{text} in {}", vmexit.config);
        }
        assert!(vmexit.blobs.iter().any(|blob| blob.file == "debian-tests"));
    }

    #[test]
    fn a_command_line_is_filled_up_to_what_linux_takes_and_no_further() {
        let line = |line| {
            let scenario = Scenario { tests: &["machine"], platform: Some(1), line: Some(line), ..Scenario::default() };
            let system = scenario.system(Path::new("/nowhere"))?;
            let vmexit = &system.partitions[usize::from(system.vms[0].vmexit)];
            Ok::<_, anyhow::Error>(config(vmexit, "guest.append").unwrap_or_default().to_owned())
        };
        let longest = line(MOST_COMMAND_LINE).unwrap();
        assert_eq!(longest.len(), 2047);
        assert!(longest.contains(UUID) && longest.ends_with(" portcullis.line=2047"), "{longest}");
        assert!(line(2048).unwrap_err().to_string().contains("has 2048 bytes"));
        assert!(line(20).is_err());
    }

    #[test]
    fn an_unknown_service_cannot_be_killed() {
        let scenario = Scenario { kills: &NOBODY, ..Scenario::default() };
        assert!(scenario.system(Path::new("/nowhere")).unwrap_err().to_string().contains("no service nobody"));
    }
}
