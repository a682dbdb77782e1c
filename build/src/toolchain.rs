//! Which compiler and linker build for bare metal. Selection is a pure function of what is found on
//! the machine; nothing here installs or downloads.
//!
//! Two kinds of machine work with the same sources: a rustup toolchain with the target's prebuilt
//! core, and Debian's `rustc-web` with its library source. The order is (a) prebuilt core in the
//! current toolchain, (b) library source in the current toolchain, (c) Debian's toolchain with its
//! library source.

use crate::process;
use crate::workspace::{self, TARGET};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Oldest compiler that builds the workspace (`rust-version` in Cargo.toml).
pub const OLDEST: (u32, u32) = (1, 95);

/// Flags of every bare-metal build. They are constant in a checkout, because a changed flag compiles core anew. Without
/// jump tables and without a table of addresses for calls into core, nothing branches where memory says (R14).
const FLAGS: [&str; 6] = [
    "-Cjump-tables=no",
    "-Crelro-level=off",
    "-Crelocation-model=static",
    "-Clink-arg=-no-pie",
    "-Clink-arg=-zmax-page-size=4096",
    "-Clink-arg=--build-id=sha1",
];
/// Flags for GNU ld.
const GNU_LD: [&str; 2] = ["-Clinker=ld", "-Clinker-flavor=ld"];

/// Flags that keep this machine's directories out of what is compiled: source files of the checkout have paths relative
/// to its root, those of crates begin with `cargo`. So the same sources give the same bytes wherever they lie.
fn remapped(root: &Path, cargo: Option<&Path>) -> Vec<String> {
    let flag = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    // The last that fits counts.
    cargo.map(|cargo| flag(cargo, "cargo")).into_iter().chain([flag(root, "")]).collect()
}

/// Where cargo keeps the sources of crates.
fn cargo_home() -> Option<PathBuf> {
    let named = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    named.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
}

/// Why there is no toolchain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a prebuilt core nor library source for a recent enough compiler.
    #[error("no compiler with a bare-metal core or the library source was found: run `{command}`")]
    NoCore {
        /// The one command that changes it.
        command: &'static str,
    },
    /// Neither rust-lld nor GNU ld.
    #[error("no linker was found (rust-lld in the toolchain or GNU ld): run `apt-get install binutils`")]
    NoLinker,
}

/// Where core and alloc come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Core {
    /// Prebuilt in the toolchain.
    Prebuilt,
    /// Compiled by cargo from the toolchain's library source.
    Source,
}

/// The linker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linker {
    /// rust-lld of the toolchain: the target's default.
    RustLld,
    /// GNU ld on PATH.
    GnuLd,
}

/// What was found of one compiler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Major and minor version, where it is there.
    pub version: Option<(u32, u32)>,
    /// `<sysroot>/lib/rustlib/x86_64-unknown-none/lib` exists.
    pub prebuilt_core: bool,
    /// `<sysroot>/lib/rustlib/src/rust/library/Cargo.lock` exists.
    pub library_source: bool,
    /// rust-lld is in the sysroot.
    pub rust_lld: bool,
}

impl Found {
    fn recent(&self) -> bool {
        self.version.is_some_and(|version| version >= OLDEST)
    }
}

/// What selection chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Debian's toolchain in /usr/bin, instead of the current one.
    pub debian: bool,
    /// Where core comes from.
    pub core: Core,
    /// The linker.
    pub linker: Linker,
}

/// Chooses from what was found; `rustup` says whether rustup may fetch the target on this machine.
pub fn choose(current: Found, debian: Found, gnu_ld: bool, rustup: bool) -> Result<Choice, Error> {
    let (found, debian, core) = if current.recent() && current.prebuilt_core {
        (current, false, Core::Prebuilt)
    } else if current.recent() && current.library_source {
        (current, false, Core::Source)
    } else if debian.recent() && debian.library_source {
        (debian, true, Core::Source)
    } else {
        let command = if rustup {
            "rustup target add x86_64-unknown-none"
        } else {
            "apt-get install rustc-web cargo-web rust-web-src"
        };
        return Err(Error::NoCore { command });
    };
    let linker = match (found.rust_lld, gnu_ld) {
        (true, _) => Linker::RustLld,
        (false, true) => Linker::GnuLd,
        (false, false) => return Err(Error::NoLinker),
    };
    Ok(Choice { debian, core, linker })
}

/// True when rustup is there and may download: the machine's owner can forbid it.
pub fn rustup_may_install() -> bool {
    process::find("rustup".as_ref()).is_some()
        && std::env::var_os("RUSTUP_AUTO_INSTALL").is_none_or(|value| value != "0")
}

/// A toolchain for the bare-metal target.
#[derive(Clone, Debug)]
pub struct Toolchain {
    choice: Choice,
}

impl Toolchain {
    /// Looks at the machine and chooses.
    pub fn detect() -> Result<Self, Error> {
        let (current, debian) = (probe(Path::new("rustc")), probe(Path::new("/usr/bin/rustc")));
        let choice = choose(current, debian, process::find("ld".as_ref()).is_some(), rustup_may_install())?;
        Ok(Self { choice })
    }

