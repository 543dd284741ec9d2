use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use super::client::Ended;
use super::*;

/// Answers whose drain ends when the test says so.
#[derive(Clone)]
struct Scripted {
    begun: Arc<AtomicUsize>,
    over: watch::Receiver<bool>,
}

impl Answers for Scripted {
    fn begin_drain(&self) -> Duration {
        self.begun.fetch_add(1, Ordering::SeqCst);
        Duration::from_secs(30)
    }

    async fn drained(&self) -> String {
        self.over.clone().wait_for(|over| *over).await.map(drop).unwrap();
        "handed over".to_owned()
    }

    fn report(&self) -> Report {
        Report { version: "1.2.3".into(), listen: "127.0.0.1:1".parse().unwrap(), not_yet: Some("no token".into()) }
    }

    fn program(&self) -> Option<Program> {
        None
    }
}

struct Room {
    dir: tempfile::TempDir,
    begun: Arc<AtomicUsize>,
    over: watch::Sender<bool>,
    server: tokio::task::JoinHandle<()>,
}

fn room() -> Room {
    let dir = tempfile::tempdir().unwrap();
    let (over, watching) = watch::channel(false);
    let begun = Arc::new(AtomicUsize::new(0));
    let hook = Hook::bind(dir.path()).unwrap();
    let server = tokio::spawn(hook.serve(Scripted { begun: begun.clone(), over: watching }));
    Room { dir, begun, over, server }
}

async fn blocking<T: Send + 'static>(dir: PathBuf, ask: impl FnOnce(&Path) -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(move || ask(&dir)).await.unwrap()
}

#[tokio::test]
async fn a_hook_returns_only_when_the_drain_is_over() {
    let room = room();
    let call = tokio::spawn(blocking(room.dir.path().into(), client::drain));
    while room.begun.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!call.is_finished());
    room.over.send(true).unwrap();
    assert_eq!(call.await.unwrap(), Ended::Drained("handed over".into()));
}

#[tokio::test]
async fn any_user_may_use_the_socket() {
    let room = room();
    let mode = std::fs::metadata(room.dir.path().join(SOCKET)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o777);
}

#[tokio::test]
async fn without_an_agent_the_hook_returns_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let ended = blocking(dir.path().into(), client::drain).await;
    assert!(matches!(ended, Ended::AgentGone(_)), "no socket: {ended:?}");

    drop(Hook::bind(dir.path()).unwrap());
    let ended = blocking(dir.path().into(), client::drain).await;
    assert!(matches!(ended, Ended::AgentGone(_)), "a socket that nobody listens on: {ended:?}");
}

#[tokio::test]
async fn an_agent_that_dies_during_the_drain_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let hook = Hook::bind(dir.path()).unwrap();
    let call = tokio::spawn(blocking(dir.path().into(), client::drain));
    let (mut stream, _) = hook.listener.accept().await.unwrap();
    stream.write_all(b"{\"atMostMilliseconds\":60000}\n").await.unwrap();
    drop(stream);
    assert!(matches!(call.await.unwrap(), Ended::AgentGone(_)));
}

#[tokio::test]
async fn an_agent_that_restarts_takes_the_socket_over() {
    let room = room();
    let second = Hook::bind(room.dir.path()).unwrap();
    room.server.abort();
    let call = tokio::spawn(blocking(room.dir.path().into(), client::status));
    let (stream, _) = second.listener.accept().await.unwrap();
    answer(stream, &Scripted { begun: room.begun.clone(), over: room.over.subscribe() }).await.unwrap();
    assert_eq!(call.await.unwrap().unwrap().not_yet.as_deref(), Some("no token"));
}

#[tokio::test]
async fn a_flood_of_bytes_is_not_read() {
    let room = room();
    let mut stream = UnixStream::connect(room.dir.path().join(SOCKET)).await.unwrap();
    // The server may close before everything is written; what counts is its answer.
    let _ = stream.write_all(&vec![b'x'; 1 << 20]).await;
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    assert_eq!(room.begun.load(Ordering::SeqCst), 0);
}
