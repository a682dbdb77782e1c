//! Each rule with a system of two partitions and one VM in a few pages of memory: sound as built, and
//! broken in one way at a time.

use super::super::fixture::{E, Image, NX, P, U, W};
use super::super::grants::Grant;
use super::super::subject::Owned;
use super::super::walk::{ADDRESS, LARGE, leaf_entry};
use super::*;
use portcullis_ipc::image::mitigation;
use portcullis_ipc::platform::{PLATFORM_MAGIC, PlatformPage};
use zerocopy::{FromZeros, IntoBytes};

const ALL: Features = Features { smap: true, umip: true, vmx: false };
const SOUND: Control = Control { cr0: 0x8005_0033, cr3: 0, cr4: 0x34_0e20, efer: 0x1d01 };
const APIC: u64 = 0xfee0_0000;
const WINDOW: u64 = 0x3fe0_1000;

/// Frames of the fixture, by owner.
const CORE_TEXT: u64 = 0x8_0000;
const CORE_DATA: u64 = 0x8_1000;
const SEALED: u64 = 0x8_2000;
const PLATFORM: u64 = 0x8_3000;
const FIRST: u64 = 0x8_4000;
const SECOND: u64 = 0x8_5000;
const MESSAGE: u64 = 0x8_6000;
const EXIT: u64 = 0x8_7000;
const GUEST: u64 = 0x8_8000;
const STRANGER: u64 = 0x8_9000;
/// Guest memory in pages of 2 MiB, and where `vmexit` sees it.
const LARGE_GUEST: u64 = 0x4000_0000;
const LARGE_AT: u64 = 0x100_0020_0000;

/// What the image gives the two partitions.
fn grants() -> Vec<Vec<Grant>> {
    let page = |address, write| Grant { address, pages: 1, write, execute: false, image_offset: None };
    let both = [
        Grant { execute: true, image_offset: Some(0), ..page(0x4000_0000, false) },
        page(0x4000_1000, true),
        page(0x7000_1000, false),
    ];
    let first = [page(0x7000_2000, true), page(0x7002_0000, true), page(0x100_0000_0000, true)];
    vec![[both.as_slice(), first.as_slice()].concat(), both.to_vec()]
}

struct System {
    image: Image,
    roots: [u64; 3],
    /// Pages of guest memory at [`LARGE_GUEST`], by their owner and by the grant.
    large: [u64; 2],
}

/// Two partitions, of which the first serves the VM.
fn system() -> System {
    let mut image = Image::new(0x90);
    let roots = [image.table(), image.table(), image.table()];
    let mut system = System { image, roots, large: [0; 2] };
    for space in 0..2 {
        system.map(space, CORE_TEXT, CORE_TEXT, E);
        system.map(space, CORE_DATA, CORE_DATA, W | NX);
        system.map(space, MESSAGE, MESSAGE, W | NX);
        system.map(space, EXIT, EXIT, W | NX);
        system.map(space, 0x3fe0_0000, APIC, W | NX);
        system.map(space, 0x4000_0000, SEALED, U | E);
        system.map(space, 0x7000_1000, PLATFORM, U | NX);
    }
    system.map(0, 0x4000_1000, FIRST, W | U | NX);
    system.map(1, 0x4000_1000, SECOND, W | U | NX);
    system.map(0, 0x7000_2000, MESSAGE, W | U | NX);
    system.map(0, 0x7002_0000, EXIT, W | U | NX);
    system.map(0, 0x100_0000_0000, GUEST, W | U | NX);
    system.map(2, 0, GUEST, W | U | E);
    system
}

impl System {
    fn map(&mut self, space: usize, address: u64, physical: u64, flags: u64) {
        self.image.map(self.roots[space], address, physical, flags);
    }