    /// What was chosen.
    pub fn choice(&self) -> Choice {
        self.choice
    }

    /// `cargo <verb>` of this toolchain in the workspace, for the host or with [`Self::for_metal`].
    pub fn cargo(&self, verb: &str) -> Command {
        let mut command = if self.choice.debian {
            // Cargo would look for its subcommand among rustup's shims first.
            let program = if verb == "clippy" { "/usr/bin/cargo-clippy" } else { "/usr/bin/cargo" };
            let mut command = Command::new(program);
            // A rustup shim that came first on PATH would be taken for this cargo's rustc.
            command.env("PATH", "/usr/bin:/bin");
            command
        } else {
            Command::new("cargo")
        };
        // What the cargo that runs this tool set is not meant for the cargo that it starts.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let inherited = text.starts_with("CARGO_PKG_")
                || ["CARGO", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_TARGET_DIR"].contains(&&*text)
                || ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC", "RUSTDOC"].contains(&&*text)
                || (self.choice.debian && text == "RUSTUP_TOOLCHAIN");
            if inherited {
                command.env_remove(&name);
            }
        }
        command.arg(verb).current_dir(workspace::root());
        command
    }

    /// `cargo <verb>` for the bare-metal target, release profile, with the log level compiled in.
    pub fn for_metal(&self, verb: &str, log_level: &str) -> Command {
        let mut command = self.cargo(verb);
        command.args(["--release", "--target", TARGET]);
        if self.choice.core == Core::Source {
            command.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=core,alloc");
        }
        command.arg("--target-dir").arg(workspace::metal_dir());
        let linker: &[&str] = if self.choice.linker == Linker::GnuLd { &GNU_LD } else { &[] };
        let mut flags: Vec<String> = linker.iter().chain(&FLAGS).map(|flag| (*flag).to_owned()).collect();
        flags.extend(remapped(workspace::root(), cargo_home().as_deref()));
        // In this variable a flag may hold blanks.
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")).env("DEFMT_LOG", log_level);
        command
    }
}

/// What lies in the sysroot of a compiler.
fn probe(rustc: &Path) -> Found {
    let ask = |arguments: &[&str]| process::output(Command::new(rustc).args(arguments), "rustc");
    let (Ok(text), Ok(sysroot)) = (ask(&["--version", "--verbose"]), ask(&["--print", "sysroot"])) else {
        return Found::default();
    };
    let rustlib = Path::new(sysroot.trim()).join("lib/rustlib");
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    Found {
        version: version(&text),
        prebuilt_core: rustlib.join(TARGET).join("lib").is_dir(),
        library_source: rustlib.join("src/rust/library/Cargo.lock").is_file(),
        rust_lld: rustlib.join(host).join("bin/rust-lld").is_file(),
    }
}

/// Major and minor version in the output of `rustc --version --verbose`.
fn version(text: &str) -> Option<(u32, u32)> {
    let release = text.lines().find_map(|line| line.strip_prefix("release: "))?;
    let mut parts = release.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Found = Found { version: None, prebuilt_core: false, library_source: false, rust_lld: false };
    const RECENT: Found = Found { version: Some((1, 96)), ..NOTHING };

    #[test]
    fn a_prebuilt_core_comes_first_then_source_then_debian() {
        let prebuilt = Found { prebuilt_core: true, library_source: true, rust_lld: true, ..RECENT };
        let source = Found { library_source: true, ..RECENT };
        let choice = |current, debian| choose(current, debian, true, false).unwrap();
        assert_eq!(choice(prebuilt, source), Choice { debian: false, core: Core::Prebuilt, linker: Linker::RustLld });
        assert_eq!(choice(source, source), Choice { debian: false, core: Core::Source, linker: Linker::GnuLd });
        assert_eq!(choice(RECENT, source), Choice { debian: true, core: Core::Source, linker: Linker::GnuLd });
    }

    #[test]
    fn an_old_compiler_is_passed_over_whatever_it_has() {
        let old = Found { version: Some((1, 63)), prebuilt_core: true, library_source: true, rust_lld: true };
        let source = Found { library_source: true, ..RECENT };
        assert!(choose(old, source, true, false).unwrap().debian);
    }

    #[test]
    fn without_a_core_the_error_names_one_command_for_the_machine() {
        let text = |rustup| choose(RECENT, NOTHING, true, rustup).unwrap_err().to_string();
        assert!(text(true).ends_with("`rustup target add x86_64-unknown-none`"));
        assert!(text(false).ends_with("`apt-get install rustc-web cargo-web rust-web-src`"));
    }

    #[test]
    fn without_a_linker_nothing_is_chosen() {
        let source = Found { library_source: true, ..RECENT };
        assert!(matches!(choose(NOTHING, source, false, false), Err(Error::NoLinker)));
    }

    #[test]
    fn the_version_is_read_from_the_release_line() {
        assert_eq!(version("rustc 1.96.0\nrelease: 1.96.0\nhost: x"), Some((1, 96)));
        assert_eq!(version("nonsense"), None);
    }
}
