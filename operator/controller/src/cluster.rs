//! The Kubernetes API, as the rest of the controller uses it.
//!
//! * Every call has a deadline of its own: the client has no read timeout, and a GET to a silent server would hang for ever.
//! * Every write asks first whether this process still leads: leadership is checked at the side effect, not at the start of
//!   the reconcile that leads to it.
//! * Every write is counted: at rest there are none, and that is tested.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::election::Leadership;
use crate::metrics::Metrics;

/// How long a call may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);

/// What helps against a 403: not the manifest alone.
const FORBIDDEN_MEND: &str = ": mend the admission policy or the quota that it names, or give the operator the rights (RBAC) in this namespace that its installation has";

/// What can go wrong with a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server did not answer.
    #[error("{what}: the API server did not answer within {DEADLINE:?}")]
    Deadline {
        /// The call.
        what: String,
    },
    /// It answered no, or could not be reached.
    #[error("{what}: {}", said(.source))]
    Api {
        /// The call.
        what: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Another replica of the controller leads by now.
    #[error("{what}: not done, because this replica does not lead any more")]
    NotLeading {
        /// The call.
        what: String,
    },
}

/// A no of the API server that asking again does not turn into a yes: somebody has to do something first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// One word, Kubernetes' own.
    pub(crate) reason: String,
    /// What was refused, in the server's own sentence, and how to mend it.
    pub(crate) message: String,
}

/// A client with these manners.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    leadership: Leadership,
    metrics: Metrics,
}

/// The scope that all children have.
pub(crate) trait Child:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize
{
}

impl<K> Child for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize
{
}

// === impl Error ===

impl Error {
    fn answer(&self) -> Option<&Status> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }

    fn code(&self) -> Option<u16> {
        self.answer().map(|status| status.code)
    }

    /// Somebody else wrote in between: look again.
    pub(crate) fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// The API server finds the object itself wrong; its words.
    pub(crate) fn is_invalid(&self) -> Option<String> {
        let Self::Api { source, .. } = self else { return None };
        match source.as_ref() {
            kube::Error::Api(status) if matches!(status.code, 400 | 422) => Some(status.message.clone()),
            // Unknown fields and values that cannot be parsed come as 500, and only the sentence tells them from a failure.
            kube::Error::Api(status)
                if status.code == 500
                    && (status.message.contains("typed patch") || status.message.contains("failed to convert")) =>
            {
                Some(status.message.clone())
            }
            _ => None,
        }
    }

    /// The API server forbids it, whatever the object says: policies, quotas and missing rights come as 403.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.code() == Some(403)
    }

    /// The API server has decided against it. A conflict is no decision, and neither is a server that is busy.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        let Self::Api { what, .. } = self else { return None };
        let status = self.answer().filter(|s| (400..500).contains(&s.code) && !matches!(s.code, 408 | 409 | 429))?;
        // Webhooks put whole sentences there, which the schema of conditions refuses.
        let is_word = !status.reason.is_empty() && status.reason.chars().all(|c| c.is_ascii_alphabetic());
        let reason = match status.code {
            _ if is_word => status.reason.as_str(),
            403 => "Forbidden",
            _ => "Invalid",
        };
        let mend = if self.is_forbidden() { FORBIDDEN_MEND } else { "" };
        Some(Refusal {
            reason: reason.to_owned(),
            message: format!("the API server refuses {what}: {}{mend}", status.message),
        })
    }
}

fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => chain(other),
    }
}

/// An error and what caused it, on one line of bounded length.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    if text.len() > 600 {
        let end = text.floor_char_boundary(600);
        text.truncate(end);
        text.push('…');
    }
    text
}

// === impl Cluster ===

impl Cluster {
    /// A client whose writes are allowed by `leadership`.
    pub(crate) fn new(client: Client, leadership: Leadership, metrics: Metrics) -> Self {
        Self { client, leadership, metrics }
    }

    /// The client itself, for watches.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Reads one object.
    pub(crate) async fn get<K: Child>(&self, namespace: &str, name: &str) -> Result<Option<K>, Error> {
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        within(|| format!("GET {} {namespace}/{name}", K::kind(&())), api.get_opt(name)).await
    }

    /// Lists objects by label or field.
    pub(crate) async fn list<K: Child>(&self, namespace: &str, params: &ListParams) -> Result<Vec<K>, Error> {
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        Ok(within(|| format!("LIST {} {namespace}", K::kind(&())), api.list(params)).await?.items)
    }

    /// Server-side apply, with force: what we own is ours.
    pub(crate) async fn apply<K: Child>(
        &self,
        manager: &str,
        namespace: &str,
        name: &str,
        object: &Value,
    ) -> Result<K, Error> {
        let what = || format!("APPLY {} {namespace}/{name}", K::kind(&()));
        self.may_write("apply", &K::kind(&()), what)?;
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        within(what, api.patch(name, &PatchParams::apply(manager).force(), &Patch::Apply(object))).await
    }

    /// What an apply would do, without doing it.
    pub(crate) async fn dry_run<K: Child>(
        &self,
        manager: &str,
        namespace: &str,
        name: &str,
        object: &Value,
    ) -> Result<K, Error> {
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let params = PatchParams::apply(manager).force().dry_run();
        within(
            || format!("DRY RUN {} {namespace}/{name}", K::kind(&())),
            api.patch(name, &params, &Patch::Apply(object)),
        )
        .await
    }

    /// Server-side apply of the status.
    pub(crate) async fn apply_status<K: Child>(
        &self,
        manager: &str,
        namespace: &str,
        name: &str,
        object: &Value,
    ) -> Result<K, Error> {
        let what = || format!("APPLY STATUS {} {namespace}/{name}", K::kind(&()));
        self.may_write("status", &K::kind(&()), what)?;
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        within(what, api.patch_status(name, &PatchParams::apply(manager).force(), &Patch::Apply(object))).await
    }

    /// Makes an object.
    pub(crate) async fn create<K: Child>(&self, namespace: &str, object: &K) -> Result<K, Error> {
        let what = || format!("CREATE {} {namespace}", K::kind(&()));
        self.may_write("create", &K::kind(&()), what)?;
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        within(what, api.create(&PostParams::default(), object)).await
    }

    /// Makes what has been rendered as JSON.
    pub(crate) async fn create_json<K: Child>(&self, namespace: &str, object: &Value) -> Result<K, Error> {
        let object = serde_json::from_value(object.clone()).map_err(|error| Error::Api {
            what: format!("CREATE {} {namespace}", K::kind(&())),
            source: Box::new(kube::Error::SerdeError(error)),
        })?;
        self.create(namespace, &object).await
    }

    /// Deletes exactly this object, if it is still there.
    pub(crate) async fn delete<K: Child>(&self, object: &K) -> Result<(), Error> {
        let meta = object.meta();
        let (namespace, name) = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let what = || format!("DELETE {} {namespace}/{name}", K::kind(&()));
        self.may_write("delete", &K::kind(&()), what)?;
        let api = Api::<K>::namespaced(self.client.clone(), &namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: meta.uid.clone(), resource_version: None }),
            ..DeleteParams::background()
        };
        match within(what, api.delete(&name, &params)).await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some(404) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Refuses what a replica may not do that leads no more. Asked before each write, also of those that go elsewhere.
    pub(crate) fn must_lead(&self, what: impl FnOnce() -> String) -> Result<(), Error> {
        if self.leadership.is_leading() { Ok(()) } else { Err(Error::NotLeading { what: what() }) }
    }

    fn may_write(&self, verb: &str, kind: &str, what: impl FnOnce() -> String) -> Result<(), Error> {
        self.must_lead(what)?;
        self.metrics.wrote(verb, kind);
        Ok(())
    }
}

/// A call with the deadline.
pub(crate) async fn within<T>(
    what: impl FnOnce() -> String,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(Error::Api { what: what(), source: Box::new(source) }),
        Err(_) => Err(Error::Deadline { what: what() }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What the API server answered.
    pub(crate) fn answered(code: u16, reason: &str, message: &str) -> Error {
        let status = Status::failure(message, reason).with_code(code);
        Error::Api { what: "APPLY Deployment bots/echo".into(), source: Box::new(kube::Error::Api(status.boxed())) }
    }

    #[test]
    fn refusal_is_told_in_the_servers_words() {
        let quota = "deployments.apps \"echo\" is forbidden: exceeded quota: pods";
        let told = answered(403, "Forbidden", quota).refusal().unwrap();
        assert_eq!(told.reason, "Forbidden");
        for part in ["APPLY Deployment bots/echo", quota, "policy", "quota", "RBAC"] {
            assert!(told.message.contains(part), "{part}: {}", told.message);
        }
        let webhook = answered(403, "you must provide labels: {\"owner\"}", "denied").refusal().unwrap();
        assert_eq!(webhook.reason, "Forbidden", "a sentence is no reason of a condition");
        assert!(!answered(422, "Invalid", "spec.replicas").refusal().unwrap().message.contains("RBAC"));
    }

    #[test]
    fn what_passes_by_itself_is_no_refusal() {
        for code in [408, 409, 429, 500, 503] {
            assert_eq!(answered(code, "", "later").refusal(), None, "{code}");
        }
        assert_eq!(Error::Deadline { what: "GET".into() }.refusal(), None);
    }
}
