//! The two layouts of a task-state segment (Intel SDM volume 3, chapter 7). In both, slots of one width follow each other:
//! EIP, EFLAGS, eight general registers and the segment selectors in the processor's order, then the selector of the LDT.

use portcullis_ipc::exit::{ExitPage, Segment};

/// Slots before those of the segment selectors.
const BEFORE_SELECTORS: usize = 10;
/// CR3 in a 32-bit segment.
const CR3: usize = 28;
/// Bytes of the longest segment, as far as a switch reads it.
pub const LONGEST: usize = 0x68;

/// The width of a task-state segment's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 16 bits: no FS, GS, CR3 and trap flag.
    Half,
    /// 32 bits.
    Full,
}

impl Width {
    /// Of the task that a descriptor with these attributes describes, be it busy or not; `None` if it describes none.
    pub const fn of(attributes: u16) -> Option<Self> {
        match attributes & 0x1d {
            0x01 => Some(Self::Half),
            0x09 => Some(Self::Full),
            _ => None,
        }
    }

    /// Bytes of a register.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Half => 2,
            Self::Full => 4,
        }
    }

    /// Bytes that a task to be entered has.
    pub const fn whole(self) -> usize {
        match self {
            Self::Half => 0x2c,
            Self::Full => LONGEST,
        }
    }

    /// Where what is saved begins: EIP.
    pub const fn first(self) -> usize {
        match self {
            Self::Half => 14,
            Self::Full => 32,
        }
    }

    /// Bytes that are saved.
    pub const fn saved(self) -> usize {
        self.bytes() * (BEFORE_SELECTORS + self.selectors())
    }

    const fn selectors(self) -> usize {
        match self {
            Self::Half => 4,
            Self::Full => 6,
        }
    }
}

/// The registers of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// EIP.
    pub eip: u32,
    /// EFLAGS.
    pub eflags: u32,
    /// EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI.
    pub general: [u32; 8],
    /// ES, CS, SS, DS, FS, GS.
    pub selectors: [u16; 6],
}

impl Registers {
    /// Those in the exit page, but EIP and EFLAGS.
    pub fn of(page: &ExitPage, eip: u64, eflags: u64) -> Self {
        let [eax, ecx, edx, ebx, esp, ebp, esi, edi, ..] = page.registers.map(|register| register as u32);
        let [es, cs, ss, ds, fs, gs, ..] = page.segments.map(|Segment { selector, .. }| selector);
        Self {
            eip: eip as u32,
            eflags: eflags as u32,
            general: [eax, ecx, edx, ebx, esp, ebp, esi, edi],
            selectors: [es, cs, ss, ds, fs, gs],
        }
    }

    /// Puts them into `image`, the bytes that are saved. What lies between the selectors stays.
    pub fn save(&self, width: Width, image: &mut [u8]) {
        let selectors = self.selectors.into_iter().map(u32::from);
        let values = [self.eip, self.eflags].into_iter().chain(self.general).chain(selectors);
        for (index, (slot, value)) in image.chunks_exact_mut(width.bytes()).zip(values).enumerate() {
            let bytes = if index < BEFORE_SELECTORS { 4 } else { 2 };
            for (to, from) in slot.iter_mut().zip(value.to_le_bytes()).take(bytes) {
                *to = from;
            }
        }
    }
}

/// What a switch reads of the task that it enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// The registers. From 16 bits upper halves are zero, which the manuals leave open, and FS and GS are null.
    pub registers: Registers,
    /// LDTR.
    pub ldt: u16,
    /// CR3, if the segment has one.
    pub cr3: Option<u32>,
    /// The trap flag: a debug exception follows the switch.
    pub trap: bool,
}

impl Task {
    /// From a whole segment.
    pub fn load(width: Width, image: &[u8; LONGEST]) -> Self {
        let value = |slot: &[u8]| slot.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        let (_, saved) = image.split_at(width.first());
        let mut slots = saved.chunks_exact(width.bytes()).map(value);
        let mut next = || slots.next().unwrap_or(0);
        let registers = Registers {
            eip: next(),
            eflags: next(),
            general: core::array::from_fn(|_| next()),
            selectors: core::array::from_fn(|index| if index < width.selectors() { next() as u16 } else { 0 }),
        };
        let ldt = next() as u16;
        let full = width == Width::Full;
        let cr3 = full.then(|| value(image.get(CR3..CR3 + 4).unwrap_or_default()));
        Self { registers, ldt, cr3, trap: full && next() & 1 != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_manual_says() {
        let mut full = [0; LONGEST];
        for (index, byte) in (1..).zip(full.iter_mut()) {
            *byte = index;
        }
        let word = |at: u32| u32::from_le_bytes([1, 2, 3, 4].map(|byte| byte + at as u8));
        let task = Task::load(Width::Full, &full);
        assert_eq!((task.cr3, task.ldt, task.trap), (Some(word(28)), word(96) as u16, true));
        assert_eq!((task.registers.eip, task.registers.eflags), (word(32), word(36)));
        assert_eq!(task.registers.general, [40, 44, 48, 52, 56, 60, 64, 68].map(word));
        assert_eq!(task.registers.selectors, [72, 76, 80, 84, 88, 92].map(|at| word(at) as u16));

        let half = |at: u32| word(at) & 0xffff;
        let task = Task::load(Width::Half, &full);
        assert_eq!((task.cr3, task.ldt, task.trap), (None, half(42) as u16, false));
        assert_eq!((task.registers.eip, task.registers.eflags), (half(14), half(16)));
        assert_eq!(task.registers.general, [18, 20, 22, 24, 26, 28, 30, 32].map(half));
        let [es, cs, ss, ds] = [34, 36, 38, 40].map(|at| half(at) as u16);
        assert_eq!(task.registers.selectors, [es, cs, ss, ds, 0, 0]);
    }

    #[test]
    fn what_is_saved_is_what_is_loaded() {
        for width in [Width::Half, Width::Full] {
            let mut image = [0; LONGEST];
            image.iter_mut().zip(0x11..).for_each(|(byte, value)| *byte = value);
            let task = Task::load(width, &image);
            let mut saved = [0xee; LONGEST];
            let piece = &mut saved[width.first()..width.first() + width.saved()];
            task.registers.save(width, piece);
            assert_eq!(Task::load(width, &saved).registers, task.registers, "{width:?}");
            assert!(saved[..width.first()].iter().all(|byte| *byte == 0xee), "{width:?}");
            assert!(saved[width.first() + width.saved()..].iter().all(|byte| *byte == 0xee), "{width:?}");
        }
        let (saved, whole) = (Width::Full.first() + Width::Full.saved(), Width::Half.first() + Width::Half.saved());
        assert_eq!((saved, whole), (0x60, 0x2a));
    }

    #[test]
    fn tasks_are_told_from_other_descriptors_by_type() {
        let tasks = (0..0x20).filter_map(|kind| Width::of(0x80 | kind).map(|width| (kind, width)));
        let expected = [(1, Width::Half), (3, Width::Half), (9, Width::Full), (11, Width::Full)];
        assert!(tasks.eq(expected));
    }
}
