//! What people get wrong. Each mistake is named in the status, with its mend, within half a minute; and the old pod serves on
//! as if nothing had happened.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use pollux_botapi::Counts;
use serde_json::{Value, json};

use crate::bot::{Bot, Library};
use crate::scenarios::settle;
use crate::wait::{Look, until};
use crate::world::{API_URL, BOTS, World};

const PATIENCE: Duration = Duration::from_secs(120);
/// How long the status may take to name a mistake.
const NAMED: Duration = Duration::from_secs(30);

/// A change that cannot work.
struct Mistake {
    what: &'static str,
    change: Value,
    /// The condition that says so, and its reason (one of these).
    condition: (&'static str, &'static [&'static str]),
    /// What the message must name.
    names: &'static str,
    mend: Value,
}

/// One mistake after the other, on a bot that serves.
pub(crate) async fn named_in_time(world: &World) -> Result<()> {
    let bot = world.bot("mistakes", Library::Grammy, 1_000_031).await?;
    bot.apply(&bot.spec(1, API_URL)).await?;
    let leader = bot.wait_ready(PATIENCE).await?;
    a_wrong_password(world).await?;
    for mistake in mistakes(&bot) {
        made(world, &bot, &mistake).await.with_context(|| mistake.what)?;
        let now = bot.wait_ready(PATIENCE).await.with_context(|| format!("after {} was mended", mistake.what))?;
        ensure!((&now.pod, now.epoch) == (&leader.pod, leader.epoch), "{}: {leader:?} became {now:?}", mistake.what);
    }
    refused_by_the_schema(&bot).await?;
    let verdict = settle(world, &bot).await?;
    ensure!(verdict.counts == Counts::default(), "mistakes cost messages: {:?}", verdict.counts);
    bot.delete().await
}

fn mistakes(bot: &Bot) -> Vec<Mistake> {
    let image = bot.image.clone();
    let token = json!({"tokenSecretRef": {"name": format!("{}-token", bot.name), "key": "token"}});
    vec![
        Mistake {
            what: "an image that does not exist",
            change: json!({"image": "localhost:9/no-such-image:dev"}),
            condition: ("Progressing", &["ErrImagePull", "ImagePullBackOff"]),
            names: "no-such-image",
            mend: json!({"image": image}),
        },
        Mistake {
            what: "a token Secret that does not exist",
            change: json!({"tokenSecretRef": {"name": "no-such-token"}}),
            condition: ("SpecValid", &["SecretMissing"]),
            names: "no-such-token",
            mend: token.clone(),
        },
        Mistake {
            what: "a key that the token Secret has not",
            change: json!({"tokenSecretRef": {"key": "no-such-key"}}),
            condition: ("SpecValid", &["SecretMissing"]),
            names: "no-such-key",
            mend: token,
        },
        Mistake {
            what: "a lease Secret that does not exist",
            change: json!({"lease": {"credentialsSecretRef": {"name": "no-such-lease"}}}),
            condition: ("SpecValid", &["SecretMissing"]),
            names: "no-such-lease",
            mend: json!({"lease": {"credentialsSecretRef": null}}),
        },
        Mistake {
            what: "a lease Secret with a wrong password",
            change: json!({"lease": {"credentialsSecretRef": {"name": "wrong-lease"}}}),
            condition: ("Progressing", &["PodNotReady"]),
            names: "lease database",
            mend: json!({"lease": {"credentialsSecretRef": null}}),
        },
        Mistake {
            what: "a command that ends at once",
            change: json!({"command": ["sh", "-c", "exit 7"]}),
            condition: ("Progressing", &["RollingBack", "RolledBack"]),
            names: "exit code 7",
            mend: json!({"command": null}),
        },
        Mistake {
            what: "a podTemplate that the API server refuses",
            change: json!({"podTemplate": {"spec": {"restartPolicy": "Sometimes"}}}),
            condition: ("SpecValid", &["PodTemplateInvalid"]),
            names: "restartPolicy",
            mend: json!({"podTemplate": {"spec": {"restartPolicy": null, "hostNetwork": null}}}),
        },
        Mistake {
            what: "a podTemplate that opens the gate to the node",
            change: json!({"podTemplate": {"spec": {"hostNetwork": true}}}),
            condition: ("SpecValid", &["PodTemplateInvalid"]),
            names: "hostNetwork",
            mend: json!({"podTemplate": {"spec": {"restartPolicy": null, "hostNetwork": null}}}),
        },
    ]
}

/// The bots' own Secret with another password.
async fn a_wrong_password(world: &World) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), BOTS);
    let uri = secrets.get("pollux-lease").await?.data.and_then(|mut data| data.remove("uri")).context("no URI")?;
    let uri = String::from_utf8(uri.0)?;
    let (before, host) = uri.rsplit_once('@').context("a URI without a host")?;
    let (user, _password) = before.rsplit_once(':').context("a URI without a password")?;
    world
        .apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong-lease", "namespace": BOTS},
            "stringData": {"uri": format!("{user}:wrong@{host}")},
        }))
        .await
}

async fn made(world: &World, bot: &Bot, mistake: &Mistake) -> Result<()> {
    bot.change(&mistake.change).await?;
    let (kind, reasons) = mistake.condition;
    let message = bot.wait_reason(kind, reasons, NAMED).await?;
    ensure!(message.contains(mistake.names), "the message does not name {}: {message}", mistake.names);
    world.emulator.push(&bot.token, 5).await?;
    until("answers from the old pod", PATIENCE, || async {
        let verdict = world.emulator.verdict(&bot.token).await?;
        Ok(if verdict.answered == verdict.updates { Look::Yes(()) } else { Look::NotYet(format!("{verdict:?}")) })
    })
    .await?;
    bot.change(&mistake.mend).await
}

/// What the API server itself refuses, with a message that says how to mend it.
async fn refused_by_the_schema(bot: &Bot) -> Result<()> {
    for (change, names) in [
        (json!({"lease": {"database": "other"}}), "suspend"),
        (json!({"minReadySeconds": 700}), "progressDeadlineSeconds"),
        (json!({"botApi": {"url": "ftp://telegram"}}), "https"),
        (json!({"lease": {"durationSeconds": 2}}), "3"),
        (json!({"polling": {"longPollTimeoutSeconds": 51}}), "50"),
        (json!({"polling": {"delivery": "AtMostOnce"}}), "Settled"),
        (json!({"polling": {"maxBatch": 101}}), "100"),
        (json!({"handover": {"quietSeconds": 20}}), "drainTimeoutSeconds"),
        (json!({"agent": {"apiURLEnv": ["not a name"]}}), "apiURLEnv"),
        (json!({"agent": {"apiPort": 9464}}), "metricsPort"),
        (json!({"agent": {"proxyURL": "http://user:password@proxy:3128"}}), "without user and password"),
        (json!({"env": [{"name": "TELEGRAM_API_ROOT", "value": "x"}]}), "spec.botApi.url"),
        (json!({"strategy": {"type": "Sometimes"}}), "RollingUpdate"),
        (json!({"analysis": {"bakeSeconds": 600}}), "lower one of the others"),
        (json!({"onFailure": "Hope"}), "Rollback"),
        (json!({"replicas": -1}), "0"),
    ] {
        let Err(error) = bot.change(&change).await else { anyhow::bail!("the API server took {change}") };
        let error = format!("{error:#}");
        ensure!(error.contains(names), "the refusal of {change} does not name {names}: {error}");
    }
    Ok(())
}
