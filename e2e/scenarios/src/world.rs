//! What every scenario stands on: a cluster, the operator installed by its chart, the emulator of the Bot API.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{GroupVersionKind, TypeMeta};
use kube::discovery::ApiResource;
use pollux_testbed::{Cluster, Options};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::bot::{Bot, Library};
use crate::emulator::Emulator;
use crate::ground::{Ground, MADE_BY, Yours};
use crate::wait::{Look, until};

/// Where the operator is installed.
pub(crate) const OPERATOR: &str = "pollux-system";
/// Where the emulator runs.
pub(crate) const TELEGRAM: &str = "telegram";
/// Where bots run.
pub(crate) const BOTS: &str = "bots";
/// The emulator's Bot API as bots see it.
pub(crate) const API_URL: &str = "http://botapi.telegram.svc.cluster.local";

/// A cluster with Pollux and the emulator in it.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) ground: Ground,
    pub(crate) client: kube::Client,
    pub(crate) emulator: Emulator,
}

// === impl World ===

impl World {
    /// Starts a cluster and loads the images. What an earlier run left of it is removed: its ledger and its pods would be
    /// judged with this one's.
    pub(crate) async fn up(options: Options) -> Result<Self> {
        let images = images()?;
        let name = options.name.clone();
        blocking(move || Cluster::remove(&name)).await?;
        println!("starting the cluster and loading the images");
        Self::reach(Ground::own(Options { images, ..options }).await?).await
    }

    /// A cluster of the user's. What an earlier run left there is removed.
    pub(crate) async fn visit(yours: Yours) -> Result<Self> {
        let world = Self::again(yours.clone()).await?;
        if yours.leftover(&world).await?.is_some() {
            println!("removing what an earlier run left");
            yours.clear(&world).await?;
        }
        Ok(world)
    }

    /// What an earlier run made on a cluster of the user's.
    pub(crate) async fn again(yours: Yours) -> Result<Self> {
        let world = Self::reach(Ground::Yours(yours.clone())).await?;
        yours.look(&world.client).await?;
        Ok(world)
    }

    async fn reach(ground: Ground) -> Result<Self> {
        let client = client(ground.kubeconfig()).await?;
        Ok(Self { emulator: Emulator::new(client.clone(), TELEGRAM, "botapi"), ground, client })
    }

    /// Installs everything. Takes about a minute.
    pub(crate) async fn furnish(&self) -> Result<()> {
        let started = std::time::Instant::now();
        let say = |what: &str| println!("{:>4} s  {what}", started.elapsed().as_secs());
        say("starting the emulator of the Bot API");
        for (namespace, level) in [(OPERATOR, "restricted"), (TELEGRAM, "restricted"), (BOTS, "restricted")] {
            self.apply(&namespace_manifest(namespace, level)).await?;
        }
        for manifest in emulator_manifests(&self.ground, "botapi", None) {
            self.apply(&manifest).await?;
        }
        say("installing the operator by its chart");
        self.install().await?;
        self.deployment_available(TELEGRAM, "botapi").await?;
        self.deployment_available(OPERATOR, "pollux-controller").await?;
        tokio::spawn(self.clone().name_lanes());
        say("ready");
        Ok(())
    }

