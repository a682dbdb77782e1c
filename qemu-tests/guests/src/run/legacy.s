// run_legacy(state in RDI): leaves long mode, runs the state's code in protected mode, virtual-8086 mode
// or real mode, and climbs back. Offsets are those of `State`; 0x1000 and 0x2000 are LOW_CODE and
// LOW_STATE of `machine`.
.section .text.run_legacy, "ax"
.code64
run_legacy:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov qword ptr [rip + run_host_rsp], rsp
    mov qword ptr [rip + run_state], rdi
    mov rax, cr4
    mov qword ptr [rip + run_cr4], rax
    mov rax, cr3
    mov qword ptr [rip + run_cr3], rax
    push 0x18
    lea rax, [rip + legacy_down]
    push rax
    retfq
.code32
legacy_down:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ss, ax
    mov esp, offset legacy_stack_top
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov ecx, 0xc0000080
    rdmsr
    and eax, 0xfffffeff
    wrmsr
    mov esi, dword ptr [run_state]
    mov eax, dword ptr [esi + 216]
    mov cr4, eax
    lidt [legacy_idt_pointer]
    cmp dword ptr [esi + 224], 0
    jne legacy_real
    mov byte ptr [{gdt} + 0x58 + 5], 0x89
    mov ax, 0x58
    ltr ax
    mov eax, dword ptr [esi + 208]
    mov cr3, eax
    mov eax, cr0
    or eax, dword ptr [esi + 200]
    mov cr0, eax
    test dword ptr [esi + 136], 0x20000
    jnz 1f
    test byte ptr [esi + 144], 3
    jnz 2f
    mov esp, dword ptr [esi + 32]
    jmp 3f
1:  push 0
    push 0
    push dword ptr [esi + 160]
    push dword ptr [esi + 168]
2:  push dword ptr [esi + 152]
    push dword ptr [esi + 32]
3:  push dword ptr [esi + 136]
    push dword ptr [esi + 144]
    push dword ptr [esi + 128]
    test dword ptr [esi + 136], 0x20000
    jnz 4f
    mov ax, word ptr [esi + 168]
    mov es, ax
    mov cx, word ptr [esi + 160]
4:  mov eax, dword ptr [esi]
    mov edx, dword ptr [esi + 16]
    mov ebx, dword ptr [esi + 24]
    mov ebp, dword ptr [esi + 40]
    mov edi, dword ptr [esi + 56]
    push dword ptr [esi + 8]
    push dword ptr [esi + 48]
    test dword ptr [esi + 136], 0x20000
    jnz 5f
    mov ds, cx
5:  pop esi
    pop ecx
    iretd

.balign 16
traps_legacy:
.set trap, 0
.rept 256
    .balign 16
    .if (trap == 8) || ((trap >= 10) && (trap <= 14)) || (trap == 17) || (trap == 21)
    .else
    .byte 0x6a, 0
    .endif
    .byte 0x68
    .long trap
    jmp trap_legacy
    .set trap, trap + 1
.endr

trap_legacy:
    cld
    pushad
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ebx, dword ptr [run_state]
    mov eax, dword ptr [esp + 28]
    mov dword ptr [ebx], eax
    mov eax, dword ptr [esp + 24]
    mov dword ptr [ebx + 8], eax
    mov eax, dword ptr [esp + 20]
    mov dword ptr [ebx + 16], eax
    mov eax, dword ptr [esp + 16]
    mov dword ptr [ebx + 24], eax
    mov eax, dword ptr [esp + 8]
    mov dword ptr [ebx + 40], eax
    mov eax, dword ptr [esp + 4]
    mov dword ptr [ebx + 48], eax
    mov eax, dword ptr [esp]
    mov dword ptr [ebx + 56], eax
    mov eax, dword ptr [esp + 32]
    mov dword ptr [ebx + 176], eax
    mov eax, dword ptr [esp + 36]
    mov dword ptr [ebx + 184], eax
    mov eax, dword ptr [esp + 40]
    mov dword ptr [ebx + 128], eax
    mov eax, dword ptr [esp + 44]
    mov dword ptr [ebx + 144], eax
    mov eax, dword ptr [esp + 48]
    mov dword ptr [ebx + 136], eax
    mov eax, cr2
    mov dword ptr [ebx + 192], eax
