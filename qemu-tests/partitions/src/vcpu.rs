//! The vCPU of a test VM, driven by hand: its exit page, its memory and the system calls on it.
//!
//! Capability: VM `vm` with run; the partition is the VM's vmexit.

use core::mem::offset_of;
use portcullis_ipc::exit::{ExitPage, Segment, group, segment, vendor};
use portcullis_ipc::image::kind;
use portcullis_ipc::layout::{EXIT_PAGES, GUEST_BASE};
use portcullis_ipc::syscall::{Resume, Status, VcpuId};
use portcullis_runtime::handle::missing;
use portcullis_runtime::pages::{exit_page, info};
use portcullis_runtime::syscall::{self, Returned};

/// Guest address of the code of [`Vcpu::real_mode`].
pub const CODE: u64 = 0x1000;
/// Guest address of the stack's end in real mode.
pub const STACK: u64 = 0x8000;

/// Offset in the exit page of a field, also inside an array: `field!(registers, 3)`.
#[macro_export]
macro_rules! field {
    ($field:ident) => {
        core::mem::offset_of!(portcullis_ipc::exit::ExitPage, $field) as u64
    };
    ($field:ident, $index:expr) => {
        core::mem::offset_of!(portcullis_ipc::exit::ExitPage, $field) as u64 + 8 * $index as u64
    };
}

/// vCPU 0 of the test VM.
#[derive(Clone, Copy)]
pub struct Vcpu {
    /// Slot of the VM capability.
    pub slot: u16,
}

impl Vcpu {
    /// The vCPU that the manifest grants.
    pub fn find() -> Self {
        let Some(found) = info().slot("vm", kind::VM) else { missing("vm") };
        Self { slot: found.slot }
    }

    /// Its id.
    pub fn id(self) -> VcpuId {
        VcpuId::new(self.slot, 0)
    }

    /// Reads 64 bits of the exit page.
    pub fn get(self, offset: u64) -> u64 {
        // SAFETY: the exit page stays mapped for the life of the instance and nothing borrows it.
        unsafe { core::ptr::with_exposed_provenance::<u64>((EXIT_PAGES + offset) as usize).read_volatile() }
    }

    /// Writes 64 bits of the exit page.
    pub fn set(self, offset: u64, value: u64) {
        // SAFETY: as in `get`; the page is writable.
        unsafe { core::ptr::with_exposed_provenance_mut::<u64>((EXIT_PAGES + offset) as usize).write_volatile(value) }
    }

    /// Reason of the last exit.
    pub fn reason(self) -> u32 {
        self.get(field!(reason)) as u32
    }

    /// The processor is Intel's.
    pub fn is_vmx(self) -> bool {
        self.get(field!(version)) >> 32 == u64::from(vendor::VMX)
    }

    /// Names the groups to be taken over.
    pub fn dirty(self, groups: u32) {
        self.set(field!(dirty), groups.into());
    }

    /// Segment `index`.
    pub fn segment(self, index: usize, selector: u16, attributes: u16, limit: u32, base: u64) {
        let at = (offset_of!(ExitPage, segments) + index * size_of::<Segment>()) as u64;
        self.set(at, u64::from(selector) | u64::from(attributes) << 16 | u64::from(limit) << 32);
        self.set(at + 8, base);
    }

    /// Writes bytes of guest memory.
    pub fn memory(self, address: u64, bytes: &[u8]) {
        for (offset, &byte) in bytes.iter().enumerate() {
            let target = (GUEST_BASE + address) as usize + offset;
            // SAFETY: guest memory is mapped writable at GUEST_BASE; the VM of the tests has 2 MiB at least.
            unsafe { core::ptr::with_exposed_provenance_mut::<u8>(target).write_volatile(byte) };
        }
    }

    /// Has groups filled.
    pub fn fetch(self, groups: u32) -> Returned {
        syscall::vcpu_fetch(self.id(), groups, exit_page(0))
    }

    /// Fills the whole state: real mode at [`CODE`], interrupts off, all groups dirty.
    pub fn real_mode(self) {
        self.fetch(group::ALL);
        for index in 0..16 {
            self.set(field!(registers, index), 0);
        }
        self.set(field!(registers, 4), STACK);
        self.set(field!(rip), CODE);
        self.set(field!(rflags), 2);
        for (offset, value) in [
            (field!(cr0), 0x10),
            (field!(cr2), 0),
            (field!(cr3), 0),
            (field!(cr4), 0),
            (field!(efer), 0),
            (field!(xcr0), 1),
            (field!(dr6), 0xffff_0ff0),
            (field!(dr7), 0x400),
            (field!(tsc_offset), 0),
            (field!(event), 0),
            // `shadow` and `windows`.
            (field!(shadow), 0),
            (field!(pat), 0x0007_0406_0007_0406),
        ] {
            self.set(offset, value);
        }
        for index in 0..6 {
            self.segment(index, 0, if index == 1 { 0x9b } else { 0x93 }, 0xffff, 0);
        }
        for (index, attributes) in [(segment::GDTR, 0), (segment::LDTR, 0x82), (segment::IDTR, 0), (segment::TR, 0x8b)]
        {
            self.segment(index, 0, attributes, 0xffff, 0);
        }
        self.dirty(group::ALL);
    }

    /// Resumes with `word` and waits for an exit or for notification bits of `mask`.
    pub fn resume_wait(self, word: u64, mask: u64) -> Returned {
        syscall::vcpu_resume(self.id(), word | Resume::THEN_WAIT, mask)
    }

    /// Enters the guest and waits for its next exit; the reason, or `None` when something else came.
    pub fn enter(self) -> Option<u32> {
        let returned = self.resume_wait(Resume::ENTER, 0);
        (returned.status() == Some(Status::Exited)).then(|| self.reason())
    }
}
