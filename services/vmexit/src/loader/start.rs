//! The state of vCPU 0 at a guest's first instruction.

use portcullis_ipc::exit::{ExitPage, Segment, gpr, group, segment};

/// Reset value of the PAT register.
const PAT: u64 = 0x0007_0406_0007_0406;
/// CR0: PE, ET. Long mode adds MP, NE, WP, PG.
const CR0_PROTECTED: u64 = 0x11;
const CR0_LONG: u64 = CR0_PROTECTED | 1 << 1 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR4: PAE, OSFXSR, OSXMMEXCPT.
const CR4_LONG: u64 = 1 << 5 | 1 << 9 | 1 << 10;
/// EFER: LME, LMA.
const EFER_LONG: u64 = 1 << 8 | 1 << 10;

/// The processor's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real mode.
    Real16,
    /// Flat protected mode without paging.
    Protected32,
    /// Long mode; the root of the page tables.
    Long64 {
        /// CR3.
        root: u64,
    },
}

/// The state, as far as entry methods differ in it; all else is as after power-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Mode.
    pub mode: Mode,
    /// Physical address of the first instruction.
    pub entry: u64,
    /// Registers.
    pub rax: u64,
    /// Registers.
    pub rbx: u64,
    /// Registers.
    pub rsi: u64,
    /// Registers.
    pub rsp: u64,
    /// Selector of the code segment.
    pub code: u16,
    /// Selector of the data segments.
    pub data: u16,
    /// Address and last byte of the descriptor table that the selectors are from; `None` without one.
    pub table: Option<(u64, u32)>,
}

impl Start {
    /// Flat protected mode at `entry`, all registers 0, no descriptor table for the selectors.
    pub fn flat(entry: u64) -> Self {
        Self { mode: Mode::Protected32, entry, rax: 0, rbx: 0, rsi: 0, rsp: 0, code: 0x08, data: 0x10, table: None }
    }

    /// Fills the page, all groups but the time.
    pub fn fill(&self, page: &mut ExitPage) {
        page.registers = [0; 16];
        for (register, value) in
            [(gpr::RAX, self.rax), (gpr::RBX, self.rbx), (gpr::RSI, self.rsi), (gpr::RSP, self.rsp)]
        {
            page.registers[register] = value;
        }
        page.rflags = 2;
        (page.cr2, page.cr3, page.xcr0) = (0, 0, 1);
        (page.dr, page.dr6, page.dr7) = ([0; 4], 0xffff_0ff0, 0x400);
        (page.star, page.lstar, page.cstar, page.sfmask, page.kernel_gs_base) = (0, 0, 0, 0, 0);
        (page.sysenter_cs, page.sysenter_esp, page.sysenter_eip) = (0, 0, 0);
        (page.pat, page.tsc_aux) = (PAT, 0);
        (page.event, page.shadow, page.windows) = (0, 0, 0);
        self.segments(page);
        page.xsave.fill(0);
        let (control, mxcsr) = (0x37f_u16.to_le_bytes(), 0x1f80_u32.to_le_bytes());
        page.xsave[..2].copy_from_slice(&control);
        page.xsave[24..28].copy_from_slice(&mxcsr);
        page.dirty = group::ALL & !group::TIME;
    }

    fn segments(&self, page: &mut ExitPage) {
        let flat = |selector, attributes, limit| Segment { selector, attributes, limit, base: 0 };
        page.segments[segment::GDTR] = flat(0, 0, 0xffff);
        page.segments[segment::IDTR] = flat(0, 0, 0);
        page.segments[segment::LDTR] = flat(0, 0x82, 0xffff);
        page.segments[segment::TR] = flat(0, 0x8b, 0x67);
        let data = [segment::ES, segment::SS, segment::DS, segment::FS, segment::GS];
        if self.mode == Mode::Real16 {
            (page.cr0, page.cr4, page.efer) = (0x10, 0, 0);
            data.iter().for_each(|index| page.segments[*index] = flat(0, 0x93, 0xffff));
            // Below 64 KiB code runs at 0:entry, as firmware starts a boot sector.
            let paragraph = if self.entry <= 0xffff { 0 } else { (self.entry >> 4) as u16 };
            let base = u64::from(paragraph) << 4;
            page.segments[segment::CS] = Segment { base, ..flat(paragraph, 0x9b, 0xffff) };
            page.rip = self.entry - base;
            page.segments[segment::IDTR].limit = 0x3ff;
            return;
        }
        (page.cr0, page.cr4, page.efer) = (CR0_PROTECTED, 0, 0);
        let mut code = 0xc9b;
        if let Mode::Long64 { root } = self.mode {
            (page.cr0, page.cr3, page.cr4, page.efer) = (CR0_LONG, root, CR4_LONG, EFER_LONG);
            code = 0xa9b;
        }
        data.iter().for_each(|index| page.segments[*index] = flat(self.data, 0xc93, u32::MAX));
        page.segments[segment::CS] = flat(self.code, code, u32::MAX);
        if let Some((base, limit)) = self.table {
            page.segments[segment::GDTR] = Segment { base, limit, ..Segment::default() };
        }
        page.rip = self.entry;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registers::bits;
    use zerocopy::FromZeros;

    fn filled(start: Start) -> ExitPage {
        let mut page = ExitPage::new_zeroed();
        start.fill(&mut page);
        page
    }

    #[test]
    fn code_starts_at_the_entry_in_its_mode() {
        for (mode, entry, code_bits) in [
            (Mode::Real16, 0x7c00, 16),
            (Mode::Real16, 0x2_0000, 16),
            (Mode::Protected32, 0x10_0000, 32),
            (Mode::Long64 { root: 0x1000 }, 0x10_0000, 64),
        ] {
            let page = filled(Start { mode, ..Start::flat(entry) });
            assert_eq!(page.segments[segment::CS].base + page.rip, entry);
            assert_eq!(bits(&page), code_bits);
            assert_eq!(page.rflags, 2);
        }
    }

    /// The entry state of PVH and of multiboot is the same but for the registers.
    #[test]
    fn flat_protected_mode_is_what_the_boot_protocols_demand() {
        let page = filled(Start { rbx: 0x6000, ..Start::flat(0x100_0850) });
        assert_eq!((page.cr0, page.cr4, page.cr3, page.efer), (0x11, 0, 0, 0));
        assert_eq!((page.rip, page.registers[gpr::RBX]), (0x100_0850, 0x6000));
        let code = page.segments[segment::CS];
        assert_eq!((code.attributes, code.base, code.limit), (0xc9b, 0, u32::MAX));
        for index in [segment::DS, segment::ES, segment::SS, segment::FS, segment::GS] {
            let data = page.segments[index];
            assert_eq!((data.attributes, data.base, data.limit), (0xc93, 0, u32::MAX));
        }
        let task = page.segments[segment::TR];
        assert_eq!((task.attributes, task.base, task.limit), (0x8b, 0, 0x67));
        assert_eq!((page.dr7, page.xcr0, page.pat, page.segments[segment::IDTR].limit), (0x400, 1, PAT, 0));
        assert_eq!(page.xsave[24..28], 0x1f80_u32.to_le_bytes());
    }
}
