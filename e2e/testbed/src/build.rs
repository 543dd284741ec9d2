//! Builds the programs of a cluster from pinned Go modules, each once.
//!
//! A component lands in `bin/<name>-<version>/` with a stamp that holds its recipe; another recipe (a new version, other
//! flags, another module list) builds it anew. It is built in a folder beside and moved when it is whole, so that an
//! interrupted build leaves nothing that could be taken for a finished one. Kubernetes and etcd have `replace` directives and
//! need a module around them (`kube/`, `etcd/`); the others are installed by name.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::node::PAUSE;
use crate::process::{Stop, command, run, tail};
use crate::stage::stage;
use crate::versions::{Versions, minor};
use crate::{dns, images, paths, preflight};

/// The Kubernetes programs in the one multi-call binary.
const KUBERNETES: [&str; 6] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];
const CNI: [&str; 4] = ["main/ptp", "main/loopback", "ipam/host-local", "meta/portmap"];

/// One thing to build.
struct Component {
    name: String,
    version: String,
    /// On two cores with an empty cache.
    expected: Duration,
    source: Source,
}

enum Source {
    /// `go install PACKAGE@vVERSION` of each.
    Install { packages: Vec<String>, tags: &'static str, cgo: bool },
    /// A module of our own: its files, and what to link in.
    Module { files: Vec<(&'static str, &'static str)>, output: &'static str, linked: String },
}

/// Builds what is missing for a Kubernetes (`1.36`) and returns the folder with all programs.
pub fn build(kubernetes: &str, quiet: bool, stop: &Stop) -> Result<PathBuf> {
    let versions = Versions::load();
    let version = versions.kubernetes(kubernetes)?.to_owned();
    let components = components(&versions, &version)?;
    fs::create_dir_all(paths::cache()).context("cannot make the cache's folder")?;
    let missing: Vec<_> = components.iter().filter(|component| !component.is_built()).collect();
    let bin = paths::bin(&version);
    if missing.is_empty() && images::own(&bin).iter().all(|image| image.exists()) {
        return Ok(bin);
    }
    let lock = fs::File::create(paths::cache().join("build.lock"))?;
    lock.lock().context("cannot wait for another build")?;
    let go = preflight::for_build(!missing.is_empty())?;
    let missing: Vec<_> = components.iter().filter(|component| !component.is_built()).collect();
    for (index, component) in missing.iter().enumerate() {
        stop.check()?;
        let title = format!("[{}/{}] {} {}", index + 1, missing.len(), component.name, component.version);
        let log = component.log();
        stage(quiet, &title, component.expected, Some(&log), || component.build(&go, stop))?;
    }
    link(&bin, &components)?;
    stage(quiet, "images of pause and CoreDNS", Duration::from_secs(3), None, || own_images(&go, &bin, &version))?;
    let caches = run(Command::new(&go).args(["env", "GOMODCACHE", "GOCACHE"]))?;
    let mut handed: Vec<_> = caches.lines().map(PathBuf::from).collect();
    handed.extend(["bin", "log"].map(|folder| paths::cache().join(folder)));
    paths::hand_back_home(&handed.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
    Ok(bin)
}

/// Builds a module of somebody else's (its files by their names) into `bin/<name>-<version>/`, once for each content, and
/// returns the program.
///
/// # Errors
/// If there is no Go, or it does not build; the end of the log is in the message.
pub fn build_module(
    name: &'static str,
    version: &str,
    files: &[(&'static str, &'static str)],
    stop: &Stop,
) -> Result<PathBuf> {
    let component = Component {
        name: name.to_owned(),
        version: version.to_owned(),
        expected: Duration::from_secs(60),
        source: Source::Module { files: files.to_vec(), output: name, linked: String::new() },
    };
    if !component.is_built() {
        fs::create_dir_all(paths::cache()).context("cannot make the cache's folder")?;
        let lock = fs::File::create(paths::cache().join("build.lock"))?;
        lock.lock().context("cannot wait for another build")?;
        let go = preflight::for_build(false)?;
        stage(false, name, component.expected, Some(&component.log()), || component.build(&go, stop))?;
    }
    Ok(component.folder().join(name))
}

fn components(versions: &Versions, kubernetes: &str) -> Result<Vec<Component>> {
    let component = |name: &str, seconds: u64, packages: &[&str], tags: &'static str, cgo: bool| -> Result<Component> {
        Ok(Component {
            name: name.to_owned(),
            version: versions.component(name)?.to_owned(),
            expected: Duration::from_secs(seconds),
            source: Source::Install {
                packages: packages.iter().map(|&package| package.to_owned()).collect(),
                tags,
                cgo,
            },
        })
    };
    let plugins: Vec<String> =
        CNI.iter().map(|name| format!("github.com/containernetworking/plugins/plugins/{name}")).collect();
    let containerd = ["containerd", "containerd-shim-runc-v2", "ctr"]
        .map(|name| format!("github.com/containerd/containerd/v2/cmd/{name}"));
    Ok(vec![
        kubernetes_component(kubernetes)?,
        Component {
            name: "etcd".to_owned(),
            version: versions.component("etcd")?.to_owned(),
            expected: Duration::from_secs(30),
            source: Source::Module {
                files: vec![
                    ("main.go", include_str!("../etcd/main.go")),
                    ("go.mod", include_str!("../etcd/go.mod")),
                    ("go.sum", include_str!("../etcd/go.sum")),
                ],
                output: "etcd",
                linked: String::new(),
            },
        },
        component(
            "containerd",
            60,
            &containerd.each_ref().map(String::as_str),
            "no_btrfs,no_devmapper,no_zfs,netgo,osusergo",
            false,
        )?,
        // Without seccomp no pod with `seccompProfile: RuntimeDefault` starts, so none under Pod Security "restricted".
        component("runc", 20, &["github.com/opencontainers/runc"], "seccomp", true)?,
        component("cni-plugins", 15, &plugins.iter().map(String::as_str).collect::<Vec<_>>(), "", false)?,
        component("coredns", 100, &["github.com/coredns/coredns"], "", false)?,
        component("helm", 65, &["helm.sh/helm/v3/cmd/helm"], "", false)?,
    ])
}

fn kubernetes_component(version: &str) -> Result<Component> {
    let (module, sums, kubelet) = match minor(version) {
        "1.36" => (
            include_str!("../kube/1.36/go.mod"),
            include_str!("../kube/1.36/go.sum"),
            include_str!("../kube/1.36/kubelet.go"),
        ),
        "1.33" => (
            include_str!("../kube/1.33/go.mod"),
            include_str!("../kube/1.33/go.sum"),
            include_str!("../kube/1.33/kubelet.go"),
        ),
        other => bail!("there is no module list for Kubernetes {other} (kube/{other}/go.mod)"),
    };
    if !module.contains(&format!("k8s.io/kubernetes v{version}")) {
        bail!("kube/{}/go.mod pins another Kubernetes than versions.toml ({version})", minor(version));
    }
    let base = "k8s.io/component-base/version";
    let (major, rest) = minor(version).split_once('.').context("a version has two numbers")?;
    Ok(Component {
        name: "kubernetes".to_owned(),
        version: version.to_owned(),
        expected: Duration::from_secs(280),
        source: Source::Module {
            files: vec![
                ("main.go", include_str!("../kube/main.go")),
                ("kubelet.go", kubelet),
                ("go.mod", module),
                ("go.sum", sums),
            ],
            output: "kube",
            linked: format!(
                " -X {base}.gitVersion=v{version} -X {base}.gitMajor={major} -X {base}.gitMinor={rest} -X k8s.io/client-go/pkg/version.gitVersion=v{version}"
            ),
        },
    })
}

// === impl Component ===

impl Component {
    fn folder(&self) -> PathBuf {
        paths::cache().join("bin").join(format!("{}-{}", self.name, self.version))
    }

    fn log(&self) -> PathBuf {
        paths::cache().join("log").join(format!("build-{}-{}.log", self.name, self.version))
    }

    /// All that decides what comes out.
    fn recipe(&self) -> String {
        match &self.source {
            Source::Install { packages, tags, cgo } => {
                format!("install {packages:?} {} tags={tags} cgo={cgo}", self.version)
            }
            Source::Module { files, output, linked } => format!("module {files:?} {output} {linked}"),
        }
    }

    fn is_built(&self) -> bool {
        fs::read_to_string(self.folder().join(".recipe")).is_ok_and(|recipe| recipe == self.recipe())
    }

    fn build(&self, go: &Path, stop: &Stop) -> Result<()> {
        let folder = self.folder();
        let parent = folder.parent().context("a folder below the cache")?;
        fs::create_dir_all(parent)?;
        let work = tempfile::Builder::new().prefix(".building-").tempdir_in(parent)?;
        let out = work.path().join("out");
        fs::create_dir(&out)?;
        let mut go = self.command(go, work.path(), &out)?;
        let log = self.log();
        paths::write(&log, format!("{go:?}\n"))?;
        let file = fs::File::options().append(true).open(&log)?;
        let status =
            go.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).status().context("cannot start go")?;
        if !status.success() {
            stop.check()?;
            bail!("{} {} does not build ({status}); {}", self.name, self.version, tail(&log));
        }
        fs::write(out.join(".recipe"), self.recipe())?;
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::rename(&out, &folder).with_context(|| format!("cannot make {}", folder.display()))
    }

    fn command(&self, go: &Path, work: &Path, out: &Path) -> Result<Command> {
        let mut command = Command::new(go);
        command.env("GOFLAGS", "").env("GOWORK", "off").env("CGO_ENABLED", "0");
        match &self.source {
            Source::Install { packages, tags, cgo } => {
                command.env("GOBIN", out).args(["install", "-trimpath", "-ldflags", "-s -w"]);
                if *cgo {
                    command.env("CGO_ENABLED", "1");
                }
                if !tags.is_empty() {
                    command.args(["-tags", tags]);
                }
                command.args(packages.iter().map(|package| format!("{package}@v{}", self.version)));
            }
            Source::Module { files, output, linked } => {
                for (name, text) in files {
                    fs::write(work.join(name), text)?;
                }
                command.current_dir(work).args(["build", "-trimpath", "-ldflags", &format!("-s -w{linked}"), "-o"]);
                command.arg(out.join(output)).arg(".");
            }
        }
        Ok(command)
    }
}

/// Makes `bin/<kubernetes version>/`: links to everything that belongs together.
fn link(bin: &Path, components: &[Component]) -> Result<()> {
    fs::create_dir_all(bin)?;
    let relink = |target: &Path, name: &str| -> Result<()> {
        let at = bin.join(name);
        if fs::read_link(&at).is_ok_and(|old| old == target) {
            return Ok(());
        }
        let _ = fs::remove_file(&at);
        symlink(target, &at).with_context(|| format!("cannot link {}", at.display()))
    };
    for component in components {
        let beside = Path::new("..").join(component.folder().file_name().context("a folder's name")?);
        match component.name.as_str() {
            "kubernetes" => KUBERNETES.iter().try_for_each(|program| relink(&beside.join("kube"), program))?,
            "cni-plugins" => relink(&beside, "cni")?,
            _ => {
                for entry in fs::read_dir(component.folder())?.flatten() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    if !name.starts_with('.') {
                        relink(&beside.join(&name), &name)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// The image that holds a pod's namespaces is compiled from Kubernetes' own `pause.c`; CoreDNS is what was built.
fn own_images(go: &Path, bin: &Path, kubernetes: &str) -> Result<()> {
    let sources = run(Command::new(go).env("GOFLAGS", "").env("GOWORK", "off").args([
        "mod",
        "download",
        "-json",
        &format!("k8s.io/kubernetes@v{kubernetes}"),
    ]))?;
    let sources: serde_json::Value = serde_json::from_str(&sources)?;
    let folder = sources["Dir"].as_str().context("go does not say where Kubernetes' sources are")?;
    let work = tempfile::tempdir()?;
    let pause = work.path().join("pause");
    run(command(["gcc", "-Os", "-static", "-s", &format!("-DVERSION=v{kubernetes}"), "-o"])
        .arg(&pause)
        .arg(Path::new(folder).join("build/pause/linux/pause.c")))?;
    images::write_image(&pause, PAUSE, &bin.join("images/pause.tar"))?;
    images::write_image(&bin.join("coredns"), dns::IMAGE, &bin.join("images/coredns.tar"))
}
