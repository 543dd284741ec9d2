//! Where the scenarios run: on a cluster that they start, and can then break to its processes, or on one of the user's, where
//! they stay within namespaces of their own and leave out what would have to break a node.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use pollux_testbed::{Cluster, Options};
use serde_json::{Value, json};

use crate::wait::{Look, until};
use crate::world::{BOTS, OPERATOR, TELEGRAM, World, blocking};

/// On the namespaces that a run made on a cluster of the user's.
pub(crate) const MADE_BY: (&str, &str) = ("pollux.dev/made-by", "pollux-scenarios");
/// The images' public names begin with this.
const PUBLIC: &str = "ghcr.io/pollux-operator";
/// What a run needs for itself, in the order of its removal: bots before their operator.
const NAMESPACES: [&str; 3] = [BOTS, TELEGRAM, OPERATOR];
const CRD: &str = "telegrambots.pollux.dev";

/// A cluster to run on.
#[derive(Clone)]
pub(crate) enum Ground {
    /// One of our own.
    Own(Cluster),
    /// One that was there.
    Yours(Yours),
}

/// A cluster of the user's.
#[derive(Clone, Debug)]
pub(crate) struct Yours {
    /// How to reach it.
    pub(crate) kubeconfig: PathBuf,
    /// Where its nodes find the images; without it they must have been loaded under their public names.
    pub(crate) registry: Option<String>,
}

/// A scenario that this cluster cannot have.
#[derive(Debug, thiserror::Error)]
#[error("needs the nodes' host, and this cluster is not the scenarios' own")]
pub(crate) struct Skipped;

// === impl Ground ===

impl Ground {
    /// Starts a cluster of our own.
    pub(crate) async fn own(options: Options) -> Result<Self> {
        blocking(move || Cluster::up(options)).await.map(Self::Own)
    }

    /// The cluster whose nodes and processes can be broken.
    ///
    /// # Errors
    ///
    /// [`Skipped`] on the user's.
    pub(crate) fn breakable(&self) -> Result<Cluster> {
        match self {
            Self::Own(cluster) => Ok(cluster.clone()),
            Self::Yours(_) => Err(Skipped.into()),
        }
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        match self {
            Self::Own(cluster) => cluster.kubeconfig(),
            Self::Yours(yours) => &yours.kubeconfig,
        }
    }

    /// A program of the cluster's version, or the one on the user's path.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        match self {
            Self::Own(cluster) => cluster.bin().join(name),
            Self::Yours(_) => PathBuf::from(name),
        }
    }

    /// Registry and repository that all images' names begin with.
    pub(crate) fn images(&self) -> &str {
        match self {
            Self::Yours(Yours { registry: Some(registry), .. }) => registry,
            _ => PUBLIC,
        }
    }

    /// The `nodeSelector` of what no fault may hit.
    pub(crate) fn stable(&self) -> Value {
        match self {
            Self::Own(_) => json!({"pollux.dev/testbed-role": "stable"}),
            Self::Yours(_) => json!({}),
        }
    }

    /// A bot's `podTemplate`: on the nodes that faults hit, one pod of each version on each, so that every fault has somebody
    /// to hit and somebody to go on.
    pub(crate) fn placement(&self, bot: &str) -> Value {
        match self {
            Self::Own(_) => json!({"spec": {
                "nodeSelector": {"pollux.dev/testbed-role": "faulty"},
                "topologySpreadConstraints": [{
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {"pollux.dev/bot": bot}},
                    "matchLabelKeys": ["pod-template-hash"],
                }],
            }}),
            Self::Yours(_) => json!({}),
        }
    }
}

// === impl Yours ===

impl Yours {
    /// Nothing of the user's may be taken for ours.
    ///
    /// # Errors
    ///
    /// When a namespace that a run needs is there and was not made by one, or Pollux is installed.
    pub(crate) async fn look(&self, client: &kube::Client) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let ours = |namespace: &Namespace| namespace.labels().get(MADE_BY.0).is_some_and(|by| by == MADE_BY.1);
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        if definitions.get_opt(CRD).await.with_context(|| format!("{}", self.kubeconfig.display()))?.is_some() {
            // Its removal would remove every bot of the cluster.
            let operator = namespaces.get_opt(OPERATOR).await?;
            ensure!(
                operator.is_some_and(|namespace| ours(&namespace)),
                "Pollux is, or was, installed on this cluster ({CRD} exists): a run would remove that with every bot, and needs a cluster without it"
            );
        }
        for name in NAMESPACES {
            let found = namespaces.get_opt(name).await.with_context(|| format!("{}", self.kubeconfig.display()))?;
            ensure!(
                found.is_none_or(|namespace| ours(&namespace)),
                "the namespace {name} exists on this cluster and was not made by an earlier run; a run needs {OPERATOR}, \
                 {TELEGRAM} and {BOTS} for itself, and deletes them afterwards"
            );
        }
        Ok(())
    }

    /// A namespace of an earlier run that is there, if there is one.
    pub(crate) async fn leftover(&self, world: &World) -> Result<Option<&'static str>> {
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        for name in NAMESPACES {
            if namespaces.get_opt(name).await?.is_some() {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Takes away all that a run made.
    pub(crate) async fn clear(&self, world: &World) -> Result<()> {
        let definitions: Api<CustomResourceDefinition> = Api::all(world.client.clone());
        if definitions.get_opt(CRD).await?.is_some() {
            // While the operator is there: it withdraws what the bots had.
            world.run("kubectl", &["delete", "telegrambots", "--all", "-n", BOTS]).await?;
        }
        world.run("helm", &["uninstall", "pollux", "-n", OPERATOR, "--ignore-not-found", "--wait"]).await?;
        // What Helm leaves when its Job fails.
        let hook = format!("pollux-grant-{OPERATOR}");
        world.run("kubectl", &["delete", "clusterrole,clusterrolebinding", &hook, "--ignore-not-found"]).await?;
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        for name in NAMESPACES {
            if namespaces.get_opt(name).await?.is_some() {
                namespaces.delete(name, &DeleteParams::default()).await?;
            }
        }
        world.run("kubectl", &["delete", "crd", CRD, "--ignore-not-found"]).await?;
        until("the namespaces to be gone", std::time::Duration::from_secs(120), || async {
            Ok(self.leftover(world).await?.map_or(Look::Yes(()), |name| Look::NotYet(name.to_owned())))
        })
        .await
    }

    /// A run must be told of a cluster: the file is named, and it is there. What else would be missing in the middle of a run
    /// is missed now.
    pub(crate) fn named(kubeconfig: &Path, registry: Option<String>) -> Result<Self> {
        ensure!(kubeconfig.is_file(), "{} is not a kubeconfig file", kubeconfig.display());
        let kubeconfig = kubeconfig.canonicalize()?;
        for (program, question) in [("kubectl", ["version", "--client"]), ("helm", ["version", "--short"])] {
            let said = Command::new(program).args(question).output();
            ensure!(
                said.is_ok_and(|said| said.status.success()),
                "a cluster of yours needs {program} in your PATH, of a version that fits it"
            );
        }
        let registry = registry.filter(|registry| !registry.is_empty());
        if let Some(registry) = registry.as_ref().filter(|registry| !registry.contains('/')) {
            bail!("IMAGE_REGISTRY={registry} has no path: images need one there, as in {registry}/pollux");
        }
        Ok(Self { kubeconfig, registry })
    }
}
