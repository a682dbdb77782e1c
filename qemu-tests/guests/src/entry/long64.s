// Entry in long mode at 1 MiB with all RAM mapped one to one, RBX = bytes of guest memory.
.section .entry, "ax"
.code64
.global guest_entry
guest_entry:
    cli
    cld
    lea rdi, [rip + image_end]
    lea rcx, [rip + bss_end]
    sub rcx, rdi
    xor eax, eax
    rep stosb
    lea rsp, [rip + entry_stack_top]
    mov rdi, rbx
    call {main}
    ud2
.section .bss.entry, "aw", @nobits
.balign 16
entry_stack: .skip 0x8000
entry_stack_top:
