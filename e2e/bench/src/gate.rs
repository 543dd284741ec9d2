//! What the gate costs as a proxy, beside a bare proxy of the same library and nginx, in one run.
//!
//! Everything is a process of its own on loopback: a server that answers at once, the agent of a pod (a standby without a
//! database passes calls on like every other gate), a proxy of hyper that does nothing else, nginx. They are asked in turns, so
//! that the machine's moods are everybody's.
//!
//! * `added_us`, `added_us_hyper`, `added_us_nginx`: what a call takes over one connection, one after the other, less what a direct one
//!   takes. `added_over_hyper`: the ratio of the medians.
//! * `cpu_us`, `cpu_us_hyper`, `cpu_us_nginx`: processor time of a call under load, in microseconds; `requests_per_second` beside it.
//! * `rss_mib`: resident memory of the agent at the end, whose bot asks for updates all the time and gets none.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pollux_pods::{Agent, Pod, fresh_ip};
use pollux_postgres::cpu_time;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

const TOKEN: &str = "4242:a-token-of-the-bench";
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections under load.
const CONNECTIONS: usize = 8;

#[derive(Args)]
pub(crate) struct Told {
    /// Few samples, in seconds: shows that it works, and nothing about speed
    #[arg(long)]
    quick: bool,
}

/// What a child serves.
#[derive(Args)]
pub(crate) struct Serve {
    #[arg(long)]
    listen: SocketAddr,
    /// Pass on to this server, in place of answering.
    #[arg(long)]
    upstream: Option<SocketAddr>,
}

/// Somebody who answers calls.
struct Way {
    name: &'static str,
    address: SocketAddr,
    /// Whose processor time is his.
    pid: i32,
    calls: Vec<Duration>,
    cpu: Duration,
    answered: u64,
    busy: Duration,
}

/// Dies with the bench.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // nginx ends its workers at SIGTERM.
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

// === impl Process ===

impl Process {
    fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_os_string();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        child.map(Self).with_context(|| format!("cannot start {}", name.display()))
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

fn free() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Measures, prints the JSON object as the last line; what was missed.
pub(crate) async fn bench(told: &Told) -> Result<Vec<String>> {
    let (rounds, calls, seconds) = if told.quick { (3, 100, 1) } else { (40, 500, 4) };
    let dir = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir()?;
    let own = std::env::current_exe()?;
    let serve = |listen: SocketAddr, upstream: Option<SocketAddr>| {
        let mut command = Command::new(&own);
        command.args(["serve", "--listen", &listen.to_string()]);
        if let Some(upstream) = upstream {
            command.args(["--upstream", &upstream.to_string()]);
        }
        Process::start(&mut command)
    };
    let (direct, bare, front) = (free()?, free()?, free()?);
    let server = serve(direct, None)?;
    let hyper = serve(bare, Some(direct))?;
    let nginx = nginx(&dir, front, direct)?;
    let agent = agent(&dir, &own, direct).await?;
    let gate = SocketAddr::new(agent.pod.ip, 8081);
    // As every bot does, whatever else it calls.
    let polling = tokio::spawn(poll(gate));
    let mut ways = [
        ("direct", direct, server.pid()),
        ("gate", gate, agent.pid().cast_signed()),
        ("hyper", bare, hyper.pid()),
        ("nginx", front, nginx.pid()),
    ]
    .map(|(name, address, pid)| Way {
        name,
        address,
        pid,
        calls: Vec::new(),
        cpu: Duration::ZERO,
        answered: 0,
        busy: Duration::ZERO,
    });
    for _ in 0..rounds {
        for way in &mut ways {
            way.one_after_the_other(calls).await?;
        }
    }
    for _ in 0..3 {
        for way in &mut ways {
            way.under_load(Duration::from_secs(seconds)).await?;
        }
    }
    ensure!(!polling.is_finished(), "the bot's polls failed: {:?}", polling.await);
    let rss = (agent.resident() as f64 / f64::from(1 << 20) * 10.0).round() / 10.0;
    let figures = report(&mut ways, rss);
    println!("{figures}");
    Ok(missed(&figures))
}

/// The agent of a pod without a database.
async fn agent(dir: &TempDir, own: &Path, upstream: SocketAddr) -> Result<Agent> {
    let binary = own.with_file_name("pollux-agent");
    ensure!(binary.is_file(), "{} is missing", binary.display());
    let shared = dir.path().join("shared");
    std::fs::create_dir(&shared)?;
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o777))?;
    let (token_file, uri_file) = (dir.path().join("token"), dir.path().join("uri"));
    std::fs::write(&token_file, TOKEN)?;
    std::fs::write(&uri_file, "postgresql://nobody:nothing@127.0.0.1:9/nowhere")?;
    let pod = Pod {
        binary,
        bot: "bench".into(),
        name: "bench-1".into(),
        uid: "uid-of-bench-1".into(),
        node: "node".into(),
        revision: "one".into(),
        api: format!("http://{upstream}"),
        token_file,
        uri_file,
        shared,
        ip: fresh_ip(),
        drain_seconds: 20,
        grace_seconds: 45,
        adapter: "proxy",
        log_level: "info",
    };
    let agent = pod.start();
    pod.wait_ready().await;
    Ok(agent)
}

