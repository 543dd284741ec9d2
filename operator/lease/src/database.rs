//! Where the lease database is and how to get in: our own reading of its URI.
//!
//! tokio-postgres knows neither `verify-ca` nor `verify-full` nor `sslrootcert`, and its `require` checks nothing more than
//! libpq's. So the URI is read here, with libpq's meaning of each word, and handed on as parts. What is not known is an
//! error that names it, never something that is silently left out; the few parameters that other clients put into their
//! URIs and that mean nothing to us are on a list.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, LoadBalanceHosts, SslMode, SslNegotiation, TargetSessionAttrs};

/// Parameters for other clients, which change nothing for us.
const FOR_OTHERS: [&str; 14] = [
    "connection_limit",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "pgbouncer",
    "pool_timeout",
    "prepareThreshold",
    "schema",
    "sslcompression",
    "sslsni",
    "statement_cache_size",
    "tcp_user_timeout",
];

/// A lease database, as its URI describes it.
#[derive(Clone, PartialEq, Eq)]
pub struct Database {
    hosts: Vec<(String, u16)>,
    user: String,
    password: Option<String>,
    dbname: Option<String>,
    tls: TlsPolicy,
    direct_tls: bool,
    channel_binding: Option<ChannelBinding>,
    application_name: Option<String>,
    connect_timeout: Option<Duration>,
    options: Option<String>,
    target: Target,
    random_host: bool,
}

/// What the connection's encryption must prove, `sslmode` and `sslrootcert` together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsPolicy {
    /// No encryption.
    Disable,
    /// Encryption if the server offers it; proves nothing (libpq's default).
    Prefer,
    /// Encryption; proves nothing about who the server is.
    Require,
    /// The certificate comes from a trusted authority, for whatever name.
    VerifyCa(Roots),
    /// The certificate comes from a trusted authority and is for this host.
    VerifyFull(Roots),
}

/// Which authorities are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// The public ones, compiled in.
    Public,
    /// Those in this file (PEM).
    File(PathBuf),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Target {
    #[default]
    Any,
    ReadWrite,
}

/// What is wrong with a URI. Never shows more of it than names of parameters and hosts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a URI of a lease database: {0}")]
pub struct UriError(String);

// === impl Database ===

