//! What only a real connection shows: slow and oversized input, hang-ups, limits, shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use stentor::http::{Settings, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::fake::{Fake, state};
use super::voices::Throats;

pub struct Server {
    pub addr: SocketAddr,
    pub dropped: Arc<AtomicUsize>,
    pub running: Arc<AtomicUsize>,
    pub voices: Throats,
    pub stop: oneshot::Sender<()>,
    pub done: JoinHandle<std::io::Result<()>>,
}

pub async fn start(settings: Settings) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let fake = Fake::default();
    let (dropped, running, voices) = (fake.dropped.clone(), fake.running.clone(), fake.voices.clone());
    let (stop, stopped) = oneshot::channel::<()>();
    let state = state(fake, Settings { bind: addr, ..settings });
    let done = tokio::spawn(serve(listener, state, async move {
        let _ = stopped.await;
    }));
    Server { addr, dropped, running, voices, stop, done }
}

fn quick() -> Settings {
    Settings {
        header_timeout: Duration::from_millis(300),
        stall_timeout: Duration::from_millis(300),
        stream_keep_alive: Duration::from_millis(50),
        json_body_bytes: 10_000,
        audio_body_bytes: 200_000,
        ..Settings::default()
    }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// Sends the text and reads until the server closes, or for 5 s.
    async fn exchange(&self, text: &str) -> String {
        let mut socket = self.connect().await;
        socket.write_all(text.as_bytes()).await.unwrap();
        read(&mut socket).await
    }

    pub async fn get(&self, path: &str) -> String {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
    }
}

