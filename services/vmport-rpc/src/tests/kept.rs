//! What an instance finds: guestinfo of the image, and the form of the state.

use super::calls::{Guest, RPCI};
use super::{Channels, KEYS, open};
use crate::channel::{Channel, flag, protocol, state};
use crate::guestinfo::{Entry, hash};
use crate::preset::Omitted;
use crate::record::{Record, kind};
use crate::text::Text;
use portcullis_ipc::guestinfo::{Invalid, TOTAL_BYTES, VALUE_BYTES, write};
use portcullis_ipc::port::{PortReply, register};

fn blob(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(entries.iter().map(|(key, value)| (key.as_bytes(), *value)), &mut bytes).unwrap();
    bytes
}

#[test]
fn guestinfo_of_the_image_is_there_at_the_first_call_and_is_taken_over_once() {
    let mut guest = Guest::new();
    let bytes = blob(&[("metadata", b"instance-id: a\n"), ("Long", &[7; VALUE_BYTES]), ("metadata", b"second")]);
    assert_eq!(guest.channels.preset(&bytes), Ok(3));
    let open_channel = guest.open(RPCI).unwrap();
    assert_eq!(guest.rpc(open_channel, b"info-get guestinfo.METADATA"), b"1 second");
    let long = guest.rpc_by_string(open_channel, b"info-get guestinfo.long", 4096);
    assert_eq!((&long[..2], &long[2..]), (&b"1 "[..], &[7; VALUE_BYTES][..]));
    assert_eq!(guest.rpc(open_channel, b"info-set guestinfo.metadata ---"), b"1 ");
    guest.channels = Channels { store: open(guest.channels.store.journal.region().clone()) };
    assert_eq!(guest.channels.preset(&bytes), Ok(0));
    assert_eq!(guest.rpc(open_channel, b"info-get guestinfo.metadata"), b"1 ---");
}

#[test]
fn an_entry_that_does_not_fit_is_named_and_those_before_it_are_kept() {
    let names: Vec<String> = (0..=KEYS).map(|index| format!("key{index}")).collect();
    let entries: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"v"[..])).collect();
    let mut guest = Guest::new();
    assert_eq!(guest.channels.preset(&blob(&entries)), Err((KEYS, Omitted::Keys)));
    assert_eq!(guest.channels.store.entries(), KEYS);
    let large: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &[1; VALUE_BYTES][..])).collect();
    let mut guest = Guest::new();
    let (kept, why) = guest.channels.preset(&blob(&large)).unwrap_err();
    assert_eq!(why, Omitted::Bytes);
    assert!(kept > 0 && guest.channels.store.info_blocks <= guest.channels.store.most_info_blocks());
    let mut guest = Guest::new();
    let mut damaged = blob(&[("a", b"b"), ("c", b"d")]);
    damaged.pop();
    assert_eq!(guest.channels.preset(&damaged), Err((1, Omitted::Invalid(Invalid::Length))));
    assert_eq!(guest.channels.preset(b"PCG"), Ok(0), "it is not read twice");
}

#[test]
fn a_guest_cannot_set_more_than_its_share_of_the_pool() {
    let mut guest = Guest::new();
    let channel = guest.open(RPCI).unwrap();
    let mut replies = Vec::new();
    for index in 0..KEYS {
        let request = [format!("info-set guestinfo.key{index} ").as_bytes(), &[b'v'; 60_000]].concat();
        replies.push(guest.rpc_by_string(channel, &request, 4096));
    }
    let kept = replies.iter().take_while(|reply| **reply == b"1 ").count();
    assert!((1..KEYS).contains(&kept));
    assert!(replies[kept..].iter().all(|reply| *reply == b"0 Value too long"));
    assert!(kept * 60_000 <= TOTAL_BYTES);
    assert_eq!(guest.rpc(channel, b"info-set guestinfo.key0 short"), b"1 ", "a shorter value makes room");
    assert_eq!(guest.rpc(channel, b"info-set guestinfo.another short"), b"1 ");
}

/// Saved state of version 1 reads back: an instance of another build finds these words.
#[test]
fn the_state_has_the_form_of_version_1() {
    let channel = Channel {
        cookie: 0x1122_3344_5566_7788,
        length: 100,
        position: 4,
        start: 21,
        active: 77,
        head: 5,
        block: 6,
        state: state::WAITING,
        protocol: protocol::TCLO,
        flags: flag::COOKIE | flag::SHARED,
        text: Text::Done as u8,
        pending: 1,
        outstanding: 2,
        lost: 3,
        reserved: 0,
        answered: 9,
        name: 10,
        spare: 0,
    };
    let words = [0x1122_3344_5566_7788, 4 << 32 | 100, 77 << 32 | 21, 0x0103_0203_0006_0005, 9 << 32 | 0x03_0201, 10];
    assert_eq!((channel.words(), Channel::from_words(words)), (words, channel));
    let reply = PortReply::UNCHANGED.with(register::ECX, 0x1_0000).with(register::EDX, 7);
    let record = Record { channel: 8, moved: 4_096, ..Record::port(99, &reply) };
    let words = [99, 4_096 << 32 | 8 << 16 | 0b1100 << 8 | u64::from(kind::PORT), 0, 7 << 32 | 0x1_0000, 0];
    assert_eq!((record.words(), Record::from_words(words)), (words, record));
    let entry = Entry { head: 1, key: 19, key_length: 2, value: 22, value_length: 5, hash: hash(b"Ab") };
    let words = [22 << 48 | 2 << 32 | 19 << 16 | 1, 0x4d25_05ca << 32 | 5];
    assert_eq!((entry.words(), Entry::from_words(words)), (words, entry));
}
