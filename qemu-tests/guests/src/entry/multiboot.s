// Entry by multiboot 1, with the address fields: loaded at 1 MiB in flat protected mode. What EAX and EBX
// held is left at 0x500 and 0x504; EBX becomes the bytes of guest memory.
.section .entry, "ax"
.code32
.balign 4
multiboot_header:
    .long 0x1badb002
    .long 0x10003
    .long 0xe4514ffb
    .long multiboot_header
    .long multiboot_header
    .long image_end
    .long bss_end
    .long guest_entry
.global guest_entry
guest_entry:
    cli
    cld
    mov dword ptr ds:[0x500], eax
    mov dword ptr ds:[0x504], ebx
    mov eax, dword ptr [ebx + 8]
    add eax, 1024
    shl eax, 10
    mov ebx, eax
    lgdt [entry_gdt_pointer]
    .byte 0xea
    .long entry_protected
    .word 0x08
