//! A TCP proxy on loopback, for the faults that lie between a client and its server.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the proxy does to its connections, the open ones too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weather {
    /// Everything passes.
    #[default]
    Fair,
    /// What the server answers is lost; what the client sends arrives: statements are committed, and nobody is told.
    AnswersLost,
    /// Nothing passes in either direction, and no connection is closed; new ones are accepted and say nothing.
    HalfOpen,
    /// Open connections are reset, and new ones as well.
    Cut,
}

/// A proxy in front of a server; it ends with this value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: Arc<watch::Sender<Weather>>,
    task: JoinHandle<()>,
}

// === impl Proxy ===

impl Proxy {
    /// Starts one before a port of 127.0.0.1.
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its number");
        let weather = Arc::new(watch::Sender::new(Weather::Fair));
        let forecast = Arc::clone(&weather);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, forecast.subscribe()));
            }
        });
        Self { address, weather, task }
    }

    /// The proxy's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// A URI that leads through the proxy instead of to the server's own port.
    pub fn through(&self, uri: &str, server: u16) -> String {
        uri.replace(&format!("127.0.0.1:{server}"), &format!("127.0.0.1:{}", self.port()))
    }

    /// Changes what happens from now on.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.weather.send_replace(Weather::Cut);
    }
}

async fn carry(client: TcpStream, server: u16, mut weather: watch::Receiver<Weather>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = tokio::spawn(pass(from_client, to_server, weather.clone(), &[Weather::Fair, Weather::AnswersLost]));
    let back = tokio::spawn(pass(from_server, to_client, weather.clone(), &[Weather::Fair]));
    // A cut ends both halves at once; unread data makes the kernel send a reset.
    let _ = weather.wait_for(|now| *now == Weather::Cut).await;
    there.abort();
    back.abort();
}

/// Carries bytes in one direction; in any other weather than those they are taken and thrown away, and so is the end.
async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    weather: watch::Receiver<Weather>,
    passes: &'static [Weather],
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return };
        let lost = !passes.contains(&weather.borrow());
        if count == 0 {
            if lost {
                // A peer that went away unheard: the other side must find out by itself.
                std::future::pending::<()>().await;
            }
            return;
        }
        if !lost && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn echo() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut peer, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = peer.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        port
    }

    async fn heard(stream: &mut TcpStream) -> Option<u8> {
        let mut byte = [0];
        match tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut byte)).await {
            Ok(Ok(_)) => Some(byte[0]),
            _ => None,
        }
    }

    #[tokio::test]
    async fn each_weather_loses_what_it_says() {
        let proxy = Proxy::start(echo().await).await;
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        stream.write_all(b"1").await.unwrap();
        assert_eq!(heard(&mut stream).await, Some(b'1'));
        for weather in [Weather::AnswersLost, Weather::HalfOpen] {
            proxy.set(weather);
            stream.write_all(b"2").await.unwrap();
            assert_eq!(heard(&mut stream).await, None, "{weather:?}");
        }
        proxy.set(Weather::Fair);
        stream.write_all(b"3").await.unwrap();
        assert_eq!(heard(&mut stream).await, Some(b'3'), "what was lost does not come later");
        proxy.set(Weather::Cut);
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "a cut connection ends");
    }
}
