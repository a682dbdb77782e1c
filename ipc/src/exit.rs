//! The exit page: one per vCPU, shared between the core and the VM's `vmexit`, the same for SVM and VMX.
//!
//! The core fills the head, the general registers, RIP and RFLAGS at every exit; other groups on
//! demand (`VcpuFetch`), noting them in `valid`. The service changes what it wants, sets the group's
//! bit in `dirty` and answers with `VcpuResume`. The page holds guest state and an event, nothing
//! else: no intercept, address-space id, nested root or bitmap can be named in it.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Version of this layout.
pub const VERSION: u32 = 1;

/// `vendor` values.
pub mod vendor {
    /// AMD SVM.
    pub const SVM: u32 = 1;
    /// Intel VMX.
    pub const VMX: u32 = 2;
}

/// State groups, as bits of `valid`, `dirty` and the mask of `VcpuFetch`.
pub mod group {
    /// `registers`.
    pub const GENERAL: u32 = 1 << 0;
    /// `rip`, `rflags`.
    pub const FLOW: u32 = 1 << 1;
    /// `cr0` to `xcr0`.
    pub const CONTROL: u32 = 1 << 2;
    /// `dr`, `dr6`, `dr7`.
    pub const DEBUG: u32 = 1 << 3;
    /// `segments`, `gdtr`, `idtr`.
    pub const SEGMENTS: u32 = 1 << 4;
    /// `star` to `sysenter_eip`, `pat`, `tsc_aux`.
    pub const SYSCALL: u32 = 1 << 5;
    /// `tsc_offset`.
    pub const TIME: u32 = 1 << 6;
    /// `event`, `shadow`, `windows`.
    pub const EVENT: u32 = 1 << 7;
    /// `xsave`.
    pub const EXTENDED: u32 = 1 << 8;
    /// All groups: the whole state of a vCPU.
    pub const ALL: u32 = (1 << 9) - 1;
    /// Groups that are valid at every exit without being asked for.
    pub const ALWAYS: u32 = GENERAL | FLOW;
}

/// Exit reasons, the same for both vendors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromZeros)]
#[repr(u32)]
pub enum Reason {
    /// No exit yet: the vCPU was never entered.
    None = 0,
    /// Intercepted exception. `qualification[0]`: vector; `[1]`: error code; `[2]`: faulting address of #PF, for #DB
    /// [`super::exit::exception`].
    Exception = 1,
    /// The guest can take the interrupt that `windows` asked for.
    InterruptWindow = 2,
    /// The guest can take an NMI.
    NmiWindow = 3,
    /// CPUID.
    Cpuid = 4,
    /// HLT.
    Hlt = 5,
    /// Port I/O. `qualification[0]`: [`super::exit::io`] word.
    Io = 6,
    /// RDMSR or WRMSR. `qualification[0]`: 1 for a write.
    Msr = 7,
    /// RDTSC.
    Rdtsc = 8,
    /// RDTSCP.
    Rdtscp = 9,
    /// RDPMC.
    Rdpmc = 10,
    /// INVLPG.
    Invlpg = 11,
    /// Access to a control register. `[0]`: register; `[1]`: 1 for a write.
    ControlRegister = 12,
    /// Access to a debug register. `[0]`: register; `[1]`: 1 for a write.
    DebugRegister = 13,
    /// Guest-physical access that the nested table refused. `[0]`: address; `[1]`: [`super::exit::access`].
    NestedFault = 14,
    /// Triple fault.
    Shutdown = 15,
    /// VMMCALL or VMCALL.
    Hypercall = 16,
    /// PAUSE.
    Pause = 17,
    /// WBINVD or INVD.
    Wbinvd = 18,
    /// XSETBV.
    Xsetbv = 19,
    /// MONITOR.
    Monitor = 20,
    /// MWAIT.
    Mwait = 21,
    /// Instruction of a virtualization extension (VMRUN, VMLOAD, VMXON, ...), SKINIT.
    Virtualization = 22,
    /// Task switch. `[0]`: selector; `[1]`: vendor's information.
    TaskSwitch = 23,
    /// IRET, when intercepted for an NMI window.
    Iret = 24,
    /// Another partition asked for the exit (`VcpuRecall`).
    Recall = 25,
    /// INIT, SIPI, SMI: `[0]` the vendor's exit code.
    SystemSignal = 26,
    /// The vCPU was stopped because a service gave it a state that the processor refused.
    BadState = 27,
    /// MSR number outside the bitmap, EPT misconfiguration and all other codes: `[0]` the vendor's code.
    Other = 28,
}

