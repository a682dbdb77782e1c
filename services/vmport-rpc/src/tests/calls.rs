//! The register values of every operation, as clients insist on them (facts, sections 3.3 and 10).

use super::*;
use crate::channels::MESSAGE_BYTES;
use crate::layout::CHANNELS;
use crate::tclo::PAUSE;
use portcullis_ipc::port::{MAGIC, PortCall, PortReply, register};
use portcullis_ipc::proto::vmport::HighBandwidth;

/// A guest: registers in, registers out.
pub struct Guest {
    pub channels: Channels<Region>,
    pub outside: Model,
    pub sequence: u64,
}

/// An open channel as a client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    pub id: u32,
    pub high: u32,
    pub low: u32,
}

pub const RPCI: u32 = 0x4943_5052;
pub const TCLO: u32 = 0x4f4c_4354;
pub const COOKIE: u32 = 1 << 31;
pub const FAILED: &[(usize, u32)] = &[(register::ECX, 0)];
pub const DONE: &[(usize, u32)] = &[(register::ECX, 0x1_0000)];
pub const SENDING: &[(usize, u32)] = &[(register::ECX, 0x81_0000)];

/// Registers that a reply writes.
pub fn written(reply: &PortReply) -> Vec<(usize, u32)> {
    let values = reply.values.iter().map(|value| u32::from_le_bytes(*value)).enumerate();
    values.filter(|(index, _)| reply.mask & 1 << index != 0).collect()
}

impl Guest {
    pub fn new() -> Self {
        Self { channels: channels(), outside: Model::default(), sequence: 0 }
    }

    pub fn port_call(&mut self, kind: u32, ebx: u32, edx: u32, esi: u32, edi: u32) -> PortCall {
        self.sequence += 1;
        let registers = [MAGIC, ebx, kind << 16 | 30, edx << 16 | 0x5658, esi, edi, 0].map(u32::to_le_bytes);
        PortCall { sequence: self.sequence.to_le_bytes(), vcpu: 0, width: 4, input: 1, cpl: 3, registers }
    }

    pub fn call(&mut self, kind: u32, ebx: u32, edx: u32, esi: u32, edi: u32) -> Vec<(usize, u32)> {
        let call = self.port_call(kind, ebx, edx, esi, edi);
        written(&self.channels.message(&call, &mut self.outside))
    }

    pub fn on(&mut self, open: Open, kind: u32, ebx: u32) -> Vec<(usize, u32)> {
        self.call(kind, ebx, open.id, open.high, open.low)
    }

    pub fn open(&mut self, protocol: u32) -> Option<Open> {
        let reply = self.call(0, protocol, 0, 7, 8);
        if reply == FAILED {
            return None;
        }
        let value = |index| reply.iter().find(|(register, _)| *register == index).map(|(_, value)| *value);
        assert_eq!(value(register::ECX), Some(0x1_0000));
        let edx = value(register::EDX).unwrap();
        assert_eq!(edx & 0xffff, 0);
        let cookie = protocol & COOKIE != 0;
        assert_eq!(value(register::ESI).is_some(), cookie);
        let (high, low) = (value(register::ESI).unwrap_or(7), value(register::EDI).unwrap_or(8));
        Some(Open { id: edx >> 16, high, low })
    }

    pub fn send(&mut self, open: Open, message: &[u8]) {
        assert_eq!(self.on(open, 1, message.len() as u32), SENDING);
        for piece in message.chunks(4) {
            let mut bytes = [0; 4];
            bytes[..piece.len()].copy_from_slice(piece);
            assert_eq!(self.on(open, 2, u32::from_le_bytes(bytes)), DONE);
        }
    }