impl Database {
    /// Reads a URI of the form `postgresql://USER:PASSWORD@HOST[:PORT][,HOST[:PORT]...]/DATABASE[?PARAMETER=VALUE&...]`.
    ///
    /// # Errors
    /// What is wrong and how to mend it. The password is not shown.
    pub fn parse(uri: &str) -> Result<Self, UriError> {
        let uri = uri.trim();
        let rest = strip_scheme(uri)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, dbname) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(decode("the password", password)?)),
            None => (login, None),
        };
        let mut found = Self {
            hosts: Vec::new(),
            user: decode("the user", user)?,
            password,
            dbname: Some(decode("the database's name", dbname)?).filter(|name| !name.is_empty()),
            tls: TlsPolicy::Prefer,
            direct_tls: false,
            channel_binding: None,
            application_name: None,
            connect_timeout: None,
            options: None,
            target: Target::Any,
            random_host: false,
        };
        let parameters = Parameters::read(query)?;
        let (mut names, mut ports) = split_hosts(hosts)?;
        if let Some(host) = &parameters.host {
            names = host.split(',').map(str::to_owned).collect();
            ports = vec![None; names.len()];
        }
        if let Some(port) = &parameters.port {
            ports = port.split(',').map(read_port).map(|port| port.map(Some)).collect::<Result<_, _>>()?;
            if ports.len() == 1 {
                ports = vec![ports[0]; names.len()];
            }
        }
        if names.iter().any(String::is_empty) {
            return wrong("it names no host: postgresql://USER:PASSWORD@HOST/DATABASE");
        }
        if names.len() != ports.len() {
            return wrong("it has another number of ports than of hosts");
        }
        found.hosts = names.into_iter().zip(ports.into_iter().map(|port| port.unwrap_or(5432))).collect();
        parameters.apply(&mut found)?;
        if found.user.is_empty() {
            return wrong("it names no user: postgresql://USER:PASSWORD@HOST/DATABASE");
        }
        Ok(found)
    }

    /// The same database, reached under another name.
    #[must_use]
    pub fn with_host(mut self, host: &str, port: Option<u16>) -> Self {
        let port = port.unwrap_or_else(|| self.hosts.first().map_or(5432, |(_, port)| *port));
        self.hosts = vec![(host.to_owned(), port)];
        self
    }

    /// The same database, entered as somebody else.
    #[must_use]
    pub fn with_login(mut self, user: &str, password: &str) -> Self {
        // The default name of the database is the user's: it must stay what it was.
        self.dbname = Some(self.dbname().to_owned());
        user.clone_into(&mut self.user);
        self.password = Some(password.to_owned());
        self
    }

    /// The role that logs in.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Its password.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The database's name.
    pub fn dbname(&self) -> &str {
        self.dbname.as_deref().unwrap_or(&self.user)
    }

    /// How many hosts are named.
    pub(crate) fn hosts(&self) -> u32 {
        u32::try_from(self.hosts.len()).unwrap_or(u32::MAX)
    }

    /// What the connection's encryption must prove.
    pub const fn tls(&self) -> &TlsPolicy {
        &self.tls
    }

    /// Whether both mean the same database, whoever logs in and however it is encrypted.
    pub fn same_server(&self, other: &Self) -> bool {
        self.hosts == other.hosts && self.dbname() == other.dbname()
    }

    /// The hosts, for messages.
    pub fn address(&self) -> String {
        let hosts: Vec<_> = self.hosts.iter().map(|(host, port)| format!("{}:{port}", bracketed(host))).collect();
        hosts.join(",")
    }

    /// The URI, **with the password**: for the Secret that it is meant for and nothing else.
    pub fn to_uri(&self) -> String {
        let mut uri = format!("postgresql://{}", encode(&self.user));
        if let Some(password) = &self.password {
            uri.push(':');
            uri.push_str(&encode(password));
        }
        let hosts: Vec<_> = self.hosts.iter().map(|(host, port)| format!("{}:{port}", encode_host(host))).collect();
        uri.push('@');
        uri.push_str(&hosts.join(","));
        uri.push('/');
        uri.push_str(&encode(self.dbname()));
        let parameters: Vec<_> =
            self.parameters().iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        if !parameters.is_empty() {
            uri.push('?');
            uri.push_str(&parameters.join("&"));
        }
        uri
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let (mode, roots) = match &self.tls {
            TlsPolicy::Disable => (Some("disable"), None),
            TlsPolicy::Prefer => (None, None),
            TlsPolicy::Require => (Some("require"), None),
            TlsPolicy::VerifyCa(roots) => (Some("verify-ca"), Some(roots)),
            TlsPolicy::VerifyFull(roots) => (Some("verify-full"), Some(roots)),
        };
        found.extend(mode.map(|mode| ("sslmode", mode.to_owned())));
        if let Some(Roots::File(file)) = roots {
            found.push(("sslrootcert", file.to_string_lossy().into_owned()));
        }
        if self.direct_tls {
            found.push(("sslnegotiation", "direct".into()));
        }
        let binding = match self.channel_binding {
            Some(ChannelBinding::Disable) => Some("disable"),
            Some(ChannelBinding::Require) => Some("require"),
            _ => None,
        };
        found.extend(binding.map(|binding| ("channel_binding", binding.to_owned())));
        found.extend(self.application_name.clone().map(|name| ("application_name", name)));
        found.extend(self.connect_timeout.map(|limit| ("connect_timeout", limit.as_secs().to_string())));
        found.extend(self.options.clone().map(|options| ("options", options)));
        if self.target == Target::ReadWrite {
            found.push(("target_session_attrs", "read-write".into()));
        }
        if self.random_host {
            found.push(("load_balance_hosts", "random".into()));
        }
        found
    }

    /// The parts that tokio-postgres wants; encryption is the caller's.
    pub(crate) fn config(&self, name: &str, patience: Duration) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        for (host, port) in &self.hosts {
            config.host(host).port(*port);
        }
        config.user(&self.user).dbname(self.dbname());
        if let Some(password) = &self.password {
            config.password(password);
        }
        config.application_name(self.application_name.as_deref().unwrap_or(name));
        if let Some(options) = &self.options {
            config.options(options);
        }
        config.ssl_mode(match self.tls {
            TlsPolicy::Disable => SslMode::Disable,
            TlsPolicy::Prefer => SslMode::Prefer,
            TlsPolicy::Require | TlsPolicy::VerifyCa(_) | TlsPolicy::VerifyFull(_) => SslMode::Require,
        });
        if self.direct_tls {
            config.ssl_negotiation(SslNegotiation::Direct);
        }
        if let Some(binding) = self.channel_binding {
            config.channel_binding(binding);
        }
        // A list of hosts names one writable server and its standbys, and a lease can only be kept on the writable one.
        if self.target == Target::ReadWrite || self.hosts.len() > 1 {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        if self.random_host {
            config.load_balance_hosts(LoadBalanceHosts::Random);
        }
        config.connect_timeout(self.connect_timeout.unwrap_or(patience).min(patience));
        config.keepalives(true).keepalives_idle(Duration::from_secs(15)).keepalives_interval(Duration::from_secs(5));
        config.keepalives_retries(3);
        config
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({}/{} as {})", self.address(), self.dbname(), self.user)
    }
}

