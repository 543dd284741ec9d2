//! A Bot API server behind TLS, with a certificate of an authority of one's own.

use std::time::Duration;

use anyhow::{Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

use crate::bot::Library;
use crate::emulator::Emulator;
use crate::wait::{Look, until};
use crate::world::{BOTS, TELEGRAM, World, emulator_manifests};

const PATIENCE: Duration = Duration::from_secs(120);
const HOST: &str = "botapi-tls.telegram.svc.cluster.local";

/// A bot whose agent must trust the authority that `caConfigMapRef` names, and nothing less.
pub(crate) async fn own_authority(world: &World) -> Result<()> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec![HOST.to_owned()])?.signed_by(&key, &authority)?;
    world
        .apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "botapi-tls", "namespace": TELEGRAM},
            "stringData": {"tls.crt": leaf.pem(), "tls.key": key.serialize_pem()},
        }))
        .await?;
    world
        .apply(&json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "botapi-ca", "namespace": BOTS},
            "data": {"ca.crt": authority.pem()},
        }))
        .await?;
    for manifest in emulator_manifests(&world.ground, "botapi-tls", Some("botapi-tls")) {
        world.apply(&manifest).await?;
    }
    world.deployment_available(TELEGRAM, "botapi-tls").await?;

    let bot = world.bot("tls", Library::Telegraf, 1_000_014).await?;
    let emulator = Emulator::new(world.client.clone(), TELEGRAM, "botapi-tls");
    emulator.add_bot(&bot.token, "tls_bot").await?;
    let mut spec = bot.spec(1, &format!("https://{HOST}"));
    spec["botApi"]["caConfigMapRef"] = json!({"name": "botapi-ca"});
    bot.apply(&spec).await?;
    bot.wait_ready(PATIENCE).await?;
    emulator.push(&bot.token, 20).await?;
    let verdict = until("all answers over TLS", PATIENCE, || async {
        let verdict = emulator.verdict(&bot.token).await?;
        Ok(if verdict.answered == 20 {
            Look::Yes(verdict)
        } else {
            Look::NotYet(format!("{} answered", verdict.answered))
        })
    })
    .await?;
    ensure!(verdict.counts.dup == 0 && verdict.counts.conflict == 0, "{verdict:?}");
    bot.delete().await
}
