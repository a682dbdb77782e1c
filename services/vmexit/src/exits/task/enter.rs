//! The second half of a switch: the page takes the new task's registers and segments. A fault is raised in the new task's
//! context, before its first instruction.

use super::descriptor::{ACCESSED, BIG, Fault, LEVEL, LOCAL, Role, TYPE, WHICH, place, read};
use super::leave::{NESTED, New};
use super::{Source, Switch};
use crate::data;
use crate::exception::{kind, raise, vector};
use crate::exits::debug::detect_no_more;
use crate::memory::{GuestMemory, all_ones};
use crate::paging::{Access, Translation, takes_pae_root};
use crate::registers::{VIRTUAL_8086, linear, merge};
use crate::segments::offsets;
use portcullis_ipc::exit::{ExitPage, Segment, event, gpr, group, segment, shadow};

/// CR0.TS.
const TASK_SWITCHED: u64 = 1 << 3;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
/// The bits that RFLAGS has, and the one that is always set.
const FLAGS: (u64, u64) = (0x003f_7fd7, 2);
/// L0 to L3 and LE of DR7.
const LOCAL_BREAKPOINTS: u64 = 0x155;
/// DR6.BT.
const TASK_TRAP: u64 = 1 << 15;
/// Attributes of a data segment of virtual-8086 mode.
const REAL: u16 = 0xf3;

/// Enters the new task.
pub fn enter(switch: &Switch, page: &mut ExitPage, memory: &mut impl GuestMemory, new: &New) -> Result<(), Fault> {
    take(switch, page, new);
    if let Some(cr3) = new.task.cr3.map(u64::from).filter(|_| page.cr0 & CR0_PG != 0) {
        // As a MOV to CR3 is refused; the manuals do not say what CR3 holds then, here it is the old task's.
        if page.cr4 & CR4_PAE != 0 && !takes_pae_root(memory, cr3, switch.physical_bits) {
            return Err(Fault::Selector(vector::PROTECTION, 0));
        }
        page.cr3 = cr3;
    }
    page.segments[segment::LDTR] = load(page, memory, new.task.ldt, Role::Table, 0)?;
    if page.rflags & VIRTUAL_8086 == 0 {
        segments(page, memory, new.task.registers.selectors)?;
    }
    if kind(switch.event) == event::EXCEPTION && switch.event & event::ERROR_VALID != 0 {
        push(page, memory, (switch.event >> 32) as u32, new.width.bytes())?;
    }
    if new.task.trap {
        page.dr6 |= TASK_TRAP;
        page.dirty |= group::DEBUG;
        detect_no_more(page);
        raise(page, vector::DEBUG, None);
    }
    Ok(())
}

/// What cannot fail. Segments that are to be loaded have their selectors only, and until CS and SS are there a fault
/// finds level 3, in CS's selector too, so that its handler runs on a stack of the new task's own and sees why.
fn take(switch: &Switch, page: &mut ExitPage, new: &New) {
    let registers = &new.task.registers;
    for (to, from) in page.registers.iter_mut().zip(registers.general) {
        *to = from.into();
    }
    page.rip = registers.eip.into();
    page.rflags = u64::from(registers.eflags) & FLAGS.0 | FLAGS.1;
    if switch.source.nests() {
        page.rflags |= NESTED;
    }
    page.cr0 |= TASK_SWITCHED;
    let real = page.rflags & VIRTUAL_8086 != 0;
    for (index, selector) in registers.selectors.into_iter().enumerate() {
        page.segments[index] = if real { real_segment(selector) } else { unloaded(index, selector) };
    }
    page.segments[segment::LDTR] = Segment { selector: new.task.ldt, ..Segment::default() };
    page.segments[segment::TR] = new.segment;
    page.cpl = 3;
    if page.dr7 & LOCAL_BREAKPOINTS != 0 {
        page.dr7 &= !LOCAL_BREAKPOINTS;
        page.dirty |= group::DEBUG;
    }
    page.shadow &= !shadow::INTERRUPT;
    if switch.event != 0 && kind(switch.event) == event::NMI {
        page.shadow |= shadow::NMI;
    } else if switch.source == Source::Return {
        page.shadow &= !shadow::NMI;
    }
    (page.event, page.windows) = (0, 0);
    page.dirty |= group::GENERAL | group::FLOW | group::CONTROL | group::SEGMENTS | group::EVENT;
}