// === impl Parameters ===

/// What stands behind the question mark.
#[derive(Default)]
struct Parameters {
    host: Option<String>,
    port: Option<String>,
    sslmode: Option<String>,
    sslrootcert: Option<String>,
    others: Vec<(String, String)>,
}

impl Parameters {
    fn read(query: &str) -> Result<Self, UriError> {
        let mut found = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode("a parameter's name", name)?;
            let value = decode(&name, value)?;
            match name.as_str() {
                "host" => found.host = Some(value),
                "port" => found.port = Some(value),
                "sslmode" => found.sslmode = Some(value),
                "sslrootcert" => found.sslrootcert = Some(value),
                _ => found.others.push((name, value)),
            }
        }
        Ok(found)
    }

    fn apply(self, to: &mut Database) -> Result<(), UriError> {
        let mut sslmode = self.sslmode;
        for (name, value) in self.others {
            match name.as_str() {
                "user" => to.user = value,
                "password" => to.password = Some(value),
                "dbname" => to.dbname = Some(value),
                "application_name" => to.application_name = Some(value),
                "options" => to.options = Some(value),
                "connect_timeout" => to.connect_timeout = read_timeout(&value)?,
                // What libraries of other languages write for sslmode=require.
                "ssl" if value == "true" => sslmode = sslmode.or(Some("require".into())),
                "ssl" if value == "false" => sslmode = sslmode.or(Some("disable".into())),
                "sslnegotiation" => to.direct_tls = one_of(&name, &value, &[("postgres", false), ("direct", true)])?,
                "channel_binding" => {
                    let known = [
                        ("disable", ChannelBinding::Disable),
                        ("prefer", ChannelBinding::Prefer),
                        ("require", ChannelBinding::Require),
                    ];
                    to.channel_binding = Some(one_of(&name, &value, &known)?);
                }
                "target_session_attrs" => {
                    let known =
                        [("any", Target::Any), ("read-write", Target::ReadWrite), ("primary", Target::ReadWrite)];
                    to.target = one_of(&name, &value, &known)?;
                }
                "load_balance_hosts" => {
                    to.random_host = one_of(&name, &value, &[("disable", false), ("random", true)])?
                }
                "sslcert" | "sslkey" | "sslpassword" => {
                    return wrong(format!(
                        "{name} asks for a client certificate, which Pollux does not use: give the role a password"
                    ));
                }
                "gssencmode" if value == "require" => {
                    return wrong("gssencmode=require: Pollux knows TLS only (sslmode)");
                }
                known if FOR_OTHERS.contains(&known) => {}
                name if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => {
                    return wrong(format!("the parameter {name} is not known to Pollux: leave it out"));
                }
                // It may be the rest of a password.
                _ => return wrong("what stands behind the ? is no parameter; a ? in a password is written %3F"),
            }
        }
        to.tls = policy(sslmode.as_deref(), self.sslrootcert)?;
        if to.direct_tls && matches!(to.tls, TlsPolicy::Disable | TlsPolicy::Prefer) {
            return wrong("sslnegotiation=direct needs sslmode=require, verify-ca or verify-full");
        }
        if to.channel_binding == Some(ChannelBinding::Require) && to.tls == TlsPolicy::Disable {
            return wrong("channel_binding=require needs TLS, and sslmode=disable turns it off");
        }
        Ok(())
    }
}

