//! Random guests: against a map as the model of guestinfo, and with an end at every store of every call.

use super::calls::{COOKIE, FAILED, Guest, Open, RPCI, SENDING, TCLO};
use super::{Channels, Model, Region, open};
use crate::channel::{Channel, state};
use crate::layout::CHANNELS;
use portcullis_ipc::port::{MAGIC, PortCall, register};
use portcullis_ipc::proto::vmport::HighBandwidth;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What a guest program does.
#[derive(Clone, Debug)]
enum Act {
    Set {
        channel: usize,
        key: u8,
        length: usize,
        seed: u8,
        piece: usize,
    },
    Get {
        channel: usize,
        key: u8,
        piece: usize,
    },
    /// Sends part of a message and turns to something else.
    Begin {
        channel: usize,
        length: u32,
        sent: usize,
    },
    /// Asks for a value and reads part of it.
    Peek {
        channel: usize,
        key: u8,
        read: usize,
    },
    Reopen {
        channel: usize,
    },
    /// The service is started anew.
    Restart,
    Sweep,
}

fn act() -> impl Strategy<Value = Act> {
    let channel = 0usize..4;
    let piece = prop_oneof![Just(0usize), 1usize..600];
    prop_oneof![
        4 => (channel.clone(), 0u8..20, 1usize..900, any::<u8>(), piece.clone())
            .prop_map(|(channel, key, length, seed, piece)| Act::Set { channel, key, length, seed, piece }),
        4 => (channel.clone(), 0u8..20, piece).prop_map(|(channel, key, piece)| Act::Get { channel, key, piece }),
        1 => (channel.clone(), 0u32..70_000, 0usize..900)
            .prop_map(|(channel, length, sent)| Act::Begin { channel, length, sent }),
        2 => (channel.clone(), 0u8..20, 0usize..900)
            .prop_map(|(channel, key, read)| Act::Peek { channel, key, read }),
        1 => channel.prop_map(|channel| Act::Reopen { channel }),
        1 => Just(Act::Restart),
        1 => Just(Act::Sweep),
    ]
}

fn value(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|index| 1 + ((index * 7 + usize::from(seed)) % 255) as u8).collect()
}

fn ask(guest: &mut Guest, open: Open, request: &[u8], piece: usize) -> Vec<u8> {
    if piece == 0 { guest.rpc(open, request) } else { guest.rpc_by_string(open, request, piece) }
}

