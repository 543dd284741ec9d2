//! `pollux-controller grant`: database credentials for the agents of a namespace.
//!
//! For each namespace it makes a login role in the lease database and puts the role's URI into the Secret `pollux-lease`, which
//! the kubelet mounts into the agents there. It is run by a Job of the chart, or by a person, and may be run again at any time:
//!
//! * the role's name follows from the cluster and the namespace, so that two clusters can share a database;
//! * a Secret that is right is not written. Its password is set on the role again, which mends a database that was lost;
//! * when only the server's address has changed, the password stays and the Secret is written anew;
//! * a Secret that holds no password of this role is written anew with a new one: to rotate, delete it and run this again;
//! * a Secret that was not made here is never overwritten;
//! * a Secret is written only after a login with what it will hold has succeeded.
//!
//! With `--tenant` the roles and namespaces become a tenant's, whose leases no other one sees; `--no-tenant` undoes it. A run with
//! neither, like those of the chart's Job, leaves that as it is.
//!
//! It waits for a database that is not there yet, up to a limit, and stops at once when waiting cannot help. A namespace that
//! fails does not keep the others from being done; the whole then ends in an error.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use pollux_lease::Database;
use pollux_lease::admin::{self, Admin};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// The field manager, and the mark of the Secrets that were made here.
const MANAGER: &str = "pollux-grant";
/// The label that says so.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The Secret's key: what CloudNativePG calls it too.
const KEY: &str = "uri";
/// PostgreSQL cuts names at 63 bytes; a cut name could be another namespace's.
const MAX_ROLE_NAME: usize = 63;
/// One call of the Kubernetes API: the client has no limit of its own.
const API_DEADLINE: Duration = Duration::from_secs(15);
/// Between two tries to reach the database: the first pause, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// How often waiting for the database is mentioned while nothing changes.
const PROGRESS: Duration = Duration::from_secs(15);

/// Arguments of `pollux-controller grant`.
#[derive(Debug, Args)]
pub(crate) struct GrantArgs {
    /// Namespace to make credentials in; may be repeated
    #[arg(long = "namespace", value_name = "NAMESPACE", required = true)]
    namespaces: Vec<String>,

    /// File with the PostgreSQL URI of the role that owns the schema (or may make it) and may make roles
    #[arg(long, value_name = "FILE")]
    database_file: PathBuf,

    /// Where agents reach the server, if that differs from the URI in --database-file
    #[arg(long, value_name = "HOST[:PORT]")]
    host: Option<Host>,

    /// Name of the Secret that is made
    #[arg(long, value_name = "NAME", default_value = "pollux-lease")]
    secret: String,

    /// What tells this cluster from others that use the same database [default: the uid of the namespace kube-system]
    #[arg(long, value_name = "ID", env = "POLLUX_CLUSTER")]
    cluster: Option<String>,

    /// Sessions that the agents of one namespace may have: one for each pod, and room for a rollout
    #[arg(long, value_name = "COUNT", default_value_t = 80, value_parser = clap::value_parser!(u16).range(2..))]
    connection_limit: u16,

    /// Make the namespaces and their roles this tenant's: agents of different tenants neither see, delay nor take each other's
    /// leases. Namespaces whose bots share a token must be of one tenant. Their leases go with them, and leaders lead on. A later
    /// run without this changes nothing
    #[arg(long, value_name = "NAME", value_parser = tenant)]
    tenant: Option<String>,

    /// Make the namespaces and their roles nobody's again, as they are without --tenant
    #[arg(long, conflicts_with = "tenant")]
    no_tenant: bool,

    /// How long to wait for a database that does not answer yet
    #[arg(long, value_name = "SECONDS", default_value_t = 240)]
    timeout_seconds: u64,
}

/// `HOST` or `HOST:PORT`, `[ADDRESS]:PORT` for IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    name: String,
    port: Option<u16>,
}

/// A password of a database role. It does not print.
#[derive(Clone, PartialEq, Eq)]
struct Password(String);

/// What is to be done about a namespace's Secret.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// It is right.
    Keep(Password),
    /// Its password is right, what else it says is not.
    Rewrite(Password),
    /// A new password is needed, and why.
    Make(&'static str),
    /// It is somebody else's.
    Refuse,
}

/// Makes the credentials of all namespaces.
///
/// # Errors
///
/// When the database or the Kubernetes API is not to be had in time, refuses, or a namespace could not be done.
pub(crate) async fn run(args: GrantArgs) -> anyhow::Result<()> {
    let client = Client::try_default()
        .await
        .context("no access to a Kubernetes API: neither a kubeconfig nor a ServiceAccount is at hand")?;
    grant_all(&args, &client).await
}

