// Entry in flat protected mode without paging at 1 MiB, EBX = bytes of guest memory.
.section .entry, "ax"
.code32
.global guest_entry
guest_entry:
    cli
    cld
    mov esi, offset entry_text
2:  lodsb
    test al, al
    jz 4f
    mov ah, al
    mov dx, 0x3fd
3:  in al, dx
    test al, 0x20
    jz 3b
    mov dx, 0x3f8
    mov al, ah
    out dx, al
    jmp 2b
4:  lgdt [entry_gdt_pointer]
    .byte 0xea
    .long entry_protected
    .word 0x08
entry_text: .asciz "guest entry: protected mode\n"
