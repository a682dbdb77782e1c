#!/bin/sh
# Runs one built guest in QEMU without a hypervisor: try-bare.sh TARGET_DIRECTORY GUEST [QEMU ARGUMENT ...]
# A sanity check of the guests themselves. QEMU's own vmport differs from VMware's in places, so the port
# guests report failures here that are QEMU's.
set -eu
images=$1 guest=$2
shift 2
case $guest in
*16) mode=0 address=0x7c00 ;;
*32) mode=1 address=0x100000 ;;
*) mode=2 address=0x100000 ;;
esac
exec timeout 60 qemu-system-x86_64 -accel tcg -cpu max,+svm,-la57 -machine pc,vmport=on -m 32 -display none \
    -serial stdio -monitor none -no-reboot -device isa-debug-exit,iobase=0xf4,iosize=1 \
    -bios "$images/guest-firmware" \
    -device loader,addr=0x500,data=$mode,data-len=4 \
    -device loader,addr=0x504,data=0x2000000,data-len=4 \
    -device loader,file="$images/guest-$guest",addr=$address,force-raw=on "$@"
