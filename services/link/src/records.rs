//! Which log records a stretch of the core's ring holds.

use portcullis_ipc::log::RecordHead;
use zerocopy::FromBytes;

/// Sequences of the first and the last record in `bytes`; `None` when there is no whole one.
pub fn span(mut bytes: &[u8]) -> Option<(u64, u64)> {
    let mut span: Option<(u64, u64)> = None;
    while let Ok((head, rest)) = RecordHead::read_from_prefix(bytes)
        && let Some(next) = rest.get(usize::from(head.length).next_multiple_of(8)..)
    {
        span = Some((span.map_or(head.sequence, |(first, _)| first), head.sequence));
        bytes = next;
    }
    span
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    fn record(sequence: u64, length: u16) -> Vec<u8> {
        let mut bytes = RecordHead { sequence, length, ..RecordHead::default() }.as_bytes().to_vec();
        bytes.resize(bytes.len() + usize::from(length).next_multiple_of(8), 7);
        bytes
    }

    #[test]
    fn the_span_is_that_of_the_whole_records() {
        assert_eq!(span(&[]), None);
        assert_eq!(span(&record(5, 3)), Some((5, 5)));
        let three = [record(5, 3), record(6, 0), record(9, 17)].concat();
        assert_eq!(span(&three), Some((5, 9)));
        assert_eq!(span(&three[..three.len() - 1]), Some((5, 6)));
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_span_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            span(&bytes);
        }
    }
}
