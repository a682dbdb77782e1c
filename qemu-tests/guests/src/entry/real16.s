// Entry in real mode at 0:7c00, EBX = bytes of guest memory: announce the mode, go to protected mode.
.section .entry, "ax"
.code16
.global guest_entry
guest_entry:
    cli
    cld
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    mov si, offset entry_text
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
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long entry_protected
    .word 0x08
entry_text: .asciz "guest entry: real mode\n"
