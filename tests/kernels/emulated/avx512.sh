#!/usr/bin/env bash
# The CPU kernels' C++ test with AVX-512 on a machine without it: Linux with only that test, on Bochs's Skylake-X.
#
#   tests/kernels/emulated/avx512.sh        needs Debian 12 on x86-64 and root, to install packages; about 3 minutes
#
# Bochs 2.7 reports a size of the vector registers' state that Linux refuses, which then does without AVX; a module
# of five lines switches it on again. Only one process runs, so the registers need not be saved.
set -euo pipefail
cd "$(dirname "$0")/../../.."
apt-get update -qq
release=$(apt-cache depends linux-headers-cloud-amd64 | sed -n 's/.*Depends: linux-headers-//p' | head -n 1)
apt-get install -y -qq --no-install-recommends bochs bochs-term bochsbios vgabios xorriso isolinux \
  syslinux-common cpio g++ make "linux-headers-$release" > /dev/null
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{root/dev,root/proc,iso/isolinux,module,kernel}

g++ -std=c++17 -O2 -static -ffp-contract=fast -Wno-psabi -UNDEBUG -Icsrc \
  csrc/cpu/*.cpp csrc/cpu/kernels/*.cpp tests/kernels/cpp/cpu_kernels.cpp -pthread -o "$work/root/kernels"
gcc -static -O1 tests/kernels/emulated/init.c -o "$work/root/init"
mknod "$work/root/dev/console" c 5 1
cp tests/kernels/emulated/avx.c "$work/module/"
echo "obj-m += avx.o" > "$work/module/Makefile"
make -s -C "/lib/modules/$release/build" M="$work/module" modules
strip -g "$work/module/avx.ko" && cp "$work/module/avx.ko" "$work/root/"
(cd "$work/root" && find . | cpio -o -H newc --quiet > ../iso/initrd.img)

(cd "$work/kernel" && apt-get download -qq "linux-image-$release-unsigned" 2> /dev/null \
  && dpkg-deb --fsys-tarfile ./*.deb | tar x ./boot)
cp "$work"/kernel/boot/vmlinuz-* "$work/iso/vmlinuz"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/iso/isolinux/"
cat > "$work/iso/isolinux/isolinux.cfg" << 'EOF'
DEFAULT test
LABEL test
 KERNEL /vmlinuz
 APPEND initrd=/initrd.img console=ttyS0,115200 mitigations=off tsc=unstable nosmp noapic acpi=off panic=-1 quiet
EOF
xorriso -as mkisofs -quiet -o "$work/test.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat \
  -no-emul-boot -boot-load-size 4 -boot-info-table "$work/iso"

cat > "$work/bochsrc" << EOF
display_library: term
cpu: model=corei7_skylake_x, ips=50000000, ignore_bad_msrs=1
memory: guest=512, host=512
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=$work/test.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial
log: $work/bochs.log
panic: action=report
error: action=ignore
info: action=ignore
clock: sync=none
EOF
# The display needs a terminal, and Bochs goes on running after the test.
TERM=xterm setsid script -qc "bochs -q -f $work/bochsrc -rc /dev/stdin <<< c" /dev/null > /dev/null 2>&1 < /dev/null &
bochs=$!
trap 'kill -- -$bochs 2> /dev/null; rm -rf "$work"' EXIT
for _ in $(seq 360); do
  sleep 5
  if grep -aq "^END" "$work/serial" 2> /dev/null; then break; fi
done
grep -a "passed\|got\|END" "$work/serial"
grep -aq "^END 0" "$work/serial" && grep -aq "^avx512, 8 bytes: passed" "$work/serial"
