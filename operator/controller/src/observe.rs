//! First step: everything that the decision rests on, read at one time. May touch clients, changes nothing.
//!
//! Children are read from the API server and not from a cache: what is applied afterwards was decided on what was really
//! there, and a reconcile at rest is six small reads.

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::ListParams;
use pollux_api::TelegramBot;
use pollux_api::names::label;
use pollux_lease::{BotView, FullLogin, Resource};

use crate::cluster::{Cluster, Error};
use crate::diagnose::{self, EventsByPod};
use crate::leases::{Leases, Seen};

/// A bot and all that belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    /// The resource.
    pub(crate) bot: TelegramBot,
    /// The same, as the lease database knows it.
    pub(crate) resource: Resource,
    /// Its Deployment.
    pub(crate) deployment: Option<Deployment>,
    /// Its ServiceAccount.
    pub(crate) service_account: Option<ServiceAccount>,
    /// Its PodDisruptionBudget.
    pub(crate) budget: Option<PodDisruptionBudget>,
    /// Its stored revisions.
    pub(crate) revisions: Vec<ControllerRevision>,
    /// Its migrations' Jobs, if it has a migration.
    pub(crate) migrations: Vec<Job>,
    /// And their pods.
    pub(crate) migration_pods: Vec<Pod>,
    /// Its pods, the terminating ones too.
    pub(crate) pods: Vec<Pod>,
    /// Events of those pods that do not get ready.
    pub(crate) events: EventsByPod,
    /// What the lease database says.
    pub(crate) lease: Seen,
    /// Logins of agents that get no further session; asked for while a pod does not get ready, or nobody leads.
    pub(crate) full_logins: Vec<FullLogin>,
}

/// Name of the ServiceAccount and of the PodDisruptionBudget.
pub(crate) fn child_name(bot: &str) -> String {
    format!("{bot}-telegrambot")
}

/// Looks at a bot. `None`: it is gone.
pub(crate) async fn observe(
    cluster: &Cluster,
    leases: &Leases,
    cluster_id: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<Observed>, Error> {
    let Some(bot) = cluster.get::<TelegramBot>(namespace, name).await? else { return Ok(None) };
    let mine = ListParams::default().labels(&format!(
        "{}={},{}={name}",
        label::MANAGED_BY,
        label::MANAGED_BY_VALUE,
        label::BOT
    ));
    let child = child_name(name);
    let resource = Resource { cluster: cluster_id.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() };
    let (deployment, service_account, budget, revisions, pods, lease) = tokio::join!(
        cluster.get::<Deployment>(namespace, name),
        cluster.get::<ServiceAccount>(namespace, &child),
        cluster.get::<PodDisruptionBudget>(namespace, &child),
        cluster.list::<ControllerRevision>(namespace, &mine),
        cluster.list::<Pod>(namespace, &mine),
        leases.bot(&bot.spec.lease.database, &resource),
    );
    let pods = pods?;
    let (migrations, migration_pods) = migrations(cluster, &bot, &mine).await?;
    let events = events(cluster, namespace, &pods).await?;
    let led = |view: &BotView| view.lease.holder.is_some() && view.lease.fresh;
    let waits = matches!(&lease, Seen::Bot(view)
        if pods.iter().any(diagnose::needs_events) || !view.as_deref().is_some_and(led));
    let full_logins = if waits { leases.full_logins(&bot.spec.lease.database).await } else { Vec::new() };
    Ok(Some(Observed {
        bot,
        resource,
        deployment: deployment?,
        service_account: service_account?,
        budget: budget?,
        revisions: revisions?,
        migrations,
        migration_pods,
        pods,
        events,
        lease,
        full_logins,
    }))
}

async fn migrations(cluster: &Cluster, bot: &TelegramBot, mine: &ListParams) -> Result<(Vec<Job>, Vec<Pod>), Error> {
    if bot.spec.migration.is_none() {
        return Ok((Vec::new(), Vec::new()));
    }
    let (namespace, name) = (bot.namespace().unwrap_or_default(), bot.name_any());
    let of_it = ListParams::default().labels(&format!("{}={name}", label::MIGRATION_OF));
    tokio::try_join!(cluster.list::<Job>(&namespace, mine), cluster.list::<Pod>(&namespace, &of_it))
}

async fn events(cluster: &Cluster, namespace: &str, pods: &[Pod]) -> Result<EventsByPod, Error> {
    let mut found = EventsByPod::new();
    for pod in pods.iter().filter(|pod| diagnose::needs_events(pod)) {
        let Some(uid) = pod.uid() else { continue };
        let fields = format!("involvedObject.uid={uid},type=Warning");
        found.insert(pod.name_any(), cluster.list::<Event>(namespace, &ListParams::default().fields(&fields)).await?);
    }
    Ok(found)
}
