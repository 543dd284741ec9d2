//! The process: probes first, then the API server, then the election, and in the replica that leads the reconciles.
//!
//! Nothing that is missing ends it: it waits for the API server, the CRD and the lease databases, and says once what it waits
//! for. SIGTERM ends it from every state: reconciles that run are finished, then the Lease is given back.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{SelectAll, StreamExt};
use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, ResourceExt};
use pollux_api::TelegramBot;
use pollux_api::names::label;
use pollux_lease::Resource;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, chain, within};
use crate::election::{Election, Leadership};
use crate::leases::Leases;
use crate::metrics::Metrics;
use crate::reconcile::{Shared, error_policy, reconcile};
use crate::serve::{Health, serve};
use crate::settings::Settings;
use crate::validate::Operator;

/// The Lease of the election.
const LEASE: &str = "pollux-controller";
/// Events of one bot within this time are one reconcile.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// A watch that hears nothing for this long is dead: servers send bookmarks every minute.
const SILENCE: Duration = Duration::from_secs(180);
/// How long running reconciles may take after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

type Bot = PartialObjectMeta<TelegramBot>;

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let stop = on_signal()?;
    let metrics = Metrics::new();
    let health = Health::new(metrics.clone());
    let serving = CancellationToken::new();
    let server = serve(settings.health_listen, health.clone(), serving.clone()).await?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), listen = %settings.health_listen, "pollux-controller starts");

    let leases = Leases::spawn(&settings.databases);
    let connected = tokio::select! {
        () = stop.cancelled() => None,
        connected = connect(&settings) => Some(connected?),
    };
    if let Some((client, cluster_id)) = connected {
        health.set_ready();
        elect(&settings, &stop, client, cluster_id, metrics, leases).await?;
    }
    serving.cancel();
    let _ = server.await;
    tracing::info!("pollux-controller ends");
    Ok(())
}

/// Takes part in the election until `stop`, and gives the Lease back after the last write.
async fn elect(
    settings: &Settings,
    stop: &CancellationToken,
    client: Client,
    cluster_id: String,
    metrics: Metrics,
    leases: Leases,
) -> anyhow::Result<()> {
    let (mut election, leadership) = Election::new(client.clone(), &settings.namespace, LEASE, &settings.identity);
    let resign = CancellationToken::new();
    let electing = tokio::spawn({
        let resign = resign.clone();
        async move {
            election.run(&resign).await;
            election.release().await;
        }
    });
    let cluster = Cluster::new(client, leadership.clone(), metrics.clone());
    let operator = Operator { cluster: cluster_id, agent_image: settings.agent_image.clone() };
    let shared = Arc::new(Shared::new(cluster, leases, operator, metrics, settings.replica.clone()));
    lead(settings, stop, &shared, leadership).await;
    resign.cancel();
    electing.await?;
    Ok(())
}

/// Reconciles whenever this replica leads, until `stop`.
async fn lead(settings: &Settings, stop: &CancellationToken, shared: &Arc<Shared>, mut leadership: Leadership) {
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = leadership.gained() => {}
        }
        shared.metrics.leads(true);
        let end = stop.child_token();
        let work = async {
            tokio::join!(shared.leases.migrate(&end), reconciles(settings, shared, &end));
        };
        tokio::pin!(work);
        let ended = tokio::select! {
            () = &mut work => true,
            () = leadership.lost() => {
                tracing::warn!("this replica leads no more");
                false
            }
            () = stop.cancelled() => false,
        };
        end.cancel();
        if !ended {
            // Writes are refused from now on if leadership was lost; after SIGTERM what runs may finish.
            let _ = tokio::time::timeout(GRACE, work).await;
        }
        shared.metrics.leads(false);
    }
}

async fn reconciles(settings: &Settings, shared: &Arc<Shared>, end: &CancellationToken) {
    tokio::select! {
        () = crd_is_there(shared, settings) => {}
        () = end.cancelled() => return,
    }
    let namespaces =
        settings.watch.as_ref().map_or_else(|| vec![None], |list| list.iter().cloned().map(Some).collect());
    let mut results: SelectAll<_> =
        namespaces.into_iter().map(|namespace| controller(shared, namespace, end).boxed()).collect();
    // Ends with this: nothing is written after the Lease was given back.
    let mut clean_ups = JoinSet::new();
    while let Some(result) = results.next().await {
        // Failures of reconciles have been reported where they are counted.
        match result {
            Err(controller::Error::ObjectNotFound(gone)) => {
                let key = (gone.namespace.clone().unwrap_or_default(), gone.name.clone());
                if shared.forget(&key) {
                    shared.metrics.forget(&key.0, &key.1);
                    let resource = Resource { cluster: shared.operator.cluster.clone(), namespace: key.0, name: key.1 };
                    while clean_ups.try_join_next().is_some() {}
                    // Beside the stream: a database that hangs must not hold up the reconciles of all others.
                    clean_ups.spawn(clean_up(shared.clone(), resource));
                }
            }
            Err(controller::Error::QueueError(error)) => tracing::warn!(error = chain(&error), "a watch failed"),
            Err(controller::Error::RunnerError(error)) => {
                tracing::error!(error = chain(&error), "the queue of reconciles failed")
            }
            Err(controller::Error::ReconcilerFailed(..)) | Ok(_) => {}
        }
    }
}

/// Removes what the lease databases know of a bot that is gone, and still gone: one that was made anew has settings of its own.
async fn clean_up(shared: Arc<Shared>, resource: Resource) {
    let gone = matches!(shared.cluster.get::<TelegramBot>(&resource.namespace, &resource.name).await, Ok(None));
    if gone && shared.cluster.must_lead(|| format!("FORGET {resource}")).is_ok() {
        shared.leases.forget(&resource).await;
    }
}

