//! etcd, API server, controller manager and scheduler, in a network namespace that is also the nodes' switch.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::forward;
use crate::host;
use crate::layout::{API_SERVICE, CONTROL_PLANE, Layout, SERVICES};
use crate::pki::{self, Authority};
use crate::process::{Stop, patience, run, sh_words, wait_for};

/// The namespace with the bridge.
pub(crate) fn network(layout: &Layout) -> Result<()> {
    let space = layout.namespace();
    host::add_namespace(&space)?;
    sh_words(&format!("ip -n {space} link add switch type bridge"))?;
    sh_words(&format!("ip -n {space} addr add {CONTROL_PLANE}/24 dev switch"))?;
    sh_words(&format!("ip -n {space} link set switch up"))?;
    sh_words(&format!("ip -n {space} route add {SERVICES} dev switch"))?;
    Ok(())
}

/// All certificates and kubeconfigs of a cluster.
pub(crate) fn certificates(layout: &Layout) -> Result<()> {
    let authority = Authority::new(&layout.pki())?;
    let server = format!("https://{CONTROL_PLANE}:6443");
    let mut names = vec![pki::ip([127, 0, 0, 1].into()), pki::ip(API_SERVICE), pki::ip(CONTROL_PLANE)];
    for name in [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ] {
        names.push(pki::dns(name)?);
    }
    authority.certificate("apiserver", None, "kube-apiserver", &names)?;
    authority.certificate("admin", Some("system:masters"), "admin", &[])?;
    authority.certificate("apiserver-kubelet", Some("system:masters"), "apiserver-kubelet", &[])?;
    for (file, user) in [
        ("controller-manager", "system:kube-controller-manager"),
        ("scheduler", "system:kube-scheduler"),
        ("proxy", "system:kube-proxy"),
    ] {
        authority.certificate(file, None, user, &[])?;
        authority.kubeconfig(file, &server)?;
    }
    for node in 1..=layout.nodes {
        let name = format!("node-{node}");
        let names = [pki::dns(&name)?, pki::ip([127, 0, 0, 1].into()), pki::ip(Layout::node_address(node))];
        authority.certificate(
            &format!("kubelet-{node}"),
            Some("system:nodes"),
            &format!("system:node:{name}"),
            &names,
        )?;
        authority.kubeconfig(&format!("kubelet-{node}"), &server)?;
    }
    Ok(())
}

/// Starts etcd and the API server, and opens the API server's port on the host.
pub(crate) fn start_api(layout: &Layout, port: u16) -> Result<()> {
    let inside = layout.enter(&layout.namespace(), None)?;
    let etcd = words(
        layout,
        "etcd",
        &format!(
            "--data-dir={} --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
             --listen-peer-urls=http://127.0.0.1:2380 --unsafe-no-fsync",
            layout.folder.join("etcd").display()
        ),
    );
    layout.start("etcd", &inside, &etcd, None)?;
    let p = layout.pki().display().to_string();
    let options = api_options("http://127.0.0.1:2379", &layout.pki(), Ipv4Addr::UNSPECIFIED, 6443);
    let api = words(
        layout,
        "kube-apiserver",
        &format!(
            "{options} --kubelet-client-certificate={p}/apiserver-kubelet.crt --kubelet-client-key={p}/apiserver-kubelet.key \
             --kubelet-certificate-authority={p}/ca.crt --kubelet-preferred-address-types=InternalIP \
             --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction"
        ),
    );
    layout.start("apiserver", &inside, &api, None)?;
    let address = forward::open(layout, "forward-api", &layout.namespace(), "127.0.0.1:6443", port)?;
    pki::portable_kubeconfig(&layout.pki(), "admin", &layout.name, &format!("https://{address}"), &layout.kubeconfig())
}

/// What every API server of ours is told.
pub(crate) fn api_options(etcd: &str, pki: &Path, bind: Ipv4Addr, port: u16) -> String {
    let p = pki.display();
    format!(
        "--etcd-servers={etcd} --bind-address={bind} --advertise-address={CONTROL_PLANE} --secure-port={port} \
         --tls-cert-file={p}/apiserver.crt --tls-private-key-file={p}/apiserver.key --client-ca-file={p}/ca.crt \
         --service-account-key-file={p}/sa.pub --service-account-signing-key-file={p}/sa.key \
         --service-account-issuer=https://kubernetes.default.svc --service-cluster-ip-range={SERVICES}"
    )
}

/// Waits for the API server, then starts those that need it.
pub(crate) fn start_controllers(layout: &Layout, stop: &Stop) -> Result<()> {
    wait_for("the API server (/readyz)", Duration::from_secs(60), stop, || {
        layout.check_alive("etcd")?;
        layout.check_alive("apiserver")?;
        Ok(api_ready(layout))
    })?;
    let inside = layout.enter(&layout.namespace(), None)?;
    let p = layout.pki().display().to_string();
    // With its usual 20 calls a second it would need four seconds to start, one per controller's account.
    let manager = words(
        layout,
        "kube-controller-manager",
        &format!(
            "--kubeconfig={p}/controller-manager.conf --service-account-private-key-file={p}/sa.key --root-ca-file={p}/ca.crt \
             --cluster-signing-cert-file={p}/ca.crt --cluster-signing-key-file={p}/ca.key --flex-volume-plugin-dir={} \
             --use-service-account-credentials --leader-elect=false --bind-address=127.0.0.1 --node-monitor-grace-period=20s \
             --kube-api-qps=200 --kube-api-burst=400",
            layout.folder.join("volumeplugins").display()
        ),
    );
    layout.start("controller-manager", &inside, &manager, None)?;
    let scheduler = words(
        layout,
        "kube-scheduler",
        &format!("--kubeconfig={p}/scheduler.conf --leader-elect=false --bind-address=127.0.0.1"),
    );
    layout.start("scheduler", &inside, &scheduler, None)
}

/// Does the API server answer, within two seconds (on a machine of usual speed)?
pub(crate) fn api_ready(layout: &Layout) -> bool {
    let limit = format!("--request-timeout={}s", 2 * patience());
    run(layout.kubectl().args(["get", "--raw", "/readyz", &limit])).is_ok()
}

/// A program of ours with its options.
pub(crate) fn words(layout: &Layout, program: &str, options: &str) -> Vec<String> {
    std::iter::once(layout.program(program)).chain(options.split_whitespace().map(str::to_owned)).collect()
}
