//! Whatever is wrong, the tool ends with one line and no backtrace, even where backtraces are on.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

fn tool() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis-build"));
    command.env("RUST_BACKTRACE", "1");
    command
}

/// The one line of a run that failed.
fn one_line(output: &Output) -> String {
    assert!(!output.status.success(), "it succeeded");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert!(text.starts_with("portcullis: "), "{text}");
    text
}

#[test]
fn a_bad_manifest_is_one_line_with_its_place_and_rule() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.toml");
    std::fs::write(&path, "[system]\nname = \"x\"\n").unwrap();
    let text = one_line(&tool().args(["image", "--no-iso"]).arg(&path).output().unwrap());
    assert!(text.contains("bad.toml:1: R11: 0 partitions have the rank `supervisor`; exactly one must"), "{text}");
}

#[test]
fn a_missing_manifest_is_one_line() {
    let text = one_line(&tool().args(["graph", "no/such.toml"]).output().unwrap());
    assert!(text.contains("no/such.toml:1: format: cannot be read"), "{text}");
}

#[test]
fn a_truncated_bundle_is_one_line_that_says_how_to_write_it_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bundle.img");
    for bytes in [&b"PCULLIS\x01"[..], &[]] {
        std::fs::write(&path, bytes).unwrap();
        let text = one_line(&tool().args(["image", "--show"]).arg(&path).output().unwrap());
        assert!(text.contains("truncated") && text.contains("`cargo xtask image`"), "{text}");
    }
}

#[test]
fn a_file_that_is_no_bundle_is_one_line() {
    let text = one_line(&tool().args(["image", "--show", env!("CARGO_BIN_EXE_portcullis-build")]).output().unwrap());
    assert!(text.contains("is no system image"), "{text}");
}

#[test]
fn a_missing_emulator_is_one_line_that_names_its_package() {
    // A machine with a compiler and a linker, and nothing to install with.
    let directory = tempfile::tempdir().unwrap();
    for program in ["cc", "ld", "strip", "cargo", "rustc"] {
        if let Some(found) = which(program) {
            symlink(found, directory.path().join(program)).unwrap();
        }
    }
    let text = one_line(&tool().arg("run").env("PATH", directory.path()).output().unwrap());
    assert!(text.contains("qemu-system-x86 is missing"), "{text}");
}

fn which(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory: std::path::PathBuf| directory.join(program))
        .find(|path| Path::is_file(path))
}