async fn grant_all(args: &GrantArgs, client: &Client) -> anyhow::Result<()> {
    let owner = read_database(&args.database_file)?;
    let cluster = match args.cluster.clone().filter(|cluster| !cluster.is_empty()) {
        Some(cluster) => cluster,
        None => cluster_id(client).await?,
    };
    let mut admin = connect(&owner, Duration::from_secs(args.timeout_seconds)).await?;
    admin.migrate().await.context("the schema could not be brought up to date")?;
    info!("the schema is up to date");

    let mut failed = Vec::new();
    for namespace in &args.namespaces {
        if let Err(error) = grant(args, client, &mut admin, &owner, &cluster, namespace).await {
            warn!(namespace, "no credentials: {error:#}");
            failed.push(namespace.as_str());
        }
    }
    ensure!(failed.is_empty(), "no credentials in: {} (the log says why)", failed.join(", "));
    Ok(())
}

async fn grant(
    args: &GrantArgs,
    client: &Client,
    admin: &mut Admin,
    owner: &Database,
    cluster: &str,
    namespace: &str,
) -> anyhow::Result<()> {
    let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
    let existing = in_time(secrets.get_opt(&args.secret))
        .await
        .with_context(|| format!("the Secret {namespace}/{} cannot be read", args.secret))?;
    let role = role_name(cluster, namespace);
    let plan = plan(existing.as_ref(), |password| agents_database(owner, args.host.as_ref(), &role, password));
    let (password, reason) = match plan {
        Plan::Keep(password) => (password, None),
        Plan::Rewrite(password) => (password, Some("the database has another address")),
        Plan::Make(reason) => (Password::random()?, Some(reason)),
        Plan::Refuse => bail!(
            "the Secret {namespace}/{} was not made by Pollux and is left alone: delete it, or do not name this namespace",
            args.secret
        ),
    };

    admin
        .grant_role(&role, &password.0, args.connection_limit.into())
        .await
        .with_context(|| format!("the database role {role} cannot be made; its maker needs CREATEROLE"))?;
    if args.tenant.is_some() || args.no_tenant {
        let tenant = args.tenant.as_deref();
        let changed = admin.put_tenant(&role, cluster, namespace, tenant).await.with_context(|| {
            format!(
                "the namespace cannot become {}",
                tenant.map_or("nobody's".to_owned(), |tenant| format!("the tenant {tenant}'s"))
            )
        })?;
        info!(namespace, role, tenant = tenant.unwrap_or_default(), changed, "its tenant");
    }
    // Where the operator reaches the server: the agents' address may mean nothing here.
    admin::check_agent(&owner.clone().with_login(&role, &password.0))
        .await
        .with_context(|| format!("the role {role} was made, but cannot log in and use the schema (pg_hba.conf?)"))?;

    match reason {
        None => info!(namespace, role, "the Secret {} is right", args.secret),
        Some(reason) => {
            let uri = agents_database(owner, args.host.as_ref(), &role, &password).to_uri();
            let secret = secret(namespace, &args.secret, &uri);
            in_time(secrets.patch(&args.secret, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&secret)))
                .await
                .with_context(|| {
                    format!("the Secret {namespace}/{} cannot be written (does the namespace exist?)", args.secret)
                })?;
            info!(namespace, role, "wrote the Secret {}: {reason}", args.secret);
        }
    }
    Ok(())
}

/// The database as agents are told of it.
fn agents_database(owner: &Database, host: Option<&Host>, role: &str, password: &Password) -> Database {
    let database = owner.clone().with_login(role, &password.0);
    match host {
        Some(host) => database.with_host(&host.name, host.port),
        None => database,
    }
}

/// What is to be done about a Secret, where `wanted` says what it should hold for a password.
fn plan(existing: Option<&Secret>, wanted: impl Fn(&Password) -> Database) -> Plan {
    let Some(existing) = existing else {
        return Plan::Make("there was none");
    };
    if existing.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).map(String::as_str) != Some(MANAGER)
    {
        return Plan::Refuse;
    }
    let uri = existing.data.as_ref().and_then(|data| data.get(KEY)).and_then(|uri| std::str::from_utf8(&uri.0).ok());
    let Some(uri) = uri else {
        return Plan::Make("it had no URI");
    };
    let Ok(database) = Database::parse(uri) else {
        return Plan::Make("its URI was not understood");
    };
    let Some(password) = database.password().filter(|password| !password.is_empty()) else {
        return Plan::Make("its URI had no password");
    };
    let password = Password(password.to_owned());
    let wanted = wanted(&password);
    if database.user() != wanted.user() {
        Plan::Make("it was for another role")
    } else if wanted.to_uri() == uri {
        Plan::Keep(password)
    } else {
        Plan::Rewrite(password)
    }
}

