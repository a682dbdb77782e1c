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

/// What the tool looks for in a checkout, with a demonstration of that name.
fn checkout(root: &Path, name: &str) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for file in ["Cargo.toml", "kernel/Cargo.toml", "build/Cargo.toml", "systems/demo.toml"] {
        let to = root.join(file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        let text = std::fs::read_to_string(own.join(file)).unwrap();
        std::fs::write(to, text.replacen("name = \"demo\"", &format!("name = \"{name}\""), 1)).unwrap();
    }
}

/// Copies the program. Another process does it: a file that this one had open for writing would be busy as long as a
/// process that another test starts meanwhile holds it.
fn copy_tool(to: &Path) {
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_portcullis-build")).arg(to).status().unwrap().success());
}

#[test]
fn a_checkout_that_was_moved_or_copied_works_in_its_own_place() {
    let directory = tempfile::tempdir().unwrap();
    checkout(directory.path(), "moved");
    let drawn = |command: &mut Command| {
        let output = command.arg("graph").current_dir("/").output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // As cargo runs it there, though it was built elsewhere.
    let graph = drawn(tool().env("CARGO_MANIFEST_DIR", directory.path().join("build")));
    assert!(graph.contains("moved"), "{graph}");
    // The program itself, copied along.
    let copied = directory.path().join("target/debug/portcullis-build");
    std::fs::create_dir_all(copied.parent().unwrap()).unwrap();
    copy_tool(&copied);
    let graph = drawn(Command::new(&copied).env_remove("CARGO_MANIFEST_DIR"));
    assert!(graph.contains("moved"), "{graph}");
}

#[test]
fn outside_of_every_checkout_the_tool_says_where_to_run_it() {
    let directory = tempfile::tempdir().unwrap();
    let alone = directory.path().join("portcullis-build");
    copy_tool(&alone);
    let output = Command::new(&alone).arg("graph").env_remove("CARGO_MANIFEST_DIR").current_dir("/").output().unwrap();
    assert!(one_line(&output).contains("run `cargo xtask` in a checkout"));
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

/// Command lines that cannot be followed, and the one line that each ends with: what is wrong, named by its option, and
/// a reason of the system's said once. All are told before anything is built or started.
#[test]
fn a_command_line_that_cannot_be_followed_is_one_line_that_names_the_option() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path().display().to_string();
    let missing = format!("{here}/no/such");
    let long = format!("a={}", "x".repeat(2040));
    let keys: Vec<String> = (0..10_000).map(|number| format!("--guestinfo=k{number}=v")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let table: [(&[&str], &str); 12] = [
        (&["--append", &long], "--append: the kernel command line has 2056 bytes"),
        (&["--append", "a\nb"], "--append: the kernel command line is one line"),
        (&keys, "--guestinfo: 10000 keys, and a VM of this system has 512"),
        (&["--initrd", &here], "--initrd"),
        (&["--initrd", &missing], "--initrd"),
        (&["--kernel", &missing], "the kernel"),
        (&["--capture", &missing], "--capture"),
        (&["--dump", &missing], "--dump"),
        (&["--emulator-log", &missing], "--emulator-log"),
        (&["--log", "/proc/no/run.log"], "the log /proc/no/run.log cannot be written"),
        (&["--qemu", &missing], "there is no such program"),
        (&["--guestinfo", &format!("a=@{missing}")], "--guestinfo a:"),
    ];
    for (line, part) in table {
        let text = one_line(&tool().arg("run").args(line).output().unwrap());
        assert!(text.contains(part) && !text.contains("debian.toml"), "{text}");
        for reason in ["(os error 2)", "(os error 20)", "(os error 21)"] {
            assert!(text.matches(reason).count() <= 1, "{text}");
        }
    }
}

#[test]
fn a_file_that_is_no_bundle_is_one_line() {
    let text = one_line(&tool().args(["image", "--show", env!("CARGO_BIN_EXE_portcullis-build")]).output().unwrap());
    assert!(text.contains("is not a system image"), "{text}");
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