/// The port I/O word.
pub mod io {
    /// Port number.
    pub const PORT: u64 = 0xffff;
    /// Shift of the width in bytes (1, 2, 4).
    pub const WIDTH_SHIFT: u32 = 16;
    /// Set for IN and INS.
    pub const INPUT: u64 = 1 << 24;
    /// Set for INS and OUTS.
    pub const STRING: u64 = 1 << 25;
    /// Set with a REP prefix.
    pub const REPEAT: u64 = 1 << 26;
}

/// The access word of a nested fault.
pub mod access {
    /// The page was present (a rights violation).
    pub const PRESENT: u64 = 1 << 0;
    /// The access was a write.
    pub const WRITE: u64 = 1 << 1;
    /// The access was an instruction fetch.
    pub const FETCH: u64 = 1 << 4;
    /// The access was the processor's walk of the guest's own page table.
    pub const GUEST_WALK: u64 = 1 << 33;
}

/// What raised a debug exception.
pub mod exception {
    /// The instruction INT1 (0xF1), at which RIP still points; it ends as a trap, after itself.
    pub const INT1: u64 = 1;
}

/// Bits of `shadow`.
pub mod shadow {
    /// Interrupts are held for one instruction (STI, MOV SS).
    pub const INTERRUPT: u32 = 1 << 0;
    /// NMIs are held until IRET.
    pub const NMI: u32 = 1 << 1;
}

/// Bits of `windows`.
pub mod window {
    /// Exit as soon as the guest can take an interrupt.
    pub const INTERRUPT: u32 = 1 << 0;
    /// Exit as soon as the guest can take an NMI.
    pub const NMI: u32 = 1 << 1;
}

/// The event word, the same format on both vendors (AMD APM volume 2, EVENTINJ).
pub mod event {
    /// Vector.
    pub const VECTOR: u64 = 0xff;
    /// Shift of the type.
    pub const TYPE_SHIFT: u32 = 8;
    /// Mask of the type, shifted down.
    pub const TYPE: u64 = 7;
    /// External interrupt.
    pub const INTERRUPT: u64 = 0;
    /// NMI.
    pub const NMI: u64 = 2;
    /// Exception.
    pub const EXCEPTION: u64 = 3;
    /// Software interrupt (INT n).
    pub const SOFTWARE: u64 = 4;
    /// The high half holds an error code.
    pub const ERROR_VALID: u64 = 1 << 11;
    /// The word holds an event.
    pub const VALID: u64 = 1 << 31;

    /// An exception, with an error code where it has one.
    pub const fn exception(vector: u8, error: Option<u32>) -> u64 {
        let base = VALID | EXCEPTION << TYPE_SHIFT | vector as u64;
        match error {
            Some(code) => base | ERROR_VALID | (code as u64) << 32,
            None => base,
        }
    }
    /// An external interrupt.
    pub const fn interrupt(vector: u8) -> u64 {
        VALID | INTERRUPT << TYPE_SHIFT | vector as u64
    }
}

/// One segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: u16,
    /// Attributes, 12 bits as in AMD's VMCB, the upper four 0: type 0-3, S 4, DPL 5-6, P 7, AVL 8, L 9, D/B 10,
    /// G 11.
    pub attributes: u16,
    /// Limit in bytes, expanded.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

/// Index of a segment in [`ExitPage::segments`].
pub mod segment {
    /// ES.
    pub const ES: usize = 0;
    /// CS.
    pub const CS: usize = 1;
    /// SS.
    pub const SS: usize = 2;
    /// DS.
    pub const DS: usize = 3;
    /// FS.
    pub const FS: usize = 4;
    /// GS.
    pub const GS: usize = 5;
    /// GDTR.
    pub const GDTR: usize = 6;
    /// LDTR.
    pub const LDTR: usize = 7;
    /// IDTR.
    pub const IDTR: usize = 8;
    /// TR.
    pub const TR: usize = 9;
}

/// Index of a register in [`ExitPage::registers`]: the processor's own numbering.
pub mod gpr {
    /// RAX.
    pub const RAX: usize = 0;
    /// RCX.
    pub const RCX: usize = 1;
    /// RDX.
    pub const RDX: usize = 2;
    /// RBX.
    pub const RBX: usize = 3;
    /// RSP.
    pub const RSP: usize = 4;
    /// RBP.
    pub const RBP: usize = 5;
    /// RSI.
    pub const RSI: usize = 6;
    /// RDI.
    pub const RDI: usize = 7;
}

