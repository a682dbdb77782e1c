// From protected mode to long mode, for the two entries that start below it. The page tables made
// here map the first GiB one to one; `paging` replaces them.
.section .entry, "ax"
.code32
entry_protected:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov edi, offset image_end
    mov ecx, offset bss_end
    sub ecx, edi
    xor eax, eax
    rep stosb
    mov eax, offset climb_tables + 0x1007
    mov dword ptr [climb_tables], eax
    mov eax, offset climb_tables + 0x2007
    mov dword ptr [climb_tables + 0x1000], eax
    mov edi, offset climb_tables + 0x2000
    mov eax, 0x87
5:  mov dword ptr [edi], eax
    add edi, 8
    add eax, 0x200000
    cmp eax, 0x40000000
    jb 5b
    mov eax, offset climb_tables
    mov cr3, eax
    mov eax, 0x20
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    or eax, 0x80000001
    mov cr0, eax
    .byte 0xea
    .long entry_long
    .word 0x18
.code64
entry_long:
    mov ebx, ebx
    lea rsp, [rip + entry_stack_top]
    mov rdi, rbx
    call {main}
    ud2
.balign 8
entry_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00af9b000000ffff
entry_gdt_pointer:
    .word 31
    .long entry_gdt
.section .bss.entry, "aw", @nobits
.balign 4096
climb_tables: .skip 0x3000
entry_stack: .skip 0x8000
entry_stack_top:
