#!/usr/bin/env bash
# Runs inside the virtual machine: up, restricted pods, limits, a Service, rollout, faults, drain, down, nothing left.
set -u
export POLLUX_CACHE=/root/pollux POLLUX_TESTBED_PATIENCE=20
bad=0
began=0
did() {
  local code=$?
  [ $code = 0 ] || bad=1
  printf '%-40s %s %4d s\n' "$1" "$([ $code = 0 ] && echo ok || echo FAILED)" $((SECONDS - began))
  began=$SECONDS
}
host() {
  ip -br link
  ip route
  ip netns
  iptables-save | grep -v '^[#:]'
  sysctl net.ipv4.ip_forward vm.overcommit_memory kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes
  cut -d' ' -f1-3 /proc/mounts
  cat /sys/fs/cgroup/cgroup.subtree_control
  find /sys/fs/cgroup -type d -path '*pollux*'
  ls -d /run/netns /run/pollux-testbed.made /opt/containerd /var/log/pods /usr/libexec/kubernetes /etc/cni /opt/cni /run/runc /run/nri
  find /run/containerd /var/lib/kubelet /var/lib/cni /var/log/containers
  cat /sys/kernel/security/apparmor/profiles
  grep -slz '^POLLUX_TESTBED=' /proc/[0-9]*/environ
} 2>/dev/null
pods() { kubectl -n smoke "$@"; }

echo "CHECK STARTS, $(cut -d. -f1 /proc/uptime) s after boot: $(uname -r), $(stat -fc %T /sys/fs/cgroup), AppArmor $(cat /sys/module/apparmor/parameters/enabled)"
mkdir -p $POLLUX_CACHE
cp -a /data/cache/bin $POLLUX_CACHE/
cp /data/pollux-testbed /data/testbed-probe /root/
# systemd must not take the delegated controllers away
(while sleep 45; do systemctl daemon-reload; done) &
reloads=$!
testbed=/root/pollux-testbed
modprobe -a overlay veth bridge
iptables -S >/dev/null # its tables come with the first look: before the first snapshot
host >/root/before
began=$SECONDS
$testbed up --name vm --nodes 2
did "up, two nodes"
. $POLLUX_CACHE/clusters/vm/env || { echo "CHECK ENDS with 1"; exit 1; }
$testbed write-image /root/probe.tar /root/testbed-probe localhost/testbed/probe:1 && $testbed load --name vm /root/probe.tar
did "load"
kubectl apply -f /data/pods.yaml >/dev/null && pods rollout status ds/web --timeout=900s >/dev/null && pods rollout status deploy/mover --timeout=900s >/dev/null
did "restricted pods with a sidecar"
uid=$(pods get pods -l app=web -o 'jsonpath={.items[0].metadata.uid}')
[ -n "$(find /sys/fs/cgroup -path "*pollux-testbed-vm*pod$uid*" -name memory.max -exec grep -lx 33554432 {} +)" ]
did "memory limit in the cgroup"
door=$($testbed forward --name vm service/smoke/web:80 | sed -n 's#http://127.0.0.1:##p')
answer() { exec 3<>/dev/tcp/127.0.0.1/$door && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && timeout 20 cat <&3 | grep -a -o 'web-[a-z0-9]*'; }
for _ in $(seq 60); do answer 2>/dev/null || sleep 1; done | sort -u >/root/names
[ "$(wc -l </root/names)" = 2 ]
did "service, both pods answer"
pods rollout restart deploy/mover >/dev/null && pods rollout status deploy/mover --timeout=900s >/dev/null
did "rollout"
pod=$(pods get pods -l app=web --field-selector spec.nodeName=node-2 -o 'jsonpath={.items[0].metadata.name}')
$testbed fault --name vm kill smoke/"$pod" bot && pods wait --for=jsonpath='{.status.containerStatuses[0].restartCount}'=1 pod/"$pod" --timeout=900s >/dev/null
did "kill -9 of a container, restarted"
$testbed fault --name vm kill-node node-2 && $testbed up --name vm --nodes 2 >/dev/null && pods rollout status ds/web --timeout=900s >/dev/null
did "node killed and revived"
$testbed fault --name vm drain --timeout-seconds 900 node-2
did "drain"
$testbed up --name second --nodes 1 >/dev/null && $testbed down --name second
did "second cluster up, down"
$testbed down --name vm
did "down"
host >/root/after
diff /root/before /root/after
did "nothing left"
kill $reloads
echo "CHECK ENDS with $bad"
systemctl --failed --no-legend
journalctl -k | grep -iE 'denied|oom-kill' | tail -5
