//! Second step: from a resource to something that can be built, or to the one sentence that says why not. Pure.

use kube::{Resource as _, ResourceExt};
use pollux_api::TelegramBot;
use pollux_api::names::request;
use pollux_api::words::Reason;
use serde_json::Value;

use crate::leases::Seen;
use crate::observe::{Observed, child_name};
use crate::revision::{self, Stored};
use crate::template::{self, Context};
use crate::{guard, merge};

/// What the operator brings to every bot.
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    /// Identity of this cluster.
    pub(crate) cluster: String,
    /// The agent's image for new revisions.
    pub(crate) agent_image: String,
}

/// The revision that the manifest asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Target {
    /// It has been seen before: its template is applied again, byte for byte.
    Known(Stored),
    /// It is new. Its number is not known yet.
    New {
        /// Name of the revision.
        name: String,
        /// The bot's image.
        image: String,
        /// The rendered template.
        template: Value,
    },
}

/// Why a resource cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invalid {
    /// Reason of the condition SpecValid.
    pub(crate) reason: Reason,
    /// What is wrong and how to mend it.
    pub(crate) message: String,
    /// Nothing of the bot may be touched, not even its scale: the objects are not ours.
    pub(crate) foreign: bool,
}

/// The revision that the manifest asks for, or why there is none.
pub(crate) fn validate(observed: &Observed, stored: &[Stored], operator: &Operator) -> Result<Target, Invalid> {
    ours(observed)?;
    if let Seen::Unknown { known } = &observed.lease {
        return Err(Invalid {
            reason: Reason::UnknownDatabase,
            message: format!(
                "spec.lease.database is {:?}, but the operator was installed with {}: use one of those, or add it to the chart's leaseDatabases",
                observed.bot.spec.lease.database,
                known.join(", "),
            ),
            foreign: false,
        });
    }
    let restarted_at = observed.bot.annotations().get(request::RESTARTED_AT);
    let name = revision::name(&observed.bot.spec, restarted_at.map(String::as_str));
    if let Some(known) = stored.iter().find(|stored| stored.name == name) {
        return Ok(Target::Known(known.clone()));
    }
    let template = render(&observed.bot, &name, operator)?;
    Ok(Target::New { name, image: observed.bot.spec.image.clone(), template })
}

fn render(bot: &TelegramBot, revision: &str, operator: &Operator) -> Result<Value, Invalid> {
    let (namespace, name) = (bot.namespace().unwrap_or_default(), bot.name_any());
    let context = Context {
        cluster: &operator.cluster,
        namespace: &namespace,
        bot: &name,
        revision,
        agent_image: &operator.agent_image,
        service_account: &child_name(&name),
    };
    let generated = template::render(&bot.spec, &context);
    let mut merged = generated.clone();
    if let Some(patch) = &bot.spec.pod_template {
        let invalid = |reason, message: String| Invalid { reason, message, foreign: false };
        merge::merge(&mut merged, patch).map_err(|error| invalid(Reason::PodTemplateInvalid, error.to_string()))?;
        guard::check(&bot.spec.agent, &generated, &merged)
            .map_err(|refusal| invalid(refusal.reason, refusal.to_string()))?;
    }
    Ok(Value::Object(merged))
}

/// Objects that have the names we need and belong to somebody else are left alone.
fn ours(observed: &Observed) -> Result<(), Invalid> {
    let uid = observed.bot.meta().uid.as_deref().unwrap_or_default();
    let foreign = |kind: &str, object: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>| {
        let meta = object?;
        let owned =
            meta.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.uid == uid);
        (!owned).then(|| format!("{kind} {:?}", meta.name.clone().unwrap_or_default()))
    };
    let found = foreign("Deployment", observed.deployment.as_ref().map(|o| &o.metadata))
        .or_else(|| foreign("ServiceAccount", observed.service_account.as_ref().map(|o| &o.metadata)))
        .or_else(|| foreign("PodDisruptionBudget", observed.budget.as_ref().map(|o| &o.metadata)));
    match found {
        None => Ok(()),
        Some(what) => Err(Invalid {
            reason: Reason::NameConflict,
            message: format!(
                "the {what} exists and does not belong to this TelegramBot: delete it, or give the TelegramBot another name"
            ),
            foreign: true,
        }),
    }
}
