//! What a switch leaves is a state that an entry takes (Intel SDM volume 3, "Checks on Guest Segment Registers"), whatever
//! tasks and descriptors hold: one that is refused ends the service.

use super::*;
use portcullis_ipc::exit::event::exception;
use proptest::prelude::*;

const PRESENT: u16 = 0x80;
const MEMORY: u16 = 0x10;
const LOCAL: u16 = 4;

/// What counts for every segment in use: present, and a granularity that its limit can have.
fn assert_used(one: &Segment) {
    let pages = one.attributes >> 11 & 1 != 0;
    assert!(one.attributes & PRESENT != 0 && one.base >> 32 == 0, "{one:x?}");
    assert!(if pages { one.limit & 0xfff == 0xfff } else { one.limit >> 20 == 0 }, "{one:x?}");
}

fn assert_enterable(page: &ExitPage) {
    assert_eq!((page.rflags & !0x003f_7fd7, page.rflags & 2), (0, 2));
    let [task, table] = [segment::TR, segment::LDTR].map(|index| &page.segments[index]);
    assert_used(task);
    assert!(matches!(task.attributes & 0x1f, 3 | 11) && task.selector & LOCAL == 0, "{task:x?}");
    if table.attributes & PRESENT != 0 {
        assert_used(table);
        assert!(table.attributes & 0x1f == 2 && table.selector & LOCAL == 0, "{table:x?}");
    }
    if page.rflags & 1 << 17 != 0 {
        for one in &page.segments[..6] {
            assert_eq!((one.base, one.limit, one.attributes), (u64::from(one.selector) << 4, 0xffff, 0xf3));
        }
        return;
    }
    let level = |one: &Segment| one.attributes >> 5 & 3;
    let [code, stack] = [segment::CS, segment::SS].map(|index| &page.segments[index]);
    assert_used(code);
    assert_eq!(code.attributes & (MEMORY | 9), MEMORY | 9, "{code:x?}");
    assert_eq!(u32::from(level(stack)), page.cpl, "{stack:x?}");
    if code.attributes & 4 == 0 {
        // The selector's level counts in Bochs only.
        assert_eq!((level(code), code.selector & 3), (level(stack), level(stack)), "{code:x?} {stack:x?}");
    } else {
        assert!(level(code) <= level(stack), "{code:x?} {stack:x?}");
    }
    for (index, one) in page.segments[..6].iter().enumerate().filter(|(_, one)| one.attributes & PRESENT != 0) {
        assert_used(one);
        assert_eq!(one.attributes & (MEMORY | 1), MEMORY | 1, "{index} {one:x?}");
        assert!(index == segment::CS || one.attributes & 0xa != 8, "{index} {one:x?}");
        assert!(index != segment::SS || one.attributes & 0xa == 2, "{one:x?}");
    }
}

/// Code and data by turns, of every kind and level, and sometimes anything.
fn any_descriptors() -> impl Strategy<Value = Vec<[u8; 8]>> {
    let one = (
        any::<u32>(),
        0u64..8,
        0u64..4,
        0u64..0x10,
        0u64..0x10_0000,
        prop_oneof![9 => Just(None), 1 => any::<u8>().prop_map(Some)],
    );
    prop::collection::vec(one, 16).prop_map(|all| {
        let one = |(index, (base, kind, level, flags, limit, other)): (u64, (u32, u64, u64, u64, u64, Option<u8>))| {
            let access = other.map_or(0x90 | (index & 1) << 3 | kind | level << 5, u64::from);
            descriptor(base.into(), access | flags << 8, limit)
        };
        (0..).zip(all).map(one).collect()
    })
}

/// ES, CS, SS, DS, FS, GS, of one level mostly and of the kind that each wants.
fn any_selectors() -> impl Strategy<Value = [u16; 6]> {
    let one = (0u16..8, prop_oneof![8 => Just(None), 1 => (0u16..0x80).prop_map(Some)]);
    (prop::array::uniform6(one), 0u16..4).prop_map(|(all, level)| {
        let mut index = 0..;
        all.map(|(place, other)| {
            let code = u16::from(index.next() == Some(segment::CS));
            other.unwrap_or(place << 4 | code << 3 | level)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]
    #[test]
    fn what_a_switch_leaves_is_entered_whatever_tasks_and_descriptors_hold(
        source in 0u64..4, narrow: bool, fault: bool,
        table in any_descriptors(),
        image in prop::array::uniform32(any::<u32>()), flags in prop_oneof![Just(2u32), any::<u32>()],
        selectors in any_selectors(), local in prop_oneof![Just(0), 0u16..0x80]
    ) {
        let number = if narrow { HALF_TASK } else { NEW_TASK };
        let mut bench = Bench::new(source, number);
        let kept = bench.machine.host.memory.0[(GDT + u64::from(number)) as usize..][..8].to_vec();
        (GDT..).step_by(8).zip(&table).for_each(|(at, one)| bench.put(at, one));
        bench.put(GDT + u64::from(number), &kept);
        bench.page.segments[segment::GDTR].limit = 0x7f;
        if narrow {
            (HALF..).step_by(4).zip(image).take(11).for_each(|(at, word)| bench.put(at, &word.to_le_bytes()));
            bench.put(HALF + 16, &(flags as u16).to_le_bytes());
            let all = (HALF + 34..).step_by(2).zip(selectors.into_iter().take(4).chain([local]));
            all.for_each(|(at, selector)| bench.put(at, &selector.to_le_bytes()));
        } else {
            (0..).step_by(4).zip(image).take(26).for_each(|(at, word)| bench.field(at, word));
            bench.field(36, flags);
            bench.selectors(selectors);
            bench.field(96, local.into());
        }
        if fault && source == GATE {
            bench.page.event = exception(17, Some(0));
        }
        prop_assert_eq!(bench.exit(), Resume::ENTER);
        prop_assert_eq!(bench.page.segments[segment::TR].selector, number);
        assert_enterable(&bench.page);
    }
}
