//! The first instructions: PVH and multiboot2 entry in 32-bit mode, the switch to long mode, and the
//! jump into [`super::start`]. The temporary tables identity-map the first 4 GiB; the core's own
//! tables replace them before the first partition runs.

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
    cld
    mov edi, 1
    cmp eax, 0x36d76289
    je 1f
    xor edi, edi
    jmp 1f
    .global boot_pvh
boot_pvh:
    cld
    mov edi, 2
1:  cli
    mov esi, ebx
    mov esp, offset boot_stack_end

    mov eax, 0x80000000             // long mode there?
    cpuid
    cmp eax, 0x80000001
    jb 9f
    mov eax, 0x80000001
    cpuid
    bt edx, 29
    jnc 9f
    // CPUID clobbered EBX only; EDI and ESI still hold protocol and hand-over address.

    mov eax, offset boot_pdpt
    or eax, 3
    mov [boot_pml4], eax
    mov ecx, 0
2:  mov eax, ecx
    shl eax, 12
    add eax, offset boot_pd
    or eax, 3
    mov [boot_pdpt + ecx * 8], eax
    inc ecx
    cmp ecx, 4
    jb 2b
    xor ecx, ecx
3:  mov eax, ecx
    shl eax, 21
    or eax, 0x83
    mov [boot_pd + ecx * 8], eax
    inc ecx
    cmp ecx, 2048
    jb 3b

    mov eax, offset boot_pml4
    mov cr3, eax
    mov eax, cr4
    or eax, 0x20                    // PAE
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900                   // LME, NXE
    wrmsr
    mov eax, cr0
    or eax, 0x80010001              // PG, WP, PE
    and eax, 0x9fffffff             // CD, NW off
    mov cr0, eax
    lgdt [boot_gdtr]
    .byte 0xea                      // far jump to the 64-bit segment
    .long boot64
    .short 8

9:  mov esi, offset no_long_mode
    mov edx, 0x3f8
4:  lodsb
    test al, al
    jz 5f
    out dx, al
    jmp 4b
5:  hlt
    jmp 5b

    .code64
boot64:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov rsp, offset boot_stack_end
    xor ebp, ebp
    call {start}
6:  hlt
    jmp 6b

    .section .rodata.boot, "a"
    .balign 8
boot_gdt:
    .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
boot_gdtr:
    .short 23
    .long boot_gdt
no_long_mode:
    .asciz "portcullis: boot: this processor has no long mode\r\n"

    .section .bss.boot, "aw", @nobits
    .balign 4096
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4096 * 4
boot_stack: .skip 16384
boot_stack_end:
    .text
    "#,
    start = sym super::start,
);
