//! The first half of a switch, in the old task's context: everything is checked and translated, then the old task is
//! saved, the new one read and linked, and the busy bits set.

use super::descriptor::{Fault, LOCAL, PRESENT, TYPE, place, read};
use super::tss::{LONGEST, Registers, Task, Width};
use super::{Source, Switch};
use crate::data::{exchange_at, read_at, translate, write_at};
use crate::exception::vector;
use crate::memory::GuestMemory;
use crate::paging::{Access, Translation};
use portcullis_ipc::exit::{ExitPage, Segment, segment};

/// RFLAGS.NT.
pub const NESTED: u64 = 1 << 14;
/// Segment attribute: a busy task.
const BUSY: u16 = 1 << 1;

/// The task to be entered.
#[derive(Clone, Copy, Debug)]
pub struct New {
    /// For TR.
    pub segment: Segment,
    /// Its layout.
    pub width: Width,
    /// What it holds.
    pub task: Task,
}

/// Leaves the old task, which the page holds and keeps. Nothing is stored where it fails.
pub fn leave(switch: &Switch, page: &ExitPage, memory: &mut impl GuestMemory) -> Result<New, Fault> {
    let refused = |number| Fault::Selector(number, switch.selector);
    let missing = refused(if switch.source == Source::Return { vector::INVALID_TASK } else { vector::PROTECTION });
    let descriptor = place(page, switch.selector).filter(|_| switch.selector & LOCAL == 0).ok_or(missing)?;
    let mut new = read(page, memory, descriptor, switch.selector)?;
    let width = Width::of(new.attributes).ok_or(missing)?;
    if new.attributes & PRESENT == 0 {
        return Err(refused(vector::NOT_PRESENT));
    }
    if (new.limit as usize) < width.whole() - 1 {
        return Err(refused(vector::INVALID_TASK));
    }
    let old = page.segments[segment::TR];
    // What a processor without a task has in TR counts as a 32-bit one.
    let old_width = Width::of(old.attributes).unwrap_or(Width::Full);
    let (first, saved) = (old_width.first(), old_width.saved());
    if (old.limit as usize) < first + saved - 1 {
        return Err(Fault::Selector(vector::INVALID_TASK, old.selector));
    }

    let system = Translation::system(page);
    let mut find = |address: u64, length, access| translate(&system, memory, address, length, access);
    let save = find(old.base.wrapping_add(first as u64), saved, Access::Write)?;
    let load = find(new.base, width.whole(), Access::Read)?;
    let link = if switch.source.nests() { Some(find(new.base, 2, Access::Write)?) } else { None };
    let claim = match switch.source {
        Source::Return => None,
        _ => Some(find(descriptor + TYPE, 1, Access::Write)?),
    };
    let release = match switch.source {
        Source::Call | Source::Gate => None,
        // A jump to the own task leaves it busy.
        Source::Jump if old.selector >> 3 == switch.selector >> 3 => None,
        Source::Jump | Source::Return => {
            let table = page.segments[segment::GDTR].base;
            Some(find(table.wrapping_add(u64::from(old.selector & !7) + TYPE), 1, Access::Write)?)
        }
    };

    let flags = if switch.source == Source::Return { page.rflags & !NESTED } else { page.rflags };
    let mut image = [0; LONGEST];
    let piece = image.get_mut(..saved).unwrap_or_default();
    read_at(memory, save, piece);
    Registers::of(page, switch.next, flags).save(old_width, piece);
    write_at(memory, save, piece);
    let mut image = [0; LONGEST];
    read_at(memory, load, image.get_mut(..width.whole()).unwrap_or_default());
    let task = Task::load(width, &image);
    if let Some(link) = link {
        write_at(memory, link, &old.selector.to_le_bytes());
    }
    let kind = new.attributes as u8;
    new.attributes |= BUSY;
    if let Some(claim) = claim {
        exchange_at(memory, claim, kind, new.attributes as u8);
    }
    if let Some(release) = release {
        let mut kind = [0];
        read_at(memory, release, &mut kind);
        let [kind] = kind;
        exchange_at(memory, release, kind, kind & !(BUSY as u8));
    }
    Ok(New { segment: new, width, task })
}