    /// The waiting message, if there is one.
    pub fn receive(&mut self, open: Open) -> Option<Vec<u8>> {
        let reply = self.on(open, 3, 0);
        if reply == DONE {
            return None;
        }
        let [(register::EBX, length), (register::ECX, 0x83_0000), (register::EDX, 0x1_0000)] = reply[..] else {
            panic!("{reply:x?}");
        };
        let mut message = Vec::new();
        while message.len() < length as usize {
            let reply = self.on(open, 4, 1);
            let [(register::EBX, word), (register::ECX, 0x1_0000), (register::EDX, 0x2_0000)] = reply[..] else {
                panic!("{reply:x?}");
            };
            message.extend(word.to_le_bytes());
        }
        assert!(message[length as usize..].iter().all(|byte| *byte == 0));
        message.truncate(length as usize);
        assert_eq!(self.on(open, 4, 1), FAILED, "nothing is beyond the end");
        assert_eq!(self.on(open, 5, 1), DONE);
        Some(message)
    }

    pub fn rpc(&mut self, open: Open, request: &[u8]) -> Vec<u8> {
        self.send(open, request);
        self.receive(open).unwrap()
    }

    /// A string at the high-bandwidth port in pieces of `piece` bytes; `Err` when it failed.
    pub fn string(&mut self, open: Open, input: bool, bytes: &mut [u8], piece: usize) -> Result<(), ()> {
        let mut done = 0;
        while done < bytes.len() {
            self.sequence += 1;
            let mut registers = [MAGIC, 0x1_0000, 0, open.id << 16 | 0x5659, 0x1111, 0x2222, 0];
            if input {
                (registers[register::ESI], registers[register::EBP]) = (open.high, open.low);
            } else {
                (registers[register::EBP], registers[register::EDI]) = (open.high, open.low);
            }
            let registers = registers.map(u32::to_le_bytes);
            let count = (bytes.len() - done) as u64;
            let end = bytes.len().min(done + piece);
            let lent = (end - done) as u16;
            let request = HighBandwidth { sequence: self.sequence, vcpu: 0, input, cpl: 3, registers, count, lent };
            let moved = self.channels.string(&request, &mut bytes[done..end], &mut self.outside);
            if moved.ebx == 0 {
                assert_eq!(moved.moved, count);
                return Err(());
            }
            assert_eq!(moved.ebx, 0x1_0000);
            done += moved.moved as usize;
        }
        Ok(())
    }

    pub fn rpc_by_string(&mut self, open: Open, request: &[u8], piece: usize) -> Vec<u8> {
        assert_eq!(self.on(open, 1, request.len() as u32), SENDING);
        self.string(open, false, &mut request.to_vec(), piece).unwrap();
        let reply = self.on(open, 3, 0);
        let mut message = vec![0; reply[0].1 as usize];
        self.string(open, true, &mut message, piece).unwrap();
        assert_eq!(self.on(open, 5, 1), DONE);
        message
    }
}

#[test]
fn requests_get_exactly_the_replies_that_clients_depend_on() {
    let table: &[(&[u8], &[u8])] = &[
        (b"info-get guestinfo.missing", b"0 No value found"),
        (b"info-set guestinfo.a b c", b"1 "),
        (b"info-get guestinfo.a", b"1 b c"),
        (b"info-get GuestInfo.A\0", b"1 b c"),
        (b"info-set guestinfo.A  x\ny\xc3\xa9 \0tail\0\0", b"1 "),
        (b"info-get guestinfo.a", "1  x\nyé ".as_bytes()),
        (b"info-set guestinfo.a ", b"0 Two and exactly two arguments expected"),
        (b"info-set guestinfo.a \0", b"0 Two and exactly two arguments expected"),
        (b"info-set machine.id 5", b"0 Permission denied"),
        (b"SetGuestInfo  4 build-1\0", b"1 "),
        (b"SetGuestDiskInfo {\"version\":\"1\"}", b"1 "),
        (b"tools.set.version 2147483647", b"1 "),
        (b"log vmx: hello\nworld", b"1 "),
        (b"nonsense", b"0 Unknown command"),
        (b"", b"0 Unknown command"),
        (b"guestlib.info.get 3", b"0 Unknown command"),
    ];
    for piece in [0, 3, 4096] {
        let mut guest = Guest::new();
        let open = guest.open(RPCI | COOKIE).unwrap();
        for (request, reply) in table {
            let said = if piece == 0 || request.is_empty() {
                guest.rpc(open, request)
            } else {
                guest.rpc_by_string(open, request, piece)
            };
            assert_eq!(said, *reply, "{}", request.escape_ascii());
        }
        assert_eq!(guest.outside.lines, [b"vmx: hello\nworld"]);
    }
}

