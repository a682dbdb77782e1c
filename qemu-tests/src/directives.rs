//! How a system wants to be tested: comment lines of its manifest that start with `# test:`.
//!
//! | directive | meaning |
//! |---|---|
//! | `icount` | count instructions, so that every run takes the same course |
//! | `stalls` | let the emulator stand still again and again, as a busy host does |
//! | `seconds N` | wall time of the whole trial, at most 600, what the host does not give left out; default 240 |
//! | `memory N` | RAM in MiB, 32 to 2048; default 256; more where the system needs more |
//! | `boot pvh`, `bios`, `uefi` | how to boot; default pvh |
//! | `command-line TEXT` | command line of the core, instead of the manifest's |
//! | `expect TEXT` | a line that holds TEXT must come; may stand several times |
//! | `forbid TEXT` | no line may hold TEXT; may stand several times |
//! | `watch PARTITION` | at the end the trial looks at the processor while PARTITION runs: no register of a guest's is left in it |
//! | `no-audit` | the core does not live at the end, so there is nothing to audit |
//! | `long KEY=VALUE` | there is a second trial, NAME-long, in QEMU, with this guestinfo and six times the time; it runs only with `--include-ignored`; may stand several times |
//! | `quick PLACE` | there it is part of every run, and not only of `--include-ignored` |
//! | `not PLACE REASON` | it cannot run there |
//! | `known PLACE TEXT` | there a failed check whose line holds TEXT is the emulator's fault, and must fail |
//!
//! A PLACE is `qemu`, `ryzen`, `haswell` or `skylake`, or `bochs` for the last three (`place`).

use crate::place::{self, Place};
use std::time::Duration;

/// How to boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// The PVH note.
    #[default]
    Pvh,
    /// GRUB under SeaBIOS.
    Bios,
    /// GRUB under OVMF.
    Uefi,
}

/// What holds at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Part of every run.
    Quick,
    /// Cannot run, and why.
    Not(String),
    /// Text of a check that fails there.
    Known(String),
}

/// What the directives of one manifest say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    /// Count instructions.
    pub icount: bool,
    /// Let the emulator stand still now and then.
    pub stalls: bool,
    /// Wall time of the trial.
    pub limit: Duration,
    /// RAM, MiB.
    pub memory_mib: u32,
    /// How to boot.
    pub boot: By,
    /// Command line of the core, if not the manifest's.
    pub command_line: Option<String>,
    /// Texts that must come.
    pub expect: Vec<String>,
    /// Texts that must not come.
    pub forbid: Vec<String>,
    /// Partition at whose registers the trial looks at the end.
    pub watch: Option<String>,
    /// Look at the machine's page tables and registers afterwards.
    pub audit: bool,
    /// Guestinfo of the long trial; without any there is none.
    pub long: Vec<String>,
    /// What holds at single places.
    pub elsewhere: Vec<(Place, Rule)>,
    /// Commands that GRUB runs before it loads the system; no manifest has any.
    pub grub: Vec<String>,
    /// Texts of the checks that must fail where the trial runs.
    pub known: Vec<String>,
    /// The lines have the speed of real ones where the trial runs, so what was said arrives long afterwards.
    pub slow_lines: bool,
}

impl Default for Directives {
    fn default() -> Self {
        Self {
            icount: false,
            stalls: false,
            limit: Duration::from_secs(240),
            memory_mib: 256,
            boot: By::Pvh,
            command_line: None,
            expect: Vec::new(),
            forbid: Vec::new(),
            watch: None,
            audit: true,
            long: Vec::new(),
            elsewhere: Vec::new(),
            grub: Vec::new(),
            known: Vec::new(),
            slow_lines: false,
        }
    }
}

/// A directive that says nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `# test: {text}` is not a directive: {fix}")]
pub struct Unknown {
    line: usize,
    text: String,
    fix: &'static str,
}

/// Reads the directives of a manifest.
pub fn read(manifest: &str) -> Result<Directives, Unknown> {
    let mut directives = Directives::default();
    for (index, line) in manifest.lines().enumerate() {
        if let Some(text) = line.trim().strip_prefix("# test:").map(str::trim) {
            take(&mut directives, text).map_err(|fix| Unknown { line: index + 1, text: text.into(), fix })?;
        }
    }
    Ok(directives)
}

