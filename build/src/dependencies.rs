//! What the workspace depends on, from `cargo metadata`: which crates are linked into a bare-metal
//! package, under which licences, and which crates stand in the lock file more than once.

use crate::process;
use crate::workspace::TARGET;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

/// Licences that any package may have.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "Unicode-3.0",
    "BSL-1.0",
];

/// Licences of host programs only: nothing of them is linked into an image.
const HOST_LICENCES: &[&str] = &["MPL-2.0"];

/// Crates that may stand in the lock file more than once, and why it cannot be helped.
const DUPLICATES: &[(&str, &str)] = &[
    ("bitflags", "x86 0.52 needs 1.x"),
    ("cobs", "postcard needs 0.3"),
    ("embedded-io", "postcard needs two of them for its features"),
    ("hashbrown", "two hash maps of host tools' dependencies"),
    ("object", "defmt-decoder needs an older one"),
    ("raw-cpuid", "x86 0.52 needs 10.x"),
    ("spin", "postcard's heapless needs 0.9"),
    ("syn", "procedural macros move to the next version one by one"),
    ("windows-sys", "not built on this system"),
];

/// Why the dependencies cannot be judged, or what is wrong with them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Cargo failed.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// Its output is not what it prints.
    #[error("`cargo metadata` printed something unexpected: use a cargo of the workspace's rust-version or later")]
    Metadata,
    /// A licence that is not on the list.
    #[error(
        "{package} {version} has the licence `{licence}`, which is not on the list: choose another crate, or add the licence to build/src/dependencies.rs"
    )]
    Licence {
        /// Package.
        package: String,
        /// Version.
        version: String,
        /// Its expression.
        licence: String,
    },
    /// A crate in several versions.
    #[error(
        "{package} stands in Cargo.lock in the versions {versions}: make them one, or add the reason to build/src/dependencies.rs"
    )]
    Duplicate {
        /// Package.
        package: String,
        /// Versions.
        versions: String,
    },
}

/// A package of the graph.
#[derive(Clone, Debug)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SPDX expression.
    pub licence: String,
    /// Directory of its manifest.
    pub directory: PathBuf,
    /// It comes from a registry, not from this workspace.
    pub foreign: bool,
    /// It runs in the compiler.
    pub procedural: bool,
    dependencies: Vec<String>,
}

/// The graph of all packages.
#[derive(Clone, Debug)]
pub struct Graph(BTreeMap<String, Package>);

impl Graph {
    /// Reads the graph; with `metal` only what is built for the bare-metal target.
    pub fn read(metal: bool) -> Result<Self, Error> {
        let mut command = Command::new("cargo");
        command.args(["metadata", "--format-version", "1", "--locked"]).current_dir(crate::workspace::root());
        if metal {
            command.args(["--filter-platform", TARGET]);
        }
        let text = process::output(&mut command, "`cargo metadata`")?;
        let value: Value = serde_json::from_str(&text).map_err(|_| Error::Metadata)?;
        let mut packages = BTreeMap::new();
        for package in value["packages"].as_array().ok_or(Error::Metadata)? {
            packages.insert(text_of(&package["id"]), package_of(package));
        }
        for node in value["resolve"]["nodes"].as_array().ok_or(Error::Metadata)? {
            let Some(package) = packages.get_mut(&text_of(&node["id"])) else {
                continue;
            };
            let normal = |dependency: &&Value| {
                let kinds = dependency["dep_kinds"].as_array().map(Vec::as_slice).unwrap_or_default();
                kinds.iter().any(|kind| kind["kind"].is_null())
            };
            let dependencies = node["deps"].as_array().map(Vec::as_slice).unwrap_or_default();
            package.dependencies = dependencies.iter().filter(normal).map(|one| text_of(&one["pkg"])).collect();
        }
        Ok(Self(packages))
    }