async fn read(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(Duration::from_secs(5), socket.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

fn chat(model: &str) -> String {
    let body =
        json!({"model": model, "stream": true, "messages": [{"role": "user", "content": "x"}]}).to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Waits until the condition holds; fails after 5 s.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(5), "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn slow_headers_and_idle_connections_are_closed() {
    let server = start(quick()).await;
    let mut socket = server.connect().await;
    socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: loc").await.unwrap();
    let begun = Instant::now();
    read(&mut socket).await;
    assert!(begun.elapsed() < Duration::from_secs(3));
    let mut idle = server.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let begun = Instant::now();
    assert!(read(&mut idle).await.starts_with("HTTP/1.1 200"));
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn oversized_headers_are_refused() {
    let server = start(quick()).await;
    let big = "x".repeat(200_000);
    let mut socket = server.connect().await;
    let _ = socket
        .write_all(format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Big: {big}\r\n\r\n").as_bytes())
        .await;
    let text = read(&mut socket).await;
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 431"), "{text}");
}

#[tokio::test]
async fn declared_and_chunked_bodies_over_the_limit_are_refused() {
    let server = start(quick()).await;
    let head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Connection: close\r\n";
    let body = "x".repeat(20_000);
    let text = server.exchange(&format!("{head}Content-Length: 20000\r\n\r\n{body}")).await;
    assert!(text.starts_with("HTTP/1.1 413") && text.contains("body_too_large"), "{text}");
    let chunk = format!("{:x}\r\n{}\r\n", 4096, "x".repeat(4096));
    let text = server
        .exchange(&format!("{head}Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(5)))
        .await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    let text = server.exchange(&format!("{head}Content-Length: 99999999999999\r\n\r\n")).await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
}

#[tokio::test]
async fn an_upload_over_the_limit_is_refused_while_it_arrives() {
    let server = start(quick()).await;
    let head = "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: multipart/form-data; boundary=XX\r\nTransfer-Encoding: chunked\r\n\r\n";
    let part = "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
    let mut text = format!("{head}{:x}\r\n{part}\r\n", part.len());
    for _ in 0..80 {
        text.push_str(&format!("{:x}\r\n{}\r\n", 4096, "y".repeat(4096)));
    }
    text.push_str("0\r\n\r\n");
    let answer = server.exchange(&text).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn chunked_bodies_within_the_limit_are_read_however_they_are_cut() {
    let server = start(quick()).await;
    let body = json!({"model": "vectors", "input": "a"}).to_string();
    let head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut chunks = String::from(head);
    for byte in body.chars() {
        chunks.push_str(&format!("1\r\n{byte}\r\n"));
    }
    let text = server.exchange(&format!("{chunks}0\r\n\r\n")).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let text = server.exchange(&format!("{head}zz\r\nx\r\n0\r\n\r\n")).await;
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
}

#[tokio::test]
async fn a_body_that_stops_arriving_is_given_up() {
    let server = start(quick()).await;
    let mut socket = server.connect().await;
    socket
        .write_all(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
              Content-Length: 500\r\n\r\n{\"mod",
        )
        .await
        .unwrap();
    let text = read(&mut socket).await;
    assert!(text.starts_with("HTTP/1.1 408") && text.contains("body_too_slow"), "{text}");
}

#[tokio::test]
async fn a_client_that_hangs_up_stops_its_work_and_is_counted() {
    let server = start(quick()).await;
    let mut socket = server.connect().await;
    socket.write_all(chat("endless").as_bytes()).await.unwrap();
    let mut some = [0u8; 400];
    socket.read_exact(&mut some).await.unwrap();
    assert_eq!(server.running.load(Ordering::SeqCst), 1);
    drop(socket);
    until("the work stops", || server.running.load(Ordering::SeqCst) == 0).await;
    assert_eq!(server.dropped.load(Ordering::SeqCst), 1);
    let text = server.get("/metrics").await;
    let counted = text
        .lines()
        .find_map(|line| line.strip_prefix("stentor_requests_cancelled_total{model_name=\"endless\""))
        .and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    assert!(counted.unwrap_or(0.0) >= 1.0, "{text}");
}

#[tokio::test]
async fn a_client_that_hangs_up_before_the_answer_stops_its_work() {
    let server = start(quick()).await;
    let mut socket = server.connect().await;
    let request = chat("endless").replace("\"stream\":true", "\"stream\":null");
    socket.write_all(request.as_bytes()).await.unwrap();
    until("the work begins", || server.running.load(Ordering::SeqCst) == 1).await;
    drop(socket);
    until("the work stops", || server.running.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_silent_stream_is_kept_open_with_comments() {
    let server = start(Settings { stream_keep_alive: Duration::from_millis(20), ..quick() }).await;
    let text = server.exchange(&chat("slow")).await;
    assert!(text.contains("\n:\n") || text.contains("\n: \n") || text.contains(":\n\n"), "{text}");
    assert!(text.contains("[DONE]"), "{text}");
}

#[tokio::test]
async fn connections_over_the_limit_wait() {
    let server = start(Settings { max_connections: 1, ..quick() }).await;
    let mut holder = server.connect().await;
    holder.write_all(chat("slow").as_bytes()).await.unwrap();
    until("the first is served", || server.running.load(Ordering::SeqCst) == 1).await;
    let begun = Instant::now();
    let text = server.get("/healthz").await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(begun.elapsed() > Duration::from_millis(300), "it did not wait");
}

#[tokio::test]
async fn on_a_stop_signal_running_streams_finish_and_new_work_is_refused() {
    let server = start(quick()).await;
    let mut socket = server.connect().await;
    socket.write_all(chat("slow").as_bytes()).await.unwrap();
    until("the stream runs", || server.running.load(Ordering::SeqCst) == 1).await;
    assert!(server.get("/readyz").await.starts_with("HTTP/1.1 200"));
    let Server { addr, dropped, running, stop, done, .. } = server;
    stop.send(()).unwrap();
    sleep(Duration::from_millis(50)).await;
    let ask = |text: String| async move {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        socket.write_all(text.as_bytes()).await.unwrap();
        read(&mut socket).await
    };
    let probe = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let text = ask(probe("/readyz")).await;
    assert!(text.starts_with("HTTP/1.1 503") && text.contains("stopping"), "{text}");
    assert!(ask(probe("/healthz")).await.starts_with("HTTP/1.1 200"));
    let text = ask(chat("echo")).await;
    assert!(text.starts_with("HTTP/1.1 503") && text.contains("shutting_down"), "{text}");
    assert!(text.to_lowercase().contains("retry-after"), "{text}");
    assert!(read(&mut socket).await.contains("[DONE]"));
    timeout(Duration::from_secs(3), done).await.unwrap().unwrap().unwrap();
    assert_eq!((dropped.load(Ordering::SeqCst), running.load(Ordering::SeqCst)), (0, 0));
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn after_the_grace_what_still_runs_is_cut_off() {
    let server = start(Settings { shutdown_grace: Duration::from_millis(100), ..quick() }).await;
    let mut socket = server.connect().await;
    socket.write_all(chat("endless").as_bytes()).await.unwrap();
    until("the stream runs", || server.running.load(Ordering::SeqCst) == 1).await;
    let begun = Instant::now();
    server.stop.send(()).unwrap();
    timeout(Duration::from_secs(4), server.done).await.unwrap().unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4));
    until("the work stops", || server.running.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let server = start(quick()).await;
    let body = json!({"model": "vectors", "input": vec!["a"; 1000], "dimensions": 8000}).to_string();
    let head = format!(
        "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    let mut socket = server.connect().await;
    socket.write_all((head + &body).as_bytes()).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    let mut bytes = Vec::new();
    let _ = timeout(Duration::from_secs(5), socket.read_to_end(&mut bytes)).await;
    assert!(bytes.len() < 30_000_000, "the whole answer of {} bytes arrived", bytes.len());
}
