// run_long(state in RDI): loads the state's registers, enters its code by IRETQ and comes back through
// whatever trap ends it. Offsets are those of `State`.
.section .text.run_long, "ax"
.code64
run_long:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov qword ptr [rip + run_host_rsp], rsp
    mov qword ptr [rip + run_state], rdi
    mov ax, word ptr [rdi + 160]
    mov ds, ax
    mov ax, word ptr [rdi + 168]
    mov es, ax
    push qword ptr [rdi + 152]
    push qword ptr [rdi + 32]
    push qword ptr [rdi + 136]
    push qword ptr [rdi + 144]
    push qword ptr [rdi + 128]
    mov rax, qword ptr [rdi]
    mov rcx, qword ptr [rdi + 8]
    mov rdx, qword ptr [rdi + 16]
    mov rbx, qword ptr [rdi + 24]
    mov rbp, qword ptr [rdi + 40]
    mov rsi, qword ptr [rdi + 48]
    mov r8, qword ptr [rdi + 64]
    mov r9, qword ptr [rdi + 72]
    mov r10, qword ptr [rdi + 80]
    mov r11, qword ptr [rdi + 88]
    mov r12, qword ptr [rdi + 96]
    mov r13, qword ptr [rdi + 104]
    mov r14, qword ptr [rdi + 112]
    mov r15, qword ptr [rdi + 120]
    mov rdi, qword ptr [rdi + 56]
    iretq

// All gates of the long-mode IDT: 16 bytes each.
.balign 16
traps_long:
.set trap, 0
.rept 256
    .balign 16
    .if (trap == 8) || ((trap >= 10) && (trap <= 14)) || (trap == 17) || (trap == 21)
    .else
    .byte 0x6a, 0
    .endif
    .byte 0x68
    .long trap
    jmp trap_long
    .set trap, trap + 1
.endr

trap_long:
    cld
    push rax
    mov rax, qword ptr [rip + run_state]
    test rax, rax
    jz 9f
    mov qword ptr [rax + 8], rcx
    mov qword ptr [rax + 16], rdx
    mov qword ptr [rax + 24], rbx
    mov qword ptr [rax + 40], rbp
    mov qword ptr [rax + 48], rsi
    mov qword ptr [rax + 56], rdi
    mov qword ptr [rax + 64], r8
    mov qword ptr [rax + 72], r9
    mov qword ptr [rax + 80], r10
    mov qword ptr [rax + 88], r11
    mov qword ptr [rax + 96], r12
    mov qword ptr [rax + 104], r13
    mov qword ptr [rax + 112], r14
    mov qword ptr [rax + 120], r15
    pop rcx
    mov qword ptr [rax], rcx
    pop rcx
    mov qword ptr [rax + 176], rcx
    pop rcx
    mov qword ptr [rax + 184], rcx
    pop rcx
    mov qword ptr [rax + 128], rcx
    pop rcx
    mov qword ptr [rax + 144], rcx
    pop rcx
    mov qword ptr [rax + 136], rcx
    pop rcx
    mov qword ptr [rax + 32], rcx
    pop rcx
    mov qword ptr [rax + 152], rcx
    mov rcx, cr2
    mov qword ptr [rax + 192], rcx
run_finish:
    mov qword ptr [rip + run_state], 0
    mov rsp, qword ptr [rip + run_host_rsp]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
9:  pop rax
    pop rdi
    pop rsi
    pop rdx
    and rsp, -16
    call {unexpected}
    ud2

.section .bss.run, "aw", @nobits
.balign 16
run_host_rsp: .skip 8
run_state: .skip 8
run_cr4: .skip 8
run_cr3: .skip 8
machine_tables: .skip 0x4000
trap_stack: .skip 0x1000
trap_stack_top:
legacy_stack: .skip 0x1000
legacy_stack_top:
