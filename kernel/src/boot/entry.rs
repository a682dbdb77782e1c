//! The first instructions: PVH and multiboot2 entry in 32-bit mode, the switch to long mode, and the
//! jump into [`super::start`]. The temporary tables identity-map the first 4 GiB; the core's own
//! tables replace them before the first partition runs. Descriptor table, stack and CR0 are those that stay.

use crate::arch::{cpu, gdt};

core::arch::global_asm!(
    r#"
    .set MB2_MAGIC, 0xe85250d6
    .set MB2_LENGTH, mb2_end - mb2_header
    .section .multiboot2, "a"
    .balign 8
mb2_header:
    .long MB2_MAGIC, 0, MB2_LENGTH, -(MB2_MAGIC + MB2_LENGTH)
    .balign 8
    .short 6, 0                     // modules start on a page
    .long 8
    .balign 8
    .short 0, 0
    .long 8
mb2_end:

    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18                  // namesz, descsz, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long boot_pvh

    .section .text.boot, "ax"
    .code32
    .global boot_multiboot
boot_multiboot:
    mov edi, eax
    jmp 1f
    .global boot_pvh
boot_pvh:
    xor edi, edi
1:  cld
    cli
    mov esi, ebx

    mov eax, 0x80000000             // long mode there?
    cpuid
    cmp eax, 0x80000001
    jb 9f
    mov eax, 0x80000001
    cpuid
    bt edx, 29
    jnc 9f

    mov eax, offset boot_pml4       // EDI and ESI still hold protocol and hand-over address
    mov cr3, eax
    mov eax, cr4
    or eax, 0x20                    // PAE
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900                   // LME, NXE
    wrmsr
    mov eax, {cr0}
    mov cr0, eax
    lgdt [boot_gdtr]
    .byte 0xea                      // far jump to the 64-bit segment
    .long boot64
    .short {code}

9:  mov esi, offset no_long_mode
    mov edx, 0x3fb
    mov al, 3                       // eight data bits; the speed is the firmware's
    out dx, al
4:  mov edx, 0x3fd
    in al, dx
    test al, 0x20                   // the last byte has left
    jz 4b
    mov edx, 0x3f8
    lodsb
    test al, al
    jz 5f
    out dx, al
    jmp 4b
5:  hlt
    jmp 5b

    .code64
boot64:
    mov eax, {data}
    mov ss, eax
    mov esp, offset {stacks} + {stack}
    call {start}
    ud2

    .section .rodata.boot, "a"
    .global boot_gdtr
boot_gdtr:
    .short 63
    .long {gdt}, 0                  // the 64-bit core loads it again after an exit of VMX
no_long_mode:
    .asciz "portcullis: boot: this processor has no long mode\r\n"

    .section .data.boot, "aw"
    .balign 4096
boot_pml4:
    .quad boot_pdpt + 3
    .fill 511, 8, 0
boot_pdpt:
    .quad boot_pd + 3, boot_pd + 0x1003, boot_pd + 0x2003, boot_pd + 0x3003
    .fill 508, 8, 0
boot_pd:
    .set page, 0x83
    .rept 2048
    .quad page
    .set page, page + 0x200000
    .endr
    .text
    "#,
    start = sym super::start,
    gdt = sym gdt::GDT,
    stacks = sym gdt::STACKS,
    stack = const gdt::STACK,
    code = const gdt::KERNEL_CODE,
    data = const gdt::KERNEL_DATA,
    cr0 = const cpu::CR0,
);