    fn subject(&self) -> Subject {
        let space = |name: &str, kind, root| Space { name: name.into(), kind, root };
        let [first, second, vm] = self.roots;
        let spaces = vec![
            space("first", Kind::Partition(0), first),
            space("second", Kind::Partition(1), second),
            space("vm0", Kind::Vm(0), vm),
        ];
        let one = |start, owner| Owned { start, pages: 1, owner };
        let owned = vec![
            Owned { start: 0, pages: 0x80, owner: Owner::Tables },
            Owned { start: CORE_TEXT, pages: 2, owner: Owner::Core },
            one(SEALED, Owner::Image),
            one(PLATFORM, Owner::Platform),
            one(FIRST, Owner::Partition(0)),
            one(SECOND, Owner::Partition(1)),
            one(MESSAGE, Owner::Message(0)),
            one(EXIT, Owner::Exit(0)),
            one(GUEST, Owner::Guest(0)),
            Owned { start: LARGE_GUEST, pages: self.large[0], owner: Owner::Guest(0) },
        ];
        let mut subject = Subject::new(spaces, owned);
        subject.vmexit = vec![0];
        subject.grants = grants();
        let pages = self.large[1];
        let large = Grant { address: LARGE_AT, pages, write: true, execute: false, image_offset: None };
        subject.grants[0].push(large);
        subject.windows = vec![WINDOW];
        subject.local_apic = APIC;
        subject
    }

    fn rules_broken(&self) -> Vec<&'static str> {
        let (breaches, _) = check(self.image.memory(), &self.subject(), &[SOUND], ALL);
        let mut rules: Vec<_> = breaches.iter().map(|breach| breach.rule).collect();
        rules.dedup();
        rules
    }
}

#[test]
fn the_system_as_built_breaks_no_rule() {
    let system = system();
    let (breaches, extent) = check(system.image.memory(), &system.subject(), &[SOUND], ALL);
    assert_eq!(breaches, []);
    assert_eq!((extent.spaces, extent.mappings), (3, 2 * 7 + 6));
}

#[test]
fn a_large_page_of_a_guest_breaks_a_rule_where_the_mitigation_forbids_it() {
    const RULE: &str = "a nested table has a large page against the mitigation in force";
    let mut system = system();
    let leaf = leaf_entry(system.image.memory(), system.roots[2], 0).unwrap();
    // Its table was made after the directory that names it.
    system.image.set((leaf & !0xfff) - 0x1000, P | W | U | LARGE);
    assert!(!system.rules_broken().contains(&RULE), "the mitigation is not in force");
    let mut page = PlatformPage::new_zeroed();
    (page.magic, page.mitigations) = (PLATFORM_MAGIC, mitigation::SMALL_PAGES);
    for (index, word) in page.as_bytes().chunks(8).enumerate() {
        let mut bytes = [0; 8];
        bytes[..word.len()].copy_from_slice(word);
        system.image.set(PLATFORM + 8 * index as u64, u64::from_le_bytes(bytes));
    }
    assert!(system.rules_broken().contains(&RULE));
    system.image.set((leaf & !0xfff) - 0x1000, leaf & !0xfff | P | W | U);
    assert_eq!(system.rules_broken(), [] as [&str; 0]);
}

#[test]
fn a_large_page_is_looked_at_to_its_last_frame() {
    let mut system = system();
    for (space, address, flags) in [(0, LARGE_AT, W | U | NX), (2, 0x20_0000, W | U | E)] {
        // The directory is there, since the page before is mapped.
        let directory = [4, 3].into_iter().fold(system.roots[space], |table, level| {
            let entry = system.image.memory().word(table + (address >> (12 + 9 * (level - 1)) & 511) * 8);
            entry.unwrap() & ADDRESS
        });
        for page in 0..2 {
            let entry = (LARGE_GUEST + (page << 21)) | flags | LARGE | 1;
            system.image.set(directory + ((address >> 21 & 511) + page) * 8, entry);
        }
    }
    let found = |system: &System| -> Vec<String> {
        check(system.image.memory(), &system.subject(), &[SOUND], ALL).0.iter().map(ToString::to_string).collect()
    };
    system.large = [1024, 1024];
    assert_eq!(found(&system), [] as [String; 0]);
    system.large = [1023, 1024];
    let last = "1 frames, the first 0x403ff000";
    let nested = format!("a nested table maps what is not its VM's: vm0 maps a frame of nobody, {last}");
    assert_eq!(found(&system), [nested, format!("{NOT_OWN}: first maps a frame of nobody, {last}")]);
    system.large = [1024, 1023];
    assert_eq!(found(&system), [format!("{OTHERWISE}: first maps a frame of VM 0 (guest memory), {last}")]);
    system.large = [512, 512];
    let second = "512 frames, the first 0x40200000";
    let nested = format!("a nested table maps what is not its VM's: vm0 maps a frame of nobody, {second}");
    assert_eq!(found(&system), [nested, format!("{NOT_OWN}: first maps a frame of nobody, {second}")]);
    // Another partition that may write into the middle of it.
    system.large = [1024, 1024];
    system.map(1, 0x4000_1000, LARGE_GUEST + 0x1000, W | U | NX);
    assert!(found(&system).contains(&format!("{TWO}: first and second, 1 frames, the first 0x40001000")));
}