/// One controller for one namespace, or for all.
fn controller(
    shared: &Arc<Shared>,
    namespace: Option<String>,
    end: &CancellationToken,
) -> impl futures::Stream<
    Item = Result<(ObjectRef<Bot>, controller::Action), controller::Error<crate::cluster::Error, watcher::Error>>,
> + use<> {
    let client = shared.cluster.client();
    let ours = watcher::Config::default().labels(&format!("{}={}", label::MANAGED_BY, label::MANAGED_BY_VALUE));
    let (store, writer) = reflector::store();
    let bots = watcher(api::<Bot>(&client, namespace.as_deref()), watcher::Config::default())
        .reflect(writer)
        .touched_objects();
    let deployments =
        watcher(api::<PartialObjectMeta<Deployment>>(&client, namespace.as_deref()), ours.clone()).touched_objects();
    let accounts = watcher(api::<PartialObjectMeta<ServiceAccount>>(&client, namespace.as_deref()), ours.clone())
        .touched_objects();
    let budgets = watcher(api::<PartialObjectMeta<PodDisruptionBudget>>(&client, namespace.as_deref()), ours.clone())
        .touched_objects();
    let revisions = watcher(api::<PartialObjectMeta<ControllerRevision>>(&client, namespace.as_deref()), ours.clone())
        .touched_objects();
    let jobs = watcher(api::<PartialObjectMeta<Job>>(&client, namespace.as_deref()), ours.clone()).touched_objects();
    let pods = watcher(api::<PartialObjectMeta<Pod>>(&client, namespace.as_deref()), ours).touched_objects();
    let here = move |bot: &(String, String)| namespace.as_ref().is_none_or(|namespace| *namespace == bot.0);
    let looks = shared.leases.changes(&shared.operator.cluster);
    let all =
        shared.leases.changes(&shared.operator.cluster).filter(|look| std::future::ready(look.is_none())).map(|_| ());
    let end = end.clone();

    Controller::for_stream(reported("TelegramBots", bots), store)
        .with_config(controller::Config::default().debounce(DEBOUNCE).concurrency(8))
        .owns_stream(reported("Deployments", deployments))
        .owns_stream(reported("ServiceAccounts", accounts))
        .owns_stream(reported("PodDisruptionBudgets", budgets))
        .owns_stream(reported("ControllerRevisions", revisions))
        .owns_stream(reported("Jobs", jobs))
        .watches_stream(reported("Pods", pods), |pod| {
            let bot = pod.labels().get(label::BOT)?;
            Some(ObjectRef::<Bot>::new(bot).within(&pod.namespace()?))
        })
        .reconcile_on(looks.filter_map(move |look| {
            std::future::ready(look.filter(&here).map(|(namespace, name)| ObjectRef::new(&name).within(&namespace)))
        }))
        .reconcile_all_on(futures::stream::select(all, shared.leases.ups_and_downs()))
        .graceful_shutdown_on(async move { end.cancelled().await })
        .run(reconcile, error_policy, shared.clone())
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// A watch whose failures are logged, once each, and do not reach the controller: it would hold back the events of all others.
fn reported<K: Send + 'static>(
    what: &'static str,
    stream: impl futures::Stream<Item = Result<K, watcher::Error>> + Send + 'static,
) -> impl futures::Stream<Item = Result<K, watcher::Error>> + Send + 'static {
    let mut reported = String::new();
    stream.default_backoff().filter_map(move |item| {
        let item = match item {
            Ok(object) => {
                reported.clear();
                Some(Ok(object))
            }
            Err(error) => {
                let error = chain(&error);
                if error != reported {
                    tracing::warn!(what, %error, "a watch failed, and is tried again");
                    reported = error;
                }
                None
            }
        };
        std::future::ready(item)
    })
}

/// A client, and the identity of its cluster.
async fn connect(settings: &Settings) -> anyhow::Result<(Client, String)> {
    let mut config = Config::infer().await?;
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(SILENCE);
    // It would hold a call for minutes; every call has a deadline and every reconcile its own back-off.
    config.default_retry = false;
    let client = Client::try_from(config)?;
    let id = match &settings.cluster {
        Some(id) => id.clone(),
        None => cluster_id(&client).await,
    };
    Ok((client, id))
}

/// The cluster's identity: the uid of a namespace that every cluster has.
async fn cluster_id(client: &Client) -> String {
    let api = Api::<Namespace>::all(client.clone());
    patiently("the uid of the namespace kube-system", || async {
        let namespace = within(|| "GET Namespace kube-system".to_owned(), api.get("kube-system"))
            .await
            .map_err(|error| error.to_string())?;
        namespace.uid().ok_or_else(|| "it has no uid".to_owned())
    })
    .await
}

async fn crd_is_there(shared: &Shared, settings: &Settings) {
    let client = shared.cluster.client();
    let namespace = settings.watch.as_ref().and_then(|list| list.first());
    let api = api::<Bot>(&client, namespace.map(String::as_str));
    patiently("the CRD of TelegramBots", || async {
        within(|| "LIST TelegramBot".to_owned(), api.list_metadata(&ListParams::default().limit(1)))
            .await
            .map(|_| ())
            .map_err(|error| error.to_string())
    })
    .await;
}

/// Asks until it is answered, and says once what is waited for.
async fn patiently<T, F: Future<Output = Result<T, String>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let (mut pause, mut reported) = (Duration::from_millis(250), String::new());
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                if error != reported {
                    tracing::warn!(%error, "waits for {what}");
                    reported = error;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

fn on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            tracing::info!("asked to end");
            stop.cancel();
        }
    });
    Ok(stop)
}
