//! Descriptor table and task state: one set a CPU.
//!
//! INV-CPU-LOCAL: the statics here are written before the tables are loaded and only by the CPU that owns
//! them.

use core::arch::asm;

/// Selector of ring-0 code.
pub const KERNEL_CODE: u16 = 0x08;
/// Selector of ring-0 data.
pub const KERNEL_DATA: u16 = 0x10;
/// Base selector of SYSRET: data at +8, code at +16.
pub const SYSRET_BASE: u16 = 0x18;
/// Selector of ring-3 data, with RPL 3.
pub const USER_DATA: u16 = 0x23;
/// Selector of ring-3 code, with RPL 3.
pub const USER_CODE: u16 = 0x2b;
/// Selector of the task state.
pub const TASK: u16 = 0x30;

const STACK: usize = 16384;
const FAULT_STACK: usize = 4096;

#[repr(C, align(16))]
struct Stack<const N: usize>([u8; N]);

#[repr(C, packed(4))]
struct TaskState {
    reserved: u32,
    rsp: [u64; 3],
    reserved2: u64,
    ist: [u64; 7],
    reserved3: [u64; 1],
    reserved4: u16,
    io_map: u16,
}

static_assertions::const_assert_eq!(size_of::<TaskState>(), 104);

#[repr(C)]
struct Tables {
    gdt: [u64; 8],
    task: TaskState,
    stack: Stack<STACK>,
    fault_stacks: [Stack<FAULT_STACK>; 3],
}

static mut TABLES: Tables = Tables {
    gdt: [0; 8],
    task: TaskState { reserved: 0, rsp: [0; 3], reserved2: 0, ist: [0; 7], reserved3: [0], reserved4: 0, io_map: 104 },
    stack: Stack([0; STACK]),
    fault_stacks: [const { Stack([0; FAULT_STACK]) }; 3],
};

/// Addresses of the descriptor table and of the task state.
pub fn bases() -> [u64; 2] {
    let tables = &raw const TABLES as u64;
    let at = |offset: usize| tables.wrapping_add(offset as u64);
    [at(core::mem::offset_of!(Tables, gdt)), at(core::mem::offset_of!(Tables, task))]
}

/// Load the tables; returns the top of the core's stack.
pub fn load() -> u64 {
    let tables = &raw mut TABLES;
    // SAFETY: INV-CPU-LOCAL: nobody else refers to the tables yet.
    let tables = unsafe { &mut *tables };
    let stack = (&raw const tables.stack as u64).wrapping_add(STACK as u64);
    let task = &raw const tables.task as u64;
    tables.task.rsp = [stack, 0, 0];
    let tops = tables.fault_stacks.each_ref().map(|s| (&raw const *s as u64).wrapping_add(FAULT_STACK as u64));
    let [nmi, double_fault, machine_check] = tops;
    tables.task.ist = [nmi, double_fault, machine_check, 0, 0, 0, 0];
    const LIMIT: u64 = size_of::<TaskState>() as u64 - 1;
    tables.gdt = [
        0,
        0x00af_9a00_0000_ffff,
        0x00cf_9200_0000_ffff,
        0,
        0x00cf_f200_0000_ffff,
        0x00af_fa00_0000_ffff,
        LIMIT | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56,
        task >> 32,
    ];
    let pointer: [u16; 5] = {
        let base = &raw const tables.gdt as u64;
        [63, base as u16, (base >> 16) as u16, (base >> 32) as u16, (base >> 48) as u16]
    };
    // SAFETY: INV-CPU-LOCAL, INV-RING0: the table is complete and static; the selectors name its entries.
    unsafe {
        asm!(
            "lgdt [{pointer}]",
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov ss, {data:e}",
            "ltr {task:x}",
            pointer = in(reg) &pointer,
            code = const KERNEL_CODE as i32,
            data = in(reg) u32::from(KERNEL_DATA),
            task = in(reg) TASK,
            scratch = out(reg) _,
        );
    }
    stack
}