/// libpq's meaning of both words.
fn policy(sslmode: Option<&str>, sslrootcert: Option<String>) -> Result<TlsPolicy, UriError> {
    let system = sslrootcert.as_deref() == Some("system");
    let file = sslrootcert.filter(|path| !path.is_empty() && path != "system");
    let given = file.is_some();
    let roots = file.map_or(Roots::Public, |path| Roots::File(path.into()));
    Ok(match sslmode {
        None if system => TlsPolicy::VerifyFull(roots),
        Some(mode) if system && mode != "verify-full" => {
            return wrong(format!("sslrootcert=system goes with sslmode=verify-full, not with {mode}"));
        }
        Some("disable") => TlsPolicy::Disable,
        None | Some("" | "allow" | "prefer") => TlsPolicy::Prefer,
        // For the sake of old clients libpq checks the authority here too if it was given one.
        Some("require") if given => TlsPolicy::VerifyCa(roots),
        Some("require" | "no-verify") => TlsPolicy::Require,
        Some("verify-ca") => TlsPolicy::VerifyCa(roots),
        Some("verify-full") => TlsPolicy::VerifyFull(roots),
        Some(other) => {
            return wrong(format!(
                "sslmode={other} is not one of disable, allow, prefer, require, verify-ca, verify-full"
            ));
        }
    })
}

fn strip_scheme(uri: &str) -> Result<&str, UriError> {
    if uri.is_empty() {
        return wrong("it is empty");
    }
    if let Some(rest) = uri.strip_prefix("postgresql://").or_else(|| uri.strip_prefix("postgres://")) {
        return Ok(rest);
    }
    match uri.split_once("://") {
        Some((scheme, _)) if scheme.starts_with("jdbc:") => wrong(
            "it is a JDBC URL: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE (CloudNativePG: the key uri, not jdbc-uri)",
        ),
        Some((scheme, _)) if scheme.starts_with("postgres") => {
            wrong(format!("the scheme is {scheme}: write postgresql://, without the name of a library"))
        }
        Some((scheme, _)) if scheme.len() < 20 => {
            wrong(format!("the scheme is {scheme}: it must be postgresql or postgres"))
        }
        _ => wrong("it does not begin with postgresql://"),
    }
}

type Hosts = (Vec<String>, Vec<Option<u16>>);

fn split_hosts(authority: &str) -> Result<Hosts, UriError> {
    let mut hosts = (Vec::new(), Vec::new());
    for part in authority.split(',') {
        let (host, port) = if let Some(rest) = part.strip_prefix('[') {
            let Some((host, port)) = rest.split_once(']') else {
                return wrong("a [ in the host has no ]; in a password it is written %5B");
            };
            (host, port.strip_prefix(':'))
        } else {
            part.split_once(':').map_or((part, None), |(host, port)| (host, Some(port)))
        };
        hosts.0.push(decode("the host", host)?);
        hosts.1.push(port.filter(|port| !port.is_empty()).map(read_port).transpose()?);
    }
    Ok(hosts)
}

fn read_port(text: &str) -> Result<u16, UriError> {
    let port = text.parse().ok().filter(|port| *port != 0);
    // What stands here may be a piece of a password, so it is not shown.
    port.ok_or_else(|| {
        UriError("the port is not a number from 1 to 65535; the characters / ? # @ : in a password are written %2F %3F %23 %40 %3A".into())
    })
}

fn read_timeout(text: &str) -> Result<Option<Duration>, UriError> {
    let seconds: i64 = text.parse().map_err(|_| UriError("connect_timeout is not a number of seconds".into()))?;
    Ok(u64::try_from(seconds).ok().filter(|s| *s > 0).map(Duration::from_secs))
}

fn one_of<T: Copy>(name: &str, value: &str, known: &[(&str, T)]) -> Result<T, UriError> {
    known.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<_> = known.iter().map(|(word, _)| *word).collect();
        UriError(format!("{name} is none of {}", words.join(", ")))
    })
}

fn wrong<T>(why: impl Into<String>) -> Result<T, UriError> {
    Err(UriError(why.into()))
}

fn decode(what: &str, text: &str) -> Result<String, UriError> {
    let bad = || {
        UriError(format!("{what} holds a % that is not followed by two hexadecimal digits; a real % is written %25"))
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = rest.next().zip(rest.next()).ok_or_else(bad)?;
        let digit = |d: u8| char::from(d).to_digit(16).ok_or_else(bad);
        let value = digit(digits.0)? * 16 + digit(digits.1)?;
        bytes.push(u8::try_from(value).map_err(|_| bad())?);
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => wrong(format!("{what} is not text")),
    }
}

fn encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

fn encode_host(host: &str) -> String {
    if host.contains(':') { bracketed(host) } else { encode(host) }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
#[path = "database_test.rs"]
mod tests;
