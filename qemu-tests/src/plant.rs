//! Breaches planted in the captured memory of a real system, to show that the audit of that system can
//! fail: one changed page-table entry each, and the rule that must notice.

use portcullis_build::audit::Scene;
use portcullis_build::audit::subject::Kind;
use portcullis_build::audit::walk::{Memory, leaf_entry};
use portcullis_ipc::layout::{MESSAGE_PAGE, PLATFORM_PAGE, USER_BASE};

/// One breach.
pub struct Plant {
    /// What is done.
    pub name: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
    /// Address of the changed entry and its new value.
    change: fn(&Scene) -> Option<(u64, u64)>,
}

const WRITE: u64 = 1 << 1;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Where the core is linked: the first page of its text.
const CORE_TEXT: u64 = 0x20_0000;
/// The local APIC in the core's half.
const LOCAL_APIC: u64 = USER_BASE - (2 << 20);

/// All of them.
pub const ALL: [Plant; 7] = [
    Plant {
        name: "a partition's code is writable",
        rule: "a page is writable and executable",
        change: |scene| with(scene, 0, USER_BASE, |entry| entry | WRITE),
    },
    Plant {
        name: "the core's code is writable",
        rule: "a page is writable and executable",
        change: |scene| with(scene, 0, CORE_TEXT, |entry| entry | WRITE),
    },
    Plant {
        name: "the platform page is writable",
        rule: "a partition maps what is not its own",
        change: |scene| with(scene, 1, PLATFORM_PAGE, |entry| entry | WRITE),
    },
    Plant {
        name: "a partition sees another's message page",
        rule: "a writable frame is open to two",
        change: |scene| {
            let other = entry(scene, 1, MESSAGE_PAGE)?.1 & ADDRESS;
            with(scene, 0, MESSAGE_PAGE, |entry| entry & !ADDRESS | other)
        },
    },
    Plant {
        name: "a partition runs another's code",
        rule: "a partition maps a page otherwise than the image says",
        change: |scene| {
            let other = entry(scene, 1, USER_BASE)?.1;
            with(scene, 0, USER_BASE, |_| other)
        },
    },
    Plant {
        name: "a partition sees the core",
        rule: "a partition maps what is not its own",
        change: |scene| with(scene, 1, MESSAGE_PAGE, |entry| entry & !ADDRESS | CORE_TEXT),
    },
    Plant {
        name: "the core's half maps a partition's code",
        rule: "the core's half maps what R7 does not list",
        change: |scene| {
            let code = entry(scene, 0, USER_BASE)?.1 & ADDRESS;
            with(scene, 0, LOCAL_APIC, |entry| entry & !ADDRESS | code)
        },
    },
];

/// Those of the first VM's nested table on a processor with VT-x.
pub const EPT: [Plant; 4] = [
    Plant {
        name: "a guest sees the core",
        rule: "a nested table maps what is not its VM's",
        change: |scene| with_guest(scene, |entry| entry & !ADDRESS | CORE_TEXT),
    },
    Plant {
        name: "a guest writes to the core and cannot read it",
        rule: "a nested table maps what is not its VM's",
        change: |scene| with_guest(scene, |entry| entry & !ADDRESS & !0b101 | CORE_TEXT),
    },
    Plant {
        name: "guest memory that is not cached",
        rule: "an entry of a nested table is malformed",
        change: |scene| with_guest(scene, |entry| entry & !EPT_TYPE),
    },
    Plant {
        name: "guest memory that can be written and not read",
        rule: "an entry of a nested table is malformed",
        change: |scene| with_guest(scene, |entry| entry & !1),
    },
];

/// Memory type of an EPT leaf.
const EPT_TYPE: u64 = 7 << 3;

/// Entry of `address` in a partition or VM: where it stands, and its value.
fn entry_of(scene: &Scene, kind: Kind, address: u64) -> Option<(u64, u64)> {
    let memory = Memory(&scene.memory);
    let space = scene.subject.spaces.iter().find(|space| space.kind == kind)?;
    let at = leaf_entry(memory, space.root, address)?;
    Some((at, memory.word(at)?))
}

fn entry(scene: &Scene, partition: u16, address: u64) -> Option<(u64, u64)> {
    entry_of(scene, Kind::Partition(partition), address)
}

fn with(scene: &Scene, partition: u16, address: u64, change: impl Fn(u64) -> u64) -> Option<(u64, u64)> {
    let (at, value) = entry(scene, partition, address)?;
    Some((at, change(value)))
}

/// A page of guest memory, at 4 MiB.
fn with_guest(scene: &Scene, change: impl Fn(u64) -> u64) -> Option<(u64, u64)> {
    let (at, value) = entry_of(scene, Kind::Vm(0), 4 << 20)?;
    Some((at, change(value)))
}

/// Plants it, audits, and takes it away. An error says what the audit did not notice.
pub fn notice(scene: &mut Scene, plant: &Plant) -> Result<(), String> {
    let Some((at, value)) = (plant.change)(scene) else {
        return Err(format!("{}: the system has no such page", plant.name));
    };
    let before = set(scene, at, value);
    let found = scene.judge();
    set(scene, at, before);
    if found.breaches.iter().any(|breach| breach.rule == plant.rule) {
        return Ok(());
    }
    let found: Vec<String> = found.breaches.iter().map(ToString::to_string).collect();
    Err(format!("{}: the audit did not find `{}` but: {}", plant.name, plant.rule, found.join("; ")))
}

/// Sets the word at `at` and returns the one before.
fn set(scene: &mut Scene, at: u64, value: u64) -> u64 {
    let before = Memory(&scene.memory).word(at).unwrap_or(0);
    if let Some(place) = scene.memory.get_mut(at as usize..at as usize + 8) {
        place.copy_from_slice(&value.to_le_bytes());
    }
    before
}
