//! Which vector an interrupt in ring 0 or ring 3 stands for.

use super::idt;

/// What an interrupt vector means to the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The local APIC's timer.
    Timer,
    /// GSI n.
    Line(u16),
    /// Nothing that the core knows, the spurious vector among it.
    Spurious,
}

/// The source of `vector`.
pub fn source(vector: u8) -> Source {
    match vector {
        idt::TIMER => Source::Timer,
        vector if (idt::GSI..idt::GSI.saturating_add(32)).contains(&vector) => {
            Source::Line(u16::from(vector.wrapping_sub(idt::GSI)))
        }
        _ => Source::Spurious,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vector_has_one_source() {
        assert_eq!(source(0x40), Source::Timer);
        assert_eq!(source(0x50), Source::Line(0));
        assert_eq!(source(0x6f), Source::Line(31));
        assert_eq!(source(0x70), Source::Spurious);
        assert_eq!(source(0xff), Source::Spurious);
    }
}