/// What the store counts as free and held is what a look at all of it finds.
fn check_counts(guest: &Guest) {
    let seen = open(guest.channels.store.journal.region().clone());
    let store = &guest.channels.store;
    let counts = |store: &crate::store::Store<Region>| (store.free_blocks, store.info_blocks, store.info_bytes);
    assert_eq!(counts(store), counts(&seen));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn guestinfo_is_a_map_whatever_else_the_guest_does(acts in prop::collection::vec(act(), 1..60)) {
        let mut guest = Guest::new();
        let mut model: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        let mut channels: Vec<Open> = (0..4).map(|_| guest.open(RPCI | COOKIE).unwrap()).collect();
        for act in acts {
            match act {
                Act::Set { channel, key, length, seed, piece } => {
                    let value = value(length, seed);
                    let request = [format!("info-set guestinfo.Key{key} ").as_bytes(), &value].concat();
                    let reply = ask(&mut guest, channels[channel], &request, piece);
                    if model.len() == super::KEYS && !model.contains_key(&key) {
                        prop_assert_eq!(reply, b"0 Too many keys");
                    } else {
                        prop_assert_eq!(reply, b"1 ");
                        model.insert(key, value);
                    }
                }
                Act::Get { channel, key, piece } => {
                    let request = format!("info-get guestinfo.kEY{key}\0");
                    let reply = ask(&mut guest, channels[channel], request.as_bytes(), piece);
                    match model.get(&key) {
                        Some(value) => prop_assert_eq!(&reply, &[&b"1 "[..], value].concat()),
                        None => prop_assert_eq!(reply, b"0 No value found"),
                    }
                }
                Act::Begin { channel, length, sent } => {
                    let announced = guest.on(channels[channel], 1, length);
                    if length > 65_536 {
                        prop_assert_eq!(announced, FAILED);
                    } else if announced == SENDING && sent > 0 && sent < length as usize {
                        guest.string(channels[channel], false, &mut vec![b'x'; sent], 300).unwrap();
                    }
                }
                Act::Peek { channel, key, read } => {
                    let request = format!("info-get guestinfo.key{key}");
                    guest.send(channels[channel], request.as_bytes());
                    if let Some(value) = model.get(&key) {
                        let mut seen = vec![0; read.min(value.len())];
                        if !seen.is_empty() {
                            guest.string(channels[channel], true, &mut seen, 100).unwrap();
                            let whole = [&b"1 "[..], value].concat();
                            prop_assert_eq!(&seen, &whole[..seen.len()]);
                        }
                    }
                }
                Act::Reopen { channel } => {
                    prop_assert_ne!(guest.on(channels[channel], 6, 0), FAILED);
                    channels[channel] = guest.open(RPCI | COOKIE).unwrap();
                }
                Act::Restart => {
                    let region = guest.channels.store.journal.region().clone();
                    guest.channels = Channels { store: open(region) };
                }
                Act::Sweep => prop_assert_eq!(guest.channels.sweep(0), 0),
            }
            check_counts(&guest);
        }
        for channel in channels {
            prop_assert_ne!(guest.on(channel, 6, 0), FAILED);
        }
        let store = &guest.channels.store;
        prop_assert_eq!(store.free_blocks + store.info_blocks, store.layout.blocks);
        prop_assert_eq!(store.info_bytes, model.iter().map(|(key, value)| format!("Key{key}").len() + value.len()).sum());
    }

    /// Ids, cookies, sizes and operations of every kind.
    #[test]
    fn hostile_registers_harm_nothing(
        calls in prop::collection::vec((any::<u8>(), any::<u32>(), 0u32..9, any::<bool>()), 1..200)
    ) {
        let mut guest = Guest::new();
        guest.open(RPCI);
        guest.open(TCLO);
        for (kind, ebx, id, small) in calls {
            let ebx = if small { ebx % 300 } else { ebx };
            guest.call(u32::from(kind % 8), ebx, id, 0, 0);
            if small {
                let any = Open { id, high: 0, low: 0 };
                let _ = guest.string(any, kind & 1 == 0, &mut vec![ebx as u8; ebx as usize], 64);
            }
        }
        check_counts(&guest);
    }
}

/// A call of either port, as the core or `vmexit` would give it again.
enum Call {
    Port(PortCall),
    String(HighBandwidth, Vec<u8>),
}

impl Call {
    /// Makes it; what the guest sees.
    fn make(&self, channels: &mut Channels<Region>, outside: &mut Model) -> (Vec<u8>, Vec<u8>) {
        match self {
            Self::Port(call) => {
                let reply = channels.message(call, outside);
                ([&[reply.mask][..], reply.values.as_flattened()].concat(), Vec::new())
            }
            Self::String(request, piece) => {
                let mut piece = piece.clone();
                let moved = channels.string(request, &mut piece, outside);
                (moved.ebx.to_le_bytes().to_vec(), piece)
            }
        }
    }
}

/// Everything that a guest could find out later, but where bytes lie.
fn observable(channels: &Channels<Region>) -> (Vec<Channel>, Vec<(Vec<u8>, Vec<u8>)>, usize) {
    let store = &channels.store;
    let seen = open(store.journal.region().clone());
    let read = |head, at: usize, length: usize| {
        let mut bytes = vec![0; length];
        seen.read(seen.cursor(head, at), &mut bytes);
        bytes
    };
    let table = (0..CHANNELS).map(|id| store.channel(id)).filter(|channel| channel.state != state::FREE);
    let table = table.map(|channel| Channel { head: 0, block: 0, ..channel }).collect();
    let mut entries: Vec<_> = (0..store.entries())
        .map(|index| store.entry(index))
        .map(|entry| {
            let key = read(entry.head, entry.key.into(), entry.key_length.into());
            (key, read(entry.head, entry.value.into(), entry.value_length as usize))
        })
        .collect();
    entries.sort();
    (table, entries, seen.free_blocks)
}

