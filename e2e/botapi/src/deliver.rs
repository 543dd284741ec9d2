//! Posting updates to webhooks over HTTP.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{
    args::Args,
    server::{Failure, Post},
};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Posts to one webhook.
#[derive(Clone)]
pub(crate) struct Poster {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    secret: String,
}

/// What came of a post.
pub(crate) enum Posted {
    /// Confirmed; its body may hold a call.
    Taken(Args),
    /// The webhook answered otherwise.
    Refused(Failure),
    /// There was no answer.
    Unanswered(Failure),
}

fn unanswered(text: impl ToString) -> Posted {
    Posted::Unanswered(Failure { text: text.to_string(), status: None, retry_after: None })
}

// === impl Poster ===

impl Poster {
    /// `authorities` and `certificate`: PEM, what its certificate is checked against; besides the well-known ones.
    pub(crate) fn new(url: &str, secret: &str, authorities: &[u8], certificate: &[u8]) -> Result<Self, String> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for authority in [authorities, certificate].into_iter().flat_map(CertificateDer::pem_slice_iter) {
            roots.add(authority.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector =
            hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, url: url.to_owned(), secret: secret.to_owned() })
    }

    pub(crate) async fn post(&self, post: &Post) -> Posted {
        let body = Full::new(Bytes::copy_from_slice(post.json.as_bytes()));
        let mut request = Request::post(&self.url).header(CONTENT_TYPE, "application/json");
        if !self.secret.is_empty() {
            request = request.header("X-Telegram-Bot-Api-Secret-Token", &self.secret);
        }
        let Ok(request) = request.body(body) else {
            return unanswered("URL is too long");
        };
        if reserved(request.uri().host().unwrap_or_default()) {
            return unanswered("Can't connect to the webhook");
        }
        let exchange = async {
            let (parts, body) = self.client.request(request).await.map_err(|e| reason(&e))?.into_parts();
            let body = body.into_data_stream().map_err(io::Error::other).boxed();
            let args = Args::read(None, header(&parts.headers, CONTENT_TYPE), Some(body)).await;
            Ok::<_, String>((parts, args.unwrap_or_default()))
        };
        match tokio::time::timeout(TIMEOUT, exchange).await {
            Err(_) => unanswered("Read timeout expired"),
            Ok(Err(text)) => unanswered(text),
            Ok(Ok((parts, args))) if parts.status.is_success() => Posted::Taken(args),
            Ok(Ok((parts, _))) => {
                let text = format!("Wrong response from the webhook: {}", parts.status);
                let seconds = header(&parts.headers, RETRY_AFTER).trim().parse().ok();
                let (status, retry_after) = (Some(parts.status.as_u16()), seconds.map(Duration::from_secs));
                Posted::Refused(Failure { text, status, retry_after })
            }
        }
    }
}

fn header(headers: &HeaderMap, name: hyper::header::HeaderName) -> &str {
    headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default()
}

/// Names that exist for examples (RFC 2606): nobody answers there, and nothing is looked up.
fn reserved(host: &str) -> bool {
    let ends = |end: &&str| host == *end || host.strip_suffix(*end).is_some_and(|rest| rest.ends_with('.'));
    ["example.com", "example.net", "example.org", "example", "invalid", "test"].iter().any(ends)
}

/// The innermost reason; the outer ones only say that there was one.
fn reason(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