legacy_up:
    mov esp, offset legacy_stack_top
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov eax, dword ptr [run_cr4]
    mov cr4, eax
    mov eax, dword ptr [run_cr3]
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    or eax, 0x80000001
    mov cr0, eax
    .byte 0xea
    .long legacy_home
    .word 0x08
.code64
legacy_home:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    lidt [rip + long_idt_pointer]
    lea rax, [rip + {gdt}]
    mov byte ptr [rax + 0x48 + 5], 0x89
    mov ax, 0x48
    ltr ax
    jmp run_finish

// Real mode: the state travels through LOW_STATE, the code below 64 KiB.
.code32
legacy_real:
    mov edi, 0x2000
    mov ecx, 58
    rep movsd
    .byte 0xea
    .long 0x1000 + (real_protected - low_start)
    .word 0x20

legacy_from_real:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esi, 0x2000
    mov edi, dword ptr [run_state]
    mov ecx, 58
    rep movsd
    jmp legacy_up

.section .text.low, "ax"
.balign 16
low_start:
.code16
real_protected:
    mov ax, 0x28
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov eax, cr0
    and eax, 0xfffffffe
    mov cr0, eax
    .byte 0xea
    .word 0x1000 + (real_entry - low_start)
    .word 0
real_entry:
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ss, ax
    lidt [real_idt_at]
    mov sp, word ptr [0x2000 + 32]
    mov ax, word ptr [0x2000 + 136]
    push ax
    mov ax, word ptr [0x2000 + 144]
    push ax
    mov ax, word ptr [0x2000 + 128]
    push ax
    mov eax, dword ptr [0x2000]
    mov ecx, dword ptr [0x2000 + 8]
    mov edx, dword ptr [0x2000 + 16]
    mov ebx, dword ptr [0x2000 + 24]
    mov ebp, dword ptr [0x2000 + 40]
    mov esi, dword ptr [0x2000 + 48]
    mov edi, dword ptr [0x2000 + 56]
    mov es, word ptr [0x2000 + 168]
    mov ds, word ptr [0x2000 + 160]
    iret

.balign 8
low_traps:
.set trap, 0
.rept 256
    .byte 0x68
    .word trap
    .byte 0xe9
    .word trap_real - low_traps - trap * 8 - 6
    .balign 8
    .set trap, trap + 1
.endr

trap_real:
    cld
    push ds
    push eax
    xor ax, ax
    mov ds, ax
    pop eax
    mov dword ptr [0x2000], eax
    pop ax
    mov word ptr [0x2000 + 160], ax
    mov dword ptr [0x2000 + 8], ecx
    mov dword ptr [0x2000 + 16], edx
    mov dword ptr [0x2000 + 24], ebx
    mov dword ptr [0x2000 + 40], ebp
    mov dword ptr [0x2000 + 48], esi
    mov dword ptr [0x2000 + 56], edi
    xor eax, eax
    pop ax
    mov dword ptr [0x2000 + 176], eax
    pop ax
    mov dword ptr [0x2000 + 128], eax
    pop ax
    mov dword ptr [0x2000 + 144], eax
    pop ax
    mov dword ptr [0x2000 + 136], eax
    mov eax, cr0
    or eax, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long legacy_from_real
    .word 0x18
real_idt_pointer:
    .word 0x3ff
    .long 0
low_end:
.set real_idt_at, 0x1000 + (real_idt_pointer - low_start)

.section .data.run, "aw"
.balign 8
.global legacy_idt_pointer
    .word 0, 0, 0
legacy_idt_pointer:
    .word 0x7ff
    .long machine_tables + 0x2000
    .word 0
    .word 0, 0, 0
long_idt_pointer:
    .word 0xfff
    .quad machine_tables