#[test]
fn a_call_cut_at_any_store_and_given_again_ends_as_if_it_had_not_been_cut() {
    let mut guest = Guest::new();
    let rpci = guest.open(RPCI | COOKIE).unwrap();
    let reader = guest.open(RPCI | COOKIE).unwrap();
    let tclo = guest.open(TCLO | COOKIE).unwrap();
    let long = [b"info-set guestinfo.a ".as_slice(), &value(700, 9), &[0; 400]].concat();
    let mut calls: Vec<Call> = Vec::new();
    let mut sequence = 1_000;
    let mut port = |calls: &mut Vec<Call>, open: Open, kind: u32, ebx: u32| {
        sequence += 1;
        let registers = [MAGIC, ebx, kind << 16 | 30, open.id << 16 | 0x5658, open.high, open.low, 0];
        let registers = registers.map(u32::to_le_bytes);
        let sequence = u64::to_le_bytes(sequence);
        calls.push(Call::Port(PortCall { sequence, vcpu: 1, width: 4, input: 1, cpl: 0, registers }));
    };
    let mut number = 5_000;
    let mut string = |calls: &mut Vec<Call>, open: Open, input: bool, count: usize, bytes: &[u8]| {
        number += 1;
        let mut registers = [MAGIC, 0x1_0000, 0, open.id << 16 | 0x5659, 0, 0, 0];
        registers[register::EBP] = if input { open.low } else { open.high };
        registers[if input { register::ESI } else { register::EDI }] = if input { open.high } else { open.low };
        let (registers, lent) = (registers.map(u32::to_le_bytes), bytes.len() as u16);
        let request = HighBandwidth { sequence: number, vcpu: 2, input, cpl: 3, registers, count: count as u64, lent };
        calls.push(Call::String(request, bytes.to_vec()));
    };
    let set = |calls: &mut Vec<Call>, port: &mut dyn FnMut(&mut Vec<Call>, Open, u32, u32), request: &[u8]| {
        port(calls, rpci, 1, request.len() as u32);
        for piece in request.chunks(4) {
            let mut word = [0; 4];
            word[..piece.len()].copy_from_slice(piece);
            port(calls, rpci, 2, u32::from_le_bytes(word));
        }
    };
    port(&mut calls, Open { id: 0, high: 0, low: 0 }, 0, RPCI | COOKIE);
    set(&mut calls, &mut port, b"info-set guestinfo.a first value");
    port(&mut calls, rpci, 3, 0);
    port(&mut calls, rpci, 4, 1);
    port(&mut calls, rpci, 5, 1);
    // A reader holds the value that is replaced.
    port(&mut calls, reader, 1, 20);
    string(&mut calls, reader, false, 20, b"info-get guestinfo.a");
    port(&mut calls, reader, 3, 0);
    string(&mut calls, reader, true, 13, &[0; 5]);
    port(&mut calls, rpci, 1, long.len() as u32);
    string(&mut calls, rpci, false, long.len(), &long[..600]);
    string(&mut calls, rpci, false, long.len() - 600, &long[600..]);
    string(&mut calls, reader, true, 8, &[0; 8]);
    port(&mut calls, reader, 5, 1);
    set(&mut calls, &mut port, b"vmx.set_option synctime 0 1");
    port(&mut calls, tclo, 1, 0);
    port(&mut calls, tclo, 3, 0);
    port(&mut calls, tclo, 4, 1);
    port(&mut calls, tclo, 1, 4);
    port(&mut calls, tclo, 2, u32::from_le_bytes(*b"OK A"));
    port(&mut calls, reader, 6, 0);

    for (index, call) in calls.iter().enumerate() {
        let before = guest.channels.store.journal.region().words.clone();
        let mut whole = Channels { store: open(Region { words: before.clone(), stores: Vec::new() }) };
        let (opened, mut outside) = (whole.store.journal.region().stores.len(), Model::default());
        let answer = call.make(&mut whole, &mut outside);
        assert!(matches!(call, Call::Port(_)) || answer.0 != [0; 4], "call {index} fails");
        let expected = observable(&whole);
        let stores = whole.store.journal.region().stores.clone();
        for cut in opened..=stores.len() {
            let mut words = before.clone();
            for (place, value) in &stores[..cut] {
                words[*place] = *value;
            }
            let mut next = Channels { store: open(Region { words, stores: Vec::new() }) };
            let again = call.make(&mut next, &mut Model::default());
            assert_eq!(again, answer, "call {index} cut at {cut}");
            assert_eq!(observable(&next), expected, "call {index} cut at {cut}");
        }
        guest.channels = whole;
    }
    let (_, entries, _) = observable(&guest.channels);
    assert_eq!(entries, [(b"a".to_vec(), value(700, 9))]);
}
