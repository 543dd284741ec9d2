//! What the agent was told, judged once at its start.
//!
//! Every mistake is found in one pass and named with what it is, where it was set and how to mend it. What only a new pod
//! can mend (a flag, a variable) ends the process. What may be mended under a running pod (the content of a mounted
//! Secret) is not judged here: [`crate::credentials`] waits for it.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::Url;

use crate::cli::RunOptions;
use crate::logs::{LogFormat, filter};

/// A validated configuration: nothing in it needs to be looked at twice.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whose agent this is.
    pub identity: Identity,
    /// The Bot API server.
    pub api_url: Url,
    /// Certificates (PEM) of an own CA of that server.
    pub api_ca: Option<Vec<u8>>,
    /// The HTTP proxy on the way there.
    pub proxy_url: Option<Url>,
    /// File with the bot's token.
    pub token_file: PathBuf,
    /// File with the lease database's URI.
    pub lease_uri_file: PathBuf,
    /// Directory shared with the bot's container.
    pub shared_dir: PathBuf,
    /// Where the bot finds its Bot API.
    pub listen: SocketAddr,
    /// Where probes and metrics are served.
    pub health_listen: SocketAddr,
    /// How long a drain may wait for the bot.
    pub drain_timeout: Duration,
    /// A pod that ends is gone after this time.
    pub grace_period: Duration,
    /// How the bot takes turns.
    pub adapter: Adapter,
}

/// Names of this replica, as Kubernetes knows it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Id of the cluster.
    pub cluster: String,
    /// Namespace of the TelegramBot.
    pub namespace: String,
    /// Name of the TelegramBot.
    pub bot: String,
    /// Name of the pod.
    pub pod: String,
    /// Uid of the pod.
    pub pod_uid: String,
    /// Node of the pod.
    pub node: String,
    /// Name of the revision that the pod runs.
    pub revision: String,
}

/// How the bot takes turns: see [`crate::bot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adapter {
    /// It asks the gate for updates.
    Proxy,
    /// It runs only while this pod leads.
    Process,
}

/// How to log; judged apart, because mistakes in everything else are logged by it.
#[derive(Clone, Debug)]
pub struct Logging {
    /// Directives of `tracing`.
    pub filter: String,
    /// JSON or text.
    pub format: LogFormat,
}

/// One thing that is wrong: what, where, how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The flag, which also names the variable.
    pub flag: &'static str,
    /// What is wrong with it.
    pub what: String,
    /// What to do.
    pub mend: String,
}

/// All that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variable = self.flag.replace('-', "_").to_uppercase();
        write!(f, "--{} (POLLUX_{variable}) {}: {}", self.flag, self.what, self.mend)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(mistakes) = self;
        let noun = if mistakes.len() == 1 { "mistake" } else { "mistakes" };
        write!(f, "the configuration has {} {noun}", mistakes.len())?;
        mistakes.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

// === impl Config ===

impl Config {
    /// Judges `options`. The shared directory and the CA file are looked at, because a mistake there is one of this pod's
    /// template; the files of the Secrets are not.
    ///
    /// # Errors
    /// All mistakes, not the first one.
    pub fn new(options: &RunOptions) -> Result<(Self, Logging), Mistakes> {
        let mut judge = Judge::default();
        let identity = judge.identity(options);
        let api_url = judge.api_url(&options.api_url);
        let api_ca = judge.api_ca(options.api_ca_file.as_deref());
        let proxy_url = judge.proxy_url(options.proxy_url.as_deref());
        let token_file = judge.absolute("token-file", &options.token_file);
        let lease_uri_file = judge.absolute("lease-uri-file", &options.lease_uri_file);
        let shared_dir = judge.shared_dir(&options.shared_dir);
        let listen = judge.listen(&options.listen);
        let health_listen = judge.address("health-listen", &options.health_listen, "0.0.0.0:9464");
        judge.apart(listen, health_listen);
        let drain_timeout = judge.seconds("drain-timeout-seconds", &options.drain_timeout_seconds, 3600);
        let grace_period = judge.seconds("grace-period-seconds", &options.grace_period_seconds, 86_400);
        let adapter = judge.adapter(&options.adapter);
        let logging = judge.logging(&options.log, &options.log_format);

        let config = (|| {
            Some(Self {
                identity: identity?,
                api_url: api_url?,
                api_ca: api_ca?,
                proxy_url: proxy_url?,
                token_file: token_file?,
                lease_uri_file: lease_uri_file?,
                shared_dir: shared_dir?,
                listen: listen?,
                health_listen: health_listen?,
                drain_timeout: drain_timeout?,
                grace_period: grace_period?,
                adapter: adapter?,
            })
        })();
        match (config, logging) {
            (Some(config), Some(logging)) if judge.mistakes.is_empty() => Ok((config, logging)),
            _ => Err(Mistakes(judge.mistakes)),
        }
    }
}

