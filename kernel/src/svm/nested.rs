//! The nested page table of a VM. Entries carry the user bit always: the processor walks it as ring 3.

use super::control::at;
use crate::mem::table::{self, Pool, PoolExhausted};
use crate::state::Core;
use portcullis_ipc::syscall::rights;

/// Leaf flags for `wanted` rights; 0 when the page is not to be accessible at all.
fn flags(wanted: u8) -> u64 {
    if wanted & rights::READ == 0 {
        return 0;
    }
    let write = if wanted & rights::WRITE != 0 { table::WRITE } else { 0 };
    let execute = if wanted & rights::EXECUTE != 0 { 0 } else { table::NO_EXECUTE };
    table::PRESENT | table::USER | write | execute
}

/// Map `pages` of guest memory from guest-physical address 0.
pub fn build(pool: &mut Pool, physical: u64, pages: u64) -> Result<u64, PoolExhausted> {
    let root = pool.table()?;
    pool.map_range(root, 0, physical, pages, flags(7))?;
    Ok(root)
}

impl Core {
    /// Change the rights of guest memory; `false` when the page-table pool has no page for a split.
    pub fn protect_guest(&mut self, vm: u8, address: u64, pages: u64, wanted: u8) -> bool {
        let root = self.vms[vm].nested;
        // Each 2 MiB page that the range touches may have to be split.
        if self.pool.left() < (pages >> 9).wrapping_add(2) {
            return false;
        }
        let mut done = true;
        for page in 0..pages {
            done &= self.pool.protect(root, address.wrapping_add(page << 12), flags(wanted)).is_ok();
        }
        for vcpu in self.vms[vm].vcpus() {
            let block = self.vcpus[vcpu].control;
            block.set_word(at::ASID, block.word(at::ASID) & 0xffff_ffff | self.machine.flush << 32);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_become_flags() {
        assert_eq!(flags(0), 0);
        assert_eq!(flags(rights::WRITE), 0, "nothing is writable that is not readable");
        assert_eq!(flags(7), table::PRESENT | table::USER | table::WRITE);
        assert_eq!(flags(rights::READ), table::PRESENT | table::USER | table::NO_EXECUTE);
    }
}