/// Bytes of the extended state in the page: x87, SSE and AVX in the standard XSAVE format.
pub const XSAVE_BYTES: usize = 832;

/// The page.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExitPage {
    /// [`VERSION`].
    pub version: u32,
    /// [`vendor`].
    pub vendor: u32,
    /// Sequence of this exit: the same when it is given again to the next instance of the service.
    pub sequence: u64,
    /// [`Reason`] as a number.
    pub reason: u32,
    /// Groups that the core filled.
    pub valid: u32,
    /// Groups that the service changed; the core clears it at every exit.
    pub dirty: u32,
    /// Privilege level of the guest at the exit, 0 to 3.
    pub cpl: u32,
    /// See [`Reason`].
    pub qualification: [u64; 3],
    /// Address of the next instruction where the processor gives it, else 0.
    pub next_rip: u64,
    /// Group GENERAL: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8-R15.
    pub registers: [u64; 16],
    /// Group FLOW.
    pub rip: u64,
    /// Group FLOW.
    pub rflags: u64,
    /// Group CONTROL. The order of this and the next groups is that of AMD's control block.
    pub cr4: u64,
    /// Group CONTROL.
    pub cr3: u64,
    /// Group CONTROL.
    pub cr0: u64,
    /// Group CONTROL.
    pub efer: u64,
    /// Group CONTROL.
    pub cr2: u64,
    /// Group CONTROL.
    pub xcr0: u64,
    /// Group DEBUG: DR0 to DR3.
    pub dr: [u64; 4],
    /// Group DEBUG.
    pub dr7: u64,
    /// Group DEBUG.
    pub dr6: u64,
    /// Group SEGMENTS, by [`segment`]; selector and attributes of the two tables count for nothing.
    pub segments: [Segment; 10],
    /// Group SYSCALL.
    pub star: u64,
    /// Group SYSCALL.
    pub lstar: u64,
    /// Group SYSCALL.
    pub cstar: u64,
    /// Group SYSCALL.
    pub sfmask: u64,
    /// Group SYSCALL.
    pub kernel_gs_base: u64,
    /// Group SYSCALL.
    pub sysenter_cs: u64,
    /// Group SYSCALL.
    pub sysenter_esp: u64,
    /// Group SYSCALL.
    pub sysenter_eip: u64,
    /// Group SYSCALL.
    pub pat: u64,
    /// Group SYSCALL.
    pub tsc_aux: u64,
    /// Group TIME: added to the host's TSC.
    pub tsc_offset: u64,
    /// Group EVENT: on an exit the event that was interrupted in delivery, on resume the event to
    /// deliver ([`event`]). 0: none.
    pub event: u64,
    /// Group EVENT: [`shadow`].
    pub shadow: u32,
    /// Group EVENT: [`window`]; written by the service only.
    pub windows: u32,
    /// Zero; the next groups start at a fixed offset.
    pub reserved: [u64; 185],
    /// Group EXTENDED: standard-format XSAVE area.
    pub xsave: [u8; XSAVE_BYTES],
    /// Zero.
    pub tail: [u8; 4096 - 2048 - XSAVE_BYTES],
}

static_assertions::const_assert_eq!(size_of::<Segment>(), 16);
static_assertions::const_assert_eq!(size_of::<ExitPage>(), 4096);
static_assertions::const_assert_eq!(core::mem::offset_of!(ExitPage, qualification), 32);
static_assertions::const_assert_eq!(core::mem::offset_of!(ExitPage, registers), 64);
static_assertions::const_assert_eq!(core::mem::offset_of!(ExitPage, rip), 192);
static_assertions::const_assert_eq!(core::mem::offset_of!(ExitPage, cr4), 208);
static_assertions::const_assert_eq!(core::mem::offset_of!(ExitPage, dr), 256);
static_assertions::const_assert_eq!(core::mem::offset_of!(ExitPage, segments), 304);
static_assertions::const_assert_eq!(core::mem::offset_of!(ExitPage, star), 464);
static_assertions::const_assert_eq!(core::mem::offset_of!(ExitPage, event), 552);
static_assertions::const_assert_eq!(core::mem::offset_of!(ExitPage, xsave), 2048);