fn secret(namespace: &str, name: &str, uri: &str) -> Secret {
    let labels = [(MANAGED_BY, MANAGER), ("app.kubernetes.io/part-of", "pollux")];
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(KEY.to_owned(), ByteString(uri.as_bytes().to_vec()))])),
        ..Secret::default()
    }
}

/// A role's name: readable, and distinct for each cluster and namespace whatever their lengths.
pub(crate) fn role_name(cluster: &str, namespace: &str) -> String {
    // NUL is in neither of the two, so no other pair gives the same bytes.
    let digest = digest::digest(&digest::SHA256, format!("{cluster}\0{namespace}").as_bytes());
    let mut name = format!("pollux_{}", namespace.replace('-', "_"));
    name.truncate(MAX_ROLE_NAME - 9);
    format!("{name}_{}", hex(&digest.as_ref()[..4]))
}

/// Whether this is the role of some cluster's namespace.
pub(crate) fn is_role_name(name: &str) -> bool {
    let digest = name.strip_prefix("pollux_").and_then(|rest| rest.rsplit_once('_')).map(|(_, digest)| digest);
    digest.is_some_and(|digest| {
        digest.len() == 8 && digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// The database that a file's URI names.
pub(crate) fn read_database(file: &Path) -> anyhow::Result<Database> {
    let at = file.display();
    let uri = std::fs::read_to_string(file).with_context(|| format!("the file {at} cannot be read"))?;
    Database::parse(uri.trim()).with_context(|| format!("the file {at} holds no PostgreSQL URI that is understood"))
}

/// What tells this cluster from others: the uid of the namespace kube-system.
pub(crate) async fn cluster_id(client: &Client) -> anyhow::Result<String> {
    let system = in_time(Api::<Namespace>::all(client.clone()).get("kube-system")).await.context(
        "the namespace kube-system, whose uid tells clusters apart, cannot be read: allow it, or give --cluster",
    )?;
    system.metadata.uid.context("the namespace kube-system has no uid")
}

/// Connects, waiting for a server that is starting.
pub(crate) async fn connect(database: &Database, limit: Duration) -> anyhow::Result<Admin> {
    let start = Instant::now();
    let mut pause = RETRY.0;
    let mut last: Option<(String, Instant)> = None;
    loop {
        let error = match Admin::connect(database).await {
            Ok(admin) => return Ok(admin),
            Err(error) => error,
        };
        if !error.is_transient() {
            return Err(error).context("the database refuses the owner");
        }
        if start.elapsed() + pause > limit {
            return Err(error).with_context(|| format!("the database did not answer in {} s", limit.as_secs()));
        }
        let message = format!("{:#}", anyhow::Error::from(error));
        if last.as_ref().is_none_or(|(said, when)| *said != message || when.elapsed() > PROGRESS) {
            info!("waiting for the database ({} of {} s): {message}", start.elapsed().as_secs(), limit.as_secs());
            last = Some((message, Instant::now()));
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

async fn in_time<T>(call: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    match timeout(API_DEADLINE, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => bail!("the Kubernetes API did not answer in {} s", API_DEADLINE.as_secs()),
    }
}

fn tenant(name: &str) -> Result<String, &'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=63).contains(&name.len()) && name.chars().all(plain) {
        Ok(name.to_owned())
    } else {
        Err("a tenant's name is 1 to 63 letters, digits, hyphens, underscores and dots; to undo use --no-tenant")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// === impl Password ===

impl Password {
    fn random() -> anyhow::Result<Self> {
        let mut bytes = [0; 32];
        if SystemRandom::new().fill(&mut bytes).is_err() {
            bail!("the system gives no random numbers");
        }
        Ok(Self(hex(&bytes)))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

// === impl Host ===

impl FromStr for Host {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (name, rest) = rest.split_once(']').ok_or("a [ without its ]")?;
                (name, rest.strip_prefix(':'))
            }
            // More than one colon and no brackets: an IPv6 address.
            None if text.matches(':').count() > 1 => (text, None),
            None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
        };
        if name.is_empty() {
            return Err("no host name");
        }
        let port = match port {
            Some(port) => Some(port.parse::<NonZeroU16>().map_err(|_| "the port is no number from 1 to 65535")?.get()),
            None => None,
        };
        Ok(Self { name: name.to_owned(), port })
    }
}

#[cfg(test)]
#[path = "grant_postgres_test.rs"]
mod postgres_tests;
#[cfg(test)]
#[path = "grant_test.rs"]
mod tests;