/// One change to the sound system.
struct Case {
    what: &'static str,
    space: usize,
    address: u64,
    physical: u64,
    flags: u64,
    rules: &'static [&'static str],
}

const ALIKE: &str = "the core's half differs between address spaces";
const NOT_OWN: &str = "a partition maps what is not its own";
const TWO: &str = "a writable frame is open to two";
const OTHERWISE: &str = "a partition maps a page otherwise than the image says";
const LISTED: &str = "the core's half maps what R7 does not list";

#[rustfmt::skip]
const CASES: [Case; 21] = [
    Case { what: "own page at another address", space: 0, address: 0x4000_2000, physical: FIRST, flags: U | NX,
           rules: &[OTHERWISE] },
    Case { what: "own page with fewer rights", space: 0, address: 0x4000_1000, physical: FIRST, flags: U | NX,
           rules: &[OTHERWISE] },
    Case { what: "code that cannot be executed", space: 1, address: 0x4000_0000, physical: SEALED, flags: U | NX,
           rules: &[OTHERWISE] },
    Case { what: "sealed frame writable", space: 0, address: 0x4000_2000, physical: SEALED, flags: W | U | NX,
           rules: &["a frame is writable and executable", NOT_OWN, TWO] },
    Case { what: "own page writable and executable", space: 0, address: 0x4000_2000, physical: FIRST, flags: W | U | E,
           rules: &["a frame is writable and executable", "a page is writable and executable"] },
    Case { what: "another partition's page", space: 0, address: 0x4000_2000, physical: SECOND, flags: U | NX,
           rules: &[NOT_OWN, TWO] },
    Case { what: "core text writable through a partition", space: 0, address: 0x4000_2000, physical: CORE_TEXT, flags: W | U | NX,
           rules: &["a frame is writable and executable", NOT_OWN] },
    Case { what: "core data readable by a partition", space: 0, address: 0x4000_2000, physical: CORE_DATA, flags: U | NX,
           rules: &[NOT_OWN] },
    Case { what: "page table in a partition", space: 1, address: 0x4000_2000, physical: 0x1000, flags: U | NX,
           rules: &[NOT_OWN] },
    Case { what: "writable platform page", space: 0, address: 0x7000_1000, physical: PLATFORM, flags: W | U | NX,
           rules: &[NOT_OWN, TWO] },
    Case { what: "another's message page", space: 1, address: 0x7000_2000, physical: MESSAGE, flags: W | U | NX,
           rules: &[NOT_OWN, TWO] },
    Case { what: "exit page in a partition that does not serve the VM", space: 1, address: 0x7002_0000, physical: EXIT, flags: W | U | NX,
           rules: &[NOT_OWN, TWO] },
    Case { what: "guest memory in a partition that does not serve the VM", space: 1, address: 0x100_0000_0000, physical: GUEST, flags: W | U | NX,
           rules: &[NOT_OWN, TWO] },
    Case { what: "guest memory executable in its service", space: 0, address: 0x100_0000_0000, physical: GUEST, flags: U | E,
           rules: &[NOT_OWN] },
    Case { what: "partition memory in a nested table", space: 2, address: 0x1000, physical: SECOND, flags: W | U | E,
           rules: &["a nested table maps what is not its VM's", TWO] },
    Case { what: "frame of nobody in a nested table", space: 2, address: 0x1000, physical: STRANGER, flags: W | U | E,
           rules: &["a nested table maps what is not its VM's"] },
    Case { what: "ring 3 page in the core's half", space: 1, address: 0x10_0000, physical: SECOND, flags: W | U | NX,
           rules: &[ALIKE, "a page of the core's half is open to ring 3"] },
    Case { what: "partition memory in the core's half", space: 1, address: 0x10_0000, physical: FIRST, flags: W | NX,
           rules: &[ALIKE, LISTED] },
    Case { what: "guest memory in the core's half", space: 1, address: 0x10_0000, physical: GUEST, flags: W | NX,
           rules: &[ALIKE, LISTED] },
    Case { what: "supervisor page above the core's half", space: 1, address: 0x4000_2000, physical: SECOND, flags: W | NX,
           rules: &["a supervisor page lies above the core's half"] },
    Case { what: "page of nobody", space: 1, address: 0x4000_2000, physical: STRANGER, flags: U | NX,
           rules: &[NOT_OWN] },
];