    /// The packages that are linked into `name`: itself and its dependencies, procedural macros apart.
    pub fn linked(&self, name: &str) -> Vec<&Package> {
        let root = self.0.iter().find(|(_, package)| package.name == name && !package.foreign);
        let mut seen = BTreeSet::new();
        let mut waiting: Vec<&String> = root.map(|(id, _)| id).into_iter().collect();
        while let Some(id) = waiting.pop() {
            let Some(package) = self.0.get(id).filter(|package| !package.procedural) else {
                continue;
            };
            if seen.insert(id) {
                waiting.extend(&package.dependencies);
            }
        }
        seen.iter().filter_map(|id| self.0.get(*id)).collect()
    }

    fn packages(&self) -> impl Iterator<Item = &Package> {
        self.0.values()
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn package_of(value: &Value) -> Package {
    let mut directory = PathBuf::from(text_of(&value["manifest_path"]));
    directory.pop();
    let targets = value["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    Package {
        name: text_of(&value["name"]),
        version: text_of(&value["version"]),
        licence: text_of(&value["license"]),
        directory,
        foreign: !value["source"].is_null(),
        procedural: targets.iter().any(|target| target["kind"].to_string().contains("proc-macro")),
        dependencies: Vec::new(),
    }
}

/// Checks the licences of all packages and the duplicates in the lock file; returns the number of
/// packages.
pub fn check(metal_packages: &[&str]) -> Result<usize, Error> {
    let all = Graph::read(false)?;
    let metal = Graph::read(true)?;
    let linked: BTreeSet<(&str, &str)> = metal_packages
        .iter()
        .flat_map(|name| metal.linked(name))
        .map(|package| (package.name.as_str(), package.version.as_str()))
        .collect();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in all.packages() {
        let host_only = !linked.contains(&(package.name.as_str(), package.version.as_str()));
        let allowed = |licence: &str| LICENCES.contains(&licence) || host_only && HOST_LICENCES.contains(&licence);
        if !is_allowed(&package.licence, &allowed) {
            let (name, version, licence) = (&package.name, &package.version, &package.licence);
            return Err(Error::Licence { package: name.clone(), version: version.clone(), licence: licence.clone() });
        }
        versions.entry(&package.name).or_default().push(&package.version);
    }
    for (package, versions) in &versions {
        if versions.len() > 1 && !DUPLICATES.iter().any(|(known, _)| known == package) {
            return Err(Error::Duplicate { package: (*package).to_owned(), versions: versions.join(", ") });
        }
    }
    Ok(all.packages().count())
}

/// Evaluates an SPDX expression: `OR` (or `/`, its old form) needs one side, `AND` both.
fn is_allowed(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let expression = expression.trim();
    if let Some(parts) = split(expression, &[" OR ", "/"]) {
        return parts.iter().any(|part| is_allowed(part, allowed));
    }
    if let Some(parts) = split(expression, &[" AND "]) {
        return parts.iter().all(|part| is_allowed(part, allowed));
    }
    match expression.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) => is_allowed(inner, allowed),
        None => allowed(expression),
    }
}

/// Splits at the operators that stand outside parentheses; `None` when there is none.
fn split<'a>(expression: &'a str, operators: &[&str]) -> Option<Vec<&'a str>> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0usize, 0);
    for (index, character) in expression.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let rest = expression.get(index..).unwrap_or_default();
        if depth == 0
            && index >= start
            && let Some(operator) = operators.iter().find(|operator| rest.starts_with(**operator))
        {
            parts.push(expression.get(start..index)?);
            start = index + operator.len();
        }
    }
    if parts.is_empty() {
        return None;
    }
    parts.push(expression.get(start..)?);
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_evaluated_with_parentheses_and_the_old_slash() {
        let allowed = |licence: &str| ["MIT", "Unicode-3.0"].contains(&licence);
        for good in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR X) AND Unicode-3.0"] {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR X) AND Y"] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
    }
}
