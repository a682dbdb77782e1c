//! One bad manifest for each kind of error: what it prints, and at which line.

use super::parse;

/// A system without errors; each case replaces one piece of it.
const GOOD: &str = r#"[system]
name = "good"
supervisor = { restarts = 2, window_ms = 1000 }
[[partition]]
name = "supervisor"
elf = "portcullis-supervisor"
rank = "supervisor"
priority = 200
stack = "16K"
budget_us = 1000
period_us = 100000
reserve_us = 100
call_limit_us = 10000
[[partition.capability]]
name = "link"
kind = "partition"
target = "link"
rights = ["status", "restart"]
[[partition.capability]]
name = "backoff"
kind = "timer"
[[partition]]
name = "link"
elf = "portcullis-link"
rank = "link"
priority = 150
stack = "16K"
heap = "64K"
state = "8K"
budget_us = 1000
period_us = 100000
reserve_us = 100
call_limit_us = 10000
config = { baud = 115200 }
[[partition.capability]]
name = "com1"
kind = "ports"
first = 0x3f8
count = 8
[[partition.capability]]
name = "com1-irq"
kind = "interrupt"
gsi = 4
[[partition.capability]]
name = "log"
kind = "log"
[[partition]]
name = "port"
elf = "portcullis-vmport-rpc"
rank = "vmport-rpc"
priority = 120
stack = "16K"
budget_us = 1000
period_us = 100000
reserve_us = 100
call_limit_us = 10000
[[partition.capability]]
name = "vm"
kind = "vm"
vm = "demo"
rights = ["answer"]
[[partition]]
name = "vmexit0"
elf = "portcullis-vmexit"
rank = "vmexit"
priority = 100
stack = "16K"
budget_us = 1000
period_us = 100000
reserve_us = 100
call_limit_us = 10000
[[partition.capability]]
name = "vm"
kind = "vm"
vm = "demo"
rights = ["run"]
[[partition.capability]]
name = "link"
kind = "endpoint"
target = "link"
[[vm]]
name = "demo"
vmexit = "vmexit0"
port = "port"
memory = "8M"
vcpus = [{ priority = 50, budget_us = 50000, period_us = 100000 }]
"#;

#[test]
fn a_good_manifest_resolves_names_to_indices_and_gives_free_bits() {
    use super::Object;
    let system = parse("good.toml", GOOD).unwrap_or_else(|findings| panic!("{findings}"));
    assert_eq!(system.partitions.len(), 4);
    assert_eq!(system.vms[0].vmexit, 3);
    assert_eq!(system.vms[0].port, Some(2));
    assert_eq!(system.partitions[1].config, "baud=115200\n");
    // Bits 0 to 3 of the supervisor name the partitions.
    assert_eq!(system.partitions[0].capabilities[1].object, Object::Timer { timer: 0, bits: 1 << 4 });
    assert!(matches!(system.partitions[1].capabilities[1].object, Object::Interrupt { bits: 1, .. }));
}

