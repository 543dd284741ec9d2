//! Questions to a cluster, a pod, a host.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use pollux_testbed::{Cluster, Options, Pod};

/// One cluster test at a time: they measure the host.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A cluster that is removed when its test ends, however it ends.
pub(crate) struct Guard(pub(crate) Cluster);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Err(error) = self.0.down() {
            eprintln!("cannot remove {}: {error:#}", self.0.name());
        }
    }
}

pub(crate) fn options(name: &str, nodes: u8) -> Options {
    Options { name: name.into(), nodes, kubernetes: kubernetes(), ..Options::default() }
}

/// The version that is tested.
pub(crate) fn kubernetes() -> String {
    std::env::var("KUBERNETES").unwrap_or_else(|_| "1.36".into())
}

/// The image of the pods of these tests.
pub(crate) fn probe_image(folder: &Path) -> PathBuf {
    let archive = folder.join("probe.tar");
    pollux_testbed::write_image(Path::new(env!("CARGO_BIN_EXE_testbed-probe")), "localhost/testbed/probe:1", &archive)
        .unwrap();
    archive
}

pub(crate) fn eventually(what: &str, limit: Duration, mut probe: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !probe() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn kubectl(cluster: &Cluster, words: &str) -> String {
    let output = cluster.kubectl().args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "kubectl {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn apply(cluster: &Cluster, file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
    kubectl(cluster, &format!("apply -f {}", path.display()));
}

/// The pod of `app=web` on a node, and its address.
pub(crate) fn web(cluster: &Cluster, node: &str) -> (Pod, Ipv4Addr) {
    try_web(cluster, node).expect("a pod with an address")
}

/// The same while it may have none.
pub(crate) fn try_web(cluster: &Cluster, node: &str) -> Option<(Pod, Ipv4Addr)> {
    let words = format!(
        "get pods -n smoke -l app=web --field-selector spec.nodeName={node} -o jsonpath={{.items[0].metadata.name}},{{.items[0].status.podIP}}"
    );
    let answer = kubectl(cluster, &words);
    let (name, address) = answer.split_once(',')?;
    Some((Pod::new("smoke", name), address.parse().ok()?))
}

/// Status code and body.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    connection.set_read_timeout(Some(Duration::from_secs(4))).ok()?;
    write!(connection, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    connection.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

pub(crate) fn ok(address: SocketAddr, path: &str) -> Option<String> {
    get(address, path).filter(|(code, _)| *code == 200).map(|(_, body)| body)
}

/// Everything on the host that a cluster could have changed, other clusters left out.
pub(crate) fn host(name: &str) -> String {
    let said = |words: &str| {
        let mut words = words.split(' ');
        let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|line| !line.starts_with(['#', ':']))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let of_ours = |text: String| text.lines().filter(|line| line.contains(name)).collect::<Vec<_>>().join("\n");
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mounts: Vec<_> = mounts.lines().filter(|line| !line.contains("/run/netns")).collect();
    let folders = [
        "/opt/containerd",
        "/var/log/pods",
        "/usr/libexec/kubernetes",
        "/etc/cni",
        "/opt/cni",
        "/run/runc",
        "/run/nri",
    ];
    let folders: Vec<_> = folders.iter().filter(|folder| Path::new(folder).exists()).collect();
    [
        said("ip -br link"),
        said("ip route"),
        said("iptables-save"),
        said("sysctl net.ipv4.ip_forward vm.overcommit_memory kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes"),
        mounts.join("\n"),
        format!("{folders:?}"),
        of_ours(said("ip netns")),
        of_ours(said("find /sys/fs/cgroup -type d -name pollux-testbed-*")),
        processes(name).len().to_string(),
    ]
    .join("\n---\n")
}

/// Processes that carry the mark of a cluster.
pub(crate) fn processes(name: &str) -> Vec<i32> {
    let mark = format!("POLLUX_TESTBED={}", pollux_testbed::cache().join("clusters").join(name).display());
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|text| text.split(|byte| *byte == 0).any(|word| word == mark.as_bytes()))
    })
    .collect()
}