#[test]
fn a_message_may_have_64_kib_and_no_more() {
    let mut guest = Guest::new();
    let open = guest.open(RPCI | COOKIE).unwrap();
    assert_eq!(guest.on(open, 1, MESSAGE_BYTES + 1), FAILED);
    assert_eq!(guest.on(open, 1, u32::MAX), FAILED);
    let mut request = b"info-set guestinfo.long ".to_vec();
    request.resize(MESSAGE_BYTES as usize, b'v');
    assert_eq!(guest.rpc_by_string(open, &request, 4096), b"1 ");
    let reply = guest.rpc_by_string(open, b"info-get guestinfo.long", 4096);
    assert_eq!((&reply[..2], &reply[2..]), (&b"1 "[..], &request[24..]));
    assert_eq!(guest.rpc(open, b"info-get guestinfo.long"), reply);
}

#[test]
fn an_operation_without_the_cookie_fails_and_leaves_the_channel_as_it_is() {
    let mut guest = Guest::new();
    let open = guest.open(RPCI | COOKIE).unwrap();
    assert_eq!(guest.on(open, 1, 8), SENDING);
    for wrong in [Open { high: open.high ^ 1, ..open }, Open { low: open.low ^ 1, ..open }, Open { id: 1, ..open }] {
        for kind in 1..=6 {
            assert_eq!(guest.on(wrong, kind, 1), FAILED);
        }
        assert!(guest.string(wrong, false, &mut [0; 8], 8).is_err());
    }
    for id in [128, 0xffff] {
        assert_eq!(guest.on(Open { id, ..open }, 6, 0), FAILED);
    }
    guest.string(open, false, &mut b"nonsense".to_vec(), 8).unwrap();
    assert_eq!(guest.receive(open).unwrap(), b"0 Unknown command");
    let plain = guest.open(RPCI).unwrap();
    assert_eq!(guest.rpc(Open { high: 99, low: 98, ..plain }, b"x"), b"0 Unknown command");
}

#[test]
fn the_table_of_channels_ends_with_a_failed_open_and_a_closed_channel_is_free_again() {
    let mut guest = Guest::new();
    let all: Vec<Open> = (0..CHANNELS).map(|_| guest.open(RPCI | COOKIE).unwrap()).collect();
    assert_eq!(guest.open(RPCI | COOKIE), None);
    assert_eq!(guest.open(RPCI), None);
    assert_eq!(guest.on(all[77], 6, 0), DONE);
    assert_eq!(guest.on(all[77], 6, 0), FAILED);
    assert_eq!(guest.open(TCLO).map(|open| open.id), Some(77));
    assert_eq!(guest.open(0x1234), None);
    assert_eq!(guest.call(7, 0, 0, 0, 0), FAILED);
}

#[test]
fn a_new_size_discards_what_was_sent_and_the_reply_that_was_not_taken() {
    let mut guest = Guest::new();
    let open = guest.open(RPCI).unwrap();
    assert_eq!(guest.on(open, 1, 100), SENDING);
    assert_eq!(guest.on(open, 2, 0x6161_6161), DONE);
    assert_eq!(guest.rpc(open, b"log x"), b"1 ");
    guest.send(open, b"log y");
    guest.send(open, b"nonsense");
    let reply = guest.on(open, 3, 0);
    assert_eq!(guest.on(open, 4, 1)[0].1, u32::from_le_bytes(*b"0 Un"));
    assert_eq!(guest.on(open, 3, 0), reply, "the size is told again");
    assert_eq!(guest.on(open, 4, 1)[0].1, u32::from_le_bytes(*b"0 Un"), "and the message starts again");
    assert_eq!(guest.on(open, 4, 0), DONE, "the guest gives up");
    assert_eq!(guest.on(open, 3, 0), DONE);
    assert_eq!(guest.on(open, 5, 1), FAILED);
    assert_eq!(guest.on(open, 2, 0), FAILED);
}