/// What to replace, by what, and the one line that must come of it (after the file name).
const BAD: &[(&str, &str, &str)] = &[
    ("name = \"good\"", "name = good", "2: format: "),
    ("priority = 200", "priorty = 200", "8: format: unknown field `priorty`"),
    ("stack = \"16K\"", "stack = \"16X\"", "9: format: "),
    ("name = \"good\"", "name = \"a/b\"", "2: format: `name` is a/b: 1 to 24 letters, digits, `-`, `_`, `.`"),
    ("rank = \"link\"", "rank = \"lnik\"", "format: `rank` is lnik: use one of client, vmexit"),
    ("priority = 200", "priority = 0", "8: format: `priority` is 0: use 1 to 255"),
    ("memory = \"8M\"", "memory = \"3M\"", "format: `memory` is 3145728: a multiple of 2M, at most 64G"),
    ("memory = \"8M\"", "memory = \"65538M\"", "format: `memory` is 68721573888: a multiple of 2M, at most 64G"),
    ("memory = \"8M\"", "memory = \"8M\"\nplatform = 3", "format: `platform` is 3: use 1 to 2"),
    ("memory = \"8M\"", "memory = \"8M\"\nplatform = 0", "format: `platform` is 0: use 1 to 2"),
    ("memory = \"8M\"", "memory = \"8M\"\nhardware_version = 100", "format: `hardware_version` is 100: use 1 to 99"),
    ("memory = \"8M\"", "memory = \"8M\"\nxcr0 = 2", "format: `xcr0` is 2: 1 (x87), 3 (with SSE) or 7 (with AVX)"),
    ("kind = \"log\"", "kind = \"lug\"", "format: `kind` is lug: use one of endpoint, notification"),
    ("kind = \"log\"", "kind = \"log\"\ngsi = 3", "format: a capability of kind `log` has no key `gsi`; remove it"),
    ("gsi = 4\n", "\n", "format: a capability of kind `interrupt` needs the key `gsi`; add it"),
    ("name = \"port\"", "name = \"link\"", "format: the partition name `link` is used twice; rename one"),
    (
        "name = \"log\"\nkind = \"log\"",
        "name = \"com1\"\nkind = \"ports\"\nfirst = 0x2f8\ncount = 8",
        "format: the capability name `com1` is used twice",
    ),
    (
        "vmexit = \"vmexit0\"",
        "vmexit = \"vmexit9\"",
        "R3: no partition is named `vmexit9`; it is one of: supervisor, link, port, vmexit0",
    ),
    ("vm = \"demo\"\nrights = [\"run\"]", "vm = \"x\"\nrights = [\"run\"]", "R3: no VM is named `x`"),
    ("stack = \"16K\"", "stack = \"16K\"\ncpu = 1", "10: format: `cpu` is 1: use 0 to 0"),
    ("stack = \"16K\"", "stack = \"2M\"", "9: R2: stack pages: 512, but the limit is 256; use fewer"),
    ("state = \"8K\"", "state = \"8M\"", "R2: state region pages: 2048, but the limit is 1024; use fewer"),
    ("gsi = 4", "gsi = 32", "format: `gsi` is 32: use 0 to 31"),
    ("first = 0x3f8\ncount = 8", "first = 0x3f8\ncount = 0", "format: `count` is 0: 1 to"),
    (
        "kind = \"endpoint\"\ntarget = \"link\"",
        "kind = \"endpoint\"\ntarget = \"vmexit0\"",
        "R11: `vmexit0` (rank vmexit) cannot call `vmexit0` (rank vmexit): calls go strictly up",
    ),
    (
        "name = \"backoff\"\nkind = \"timer\"",
        "name = \"x\"\nkind = \"endpoint\"\ntarget = \"link\"",
        "R11: the supervisor `supervisor` never calls: remove its endpoint",
    ),
    (
        "name = \"backoff\"\nkind = \"timer\"",
        "name = \"x\"\nkind = \"ports\"\nfirst = 0x70\ncount = 2",
        "R11: the supervisor `supervisor` parses no outside input",
    ),
    ("rank = \"link\"", "rank = \"supervisor\"", "R11: 2 partitions have the rank `supervisor`; exactly one must"),
    (
        "kind = \"log\"",
        "kind = \"interrupt\"\ngsi = 4",
        "R3: interrupt 4 is already held by `link`; one partition holds it",
    ),
    (
        "kind = \"log\"",
        "kind = \"ports\"\nfirst = 0x3ff\ncount = 2",
        "R3: a port of 0x3ff-0x400 is already held by `link`",
    ),
    (
        "kind = \"log\"",
        "kind = \"ports\"\nfirst = 0x5658\ncount = 1",
        "R3: port 0x5658 cannot be given away: the port, decoded by the core; remove it",
    ),
    (
        "kind = \"log\"",
        "kind = \"ports\"\nfirst = 0x20\ncount = 2",
        "R3: ports 0x20-0x21 cannot be given away: interrupt controller",
    ),
    (
        "kind = \"log\"",
        "kind = \"msrs\"\nfirst = 0xc0000080\ncount = 1\nrights = [\"read\"]",
        "R3: MSR 0xc0000080 cannot be given away: EFER",
    ),
    (
        "kind = \"log\"",
        "kind = \"msrs\"\nfirst = 0x1b\ncount = 1\nrights = [\"read\"]",
        "R3: MSR 0x1b cannot be given away: local APIC base",
    ),
    (
        "kind = \"log\"",
        "kind = \"ports\"\nfirst = 0x1f0\ncount = 8",
        "R15: ports 0x1f0-0x1f7 belongs to a device that can reach all memory by DMA (IDE)",
    ),
    ("kind = \"log\"", "kind = \"ports\"\nfirst = 0xcf8\ncount = 8", "R15: ports 0xcf8-0xcff belongs"),
    (
        "memory = \"8M\"",
        "memory = \"8M\"\nother_identity = \"hyper-v\"",
        "port: VM `demo` has VMware's port or identity and the identity of `hyper-v` too; choose one",
    ),
    (
        "memory = \"8M\"",
        "memory = \"8M\"\nnested = true",
        "port: VM `demo` has the port and shows the guest a virtualization extension; turn one off",
    ),
    (
        "memory = \"8M\"",
        "memory = \"8M\"\npassthrough = [{ kind = \"ports\", first = 0x5650, count = 16 }]",
        "port: VM `demo` has the port, and ports 0x5658-0x5659 lie in a range passed through",
    ),
    (
        "memory = \"8M\"",
        "memory = \"8M\"\npassthrough = [{ kind = \"ports\", first = 0x70, count = 2 }]",
        "format: VM `demo`: image format version 1 carries no passed-through ranges",
    ),
    (
        "memory = \"8M\"",
        "memory = \"8M\"\npassthrough = [{ kind = \"memory\", first = 0xfe000000, count = 4096 }]",
        "R15: memory 0xfe000000-0xfe000fff belongs",
    ),
    (
        "rights = [\"run\"]",
        "rights = [\"answer\"]",
        "R3: `vmexit0` serves VM `demo` and does not serve its port; remove the right `answer`",
    ),
    (
        "rights = [\"answer\"]",
        "rights = [\"run\"]",
        "R3: `port` serves VM `demo` and is not its vmexit; remove the right `run`",
    ),
    (
        "rights = [\"status\", \"restart\"]",
        "rights = [\"own\"]",
        "format: `rights` is own: use one of status, restart, kill",
    ),
    ("port = \"port\"", "port = \"supervisor\"", "R11: the supervisor `supervisor` parses no outside input"),
    ("port = \"port\"", "port = \"vmexit0\"", "R3: `vmexit0` serves VM `demo` and its port too"),
    ("budget_us = 50000", "budget_us = 99000", "time: budgets on CPU 0 add up to 103 %; lower them to 100 % or less"),
    (
        "period_us = 100000\nreserve_us = 100\n",
        "period_us = 100000\nreserve_us = 99001\n",
        "time: supervisor has a budget of 1000 us in 100000 us and can be lent the reserve of supervisor, 99001 us, which is more than its period",
    ),
    (
        "state = \"8K\"\nbudget_us = 1000\nperiod_us = 100000\nreserve_us = 100\n",
        "state = \"8K\"\nbudget_us = 1000\nperiod_us = 100000\nreserve_us = 50001\n",
        "time: vCPU 0 of demo has a budget of 50000 us in 100000 us and can be lent the reserve of link, 50001 us",
    ),
    ("budget_us = 50000", "budget_us = 200000", "format: `budget_us` is 200000: use 1 to 100000"),
    ("config = { baud = 115200 }", "config = { baud = [1] }", "format: `config` is [1]: use text, integer or boolean"),
    (
        "name = \"backoff\"\nkind = \"timer\"",
        "name = \"backoff\"\nkind = \"timer\"\nbits = [1]",
        "format: `bits` is 0x2: the supervisor's low bits name the partitions",
    ),
    (
        "name = \"backoff\"\nkind = \"timer\"",
        "name = \"backoff\"\nkind = \"timer\"\nbits = [32]",
        "format: `bits` is 32: bit numbers from 0 to 31",
    ),
    (
        "supervisor = {",
        "mitigations_off = [\"hope\"]\nsupervisor = {",
        "format: `mitigations_off` is hope: use one of ibpb",
    ),
    (
        "vcpus = [{ priority = 50, budget_us = 50000, period_us = 100000 }]",
        "vcpus = []",
        "format: `vcpus` is empty: a VM has at least one",
    ),
    (
        "config = { baud = 115200 }",
        "blobs = [{ name = \"a\", file = \"x\" }, { name = \"b\", file = \"x\" }, { name = \"c\", file = \"x\" }, { name = \"d\", file = \"x\" }, { name = \"e\", file = \"x\" }]",
        "R2: blobs of one partition: 5, but the limit is 4; use fewer",
    ),
];

