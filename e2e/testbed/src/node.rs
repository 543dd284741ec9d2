//! A node: a network namespace and a mount namespace with containerd, kubelet and kube-proxy of its own.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::control_plane::words;
use crate::host;
use crate::images;
use crate::layout::{CONTROL_PLANE, DNS_SERVICE, Layout, PODS};
use crate::process::{Stop, run, sh_words, wait_for};

/// The image that holds a pod's namespaces.
pub(crate) const PAUSE: &str = "localhost/testbed/pause:1";
/// The chains in which faults drop packets, and where they hang: before a packet is looked at, and after all is decided.
pub(crate) const CHAINS: [(&str, &str); 2] = [("POLLUX-IN", "PREROUTING"), ("POLLUX-OUT", "POSTROUTING")];

/// Its namespace, its cable to the switch, the routes from and to it, and the (empty) chains of faults.
pub(crate) fn network(layout: &Layout, node: u8) -> Result<()> {
    let (switch, space, address) = (layout.namespace(), layout.node_namespace(node), Layout::node_address(node));
    host::add_namespace(&space)?;
    sh_words(&format!("ip -n {switch} link add n{node} type veth peer name eth0 netns {space}"))?;
    sh_words(&format!("ip -n {switch} link set n{node} master switch up"))?;
    sh_words(&format!("ip -n {space} addr add {address}/24 dev eth0"))?;
    sh_words(&format!("ip -n {space} link set eth0 up"))?;
    routes(layout, node)?;
    sh_words(&format!("ip -n {switch} route add 10.88.{node}.0/24 via {address}"))?;
    for (chain, hook) in CHAINS {
        iptables(layout, node, &format!("-N {chain}"))?;
        iptables(layout, node, &format!("-I {hook} -j {chain}"))?;
    }
    Ok(())
}

/// A node's way out, and to the pods of the other nodes.
pub(crate) fn routes(layout: &Layout, node: u8) -> Result<()> {
    let space = layout.node_namespace(node);
    sh_words(&format!("ip -n {space} route replace default via {CONTROL_PLANE}"))?;
    for other in (1..=layout.nodes).filter(|other| *other != node) {
        sh_words(&format!("ip -n {space} route replace 10.88.{other}.0/24 via {}", Layout::node_address(other)))?;
    }
    Ok(())
}

/// iptables on a node, in the table `mangle`: what is dropped there is dropped before and after everything else.
pub(crate) fn iptables(layout: &Layout, node: u8, rule: &str) -> Result<String> {
    let space = host::namespace(&layout.node_namespace(node));
    sh_words(&format!("nsenter --net={} iptables -w 5 -t mangle {rule}", space.display()))
}

/// Starts containerd, and gives it the images.
pub(crate) fn start_containerd(layout: &Layout, node: u8, archives: &[PathBuf], stop: &Stop) -> Result<()> {
    let folder = layout.node_folder(node);
    let space = layout.node_namespace(node);
    if layout.pid(&format!("mounts-{node}")).is_none() {
        let _ = fs::remove_file(folder.join("mounted"));
        let mut inside = layout.enter(&space, None)?;
        inside.extend(["unshare", "--mount", "--propagation", "slave"].map(str::to_owned));
        let keeper = ["sh".to_owned(), "-c".to_owned(), host::mount_script(&folder)?];
        layout.start(&format!("mounts-{node}"), &inside, &keeper, None)?;
        wait_for("a node's mount namespace", Duration::from_secs(20), stop, || {
            layout.check_alive(&format!("mounts-{node}"))?;
            Ok(folder.join("mounted").exists())
        })?;
    }
    let config = folder.join("containerd/config.toml");
    crate::paths::write(&config, containerd_config(layout, node))?;
    crate::paths::write(&folder.join("cni/10-testbed.conflist"), cni_config(layout, node))?;
    let name = format!("containerd-{node}");
    let command = words(layout, "containerd", &format!("-c {}", config.display()));
    layout.start(&name, &layout.enter(&space, Some(node))?, &command, None)?;
    wait_for("containerd", Duration::from_secs(30), stop, || {
        layout.check_alive(&name)?;
        Ok(run(layout.ctr(node).arg("version")).is_ok())
    })?;
    images::import(layout, node, archives)
}

