#!/usr/bin/env bash
# Tries the testbed where this machine may differ: a stock Debian 12 with systemd, cgroup v2 and AppArmor, in a virtual machine
# (2 CPUs, 4 GB, no network). Takes minutes with KVM, half an hour without; not a part of `make test`.
# usage: vm/run.sh      needs qemu-system-x86, mmdebstrap, e2fsprogs, and what `pollux-testbed build` made
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${POLLUX_CACHE:-$HOME/.cache/pollux}
kubernetes=${KUBERNETES_FULL:-1.36.3}
# Where `make cluster` left the programs.
target=$(rustc -vV | sed -n 's/^host: //p')
programs=${PROGRAMS:-${CARGO_TARGET_DIR:-$here/../../../target}/$target/debug}
out=$cache/vm
mkdir -p "$out"
cd "$out"

if [ ! -f root.img ]; then
  rm -rf root
  mmdebstrap -q --variant=apt --include=linux-image-amd64,systemd-sysv,udev,dbus,iptables,iproute2,conntrack,procps,kmod,apparmor bookworm root ${MIRROR:-}
  printf '/dev/vda / ext4 rw 0 1\n' >root/etc/fstab
  echo testbed >root/etc/hostname
  units=root/etc/systemd/system
  ln -sf /dev/null $units/serial-getty@ttyS0.service
  cat >$units/check.service <<'UNIT'
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'mkdir -p /data && mount -o ro /dev/vdb /data && bash /data/check.sh'
ExecStopPost=systemctl poweroff --no-block
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
TimeoutStartSec=infinity
UNIT
  mkdir -p $units/multi-user.target.wants
  ln -sf ../check.service $units/multi-user.target.wants/
  cp root/boot/vmlinuz-* vmlinuz
  cp root/boot/initrd.img-* initrd
  mke2fs -q -t ext4 -d root root.img.new 12G
  mv root.img.new root.img
  rm -rf root
fi

# The programs on a disk of their own, links resolved within it.
rm -rf data data.img
mkdir -p data/cache/bin
cp -a "$cache/bin/$kubernetes" data/cache/bin/
for component in kubernetes-$kubernetes etcd-* containerd-* runc-* cni-plugins-*; do
  for folder in "$cache"/bin/$component; do cp -a "$folder" data/cache/bin/; done
done
for folder in "$cache"/bin/coredns-* "$cache"/bin/helm-*; do # asked for by their recipes only
  mkdir data/cache/bin/"$(basename "$folder")"
  cp -a "$folder/.recipe" data/cache/bin/"$(basename "$folder")"/
done
cp "$programs/pollux-testbed" "$programs/testbed-probe" "$here/check.sh" "$here/../tests/pods.yaml" data/
mke2fs -q -t ext4 -d data data.img $(($(du -sm data | cut -f1) * 11 / 10 + 64))M
rm -rf data

# Only real nested KVM is quicker than emulation: a /dev/kvm without svm or vmx interprets a stock kernel.
accelerator=tcg,thread=multi cpu=max
if grep -qwE 'svm|vmx' /proc/cpuinfo && [ -w /dev/kvm ]; then accelerator=kvm cpu=host; fi
: >console
timeout "${LIMIT:-3600}" qemu-system-x86_64 -accel $accelerator -cpu $cpu -m 4096 -smp 2 -nodefaults -no-reboot -display none \
  -serial file:console -kernel vmlinuz -initrd initrd -append "root=/dev/vda rw console=ttyS0 quiet panic=-1" \
  -drive file=root.img,if=virtio,format=raw,cache=unsafe,snapshot=on -drive file=data.img,if=virtio,format=raw,readonly=on || true
sed -n '/CHECK STARTS/,$p' console | tr -d '\r'
grep -q 'CHECK ENDS with 0' console