#[test]
fn a_string_must_fit_what_is_to_be_moved() {
    let mut guest = Guest::new();
    let open = guest.open(RPCI | COOKIE).unwrap();
    assert!(guest.string(open, false, &mut [0; 4], 4).is_err(), "nothing announced");
    assert_eq!(guest.on(open, 1, 8), SENDING);
    assert!(guest.string(open, false, &mut [0; 9], 4).is_err(), "longer than announced");
    guest.string(open, false, &mut b"nons".to_vec(), 4).unwrap();
    guest.string(open, false, &mut b"ense".to_vec(), 4).unwrap();
    assert!(guest.string(open, false, &mut [0; 1], 4).is_err(), "complete already");
    assert!(guest.string(open, true, &mut [0; 18], 4).is_err(), "longer than the reply");
    let mut reply = [0; 17];
    guest.string(open, true, &mut reply, 4).unwrap();
    assert_eq!(&reply, b"0 Unknown command");
}

#[test]
fn the_host_speaks_first_on_tclo_and_waits_for_each_result() {
    let mut guest = Guest::new();
    let open = guest.open(TCLO | COOKIE).unwrap();
    assert_eq!(guest.on(open, 1, 0), SENDING);
    assert_eq!(guest.on(open, 3, 0), [(register::EBX, 5), (register::ECX, 0x83_0000), (register::EDX, 0x1_0000)]);
    assert_eq!(guest.receive(open).unwrap(), b"reset");
    assert_eq!(guest.receive(open), None);
    guest.send(open, b"OK ATR toolbox");
    assert_eq!(guest.receive(open).unwrap(), b"Capabilities_Register");
    guest.send(open, b"OK ");
    let rpci = guest.open(RPCI).unwrap();
    assert_eq!(guest.rpc(rpci, b"vmx.set_option synctime 0 1"), b"1 ");
    assert!(guest.channels.synchronizes());
    assert_eq!(guest.on(open, 1, 0), SENDING);
    assert_eq!(guest.receive(open).unwrap(), b"Set_Option synctime 1");
    guest.send(open, b"ERROR Unknown or invalid option");
    assert_eq!(guest.on(open, 1, 0), SENDING);
    assert_eq!(guest.receive(open), None);
}

#[test]
fn a_result_that_does_not_come_is_lost_and_the_reset_is_given_again() {
    let mut guest = Guest::new();
    let open = guest.open(TCLO).unwrap();
    for _ in 0..2 {
        assert_eq!(guest.receive(open).unwrap(), b"reset");
        assert_eq!(guest.on(open, 1, 0), SENDING);
    }
}

#[test]
fn a_second_program_of_a_name_is_refused_as_long_as_the_first_polls() {
    fn named(guest: &mut Guest, name: &str) -> Open {
        let open = guest.open(TCLO | COOKIE).unwrap();
        assert_eq!(guest.receive(open).unwrap(), b"reset");
        guest.send(open, format!("OK ATR {name}\0").as_bytes());
        open
    }
    let mut guest = Guest::new();
    let (first, other) = (named(&mut guest, "toolbox"), named(&mut guest, "toolbox-dnd"));
    guest.outside.second = PAUSE;
    let second = named(&mut guest, "toolbox");
    assert_eq!(guest.outside.refused, [b"toolbox"]);
    assert_eq!(guest.on(second, 3, 0), FAILED);
    assert_eq!(guest.on(second, 1, 0), FAILED);
    for open in [first, other] {
        assert_eq!(guest.receive(open).unwrap(), b"Capabilities_Register");
        guest.send(open, b"OK ");
    }
    guest.outside.second += PAUSE + 1;
    let third = named(&mut guest, "toolbox");
    assert_eq!(guest.receive(third).unwrap(), b"Capabilities_Register", "the first is gone");
    assert_eq!(guest.on(first, 1, 0), FAILED);
    assert_eq!(guest.on(other, 1, 0), SENDING);
    assert_eq!(guest.receive(other).unwrap(), b"reset", "the other name is another program's");
    assert_eq!(guest.outside.refused.len(), 1);
}