    /// Runs a command with the cluster's binaries and kubeconfig.
    ///
    /// # Errors
    ///
    /// When it fails: with what it printed.
    pub(crate) async fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = Command::new(self.ground.program(program))
            .args(args)
            .env("KUBECONFIG", self.ground.kubeconfig())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("starting {program}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{program} {} failed: {}{text}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// Applies a manifest of any kind, as `kubectl apply --server-side` would.
    pub(crate) async fn apply(&self, manifest: &Value) -> Result<()> {
        let types: TypeMeta = serde_json::from_value(manifest.clone())?;
        let gvk = GroupVersionKind::try_from(&types)?;
        let resource = ApiResource::from_gvk(&gvk);
        let name = manifest["metadata"]["name"].as_str().context("a manifest without a name")?;
        let api: Api<DynamicObject> = match manifest["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        api.patch(name, &PatchParams::apply("e2e").force(), &Patch::Apply(manifest))
            .await
            .with_context(|| format!("applying {} {name}", types.kind))?;
        Ok(())
    }

    async fn install(&self) -> Result<()> {
        let chart = repository().join("charts/pollux");
        let chart = chart.to_string_lossy();
        let (registry, repository) = self
            .ground
            .images()
            .split_once('/')
            .context("IMAGE_REGISTRY is a registry and a repository: registry.example.org/pollux")?;
        let args = [
            "upgrade",
            "--install",
            "pollux",
            &*chart,
            "--namespace",
            OPERATOR,
            "--wait",
            "--timeout",
            "3m",
            "--set",
            &format!("botNamespaces={{{BOTS}}}"),
            "--set",
            "quickstart.postgres.enabled=true",
            "--set",
            &format!("quickstart.postgres.image={}/e2e-postgres:dev", self.ground.images()),
            "--set-json",
            &format!("quickstart.postgres.nodeSelector={}", self.ground.stable()),
            "--set-json",
            &format!("operator.nodeSelector={}", self.ground.stable()),
            "--set",
            &format!("operator.image.registry={registry},agent.image.registry={registry}"),
            "--set",
            &format!(
                "operator.image.repository={repository}/pollux-controller,agent.image.repository={repository}/pollux-agent"
            ),
        ];
        self.run("helm", &args).await.context("installing the chart")?;
        Ok(())
    }

    /// Waits until every replica of a Deployment is available.
    pub(crate) async fn deployment_available(&self, namespace: &str, name: &str) -> Result<()> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        until(&format!("deployment {name} to be available"), Duration::from_secs(90), || async {
            let deployment = api.get(name).await?;
            let want = deployment.spec.and_then(|s| s.replicas).unwrap_or(1);
            let have = deployment.status.and_then(|s| s.available_replicas).unwrap_or(0);
            Ok(if have >= want { Look::Yes(()) } else { Look::NotYet(format!("{have} of {want}")) })
        })
        .await
    }

    /// Makes a bot: known to the emulator, with its token in a Secret. The TelegramBot is applied by the caller.
    pub(crate) async fn bot(&self, name: &str, library: Library, id: u32) -> Result<Bot> {
        let token = format!("{id}:e2e-canary-{name}");
        self.emulator.add_bot(&token, &format!("{}_bot", name.replace('-', "_"))).await?;
        self.apply(&secret(&format!("{name}-token"), &token)).await?;
        Ok(Bot::new(&self.ground, self.client.clone(), BOTS, name, library, &token))
    }

    /// The pods of a bot.
    pub(crate) async fn pods(&self, bot: &Bot) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &bot.namespace);
        Ok(api.list(&ListParams::default().labels(&format!("pollux.dev/bot={}", bot.name))).await?.items)
    }

    /// A bot's epoch as the database has it.
    pub(crate) async fn epoch(&self, bot: &Bot) -> Result<i64> {
        let id = bot.id()?;
        let text = self.psql(&format!("select epoch from pollux.lease where bot_id = {id}")).await?;
        text.trim().parse().with_context(|| format!("the epoch of {}: {text:?}", bot.name))
    }

    /// The pods of a bot that could lead at this moment, the leader among them, as the lease database knows them.
    pub(crate) async fn ready_replicas(&self, bot: &Bot) -> Result<Vec<String>> {
        let id = bot.id()?;
        let fresh = "ready and not leaving and beat_at > clock_timestamp() - interval '3 s'";
        let text = self.psql(&format!("select pod from pollux.candidate where bot_id = {id} and {fresh}")).await?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }

    /// Asks the lease database, by psql in its own pod.
    pub(crate) async fn psql(&self, sql: &str) -> Result<String> {
        let shell = format!(
            "PATH=\"$PATH:$(echo /usr/lib/postgresql/*/bin)\" psql -h /run/postgresql -U postgres -d pollux -AtXc {sql:?}"
        );
        self.run("kubectl", &["exec", "-n", OPERATOR, "pollux-postgres-0", "-c", "postgres", "--", "sh", "-c", &shell])
            .await
    }

    /// Waits until a Deployment's newest template runs in all its pods, and no older pod is left.
    pub(crate) async fn deployment_rolled_out(&self, namespace: &str, name: &str, limit: Duration) -> Result<()> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        until(&format!("the rollout of {name}"), limit, || async {
            let deployment = api.get(name).await?;
            let generation = deployment.metadata.generation;
            let spec = deployment.spec.context("a Deployment without a spec")?;
            let want = spec.replicas.unwrap_or(1);
            let status = deployment.status.unwrap_or_default();
            let counts = [status.updated_replicas, status.available_replicas, status.replicas];
            // A Deployment does not count the pods that are still handing over.
            let labels = spec.selector.match_labels.unwrap_or_default();
            let selector: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let there = pods.list(&ListParams::default().labels(&selector.join(","))).await?.items.len();
            let done = status.observed_generation >= generation
                && counts.iter().all(|count| count.unwrap_or(0) == want)
                && there == usize::try_from(want)?;
            Ok(if done { Look::Yes(()) } else { Look::NotYet(format!("{there} pods, {status:?}")) })
        })
        .await
    }

    /// A variable of the bot's container in the template of its Deployment.
    pub(crate) async fn pod_env(&self, bot: &Bot, variable: &str) -> Result<Option<String>> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &bot.namespace);
        let template = api.get(&bot.name).await?.spec.context("a Deployment without a spec")?.template;
        let containers = template.spec.map(|spec| spec.containers).unwrap_or_default();
        let env = containers.into_iter().find(|c| c.name == "bot").and_then(|c| c.env).unwrap_or_default();
        Ok(env.into_iter().find(|e| e.name == variable).and_then(|e| e.value))
    }

    /// Tells the emulator which pod is behind which address, for as long as the world stands.
    async fn name_lanes(self) {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), BOTS);
        let mut known = BTreeMap::new();
        loop {
            if let Ok(pods) = api.list(&ListParams::default()).await {
                for pod in pods {
                    let (Some(name), Some(ip)) = (pod.metadata.name, pod.status.and_then(|s| s.pod_ip)) else {
                        continue;
                    };
                    if known.get(&ip) != Some(&name) && self.emulator.name_lane(&ip, &name).await.is_ok() {
                        known.insert(ip, name);
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

/// Runs what blocks (the testbed's library does) where it may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// The root of the repository that this binary was built from.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The archives that e2e/images/build.sh wrote.
fn images() -> Result<Vec<PathBuf>> {
    let cache = std::env::var_os("POLLUX_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cache/pollux")));
    let folder = cache.context("neither POLLUX_CACHE nor HOME is set")?.join("images");
    let archives: Vec<PathBuf> = std::fs::read_dir(&folder)
        .with_context(|| format!("{}: run make images first", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "tar"))
        // The roots that the bots' images are built on lie beside them.
        .filter(|path| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with("root-")))
        .collect();
    if archives.is_empty() {
        bail!("no image in {}: run make images first", folder.display());
    }
    Ok(archives)
}

fn namespace_manifest(name: &str, level: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": level, MADE_BY.0: MADE_BY.1}},
    })
}

