//! Where the Bot API is, and how to get there: addresses, TLS, the client for everything but polls.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use http::Uri;
use http::uri::{Authority, Scheme};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use url::Url;

use crate::answers::{Body, BoxError};
use crate::{StartError, Token, Upstream};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of each direction of a connection (R23); an answer's headers must fit.
const BUFFER: usize = 64 << 10;
/// Shorter than the idle time-out of the proxies before Telegram, so that a pooled connection is hardly ever a dead one.
const POOL_IDLE: Duration = Duration::from_secs(30);

/// Opens a TCP connection to the API, through the proxy if there is one.
type Dial = BoxCloneSyncService<Uri, TokioIo<TcpStream>, BoxError>;

pub(crate) type HttpClient = Client<HttpsConnector<Dial>, Body>;

/// The Bot API's address, understood.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) authority: Authority,
    prefix: String,
    pub(crate) tls_config: Arc<ClientConfig>,
    pub(crate) proxy: Option<Proxy>,
}

/// A proxy, and what it is asked to connect to.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The proxy as the connector wants it.
    pub(crate) uri: Uri,
    /// The API, with its port.
    pub(crate) target: Uri,
}

// === impl Origin ===

impl Origin {
    pub(crate) fn new(upstream: &Upstream) -> Result<Self, StartError> {
        let url = &upstream.url;
        let refuse = |reason| StartError::Url { url: url.to_string(), reason };
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(refuse("it must begin with https:// or http://")),
        };
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("it must hold a host and nothing secret: no user, query or fragment"));
        }
        let host = url.host_str().ok_or_else(|| refuse("it has no host"))?.to_owned();
        let port = url.port_or_known_default().ok_or_else(|| refuse("it has no port"))?;
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.clone(),
        };
        let authority = authority.parse().map_err(|_| refuse("its host is none"))?;
        let prefix = url.path().trim_end_matches('/').to_owned();
        let tls_config = Arc::new(tls_config(upstream.ca_pem.as_deref())?);
        let target = format!("{}://{host}:{port}", url.scheme());
        let proxy = upstream.proxy.as_ref().map(|proxy| Proxy::new(proxy, &target)).transpose()?;
        Ok(Self { tls, host: host.trim_matches(['[', ']']).to_owned(), port, authority, prefix, tls_config, proxy })
    }

    /// `/bot<token><rest>`: the only place where the token enters a URL.
    pub(crate) fn path(&self, file: bool, token: &Token, rest: &str, query: Option<&str>) -> String {
        let file = if file { "/file" } else { "" };
        let mut path = format!("{}{file}/bot{}{rest}", self.prefix, token.expose());
        if let Some(query) = query {
            path.push('?');
            path.push_str(query);
        }
        path
    }

    /// The whole URL. `None` when the bot's path cannot be a URL.
    pub(crate) fn uri(&self, path: String) -> Option<Uri> {
        let scheme = if self.tls { Scheme::HTTPS } else { Scheme::HTTP };
        Uri::builder().scheme(scheme).authority(self.authority.clone()).path_and_query(path).build().ok()
    }

    /// The client for everything but polls. It tries again by itself only when not a byte was written.
    pub(crate) fn client(&self) -> HttpClient {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(Duration::from_secs(15)));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(ClientConfig::clone(&self.tls_config))
            .https_or_http()
            .enable_http1()
            .wrap_connector(self.dial(tcp));
        Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .http1_max_buf_size(BUFFER)
            .build(https)
    }

    fn dial(&self, tcp: HttpConnector) -> Dial {
        match self.proxy.clone() {
            None => BoxCloneSyncService::new(tcp.map_err(Into::into)),
            Some(Proxy { uri, target, .. }) => {
                let tunnel = Tunnel::new(uri, tcp).map_request(move |_: Uri| target.clone());
                BoxCloneSyncService::new(tunnel.map_err(Into::into))
            }
        }
    }
}

// === impl Proxy ===

impl Proxy {
    fn new(url: &Url, target: &str) -> Result<Self, StartError> {
        if url.scheme() != "http" {
            return Err(StartError::Proxy(
                "it must begin with http:// (the connection through it is encrypted all the same)",
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(StartError::Proxy("it holds a user or a password; a proxy that asks for one is not supported"));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(StartError::Proxy("it must hold a host and a port and nothing else"));
        }
        let host = url.host_str().ok_or(StartError::Proxy("it has no host"))?;
        let port = url.port_or_known_default().ok_or(StartError::Proxy("it has no port"))?;
        let uri = |text: &str| text.parse().map_err(|_| StartError::Proxy("it is not a URL that can be connected to"));
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            uri: uri(&format!("http://{host}:{port}"))?,
            target: uri(target)?,
        })
    }
}

fn tls_config(ca_pem: Option<&[u8]>) -> Result<ClientConfig, StartError> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(pem) = ca_pem {
        let refuse = |reason: String| StartError::Certificates(reason);
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
            roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
            found += 1;
        }
        if found == 0 {
            return Err(refuse("it has no -----BEGIN CERTIFICATE----- block".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StartError::Certificates(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// The tokens of the bot: the one of the file, and those that the file held before. A bot that read its token at its
/// start goes on working when the token is exchanged.
#[derive(Clone)]
pub(crate) struct Tokens(Arc<RwLock<Vec<Token>>>);

// === impl Tokens ===

impl Tokens {
    pub(crate) fn new(token: Token) -> Self {
        Self(Arc::new(RwLock::new(vec![token])))
    }

    /// The one to use now.
    pub(crate) fn current(&self) -> Token {
        let tokens = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        tokens[tokens.len() - 1].clone()
    }

    /// R2: whether this is a token of our bot.
    pub(crate) fn knows(&self, text: &str) -> bool {
        let tokens = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        tokens.iter().any(|token| token.expose() == text)
    }

    pub(crate) fn exchange(&self, token: Token) {
        let mut tokens = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        tokens.retain(|known| *known != token);
        tokens.push(token);
    }
}