fn take(directives: &mut Directives, text: &str) -> Result<(), &'static str> {
    let (name, value) = text.split_once(' ').unwrap_or((text, ""));
    let value = value.trim();
    match (name, value) {
        ("icount", "") => directives.icount = true,
        ("stalls", "") => directives.stalls = true,
        ("no-audit", "") => directives.audit = false,
        ("seconds", _) => directives.limit = Duration::from_secs(number(value, 1, 600)?.into()),
        ("memory", _) => directives.memory_mib = number(value, 32, 2048)?,
        ("boot", "pvh") => directives.boot = By::Pvh,
        ("boot", "bios") => directives.boot = By::Bios,
        ("boot", "uefi") => directives.boot = By::Uefi,
        ("command-line", _) => directives.command_line = Some(value.to_owned()),
        ("long", _) if value.contains('=') => directives.long.push(value.to_owned()),
        ("watch", name) if !name.is_empty() => directives.watch = Some(name.to_owned()),
        ("expect" | "forbid", "") => return Err("name the text"),
        ("expect", _) => directives.expect.push(value.to_owned()),
        ("forbid", _) => directives.forbid.push(value.to_owned()),
        ("quick" | "not" | "known", _) => {
            let (place, rest) = value.split_once(' ').unwrap_or((value, ""));
            let rule = match (name, rest.trim().to_owned()) {
                ("quick", rest) if rest.is_empty() => Rule::Quick,
                ("not", rest) if !rest.is_empty() => Rule::Not(rest),
                ("known", rest) if !rest.is_empty() => Rule::Known(rest),
                _ => return Err("`quick` takes a place only, `not` a place and a reason, `known` a place and a text"),
            };
            let places = place::named(place);
            if places.is_empty() {
                return Err("the place is qemu, ryzen, haswell, skylake or bochs");
            }
            directives.elsewhere.extend(places.into_iter().map(|place| (place, rule.clone())));
        }
        _ => return Err("see qemu-tests/src/directives.rs for the list"),
    }
    Ok(())
}

fn number(value: &str, least: u32, most: u32) -> Result<u32, &'static str> {
    let inside = |number: &u32| (least..=most).contains(number);
    value
        .parse()
        .ok()
        .filter(inside)
        .ok_or("the number is missing or out of range (seconds 1 to 600, memory 32 to 2048)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directive_is_read_and_the_rest_of_the_manifest_is_not() {
        let text = "# test: icount\n# test: stalls\n# test: seconds 90\n  # test: memory 512\n# test: boot bios\n\
                    # test: command-line a=1 b\n# test: expect guest x: done\n# test: expect b\n\
                    # test: forbid FAIL\n# test: watch link\n# test: no-audit\n# test: quick ryzen\n# test: known bochs a b\n\
                    # test: long a.b=1\n# a comment\n[system]\nname = \"test: x\"\n";
        let directives = read(text).unwrap();
        let expected = Directives {
            icount: true,
            stalls: true,
            limit: Duration::from_secs(90),
            memory_mib: 512,
            boot: By::Bios,
            command_line: Some("a=1 b".into()),
            expect: vec!["guest x: done".into(), "b".into()],
            forbid: vec!["FAIL".into()],
            watch: Some("link".into()),
            audit: false,
            long: vec!["a.b=1".into()],
            elsewhere: [("ryzen", Rule::Quick), ("bochs", Rule::Known("a b".into()))]
                .into_iter()
                .flat_map(|(name, rule)| place::named(name).into_iter().map(move |place| (place, rule.clone())))
                .collect(),
            grub: vec![],
            known: vec![],
            slow_lines: false,
        };
        assert_eq!(directives, expected);
        assert_eq!(read("[system]").unwrap(), Directives::default());
    }

    #[test]
    fn a_directive_that_is_none_is_named_with_its_line() {
        for (text, part) in [
            ("\n# test: icont", "line 2: `# test: icont`"),
            ("# test: seconds 0", "out of range"),
            ("# test: seconds 9999", "out of range"),
            ("# test: memory lots", "out of range"),
            ("# test: expect", "name the text"),
            ("# test: boot floppy", "list"),
            ("# test: long fuzz", "list"),
            ("# test: not ryzen", "a reason"),
            ("# test: known ryzen", "a text"),
            ("# test: quick ryzen always", "a place only"),
            ("# test: not vax it is none", "the place is"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
