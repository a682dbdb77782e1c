//! What the platform page in captured memory says of the machine: version, frequency, mitigations in
//! force (R14).

use super::walk::Memory;
use portcullis_ipc::image::mitigation;
use portcullis_ipc::platform::{PLATFORM_MAGIC, PlatformPage};
use zerocopy::FromBytes;

/// The platform page in `frame`; `None` when it is not there.
fn page(memory: Memory<'_>, frame: u64) -> Option<PlatformPage> {
    let (page, _) = PlatformPage::read_from_prefix(memory.bytes(frame, size_of::<PlatformPage>())?).ok()?;
    (page.magic == PLATFORM_MAGIC).then_some(page)
}

/// Whether the mitigation is in force by which nested tables have no page larger than 4 KiB.
pub fn small_pages(memory: Memory<'_>, frame: u64) -> bool {
    page(memory, frame).is_some_and(|page| page.mitigations & mitigation::SMALL_PAGES != 0)
}

/// One line about the platform page in `frame`; `None` when the page is not there.
pub fn line(memory: Memory<'_>, frame: u64) -> Option<String> {
    let page = page(memory, frame)?;
    let part = |shift: u32| page.core_version >> shift & 0xffff;
    Some(format!(
        "core {}.{}.{}, TSC {} Hz, mitigations in force: {}; needed and lacking: {}",
        part(32),
        part(16),
        part(0),
        page.tsc_hz,
        names(page.mitigations),
        names(page.lacking)
    ))
}

fn names(mask: u32) -> String {
    let names: Vec<&str> = mitigation::names(mask).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn the_line_names_version_frequency_and_each_mitigation() {
        let mut page = PlatformPage::read_from_bytes(&[0; size_of::<PlatformPage>()]).unwrap();
        page.tsc_hz = 5;
        page.core_version = 1 << 32 | 2 << 16 | 3;
        page.mitigations = mitigation::IBPB | mitigation::VERW;
        page.lacking = mitigation::SSBD;
        assert_eq!(line(Memory(page.as_bytes()), 0), None, "without its magic it is not a platform page");
        page.magic = PLATFORM_MAGIC;
        let text = line(Memory(page.as_bytes()), 0).unwrap();
        assert_eq!(text, "core 1.2.3, TSC 5 Hz, mitigations in force: ibpb, verw; needed and lacking: ssbd");
        assert_eq!(line(Memory(&[0; 8]), 0), None);
        assert_eq!(names(0), "none");
    }
}