/// Collects mistakes; each method gives the value if it is right.
#[derive(Default)]
struct Judge {
    mistakes: Vec<Mistake>,
}

/// Longest path of a unix socket is 107 bytes; this is what the longest name that is put into the directory takes.
const LONGEST_NAME_IN_SHARED_DIR: usize = "/.hook.sock.4194304".len();

// === impl Judge ===

impl Judge {
    fn wrong<T>(&mut self, flag: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Option<T> {
        self.mistakes.push(Mistake { flag, what: what.into(), mend: mend.into() });
        None
    }

    fn identity(&mut self, options: &RunOptions) -> Option<Identity> {
        let cluster = self.name("cluster", options.cluster.as_deref(), "any id that is this cluster's alone");
        let namespace = self.name("namespace", options.namespace.as_deref(), "the namespace of the TelegramBot");
        let bot = self.name("bot", options.bot.as_deref(), "the name of the TelegramBot");
        let pod = self.name("pod-name", options.pod_name.as_deref(), "metadata.name, by the downward API");
        let pod_uid = self.name("pod-uid", options.pod_uid.as_deref(), "metadata.uid, by the downward API");
        let node = self.name("node-name", options.node_name.as_deref(), "spec.nodeName, by the downward API");
        let revision = self.name("revision", options.revision.as_deref(), "the name of the pod's revision");
        Some(Identity {
            cluster: cluster?,
            namespace: namespace?,
            bot: bot?,
            pod: pod?,
            pod_uid: pod_uid?,
            node: node?,
            revision: revision?,
        })
    }

    /// Names end up in rows, labels of metrics and log lines: short, printable, no spaces.
    fn name(&mut self, flag: &'static str, value: Option<&str>, is: &str) -> Option<String> {
        match value.map(str::trim) {
            None | Some("") => self.wrong(flag, "is missing", format!("set it to {is}")),
            Some(v) if v.len() > 253 => {
                self.wrong(flag, format!("has {} characters", v.len()), "use at most 253 of them, as Kubernetes does")
            }
            Some(v) if !v.chars().all(|c| c.is_ascii_graphic()) => {
                self.wrong(flag, format!("is {v:?}"), format!("set it to {is}; it has no spaces"))
            }
            Some(v) => Some(v.to_owned()),
        }
    }

    fn api_url(&mut self, value: &str) -> Option<Url> {
        const FLAG: &str = "api-url";
        const MEND: &str = "set it to the root of a Bot API server, such as https://api.telegram.org";
        // What was typed is not repeated: people paste URLs with a token in them.
        let url = match Url::parse(value.trim()) {
            Ok(url) => url,
            Err(e) => return self.wrong(FLAG, format!("is not a URL ({e})"), MEND),
        };
        if !matches!(url.scheme(), "http" | "https") {
            return self.wrong(
                FLAG,
                format!("has the scheme {:?}", url.scheme()),
                "use https (or http, inside the cluster)",
            );
        }
        if url.host_str().is_none_or(str::is_empty) {
            return self.wrong(FLAG, "names no host", MEND);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return self.wrong(FLAG, "holds a user or a password", "leave them out; the Bot API has no such thing");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return self.wrong(FLAG, "has a query or a fragment", MEND);
        }
        if url.path_segments().is_some_and(|mut s| s.any(|s| s.starts_with("bot") && s.contains(':'))) {
            return self.wrong(FLAG, "has a token in its path", "stop at the host; the token comes from --token-file");
        }
        Some(url)
    }

    #[expect(clippy::option_option, reason = "outer: judged right; inner: none was asked for")]
    fn api_ca(&mut self, file: Option<&str>) -> Option<Option<Vec<u8>>> {
        const FLAG: &str = "api-ca-file";
        let Some(file) = file.map(str::trim).filter(|f| !f.is_empty()) else {
            return Some(None);
        };
        let pem = match std::fs::read(file) {
            Ok(pem) => pem,
            Err(e) => {
                return self.wrong(
                    FLAG,
                    format!("cannot be read ({file}: {e})"),
                    "mount the ConfigMap's key ca.crt there",
                );
            }
        };
        let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        match certificates {
            Ok(found) if !found.is_empty() => Some(Some(pem)),
            Ok(_) => self.wrong(
                FLAG,
                format!("holds no certificate ({file})"),
                "put the CA's certificate there, from -----BEGIN CERTIFICATE----- on",
            ),
            Err(e) => self.wrong(FLAG, format!("is not PEM ({file}: {e})"), "put the CA's certificate there, in PEM"),
        }
    }

    #[expect(clippy::option_option, reason = "outer: judged right; inner: none was asked for")]
    fn proxy_url(&mut self, value: Option<&str>) -> Option<Option<Url>> {
        const FLAG: &str = "proxy-url";
        const MEND: &str = "set it to an HTTP proxy, such as http://proxy.example:3128";
        let Some(value) = value.map(str::trim).filter(|v| !v.is_empty()) else {
            return Some(None);
        };
        // What was typed is not repeated: it may hold a password.
        let url = match Url::parse(value) {
            Ok(url) => url,
            Err(e) => return self.wrong(FLAG, format!("is not a URL ({e})"), MEND),
        };
        if url.scheme() != "http" || url.host_str().is_none_or(str::is_empty) {
            return self.wrong(FLAG, "does not begin with http:// and a host", MEND);
        }
        if !url.username().is_empty() || url.password().is_some() {
            let mend =
                "use a proxy that lets the pod's address through: everybody who sees the pod would see the password";
            return self.wrong(FLAG, "holds a user or a password", mend);
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return self.wrong(FLAG, "has a path, a query or a fragment", MEND);
        }
        Some(Some(url))
    }

    fn absolute(&mut self, flag: &'static str, value: &str) -> Option<PathBuf> {
        let path = Path::new(value.trim());
        if path.as_os_str().is_empty() {
            return self.wrong(flag, "is empty", "name a file, or leave the option out to get the default");
        }
        // Relative paths work at a terminal; they are made absolute so that messages name the real place.
        match std::path::absolute(path) {
            Ok(path) => Some(path),
            Err(e) => self.wrong(flag, format!("cannot be resolved ({e})"), "use an absolute path"),
        }
    }

    fn shared_dir(&mut self, value: &str) -> Option<PathBuf> {
        const FLAG: &str = "shared-dir";
        let path = self.absolute(FLAG, value)?;
        let longest = path.as_os_str().len() + LONGEST_NAME_IN_SHARED_DIR;
        if longest > 107 {
            return self.wrong(
                FLAG,
                format!("is too long for a unix socket ({})", path.display()),
                "choose a shorter path",
            );
        }
        if !path.is_dir() {
            let mend = "mount an emptyDir there that the bot's container mounts too";
            return self.wrong(FLAG, format!("is not a directory ({})", path.display()), mend);
        }
        // Asked of the kernel by doing it: modes, user namespaces and read-only mounts all have a say.
        let probe = path.join(format!(".probe.{}", std::process::id()));
        match std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe)) {
            Ok(()) => Some(path),
            Err(e) => self.wrong(
                FLAG,
                format!("cannot be written ({}: {e})", path.display()),
                "mount it read-write into the agent's container",
            ),
        }
    }

    fn address(&mut self, flag: &'static str, value: &str, example: &str) -> Option<SocketAddr> {
        match value.trim().parse() {
            Ok(address) => Some(address),
            Err(_) => {
                self.wrong(flag, format!("is {value:?}"), format!("use an IP address and a port, such as {example}"))
            }
        }
    }

    /// The gate adds the bot's token to what it is asked: whoever reaches it is the bot.
    fn listen(&mut self, value: &str) -> Option<SocketAddr> {
        const FLAG: &str = "listen";
        let address = self.address(FLAG, value, "127.0.0.1:8081")?;
        if !address.ip().is_loopback() {
            let mend = "use 127.0.0.1 or [::1]: who reaches this address can act as the bot";
            return self.wrong(FLAG, format!("is {address}, which is not loopback"), mend);
        }
        Some(address)
    }

    fn apart(&mut self, listen: Option<SocketAddr>, health: Option<SocketAddr>) {
        let (Some(listen), Some(health)) = (listen, health) else {
            return;
        };
        let same_ip = listen.ip() == health.ip() || health.ip().is_unspecified();
        if same_ip && listen.port() == health.port() && listen.port() != 0 {
            self.wrong::<()>(
                "health-listen",
                format!("has the port of --listen ({})", listen.port()),
                "choose another port",
            );
        }
    }

    fn seconds(&mut self, option: &'static str, value: &str, most: u64) -> Option<Duration> {
        match value.trim().parse::<u64>() {
            Ok(seconds) if seconds <= most => Some(Duration::from_secs(seconds)),
            _ => self.wrong(option, format!("is {value:?}"), format!("use a whole number of seconds from 0 to {most}")),
        }
    }

    fn adapter(&mut self, value: &str) -> Option<Adapter> {
        match value.trim() {
            "proxy" => Some(Adapter::Proxy),
            "process" => Some(Adapter::Process),
            other => self.wrong("adapter", format!("is {other:?}"), "use proxy or process"),
        }
    }

    fn logging(&mut self, directives: &str, format: &str) -> Option<Logging> {
        let right = match filter(directives) {
            Ok(_) => Some(()),
            Err(e) => self.wrong("log", format!("is {directives:?} ({e})"), "use error, warn, info, debug or trace"),
        };
        let format = match format.trim() {
            "auto" => Some(LogFormat::Auto),
            "json" => Some(LogFormat::Json),
            "text" => Some(LogFormat::Text),
            other => self.wrong("log-format", format!("is {other:?}"), "use auto, json or text"),
        };
        right?;
        Some(Logging { filter: directives.to_owned(), format: format? })
    }
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