#[test]
fn each_kind_of_error_is_one_line_with_place_rule_and_remedy() {
    let mut wrong = Vec::new();
    for (piece, replacement, expected) in BAD {
        assert!(GOOD.contains(piece), "no such piece: {piece}");
        let text = GOOD.replacen(piece, replacement, 1);
        let printed = match parse("m.toml", &text) {
            Ok(_) => "nothing".to_owned(),
            Err(findings) => findings.to_string(),
        };
        let hit = |line: &str| line.starts_with("m.toml:") && line.contains(expected);
        if !printed.lines().any(hit) || printed.lines().count() > 3 {
            wrong.push(format!("expected `{expected}` for `{replacement}`, found:\n{printed}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn too_many_of_a_thing_prints_the_limit() {
    let partition = GOOD.split("[[partition]]").nth(3).expect("the third partition");
    let mut text = GOOD.to_owned();
    for index in 0..29 {
        let one = partition.split("[[partition.capability]]").next().expect("its own keys");
        text.push_str(&format!("[[partition]]{}", one.replace("name = \"port\"", &format!("name = \"p{index}\""))));
    }
    let printed = parse("m.toml", &text).expect_err("too many").to_string();
    assert!(printed.contains("R2: partitions: 33, but the limit is 32; use fewer"), "{printed}");
}

#[test]
fn a_manifest_that_is_not_there_is_one_line() {
    let printed = super::load(std::path::Path::new("/nonexistent/x.toml")).expect_err("absent").to_string();
    assert!(printed.starts_with("/nonexistent/x.toml:1: format: cannot be read"), "{printed}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]

    #[test]
    fn no_change_of_numbers_or_bytes_makes_the_checks_panic(
        at in 0usize..GOOD.len(),
        byte in 0x20u8..0x7f,
        numbers in proptest::collection::vec(proptest::prelude::any::<i64>(), 1..4),
        pick in 0usize..64,
    ) {
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes[at] = byte;
        let _ = parse("m.toml", &String::from_utf8_lossy(&bytes));
        let places: Vec<usize> = GOOD.match_indices("= ").map(|(place, _)| place).collect();
        let mut text = GOOD.to_owned();
        for (step, number) in numbers.iter().enumerate() {
            let place = places[(pick + step * 7) % places.len()];
            let end = text[place..].find('\n').map_or(text.len(), |end| place + end);
            if place < end {
                text.replace_range(place..end, &format!("= {number}"));
            }
        }
        let _ = parse("m.toml", &text);
    }
}