#[test]
fn a_program_keeps_its_name_when_it_is_reset() {
    let mut guest = Guest::new();
    let open = guest.open(TCLO).unwrap();
    for second in [0, 20] {
        guest.outside.second = second;
        assert_eq!(guest.on(open, 1, 0), SENDING);
        assert_eq!(guest.receive(open).unwrap(), b"reset");
        guest.send(open, b"OK ATR toolbox");
        assert_eq!(guest.receive(open).unwrap(), b"Capabilities_Register");
        guest.send(open, b"OK ");
    }
    assert!(guest.outside.refused.is_empty());
}

#[test]
fn what_the_tools_tell_is_kept_for_the_host_alone_and_text_is_told_when_it_is_new() {
    let mut guest = Guest::new();
    let open = guest.open(RPCI).unwrap();
    for name in ["debian\0", "debian\0", "debian-two\0"] {
        assert_eq!(guest.rpc(open, format!("SetGuestInfo  1 {name}").as_bytes()), b"1 ");
    }
    assert_eq!(guest.outside.told, [("host name", b"debian".to_vec()), ("host name", b"debian-two".to_vec())]);
    assert_eq!(guest.channels.store.entries(), 1);
    let free = guest.channels.store.free_blocks;
    for statistics in [&[b"SetGuestInfo  8 ", &[0; 900][..]].concat(), &[b"SetGuestInfo  8 ", &[1; 900][..]].concat()] {
        assert_eq!(guest.rpc(open, statistics), b"1 ");
        assert_eq!(guest.channels.store.free_blocks, free - 4, "the last one only");
    }
    assert_eq!(guest.rpc(open, &[b"SetGuestInfo  10 ", &[1; 20_000][..]].concat()), b"1 ", "too long to be kept");
    assert_eq!(guest.rpc(open, b"SetGuestInfo  99 a"), b"1 ");
    assert_eq!((guest.channels.store.entries(), guest.outside.told.len()), (2, 2));
    assert_eq!(guest.rpc(open, b"info-get guestinfo.SetGuestInfo  1"), b"0 No value found");
    for key in 0..KEYS - 2 {
        assert_eq!(guest.rpc(open, format!("info-set guestinfo.k{key} v").as_bytes()), b"1 ");
    }
    assert_eq!(guest.rpc(open, b"info-set guestinfo.another v"), b"0 Too many keys");
    assert_eq!(guest.rpc(open, b"SetGuestInfo  4 build-1"), b"1 ", "which the guest needs to know nothing of");
}

