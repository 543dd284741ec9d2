//! CoreDNS, on node-1: it must survive what is done to the other nodes.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::layout::{DNS_SERVICE, Layout};
use crate::process::run;

/// The image's name.
pub(crate) const IMAGE: &str = "localhost/testbed/coredns:1";
const MANIFEST: &str = include_str!("../coredns.yaml");

/// Creates it.
pub(crate) fn apply(layout: &Layout) -> Result<()> {
    let manifest = MANIFEST.replace("$IMAGE", IMAGE).replace("$ADDRESS", &DNS_SERVICE.to_string());
    let mut kubectl = layout
        .kubectl()
        .args(["apply", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    kubectl.stdin.take().context("a pipe was asked for")?.write_all(manifest.as_bytes())?;
    let output = kubectl.wait_with_output()?;
    ensure!(output.status.success(), "CoreDNS: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Is it ready?
pub(crate) fn ready(layout: &Layout) -> Result<bool> {
    let arguments = ["get", "deployment", "-n", "kube-system", "coredns", "-o", "jsonpath={.status.readyReplicas}"];
    Ok(run(layout.kubectl().args(arguments))? == "1")
}
