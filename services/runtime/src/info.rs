//! Look-ups in the information page: capabilities, configuration and blobs by name.

use portcullis_ipc::info::{Blob, InfoPage, SlotName};

/// The information page and the configuration text after it.
#[derive(Clone, Copy)]
pub struct Info<'a> {
    page: &'a InfoPage,
    config: &'a str,
}

impl<'a> Info<'a> {
    /// Look-ups in `page`, whose configuration text stands in `config`; text that is not UTF-8 counts
    /// as empty.
    pub fn new(page: &'a InfoPage, config: &'a [u8]) -> Self {
        let length = (page.config_bytes as usize).min(config.len());
        let text = config.get(..length).unwrap_or_default();
        Self { page, config: core::str::from_utf8(text).unwrap_or_default() }
    }

    /// The page itself.
    pub fn page(&self) -> &'a InfoPage {
        self.page
    }

    /// All capabilities that have a name, in the order of the manifest.
    pub fn slots(&self) -> impl Iterator<Item = &'a SlotName> + use<'a> {
        self.page.slots.iter().take(self.page.slot_count as usize)
    }

    /// The capability of this name and [`kind`](portcullis_ipc::image::kind).
    pub fn slot(&self, name: &str, kind: u8) -> Option<&'a SlotName> {
        self.slots().find(|slot| slot.kind == kind && text(&slot.name) == name)
    }

    /// The value of a configuration key, without surrounding blanks.
    pub fn config(&self, key: &str) -> Option<&'a str> {
        self.config.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == key).then(|| value.trim())
        })
    }

    /// The number of a configuration key: decimal, or hexadecimal after `0x`. `None` when the key is
    /// absent or no number.
    pub fn number(&self, key: &str) -> Option<u64> {
        number(self.config(key)?)
    }

    /// Whether a configuration key says `1`, `true`, `yes` or `on`.
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.config(key), Some("1" | "true" | "yes" | "on"))
    }

    /// The blob of this name.
    pub fn blob(&self, name: &str) -> Option<&'a Blob> {
        let blobs = self.page.blobs.iter().take(self.page.blob_count as usize);
        blobs.into_iter().find(|blob| text(&blob.name) == name)
    }
}

/// The text of a name field: up to its first zero; empty when it is not UTF-8.
pub fn text(name: &[u8]) -> &str {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    core::str::from_utf8(name.get(..end).unwrap_or_default()).unwrap_or_default()
}

/// The number in a configuration value: decimal, or hexadecimal after `0x`.
pub fn number(value: &str) -> Option<u64> {
    match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_ipc::image::kind;
    use zerocopy::FromZeros;

    fn name<const N: usize>(value: &str) -> [u8; N] {
        let mut bytes = [0; N];
        bytes[..value.len()].copy_from_slice(value.as_bytes());
        bytes
    }

    fn page(config: &str) -> InfoPage {
        let mut page = InfoPage::new_zeroed();
        page.config_bytes = config.len() as u32;
        page.slot_count = 2;
        page.slots[0].name = name("com1");
        page.slots[0].kind = kind::PORTS;
        page.slots[0].slot = 3;
        page.slots[1].name = name("com1");
        page.slots[1].kind = kind::INTERRUPT;
        page.slots[1].slot = 4;
        page.slots[2].name = name("beyond");
        page
    }

    #[test]
    fn a_capability_is_found_by_name_and_kind_and_only_within_the_count() {
        let page = page("");
        let info = Info::new(&page, b"");
        assert_eq!(info.slot("com1", kind::PORTS).map(|slot| slot.slot), Some(3));
        assert_eq!(info.slot("com1", kind::INTERRUPT).map(|slot| slot.slot), Some(4));
        assert!(info.slot("com1", kind::TIMER).is_none());
        assert!(info.slot("beyond", kind::NONE).is_none());
    }

    #[test]
    fn configuration_values_are_trimmed_and_numbers_may_be_hexadecimal() {
        let text = "a = 12\nb=0x7c00\nc=x\nd=true\n";
        let page = page(text);
        let info = Info::new(&page, text.as_bytes());
        assert_eq!(info.config("a"), Some("12"));
        assert_eq!(info.number("a"), Some(12));
        assert_eq!(info.number("b"), Some(0x7c00));
        assert_eq!(info.number("c"), None);
        assert_eq!(info.number("z"), None);
        assert!(info.flag("d") && !info.flag("a"));
    }

    #[test]
    fn configuration_that_is_longer_than_the_page_or_not_text_reads_as_absent() {
        let mut page = page("");
        page.config_bytes = u32::MAX;
        assert_eq!(Info::new(&page, b"a=1").number("a"), Some(1));
        assert_eq!(Info::new(&page, b"a=\xff").config("a"), None);
    }
}
