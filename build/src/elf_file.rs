//! elf_file
