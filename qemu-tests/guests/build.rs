//! Writes the linker script of each guest: a flat image that starts at its load address with the stub
//! of its entry mode.

use std::{env, fs, path::PathBuf};

/// Guests that start in real mode at 0x7c00; all others are loaded at 1 MiB.
const REAL_MODE: [&str; 2] = ["guest-exits16", "guest-port16"];
/// All guests.
const GUESTS: &[&str] = &[
    "guest-benchrpc",
    "guest-rpcgap",
    "guest-rpcloop",
    "guest-rpc",
    "guest-demo",
    "guest-exits16",
    "guest-exits32",
    "guest-exits64",
    "guest-port16",
    "guest-port32",
    "guest-port64",
    "guest-task32",
    "guest-triple",
    "guest-deadly",
    "guest-multiboot",
    "guest-fetch",
    "guest-spin",
    "guest-vectors",
    "guest-storm",
    "guest-bench",
    "guest-beacon",
    "guest-peek",
    "guest-ticker",
    "guest-absent",
    "guest-breakpoints",
    "guest-debug",
    "guest-features",
    "guest-gap",
    "guest-apart",
    "guest-echo",
    "guest-edges",
    "guest-fuzz",
    "guest-mailbox",
    "guest-pingpong",
    "guest-pulse",
    "guest-interrupts",
];

fn script(base: &str) -> String {
    format!(
        "ENTRY(guest_entry)
SECTIONS {{
    . = {base};
    .image : {{ KEEP(*(.entry)) *(.text .text.* .rodata .rodata.* .data .data.*) . = ALIGN(16); }}
    image_end = .;
    .bss : {{ *(.bss .bss.* COMMON) . = ALIGN(16); }}
    bss_end = .;
    /DISCARD/ : {{ *(.eh_frame .eh_frame_hdr .note.* .comment .gnu.hash .hash .dynsym .dynstr .dynamic .interp) }}
}}
"
    )
}

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("low.ld"), script("0x7c00")).expect("OUT_DIR is writable");
    fs::write(out.join("high.ld"), script("0x100000")).expect("OUT_DIR is writable");
    fs::write(
        out.join("firmware.ld"),
        "ENTRY(firmware)\nSECTIONS {\n . = 0xf0000;\n .image : { KEEP(*(.entry)) . = 0xfff0; KEEP(*(.reset)) . = 0x10000; }\n \
         /DISCARD/ : { *(*) }\n}\n",
    )
    .expect("OUT_DIR is writable");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-no-pie");
    println!("cargo:rustc-link-arg-bins=--oformat=binary");
    println!("cargo:rustc-link-arg-bins=--build-id=none");
    for guest in GUESTS {
        let file = if REAL_MODE.contains(guest) { "low.ld" } else { "high.ld" };
        println!("cargo:rustc-link-arg-bin={guest}=-T{}", out.join(file).display());
    }
    println!("cargo:rustc-link-arg-bin=guest-firmware=-T{}", out.join("firmware.ld").display());
}
