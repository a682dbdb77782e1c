//! The nested page table of a VM. On SVM entries carry the user bit always: the processor walks it as ring 3. On VMX
//! (EPT; SDM volume 3, section 28.2) the bits of PRESENT, WRITE and USER are read, write and execute, and the leaf's
//! bits 3 to 6 are memory type write-back, whatever the guest's PAT says.

use super::Vendor;
use super::block::at;
use crate::mem::table;
use crate::state::Core;
use portcullis_ipc::exit::group;
use portcullis_ipc::image::mitigation;
use portcullis_ipc::syscall::rights;

/// Bits 3 to 6 of an EPT leaf, with [`table::USED`], which the walk of [`table`] sets.
const WRITE_BACK: u64 = 1 << 4;
static_assertions::const_assert_eq!((WRITE_BACK | table::USED) >> 3 & 0xf, 6 | 1 << 3);

/// Flags of guest memory with all rights, under these mitigations.
pub fn open(vendor: Vendor, mitigations: u32) -> u64 {
    flags(vendor, 7) | if mitigations & mitigation::SMALL_PAGES == 0 { table::LARGE } else { 0 }
}

/// Leaf flags for `wanted` rights; 0 when the page is not to be accessible at all.
fn flags(vendor: Vendor, wanted: u8) -> u64 {
    if wanted & rights::READ == 0 {
        return 0;
    }
    let write = if wanted & rights::WRITE != 0 { table::WRITE } else { 0 };
    let executes = wanted & rights::EXECUTE != 0;
    let rest = match (vendor, executes) {
        (Vendor::Svm, true) => table::USER,
        (Vendor::Svm, false) => table::USER | table::NO_EXECUTE,
        (Vendor::Vmx, true) => table::USER | WRITE_BACK,
        (Vendor::Vmx, false) => WRITE_BACK,
    };
    table::PRESENT | write | rest
}

impl Core {
    /// Change the rights of guest memory; `false` when the page-table pool has no page for a split.
    pub fn protect_guest(&mut self, vm: u8, address: u64, pages: u64, wanted: u8) -> bool {
        let root = self.vms[vm].nested;
        // Each 2 MiB page that the range touches may have to be split.
        let large = self.mitigations & mitigation::SMALL_PAGES == 0;
        if large && self.pool.left() < (pages >> 9).wrapping_add(2) {
            return false;
        }
        let flags = flags(self.machine.vendor, wanted);
        let mut done = true;
        for page in 0..pages {
            done &= self.pool.protect(root, address.wrapping_add(page << 12), flags).is_ok();
        }
        for vcpu in self.vms[vm].vcpus() {
            let state = &mut self.vcpus[vcpu];
            let asid = state.control.word(at::ASID) & 0xffff_ffff;
            state.control.set_word(at::ASID, asid | self.machine.flush << 32);
            state.changed |= group::EVENT;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_is_in_large_pages_unless_a_mitigation_forbids_them() {
        let open = |mitigations| [Vendor::Svm, Vendor::Vmx].map(|vendor| open(vendor, mitigations));
        let small = [Vendor::Svm, Vendor::Vmx].map(|vendor| flags(vendor, 7));
        assert_eq!(open(!mitigation::SMALL_PAGES), small.map(|flags| flags | table::LARGE));
        assert_eq!(open(mitigation::SMALL_PAGES), small);
    }

    #[test]
    fn rights_become_flags() {
        for vendor in [Vendor::Svm, Vendor::Vmx] {
            assert_eq!(flags(vendor, 0), 0);
            assert_eq!(flags(vendor, rights::WRITE), 0, "nothing is writable that is not readable");
        }
        let (read, write) = (table::PRESENT, table::WRITE);
        assert_eq!(flags(Vendor::Svm, 7), read | write | table::USER);
        assert_eq!(flags(Vendor::Svm, rights::READ), read | table::USER | table::NO_EXECUTE);
        assert_eq!((flags(Vendor::Vmx, 7) | table::USED) & 0x7f, 0b111_0111);
        assert_eq!((flags(Vendor::Vmx, rights::READ) | table::USED) & 0x7f, 0b111_0001);
    }
}