fn nginx(dir: &TempDir, listen: SocketAddr, upstream: SocketAddr) -> Result<Process> {
    let conf = dir.path().join("nginx.conf");
    let text = format!(
        "daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log /dev/null crit;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log off; keepalive_requests 10000000; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;\n\
         fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
         upstream up {{ server {upstream}; keepalive 64; keepalive_requests 10000000; }}\n\
         server {{ listen {listen}; location / {{ proxy_pass http://up; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_request_buffering off; proxy_buffering off; }} }} }}\n",
        dir = dir.path().display(),
    );
    std::fs::write(&conf, text)?;
    Process::start(
        Command::new("nginx")
            .arg("-p")
            .arg(dir.path())
            .arg("-c")
            .arg(&conf)
            .env("PATH", format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default())),
    )
    .context("the package nginx is needed")
}

/// Asks for updates for ever.
async fn poll(gate: SocketAddr) -> Result<Infallible> {
    let mut connection = connect(gate).await?;
    loop {
        call(&mut connection, "getUpdates", "timeout=30").await?;
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let began = Instant::now();
    let stream = loop {
        match TcpStream::connect(address).await {
            Ok(stream) => break stream,
            Err(error) if began.elapsed() > PATIENCE => bail!("{address}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    stream.set_nodelay(true)?;
    let (sender, driver) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(driver);
    Ok(sender)
}

async fn call(connection: &mut SendRequest<Full<Bytes>>, method: &str, form: &'static str) -> Result<()> {
    let request = Request::post(format!("/bot{TOKEN}/{method}"))
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))
        .body(Full::new(Bytes::from_static(form.as_bytes())))?;
    // The answer is read to its end before the connection's task knows.
    connection.ready().await?;
    let response = connection.send_request(request).await?;
    ensure!(response.status() == 200, "{}", response.status());
    response.into_body().collect().await?;
    Ok(())
}

// === impl Way ===

impl Way {
    async fn one_after_the_other(&mut self, calls: usize) -> Result<()> {
        let mut connection = connect(self.address).await.context(self.name)?;
        // The first one connects upstream.
        call(&mut connection, "sendMessage", "chat_id=1&text=hi").await.context(self.name)?;
        for _ in 0..calls {
            let began = Instant::now();
            call(&mut connection, "sendMessage", "chat_id=1&text=hi").await.context(self.name)?;
            self.calls.push(began.elapsed());
        }
        Ok(())
    }

    async fn under_load(&mut self, time: Duration) -> Result<()> {
        let (address, began, before) = (self.address, Instant::now(), cpu_time(self.pid));
        let clients = (0..CONNECTIONS).map(|_| {
            tokio::spawn(async move {
                let mut connection = connect(address).await?;
                let mut answered = 0;
                while began.elapsed() < time {
                    call(&mut connection, "sendMessage", "chat_id=1&text=hi").await?;
                    answered += 1;
                }
                Ok::<u64, anyhow::Error>(answered)
            })
        });
        for client in futures::future::join_all(clients.collect::<Vec<_>>()).await {
            self.answered += client?.context(self.name)?;
        }
        self.busy += began.elapsed();
        self.cpu += cpu_time(self.pid) - before;
        Ok(())
    }

    fn percentile(&mut self, percent: usize) -> f64 {
        self.calls.sort_unstable();
        self.calls[(self.calls.len() * percent / 100).min(self.calls.len() - 1)].as_secs_f64() * 1e6
    }

    fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.answered.max(1) as f64
    }

    fn per_second(&self) -> u64 {
        (self.answered as f64 / self.busy.as_secs_f64()) as u64
    }
}

fn rounded(number: f64, places: i32) -> f64 {
    let scale = 10_f64.powi(places);
    (number * scale).round() / scale
}

fn report(ways: &mut [Way; 4], rss: f64) -> Value {
    let base = [50, 99].map(|percent| ways[0].percentile(percent));
    let [gate, hyper, nginx] = [1, 2, 3].map(|way| {
        let [half, most] = [(50, base[0]), (99, base[1])].map(|(percent, base)| ways[way].percentile(percent) - base);
        (half, most)
    });
    let added = |(half, most): (f64, f64)| json!({"p50": rounded(half, 1), "p99": rounded(most, 1)});
    json!({
        "added_us": added(gate),
        "added_us_hyper": added(hyper),
        "added_us_nginx": added(nginx),
        "added_over_hyper": rounded(gate.0 / hyper.0, 2),
        "direct_us": {"p50": rounded(base[0], 1), "p99": rounded(base[1], 1)},
        "cpu_us": rounded(ways[1].cpu_us(), 1),
        "cpu_us_hyper": rounded(ways[2].cpu_us(), 1),
        "cpu_us_nginx": rounded(ways[3].cpu_us(), 1),
        "cpu_over_hyper": rounded(ways[1].cpu_us() / ways[2].cpu_us(), 2),
        "requests_per_second": {
            "gate": ways[1].per_second(), "hyper": ways[2].per_second(), "nginx": ways[3].per_second(),
        },
        "rss_mib": rss,
        "calls": ways[1].calls.len(),
    })
}

/// The goals, and what was measured instead.
fn missed(figures: &Value) -> Vec<String> {
    [("/added_us/p50", 100.0), ("/added_over_hyper", 1.3), ("/cpu_over_hyper", 1.1), ("/rss_mib", 10.0)]
        .into_iter()
        .filter_map(|(name, most)| {
            let found = figures.pointer(name).and_then(Value::as_f64).unwrap_or(f64::INFINITY);
            (found > most)
                .then(|| format!("{}: {found}, the goal is {most}", name.trim_start_matches('/').replace('/', ".")))
        })
        .collect()
}

/// Answers everything at once, or passes everything on.
pub(crate) async fn serve(told: Serve) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let listener = TcpListener::bind(told.listen).await?;
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).build::<_, Incoming>(tcp);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        match told.upstream {
            None => {
                let service = service_fn(async |request: Request<Incoming>| {
                    let _ = request.into_body().collect().await;
                    let answer = Full::new(Bytes::from_static(br#"{"ok":true,"result":{"message_id":1}}"#));
                    let mut response = Response::new(answer);
                    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                    Ok::<_, Infallible>(response)
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
            Some(upstream) => {
                let client = client.clone();
                let service = service_fn(move |mut request: Request<Incoming>| {
                    let client = client.clone();
                    async move {
                        let uri = format!("http://{upstream}{}", request.uri().path()).parse::<Uri>()?;
                        *request.uri_mut() = uri;
                        request.headers_mut().remove(HOST);
                        Ok::<_, anyhow::Error>(client.request(request).await?)
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        }
    }
}