#[test]
fn of_a_structure_that_the_tools_tell_the_text_is_shown_and_never_its_bytes() {
    // As open-vm-tools lays it out: version, names of 129 and 513 bytes, two bytes of padding, details.
    let mut detailed = 1_u32.to_le_bytes().to_vec();
    detailed.extend(b"debian12-64");
    detailed.resize(4 + 129, 0);
    detailed.extend(b"Debian GNU/Linux 12 (bookworm)");
    detailed.resize(4 + 129 + 513 + 2, 0);
    detailed.extend(b"architecture='X86' bitness='64'\0");
    let mut other = detailed.clone();
    other[0] = 2;
    let cut = &detailed[..600];
    let table: [(u8, &[u8], &[u8]); 6] = [
        (11, &detailed, b"Debian GNU/Linux 12 (bookworm)"),
        (11, &other, b"(680 bytes)"),
        (11, cut, b"(600 bytes)"),
        (11, b"architecture='X86'\0", b"architecture='X86'"),
        (5, &[0, 1, 2], b"(3 bytes)"),
        (1, b"de\x1b[2Jbian\0", b"(11 bytes)"),
    ];
    for (number, value, shown) in table {
        let mut guest = Guest::new();
        let open = guest.open(RPCI).unwrap();
        let message = [format!("SetGuestInfo  {number} ").as_bytes(), value].concat();
        assert_eq!(guest.rpc(open, &message), b"1 ");
        let told: Vec<&[u8]> = guest.outside.told.iter().map(|(_, value)| value.as_slice()).collect();
        assert_eq!(told, [shown]);
    }
}

#[test]
fn idle_channels_are_swept_and_one_that_polls_is_asked_whether_it_is_there() {
    let mut guest = Guest::new();
    let rpci = guest.open(RPCI).unwrap();
    let tclo = guest.open(TCLO).unwrap();
    assert_eq!(guest.receive(tclo).unwrap(), b"reset");
    guest.send(tclo, b"OK ATR toolbox");
    assert_eq!(guest.receive(tclo).unwrap(), b"Capabilities_Register");
    guest.send(tclo, b"OK ");
    for second in (0..=80).step_by(10) {
        guest.outside.second = second;
        assert_eq!(guest.on(tclo, 1, 0), SENDING);
        assert_eq!(guest.channels.sweep(second), 0);
        let expected = (second == 60).then(|| b"ping".to_vec());
        assert_eq!(guest.receive(tclo), expected, "{second}");
        if expected.is_some() {
            guest.send(tclo, b"OK ");
        }
    }
    assert_eq!(guest.channels.sweep(81), 1);
    assert_eq!(guest.on(rpci, 1, 0), FAILED);
    guest.outside.second = 100;
    assert_eq!(guest.on(tclo, 1, 0), SENDING);
    assert_eq!(guest.receive(tclo).unwrap(), b"reset", "the machine stood still");
}

#[test]
fn a_call_given_again_is_answered_from_the_record_also_by_the_next_instance() {
    let mut guest = Guest::new();
    let open = guest.open(RPCI | COOKIE).unwrap();
    assert_eq!(guest.on(open, 1, 8), SENDING);
    let call = guest.port_call(2, u32::from_le_bytes(*b"nons"), open.id, open.high, open.low);
    let first = guest.channels.message(&call, &mut guest.outside);
    assert_eq!(guest.channels.message(&call, &mut guest.outside), first);
    let region = guest.channels.store.journal.region().clone();
    guest.channels.store = super::open(region);
    assert_eq!(guest.channels.message(&call, &mut guest.outside), first);
    assert_eq!(guest.on(open, 2, u32::from_le_bytes(*b"ense")), DONE);
    assert_eq!(guest.receive(open).unwrap(), b"0 Unknown command");
}

#[test]
fn a_machine_reset_closes_every_channel_once_and_keeps_guestinfo() {
    let mut guest = Guest::new();
    let open = guest.open(RPCI).unwrap();
    assert_eq!(guest.rpc(open, b"info-set guestinfo.a b"), b"1 ");
    guest.channels.machine_reset(7);
    assert_eq!(guest.on(open, 1, 0), FAILED);
    let open = guest.open(RPCI).unwrap();
    guest.channels.machine_reset(7);
    assert_eq!(guest.rpc(open, b"info-get guestinfo.a"), b"1 b");
    guest.channels.machine_reset(8);
    assert_eq!(guest.open(RPCI), Some(open));
}