/// Starts kubelet and kube-proxy; the API server must answer.
pub(crate) fn start_kubelet(layout: &Layout, node: u8) -> Result<()> {
    let folder = layout.node_folder(node);
    let inside = layout.enter(&layout.node_namespace(node), Some(node))?;
    let config = folder.join("kubelet/config.yaml");
    crate::paths::write(&config, kubelet_config(layout, node))?;
    let pki = layout.pki();
    let role = if node == 1 { "stable" } else { "faulty" };
    let kubelet = words(
        layout,
        "kubelet",
        &format!(
            "--config={} --kubeconfig={}/kubelet-{node}.conf --root-dir={} --hostname-override=node-{node} --node-ip={} \
             --node-labels=pollux.dev/testbed-role={role}",
            config.display(),
            pki.display(),
            folder.join("kubelet/root").display(),
            Layout::node_address(node),
        ),
    );
    layout.start(&format!("kubelet-{node}"), &inside, &kubelet, None)?;
    let proxy = words(
        layout,
        "kube-proxy",
        &format!(
            "--kubeconfig={}/proxy.conf --proxy-mode=iptables --cluster-cidr={PODS} --hostname-override=node-{node} \
             --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 \
             --healthz-bind-address=127.0.0.1:10256",
            pki.display(),
        ),
    );
    layout.start(&format!("kube-proxy-{node}"), &inside, &proxy, None)
}

/// ptp, not bridge: that would need br_netfilter, which changes the host's own bridges.
fn cni_config(layout: &Layout, node: u8) -> String {
    format!(
        r#"{{"cniVersion":"1.0.0","name":"testbed","plugins":[
 {{"type":"ptp","ipMasq":false,"ipam":{{"type":"host-local","dataDir":"{}","ranges":[[{{"subnet":"10.88.{node}.0/24"}}]],"routes":[{{"dst":"0.0.0.0/0"}}]}}}},
 {{"type":"portmap","capabilities":{{"portMappings":true}}}}]}}
"#,
        layout.node_folder(node).join("ipam").display()
    )
}

/// NRI is off: its socket has one fixed path, which the second containerd of a machine finds taken.
/// `restrict_oom_score_adj`: works without CAP_SYS_RESOURCE. `netns_mounts_under_state_dir`: pods' namespaces vanish with the
/// node. `disable_apparmor`: no profile is left in the host's kernel.
fn containerd_config(layout: &Layout, node: u8) -> String {
    let (folder, bin) = (layout.node_folder(node), layout.bin.display());
    let d = folder.display();
    format!(
        r#"version = 3
root = "{d}/containerd/root"
state = "{d}/containerd/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{d}/containerd/containerd.sock"
[plugins.'io.containerd.nri.v1.nri']
  disable = true
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  disable_apparmor = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{bin}/cni"]
    conf_dir = "{d}/cni"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = "{bin}/runc"
      SystemdCgroup = false
"#
    )
}

/// No image is ever collected: none could be pulled again. A full disk of the host evicts no pod.
fn kubelet_config(layout: &Layout, node: u8) -> String {
    let (folder, pki) = (layout.node_folder(node), layout.pki());
    let (d, pki, cgroup) = (folder.display(), pki.display(), layout.cgroup());
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {{x509: {{clientCAFile: {pki}/ca.crt}}, anonymous: {{enabled: false}}, webhook: {{enabled: true}}}}
authorization: {{mode: Webhook}}
tlsCertFile: {pki}/kubelet-{node}.crt
tlsPrivateKeyFile: {pki}/kubelet-{node}.key
cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}/node-{node}
failSwapOn: false
failCgroupV1: false
oomScoreAdj: 0
clusterDomain: cluster.local
clusterDNS: [{DNS_SERVICE}]
containerRuntimeEndpoint: unix://{d}/containerd/containerd.sock
resolvConf: /dev/null
podLogsDir: {d}/pods
volumePluginDir: {d}/volumeplugins
evictionHard: {{imagefs.available: "0%", nodefs.available: "0%", memory.available: "100Mi"}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
localStorageCapacityIsolation: false
"#
    )
}