fn real_segment(selector: u16) -> Segment {
    Segment { selector, attributes: REAL, limit: 0xffff, base: u64::from(selector) << 4 }
}

fn unloaded(index: usize, selector: u16) -> Segment {
    let (selector, attributes, limit) = match index {
        // No processor enters without code: flat, of the level that the selector names.
        segment::CS => (selector | LEVEL, 0xcfb, u32::MAX),
        segment::SS => (selector, 0x60, 0),
        _ => (selector, 0, 0),
    };
    Segment { selector, attributes, limit, base: 0 }
}

/// Loads CS and SS, both or none, then the others.
fn segments(page: &mut ExitPage, memory: &mut impl GuestMemory, selectors: [u16; 6]) -> Result<(), Fault> {
    let [es, cs, ss, ds, fs, gs] = selectors;
    let level = cs & LEVEL;
    let code = load(page, memory, cs, Role::Code, level)?;
    let stack = load(page, memory, ss, Role::Stack, level)?;
    (page.segments[segment::CS], page.segments[segment::SS], page.cpl) = (code, stack, level.into());
    for (index, selector) in [(segment::DS, ds), (segment::ES, es), (segment::FS, fs), (segment::GS, gs)] {
        page.segments[index] = load(page, memory, selector, Role::Data, level)?;
    }
    Ok(())
}

/// The segment that a selector names, if a task of privilege level `cpl` may have it.
fn load(page: &ExitPage, memory: &mut impl GuestMemory, selector: u16, role: Role, cpl: u16) -> Result<Segment, Fault> {
    let refused = |number| Fault::Selector(number, selector);
    let invalid = refused(vector::INVALID_TASK);
    if selector & WHICH == 0 {
        let null = Segment { selector, ..Segment::default() };
        return if matches!(role, Role::Code | Role::Stack) { Err(invalid) } else { Ok(null) };
    }
    if role == Role::Table && selector & LOCAL != 0 {
        return Err(invalid);
    }
    let address = place(page, selector).ok_or(invalid)?;
    let mut found = read(page, memory, address, selector)?;
    if let Some(number) = role.refusal(found.attributes, selector & LEVEL, cpl) {
        return Err(refused(number));
    }
    if role != Role::Table && found.attributes & ACCESSED == 0 {
        let place = data::translate(&Translation::system(page), memory, address + TYPE, 1, Access::Write)?;
        let kind = found.attributes as u8;
        found.attributes |= ACCESSED;
        data::exchange_at(memory, place, kind, found.attributes as u8);
    }
    Ok(found)
}

/// Pushes an error code, as wide as the new task's registers.
fn push(page: &mut ExitPage, memory: &mut impl GuestMemory, error: u32, bytes: usize) -> Result<(), Fault> {
    let stack = page.segments[segment::SS];
    let width = if stack.attributes & BIG != 0 { 4 } else { 2 };
    let top = page.registers[gpr::RSP].wrapping_sub(bytes as u64) & all_ones(width);
    let inside = offsets(&stack);
    if !inside.contains(&top) || !inside.contains(&(top + bytes as u64 - 1)) {
        return Err(Fault::Selector(vector::STACK, 0));
    }
    let address = linear(page, segment::SS, top, 32);
    let error = error.to_le_bytes();
    data::write(&Translation::of(page), memory, address, error.get(..bytes).unwrap_or_default())?;
    page.registers[gpr::RSP] = merge(page.registers[gpr::RSP], width, top);
    Ok(())
}
