//! The program inside the pods of the testbed's own tests: static, alone in its image, for what no shell is there to do.
//!
//! * `serve PORT`: HTTP. `/` names the pod, `/status` is its `/proc/self/status`, `/get/HOST:PORT` fetches `/` from there
//!   (names are resolved as in any pod), within two seconds or with a 504.
//! * `side FILE`: makes the file, then waits, as a sidecar does.
//! * `exists FILE`: for probes.
//!
//! It ends at SIGTERM: as process 1 it would otherwise ignore it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", port] => tokio::select! {
            () = terminated() => ExitCode::SUCCESS,
            error = serve(port.parse().unwrap_or(8080)) => { eprintln!("{error}"); ExitCode::FAILURE }
        },
        ["side", file] => {
            if let Err(error) = std::fs::write(file, "") {
                eprintln!("{file}: {error}");
                return ExitCode::FAILURE;
            }
            terminated().await;
            ExitCode::SUCCESS
        }
        ["exists", file] if Path::new(file).exists() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

async fn terminated() {
    if let Ok(mut terminate) = signal(SignalKind::terminate()) {
        terminate.recv().await;
    }
}

async fn serve(port: u16) -> std::io::Error {
    let listener = match TcpListener::bind(("0.0.0.0", port)).await {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    loop {
        match listener.accept().await {
            Ok((connection, _)) => drop(tokio::spawn(answer(connection))),
            Err(error) => return error,
        }
    }
}

async fn answer(connection: TcpStream) -> std::io::Result<()> {
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    connection.read_line(&mut line).await?;
    let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
    let (code, body) = match path.strip_prefix("/get/") {
        Some(target) => match tokio::time::timeout(Duration::from_secs(2), fetch(target)).await {
            Ok(Ok(body)) => (200, body),
            Ok(Err(error)) => (502, error.to_string()),
            Err(_) => (504, "no answer in two seconds".to_owned()),
        },
        None if path == "/status" => (200, std::fs::read_to_string("/proc/self/status")?),
        None => (200, std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned()),
    };
    let head = format!("HTTP/1.0 {code} -\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    connection.get_mut().write_all(format!("{head}{body}").as_bytes()).await?;
    connection.get_mut().shutdown().await
}

async fn fetch(target: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(target).await?;
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    connection.read_to_string(&mut text).await?;
    Ok(text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
