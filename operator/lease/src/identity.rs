//! Who takes part: bots, resources, replicas, and the digest that proves knowledge of a bot's token.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a lease is about: one bot at one Bot API server. The token is not part of it, so that the epoch outlives a rotated
/// token.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BotKey {
    /// The bot's user id at Telegram: the digits before the colon of its token.
    pub bot_id: i64,
    /// The Bot API server's base URL.
    pub server: String,
}

/// A TelegramBot resource. Two of them (in two namespaces or clusters) may serve one bot; they then share its lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Resource {
    /// Identity of the cluster.
    pub cluster: String,
    /// Namespace in it.
    pub namespace: String,
    /// Name of the resource.
    pub name: String,
}

/// One pod of a resource, as it describes itself. Nothing of it is trusted with safety; the process is identified by a
/// random number that it draws when it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Replica {
    /// The resource that the pod belongs to.
    #[serde(flatten)]
    pub resource: Resource,
    /// Name of the pod.
    pub pod: String,
    /// Its UID.
    pub pod_uid: String,
    /// Its node.
    pub node: String,
    /// Name of the revision that it runs.
    pub revision: String,
}

/// Proof that its bearer knows the bot's token: HMAC-SHA-256 of it. Statements without the right one are refused. It cannot
/// be turned back into the token, but it is a credential of the lease, so it is not printed either.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenDigest([u8; 32]);

/// The identity of one run of an agent: 128 random bits, in hexadecimal. A restarted agent is somebody else, so a late
/// statement of the dead process cannot pass for one of the living.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HolderId(String);

// === impl Resource ===

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl TokenDigest ===

impl TokenDigest {
    /// Computed here, in the agent, so that the token never reaches the database.
    pub fn of(token: &str) -> Self {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"pollux.dev/lease/token-digest/v1");
        let tag = ring::hmac::sign(&key, token.as_bytes());
        let mut digest = [0; 32];
        digest.copy_from_slice(tag.as_ref());
        Self(digest)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(..)")
    }
}

// === impl HolderId ===

impl HolderId {
    pub(crate) fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    #[cfg(test)]
    pub(crate) fn named(name: &str) -> Self {
        Self(name.to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_tells_tokens_apart_and_is_not_printed() {
        let one = TokenDigest::of("1:secret");
        assert_eq!(one, TokenDigest::of("1:secret"));
        assert_ne!(one, TokenDigest::of("1:Secret"));
        assert_eq!(format!("{one:?}"), "TokenDigest(..)");
    }

    #[test]
    fn two_runs_of_one_agent_are_two_holders() {
        assert_ne!(HolderId::random(), HolderId::random());
    }
}
