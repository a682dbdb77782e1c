//! The same sources give the same bytes, wherever the checkout lies.

use std::path::Path;
use std::process::Command;

/// Copies the sources of a checkout: everything but what is built there.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        if entry.file_type().unwrap().is_dir() {
            if !["target", "out", ".git"].iter().any(|built| name == *built) {
                copy(&entry.path(), &to.join(&name));
            }
        } else if name != ".git" {
            std::fs::copy(entry.path(), to.join(&name)).unwrap();
        }
    }
}

/// Puts the demonstration together in a checkout, with the tool that was built in this one.
fn image(checkout: &Path, out: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis-build"));
    command.env("CARGO_MANIFEST_DIR", checkout.join("build"));
    let status = command.args(["image", "--out"]).arg(out).status().unwrap();
    assert!(status.success());
}

#[test]
#[ignore = "compiles core and services for bare metal anew, which takes minutes"]
fn core_services_and_images_of_two_directories_are_equal_bit_for_bit() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("another place/with a longer name");
    copy(own, &other);
    let outs = [directory.path().join("own"), directory.path().join("other")];
    image(own, &outs[0]);
    image(&other, &outs[1]);
    let pair = |a: &Path, b: &Path| {
        let (first, second) = (std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
        assert!(first == second, "{} and {} differ", a.display(), b.display());
    };
    for file in ["core.elf", "bundle.img", "system.iso"] {
        pair(&outs[0].join(file), &outs[1].join(file));
    }
    // With their symbols and debug information, which the images do not carry.
    let built = Path::new("target/metal/x86_64-unknown-none/release");
    let names = ["kernel", "link", "vmexit", "vmport-rpc", "acpi-mangler", "supervisor", "migration"];
    for name in names.map(|name| format!("portcullis-{name}")) {
        pair(&own.join(built).join(&name), &other.join(built).join(&name));
        let text = String::from_utf8_lossy(&std::fs::read(own.join(built).join(&name)).unwrap()).into_owned();
        assert!(!text.contains(&*own.display().to_string()), "{name} holds the checkout's place");
    }
}
