//! What the gate adds to a call: beside a proxy of the same libraries that does nothing but pass on.
//!
//! A measurement and no test: `cargo test -p pollux-gate --test gate -- --ignored --nocapture cost`.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::support::{Bot, Rig};

const ROUNDS: usize = 20;
const CALLS: usize = 200;

/// Answers everything at once.
async fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let service = service_fn(async |_: Request<Incoming>| {
                let mut response =
                    Response::new(Full::new(Bytes::from_static(br#"{"ok":true,"result":{"message_id":1}}"#)));
                response.headers_mut().insert("content-type", "application/json".parse().unwrap());
                Ok::<_, Infallible>(response)
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    url
}

/// The least that a proxy can do.
async fn bare(url: &str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tcp = hyper_util::client::legacy::connect::HttpConnector::new();
    tcp.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).build::<_, Incoming>(tcp);
    let url = url.to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let (client, url) = (client.clone(), url.clone());
            let service = service_fn(move |mut request: Request<Incoming>| {
                let uri: Uri = format!("{url}{}", request.uri().path()).parse().unwrap();
                *request.uri_mut() = uri;
                request.headers_mut().remove("host");
                let client = client.clone();
                async move { client.request(request).await }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort();
    times[times.len() * percent / 100].as_secs_f64() * 1e6
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn cost_of_a_call() {
    let url = server().await;
    let rig = Rig::new(&url).await;
    let direct = url.trim_start_matches("http://").parse().unwrap();
    let mut ways = [("direct", direct), ("bare proxy", bare(&url).await), ("gate", rig.address)]
        .map(|(name, address)| (name, address, Vec::new()));
    // In turns, so that the machine's moods are everybody's.
    for _ in 0..ROUNDS {
        for (_, address, times) in &mut ways {
            let mut bot = Bot::connect(*address).await;
            for _ in 0..CALLS {
                let begun = Instant::now();
                assert_eq!(bot.call("sendMessage", "chat_id=1&text=hi").await.status, 200);
                times.push(begun.elapsed());
            }
        }
    }
    let [direct, bare, gate] = ways.map(|(name, _, mut times)| {
        let (half, most) = (percentile(&mut times, 50), percentile(&mut times, 99));
        println!("{name}: p50 {half:.0} us, p99 {most:.0} us");
        half
    });
    println!("the gate adds {:.0} us, {:.2} times what the bare proxy takes", gate - direct, gate / bare);
}