#[test]
fn each_forbidden_mapping_breaks_its_rules_and_no_other() {
    for case in CASES {
        let mut system = system();
        system.map(case.space, case.address, case.physical, case.flags);
        assert_eq!(system.rules_broken(), case.rules, "{}", case.what);
    }
}

#[test]
fn an_open_copy_window_may_show_any_frame() {
    let mut system = system();
    system.map(0, WINDOW, FIRST, W | NX);
    system.map(1, WINDOW, FIRST, W | NX);
    assert_eq!(system.rules_broken(), [] as [&str; 0]);
}

#[test]
fn a_table_outside_the_pool_is_a_breach() {
    let system = system();
    let mut subject = system.subject();
    subject.spaces[1].root = STRANGER;
    let (breaches, _) = check(system.image.memory(), &subject, &[], ALL);
    assert!(breaches.iter().any(|breach| breach.rule == "a page table is not in the pool"), "{breaches:?}");
}

#[test]
fn a_clear_control_bit_is_a_breach_by_its_name() {
    let system = system();
    let control = Control { cr4: SOUND.cr4 & !(1 << 21), ..SOUND };
    let (breaches, _) = check(system.image.memory(), &system.subject(), &[control], ALL);
    let text: Vec<_> = breaches.iter().map(Breach::to_string).collect();
    assert_eq!(text, ["control bit is clear: CR4.SMAP"]);
}

/// The same system on a processor with VT-x.
const VMX: Features = Features { vmx: true, ..ALL };
const SOUND_VMX: Control = Control { cr4: SOUND.cr4 | 1 << 13, ..SOUND };
/// A leaf of its nested table: read, write, execute, write-back.
const EPT_LEAF: u64 = 0b111_0111;
const NESTED: &str = "a nested table maps what is not its VM's";
const MALFORMED: &str = "an entry of a nested table is malformed";

fn broken_on_vtx(change: impl Fn(&mut System)) -> Vec<&'static str> {
    let mut system = system();
    system.map(2, 0, GUEST, EPT_LEAF);
    change(&mut system);
    let (breaches, _) = check(system.image.memory(), &system.subject(), &[SOUND_VMX], VMX);
    breaches.iter().map(|breach| breach.rule).collect()
}

/// What is done to the sound system, how, and the rules that it breaks.
type Change = (&'static str, fn(&mut System), &'static [&'static str]);

#[test]
fn a_nested_table_of_vt_x_is_read_by_its_own_rules() {
    assert_eq!(broken_on_vtx(|_| ()), [] as [&str; 0]);
    // The last but one has no bit that AMD-V would call present.
    let cases: [Change; 5] = [
        ("an entry as AMD-V has it", |system| system.map(2, 0, GUEST, W | U), &[MALFORMED]),
        ("another's frame", |system| system.map(2, 0x1000, SECOND, EPT_LEAF), &[NESTED, TWO]),
        ("a frame of nobody, read-only", |system| system.map(2, 0x1000, STRANGER, EPT_LEAF & !0b110), &[NESTED]),
        (
            "another's frame, for stores only",
            |system| {
                system.map(2, 0x1000, SECOND, EPT_LEAF);
                let entry = leaf_entry(system.image.memory(), system.roots[2], 0x1000).unwrap();
                system.image.set(entry, SECOND | EPT_LEAF & !0b101);
            },
            &[MALFORMED, NESTED, TWO],
        ),
        (
            "a table with a memory type",
            |system| system.image.set(system.roots[2], 0x6_0000 | 0b111 | 6 << 3),
            &[MALFORMED],
        ),
    ];
    for (what, change, rules) in cases {
        assert_eq!(broken_on_vtx(change), rules, "{what}");
    }
}
