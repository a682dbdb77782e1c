//! Events on their way into the guest: reinjection and the double-fault rules.

use crate::registers::RESUME;
use portcullis_ipc::exit::event::{EXCEPTION, TYPE, TYPE_SHIFT, VALID, VECTOR, exception};
use portcullis_ipc::exit::{ExitPage, group};

/// Vectors.
pub mod vector {
    /// Debug.
    pub const DEBUG: u8 = 1;
    /// Invalid opcode.
    pub const UNDEFINED: u8 = 6;
    /// Double fault.
    pub const DOUBLE_FAULT: u8 = 8;
    /// Invalid TSS.
    pub const INVALID_TASK: u8 = 10;
    /// Segment not present.
    pub const NOT_PRESENT: u8 = 11;
    /// Stack.
    pub const STACK: u8 = 12;
    /// General protection.
    pub const PROTECTION: u8 = 13;
    /// Page fault.
    pub const PAGE: u8 = 14;
}

/// What becomes of an exception that was raised while another event was being delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combined {
    /// This event is delivered.
    Deliver(u64),
    /// Triple fault.
    Shutdown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

const fn class(vector: u8) -> Class {
    match vector {
        0 | 10..=13 => Class::Contributory,
        14 => Class::PageFault,
        8 => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// Whether the vector pushes an error code.
pub const fn has_error(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

/// Type of an event word.
pub const fn kind(event: u64) -> u64 {
    event >> TYPE_SHIFT & TYPE
}

/// The event for exception `second`, raised while `first` (an event word, 0 for none) was in delivery.
pub fn combine(first: u64, second: u8, error: Option<u32>) -> Combined {
    let alone = Combined::Deliver(exception(second, error));
    if first & VALID == 0 || kind(first) != EXCEPTION {
        return alone;
    }
    match (class((first & VECTOR) as u8), class(second)) {
        (Class::DoubleFault, Class::Benign) => alone,
        (Class::DoubleFault, _) => Combined::Shutdown,
        (Class::Contributory, Class::Contributory) | (Class::PageFault, Class::Contributory | Class::PageFault) => {
            Combined::Deliver(exception(vector::DOUBLE_FAULT, Some(0)))
        }
        _ => alone,
    }
}

/// Whether the event is an exception of the fault class, for which the processor pushes RFLAGS with RF set (Intel SDM volume
/// 3, 17.3.1.1). Neither vendor's injection does that by itself. Of debug exceptions only their cause can tell.
const fn is_fault(event: u64) -> bool {
    kind(event) == EXCEPTION && !matches!((event & VECTOR) as u8, 1 | 3 | 4 | 8 | 18)
}

/// Makes `event` the event that is delivered on resume.
pub fn deliver(page: &mut ExitPage, event: u64) {
    page.event = event;
    page.windows = 0;
    page.dirty |= group::EVENT;
    if is_fault(event) {
        set_resume(page);
    }
}

/// The flags that are pushed have RF set: the handler's IRET goes on at an instruction whose breakpoint was met already.
pub fn set_resume(page: &mut ExitPage) {
    page.rflags |= RESUME;
    page.dirty |= group::FLOW;
}

/// Raises an exception at the current instruction.
pub fn raise(page: &mut ExitPage, vector: u8, error: Option<u32>) {
    deliver(page, exception(vector, error));
}

/// The error code of an exception exit, where its vector has one.
pub fn error_of(vector: u8, code: u64) -> Option<u32> {
    has_error(vector).then_some(code as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_ipc::exit::event::{SOFTWARE, interrupt};
    use zerocopy::FromZeros;

    /// Intel SDM volume 3, table 6-5; AMD APM volume 2, table 8-2.
    #[test]
    fn two_exceptions_combine_by_their_classes() {
        let deliver = |vector: u8, error| Combined::Deliver(exception(vector, error));
        let double = deliver(8, Some(0));
        let table = [
            (None, 13, Some(0), deliver(13, Some(0))),
            (Some(6), 13, Some(2), deliver(13, Some(2))),
            (Some(1), 14, Some(2), deliver(14, Some(2))),
            (Some(0), 13, Some(0), double),
            (Some(13), 13, Some(0x52), double),
            (Some(11), 10, Some(0), double),
            (Some(13), 14, Some(0), deliver(14, Some(0))),
            (Some(14), 13, Some(0), double),
            (Some(14), 14, Some(0), double),
            (Some(14), 1, None, deliver(1, None)),
            (Some(8), 13, Some(0), Combined::Shutdown),
            (Some(8), 14, Some(0), Combined::Shutdown),
            (Some(8), 1, None, deliver(1, None)),
        ];
        for (first, second, error, expected) in table {
            let first = first.map_or(0, |vector| exception(vector, has_error(vector).then_some(0)));
            assert_eq!(combine(first, second, error), expected, "{first:#x} then {second}");
        }
    }

    #[test]
    fn an_exception_in_the_delivery_of_an_interrupt_is_delivered_alone() {
        let alone = Combined::Deliver(exception(13, Some(0x83)));
        assert_eq!(combine(interrupt(0x10), 13, Some(0x83)), alone);
        let software = VALID | SOFTWARE << TYPE_SHIFT | 13;
        assert_eq!(combine(software, 13, Some(0x83)), alone);
        assert_eq!(combine(exception(13, None) & !VALID, 13, Some(0x83)), alone);
    }

    #[test]
    fn flags_are_pushed_with_rf_for_faults_and_without_for_traps_aborts_and_interrupts() {
        let pushed = |event| {
            let mut page = ExitPage::new_zeroed();
            deliver(&mut page, event);
            (page.rflags == RESUME, page.dirty & group::FLOW != 0)
        };
        for vector in [0, 5, 6, 7, 10, 11, 12, 13, 14, 16, 17, 19] {
            assert_eq!(pushed(exception(vector, None)), (true, true), "{vector}");
        }
        for event in [1, 3, 4, 8, 18].map(|vector| exception(vector, None)).into_iter().chain([interrupt(13)]) {
            assert_eq!(pushed(event), (false, false), "{event:#x}");
        }
    }

    #[test]
    fn error_codes_belong_to_their_vectors() {
        let with: Vec<u8> = (0..=31).filter(|&vector| has_error(vector)).collect();
        assert_eq!(with, [8, 10, 11, 12, 13, 14, 17, 21, 29, 30]);
        assert_eq!(error_of(1, 5), None);
    }
}