/// A token in a Secret of the bots' namespace.
pub(crate) fn secret(name: &str, token: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": BOTS},
        "stringData": {"token": token},
    })
}

/// The emulator on the node that no fault hits; with `tls` (a Secret's name) it serves the Bot API over TLS.
pub(crate) fn emulator_manifests(ground: &Ground, name: &str, tls: Option<&str>) -> [Value; 2] {
    let mut args = vec!["--listen=0.0.0.0:8080", "--admin=0.0.0.0:8090"];
    let (mut mounts, mut volumes) = (json!([]), json!([]));
    if let Some(secret) = tls {
        args.extend(["--tls-cert=/tls/tls.crt", "--tls-key=/tls/tls.key"]);
        mounts = json!([{"name": "tls", "mountPath": "/tls", "readOnly": true}]);
        volumes = json!([{"name": "tls", "secret": {"secretName": secret}}]);
    }
    let labels = json!({"app": name});
    let port = if tls.is_some() { 443 } else { 80 };
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": TELEGRAM},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "automountServiceAccountToken": false,
                    "nodeSelector": ground.stable(),
                    "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                    "containers": [{
                        "name": "botapi", "image": format!("{}/e2e-botapi:dev", ground.images()), "imagePullPolicy": "IfNotPresent",
                        "args": args,
                        "ports": [{"name": "api", "containerPort": 8080}, {"name": "admin", "containerPort": 8090}],
                        "readinessProbe": {"tcpSocket": {"port": "admin"}, "periodSeconds": 1},
                        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
                        "volumeMounts": mounts,
                    }],
                    "volumes": volumes,
                },
            },
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": TELEGRAM},
        "spec": {"selector": labels, "ports": [
            {"name": "api", "port": port, "targetPort": "api"}, {"name": "admin", "port": 8090, "targetPort": "admin"},
        ]},
    });
    [deployment, service]
}
