//! Echoes what is typed on its serial line until Ctrl-D, with which it ends; Ctrl-R resets the machine.
#![no_std]
#![no_main]

use guests::{
    memory::{inb, outb},
    report::Report,
};

guests::entry!(long64, main);

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const DATA_READY: u8 = 1;
const TRANSMITTER_READY: u8 = 1 << 5;
const EXIT_PORT: u16 = 0xf4;
const PASS: u8 = 0x10;
const RESET_CONTROL: u16 = 0xcf9;
const RESET: u8 = 6;

const CTRL_D: u8 = 4;
const CTRL_R: u8 = 0x12;

fn send(byte: u8) {
    while inb(LINE_STATUS) & TRANSMITTER_READY == 0 {
        core::hint::spin_loop();
    }
    outb(COM1, byte);
}

extern "C" fn main(_memory: u64) -> ! {
    Report::new("echo").note(format_args!("listens"));
    loop {
        if inb(LINE_STATUS) & DATA_READY == 0 {
            core::hint::spin_loop();
            continue;
        }
        match inb(COM1) {
            CTRL_D => outb(EXIT_PORT, PASS),
            CTRL_R => outb(RESET_CONTROL, RESET),
            b'\r' => b"\r\n".iter().for_each(|byte| send(*byte)),
            byte => send(byte),
        }
    }
}
