//! Asks the server that this configuration would start, if it runs, how it is.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::blocking::{Client, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// It is on this machine: what does not answer soon is no server.
const CONNECT: Duration = Duration::from_millis(500);
const ANSWER: Duration = Duration::from_secs(2);
/// A list of a thousand models is a tenth of this; what is longer is cut, and then no JSON.
const MAX_BODY: u64 = 1 << 20;

/// A server that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Why it cannot answer requests; `None`: it can.
    pub not_ready: Option<String>,
    /// Ids of the models in its memory; `None`: it told nobody without its API key.
    pub loaded: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Ready {
    ready: bool,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
    loaded: bool,
}

/// The server at `addr`; `None`: nothing answers there, or nothing that answers as this program does. The key in
/// `STENTOR_API_KEY` goes along, but only to what answered so.
pub fn server(addr: SocketAddr) -> Option<Running> {
    // A local server is asked directly: no proxy of the environment may see the key. Plain HTTP needs no
    // certificates, and a small container has none.
    let client = Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .timeout(ANSWER)
        .build()
        .ok()?;
    let base = format!("http://{}", reachable(addr));
    let ready: Ready = read(client.get(format!("{base}/readyz")).send().ok()?)?;
    let not_ready = (!ready.ready).then(|| ready.reason.unwrap_or_else(|| "it does not say why".to_owned()));
    let mut request = client.get(format!("{base}/v1/models"));
    if let Some(key) = key() {
        request = request.bearer_auth(key);
    }
    let models: Option<Models> =
        request.send().ok().filter(|answer| answer.status().is_success()).and_then(read);
    let loaded = models.map(|m| m.data.into_iter().filter(|m| m.loaded).map(|m| m.id).collect());
    Some(Running { not_ready, loaded })
}

/// Has the server at `addr` write a snapshot of its store; the file's name. `None`: no server answers there.
///
/// # Errors
/// It cannot write one, or wants an API key.
pub fn snapshot(addr: SocketAddr) -> anyhow::Result<Option<String>> {
    #[derive(Deserialize)]
    struct Snapshot {
        name: String,
    }
    if server(addr).is_none() {
        return Ok(None);
    }
    // A large store takes its time.
    let client = Client::builder().no_proxy().tls_certs_only([]).timeout(None).build()?;
    let mut request = client.post(format!("http://{}/v1/store/snapshots", reachable(addr)));
    if let Some(key) = key() {
        request = request.bearer_auth(key);
    }
    let answer = request.send()?;
    let status = answer.status();
    let written: Option<Snapshot> = Some(answer).filter(|_| status.is_success()).and_then(read);
    let name = written.map(|written| written.name).filter(|name| !name.contains(['/', '\\']));
    name.map(Some)
        .ok_or_else(|| anyhow::anyhow!("the server at {addr} writes no snapshot: it answers {status}"))
}

/// Where a server that listens on `addr` can be reached from this machine.
pub fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// The first key: the variable may hold several for the server.
pub fn key() -> Option<String> {
    let keys = std::env::var("STENTOR_API_KEY").ok()?;
    keys.split(',').map(str::trim).find(|key| !key.is_empty()).map(str::to_owned)
}

fn read<T: DeserializeOwned>(answer: Response) -> Option<T> {
    let mut body = Vec::new();
    answer.take(MAX_BODY).read_to_end(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    /// Gives each connection the next of `answers`, and the heads of the requests back.
    fn serve(answers: &'static [(u16, &str)]) -> (SocketAddr, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let mut heads = Vec::new();
            for (status, body) in answers {
                let (mut socket, _) = listener.accept().unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    socket.read_exact(&mut byte).unwrap();
                    head.extend(byte);
                }
                heads.push(String::from_utf8(head).unwrap());
                let length = body.len();
                write!(
                    socket,
                    "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                )
                .unwrap();
            }
            heads
        });
        (addr, thread)
    }

    #[test]
    fn a_server_says_what_it_holds() {
        let (addr, heads) = serve(&[
            (503, r#"{"ready": false, "reason": "loading b"}"#),
            (200, r#"{"data": [{"id": "a", "loaded": true}, {"id": "b", "loaded": false}]}"#),
        ]);
        let running = server(addr).unwrap();
        assert_eq!(running.not_ready.as_deref(), Some("loading b"));
        assert_eq!(running.loaded, Some(vec!["a".to_owned()]));
        let heads = heads.join().unwrap();
        assert!(heads[0].starts_with("GET /readyz") && !heads[0].contains("authorization"), "{heads:?}");
    }

    #[test]
    fn without_its_key_a_server_tells_only_that_it_runs() {
        let (addr, heads) = serve(&[(200, r#"{"ready": true}"#), (401, r#"{"error": {}}"#)]);
        assert_eq!(server(addr), Some(Running { not_ready: None, loaded: None }));
        heads.join().unwrap();
    }

    #[test]
    fn another_program_and_nobody_are_no_server() {
        let (addr, heads) = serve(&[(404, "<html>")]);
        assert_eq!(server(addr), None);
        heads.join().unwrap();
        assert_eq!(server(addr), None, "its listener is closed");
    }
}
