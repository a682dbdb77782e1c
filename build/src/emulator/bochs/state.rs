//! What the debugger shows of the machine's page tables.

use std::ops::Range;

/// The ranges below `end` that a listing of `info tab` shows at the same linear and physical address.
pub fn mapped_at_their_own_address(listing: &str, end: u64) -> Vec<Range<u64>> {
    if listing.contains("paging off") {
        return vec![Range { start: 0, end }];
    }
    let ranges = listing.lines().filter_map(|line| {
        let (linear, physical) = line.split_once(" -> ")?;
        let linear = range(linear)?;
        (range(physical)? == linear && linear.start < end).then(|| linear.start..linear.end.min(end))
    });
    ranges.collect()
}

/// `0xFIRST-0xLAST`.
fn range(text: &str) -> Option<Range<u64>> {
    let (first, last) = text.trim().split_once('-')?;
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    Some(number(first)?..number(last)?.checked_add(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_memory_at_its_own_address_is_taken() {
        let listing = "info tab\ncr3: 0x0000001a1000\n\
            0x0000000000196000-0x00000000001ddfff -> 0x000000196000-0x0000001ddfff\n\
            0x000000003fe00000-0x000000003fe00fff -> 0x0000fee00000-0x0000fee00fff\n\
            0x0000000040000000-0x000000004000afff -> 0x000000109000-0x000000113fff\n";
        assert_eq!(mapped_at_their_own_address(listing, 1 << 28), [Range { start: 0x19_6000, end: 0x1d_e000 }]);
        let all = "0x0000000000000000-0x00000000ffffffff -> 0x000000000000-0x0000ffffffff\n";
        assert_eq!(mapped_at_their_own_address(all, 1 << 28), [Range { start: 0, end: 1 << 28 }]);
        assert_eq!(mapped_at_their_own_address("paging off\n", 4096), [Range { start: 0, end: 4096 }]);
        assert_eq!(mapped_at_their_own_address("nonsense -> 0x\n", 4096), [] as [Range<u64>; 0]);
    }
}