#[test]
fn an_empty_pool_is_a_failed_size_and_its_end_gives_memory_back() {
    let mut guest = Guest::new();
    let mut open = Vec::new();
    loop {
        let channel = guest.open(RPCI).unwrap();
        open.push(channel);
        if guest.on(channel, 1, MESSAGE_BYTES) == FAILED {
            break;
        }
    }
    assert!(open.len() > 4);
    guest.outside.second = 81;
    assert_eq!(guest.channels.sweep(81), open.len() as u32);
    assert_eq!(guest.channels.store.free_blocks, guest.channels.store.layout.blocks);
}

/// What a running guest sees never changes under it (R12): platform version 1. Cookies are left out.
#[test]
fn every_reply_of_a_conversation_is_that_of_platform_version_1() {
    let mut guest = Guest::new();
    let mut text = String::new();
    let mut note = |what: &str, reply: &[(usize, u32)]| {
        let reply: Vec<_> = reply.iter().filter(|(register, _)| *register < register::ESI).collect();
        text.push_str(&format!("{what} {reply:x?}\n"));
    };
    for (name, protocol) in [("RPCI", RPCI), ("RPCI with cookie", RPCI | COOKIE), ("TCLO", TCLO), ("other", 1)] {
        note(&format!("open {name}"), &guest.call(0, protocol, 0, 0, 0));
    }
    let requests: [&[u8]; 16] = [
        b"info-get guestinfo.a",
        b"info-set guestinfo.a b c",
        b"info-get guestinfo.a",
        b"info-get",
        b"info-set guestinfo.a",
        b"info-set other.a b",
        b"log a",
        b"SetGuestInfo  4 build-1\0",
        b"SetGuestDiskInfo {}",
        b"tools.capability.statechange ",
        b"tools.set.version 2147483647",
        b"vmx.capability.unified_loop toolbox",
        b"vmx.set_option synctime 0 1",
        b"update.tools.health normal",
        b"guest.log.state",
        b"",
    ];
    let plain = Open { id: 0, high: 0, low: 0 };
    for request in requests {
        note(&format!("size of {:?}", request.escape_ascii().to_string()), &guest.on(plain, 1, request.len() as u32));
        for piece in request.chunks(4) {
            let mut bytes = [0; 4];
            bytes[..piece.len()].copy_from_slice(piece);
            note("  payload", &guest.on(plain, 2, u32::from_le_bytes(bytes)));
        }
        let reply = guest.on(plain, 3, 0);
        note("  receive size", &reply);
        for _ in 0..reply[0].1.div_ceil(4) {
            note("  receive payload", &guest.on(plain, 4, 1));
        }
        note("  receive status", &guest.on(plain, 5, 1));
    }
    let tclo = Open { id: 2, ..plain };
    for (kind, ebx) in [(1, 0), (3, 0), (4, 1), (4, 1), (5, 1), (3, 0), (1, 0), (3, 0), (6, 0), (6, 0), (9, 0)] {
        note(&format!("tclo {kind} {ebx}"), &guest.on(tclo, kind, ebx));
    }
    for (kind, ebx) in [(1, 65_537), (2, 0), (4, 1), (5, 1)] {
        note(&format!("refused {kind} {ebx}"), &guest.on(plain, kind, ebx));
    }
    assert_eq!(text, include_str!("../../golden/channels-1.txt"));
}

#[test]
fn spellings_of_a_number_that_a_guest_invents_take_no_entries() {
    let mut guest = Guest::new();
    let open = guest.open(RPCI | COOKIE).unwrap();
    for spelling in 0..300 {
        let zeros = "0".repeat(spelling % 251);
        for number in ["7", "+7", "15"] {
            let request = format!("SetGuestInfo  {zeros}{number} {spelling}");
            assert_eq!(guest.rpc(open, request.as_bytes()), b"1 ");
        }
    }
    assert_eq!(guest.channels.store.entries(), 2, "7 and 15 as they are spelled");
    assert_eq!(guest.rpc(open, b"info-set guestinfo.a b"), b"1 ");
}
