//! Files that a client names by URL, and results that go to a URL of its naming: both only where the operator lists the
//! host, since a server that asks for whatever it is told to can be made to ask inside its own network.

use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use reqwest::Client;
use reqwest::redirect::Policy;
use serde_json::Value;
use url::Url;

use super::resolve::joined;
use super::{Error, Upload};

const CONNECT: Duration = Duration::from_secs(10);
/// Between two pieces of an answer.
const STALL: Duration = Duration::from_secs(60);
/// Times that a result is sent, and the wait before the second.
const TRIES: u32 = 4;
const WAIT: Duration = Duration::from_secs(2);
const MAX_URL: usize = 4096;

/// What may be asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `host` or `host:port`, in lower case; without a port the scheme's own is meant.
    pub hosts: Vec<String>,
    /// Of a file.
    pub bytes: u64,
    /// Where files are put while they are used.
    pub folder: PathBuf,
}

/// Asks hosts that are listed. Cheap to clone.
#[derive(Clone)]
pub struct Remote {
    options: Arc<Options>,
}

impl Remote {
    /// Asks these hosts and no others.
    pub fn new(options: Options) -> Remote {
        Remote { options: Arc::new(options) }
    }

    /// A URL that may be asked for; `param` is where it was named.
    ///
    /// # Errors
    /// It is none, or its host is not listed.
    pub fn check(&self, param: &'static str, url: &str) -> Result<Url, Error> {
        let wrong = |message: String| Error::Invalid { param, message };
        let parsed = Url::parse(url.get(..MAX_URL.min(url.len())).unwrap_or(url));
        let parsed = parsed.ok().filter(|parsed| {
            let plain = parsed.username().is_empty() && parsed.password().is_none();
            url.len() <= MAX_URL && plain && ["http", "https"].contains(&parsed.scheme())
        });
        let parsed =
            parsed.ok_or_else(|| wrong(format!("`{param}` must be an http or https URL without a user")))?;
        let host = parsed.host_str().unwrap_or_default().to_ascii_lowercase();
        let named = match parsed.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.clone(),
        };
        if self.options.hosts.contains(&named) {
            return Ok(parsed);
        }
        Err(wrong(format!(
            "`{param}`: the host `{named}` is not one that this server asks; its operator can list it in `remote_hosts`"
        )))
    }

    fn client(&self) -> Result<Client, Error> {
        // A redirect could lead to a host that is not listed.
        let builder = Client::builder().redirect(Policy::none()).connect_timeout(CONNECT).read_timeout(STALL);
        builder.build().map_err(|error| Error::Internal { detail: format!("http client: {error}") })
    }

    /// The file at a URL.
    ///
    /// # Errors
    /// The URL may not be asked for, gives no file, or a larger one than is taken.
    pub async fn fetch(&self, param: &'static str, url: &str) -> Result<Upload, Error> {
        let url = self.check(param, url)?;
        let failed =
            |why: String| Error::Invalid { param, message: format!("`{param}` gives no file: {why}") };
        let answer = self.client()?.get(url.clone()).send().await.map_err(|e| failed(reason(&e)))?;
        if !answer.status().is_success() {
            return Err(failed(format!("its server answers {}", answer.status())));
        }
        let mime = answer.headers().get(reqwest::header::CONTENT_TYPE);
        let mime = mime.and_then(|mime| Some(mime.to_str().ok()?.split(';').next()?.trim().to_owned()));
        let folder = self.options.folder.clone();
        let io = |error: std::io::Error| Error::Internal { detail: format!("a fetched file: {error}") };
        let spool = tokio::task::spawn_blocking(move || tempfile::tempfile_in(folder));
        let mut file = joined(spool.await)?.map_err(io)?;
        let (mut bytes, mut stream) = (0u64, answer.bytes_stream());
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|e| failed(reason(&e)))?;
            bytes += piece.len() as u64;
            if bytes > self.options.bytes {
                return Err(failed(format!(
                    "it has more than {} bytes, which is the limit",
                    self.options.bytes
                )));
            }
            let write = move || file.write_all(&piece).map(|()| file);
            file = joined(tokio::task::spawn_blocking(write).await)?.map_err(io)?;
        }
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        let name = url.path_segments().and_then(|mut parts| parts.next_back().map(str::to_owned));
        Ok(Upload { file, name: name.filter(|name| !name.is_empty()), mime })
    }

    /// Sends JSON to a URL, several times if need be; whether it was taken.
    pub async fn send(&self, url: &str, body: &Value) -> bool {
        let mut wait = WAIT;
        for again in 0..TRIES {
            if again > 0 {
                tokio::time::sleep(wait).await;
                wait *= 4;
            }
            match self.post(url, body).await {
                Ok(()) => return true,
                Err(error) => {
                    tracing::warn!(%error, again, "a result cannot be sent to where it was asked to go")
                }
            }
        }
        false
    }

    async fn post(&self, url: &str, body: &Value) -> Result<(), Error> {
        let url = self.check("callback_url", url)?;
        let failed = |message: String| Error::Unavailable { reason: message };
        let request = self.client()?.post(url).header("content-type", "application/json");
        let answer = request.body(body.to_string()).send().await.map_err(|e| failed(reason(&e)))?;
        match answer.status().is_success() {
            true => Ok(()),
            false => Err(failed(format!("its server answers {}", answer.status()))),
        }
    }
}

/// Why a request failed, without its URL, which may hold a secret.
fn reason(error: &reqwest::Error) -> String {
    match (error.is_timeout(), error.is_connect()) {
        (true, _) => "its server does not answer in time",
        (_, true) => "its server cannot be reached",
        _ => "the connection broke",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_hosts_are_asked() {
        let hosts = vec!["files.example.org".to_owned(), "10.0.0.7:9000".to_owned()];
        let remote = Remote::new(Options { hosts, ..Options::default() });
        for good in
            ["https://files.example.org/a.wav?x=1", "http://FILES.example.org:80/a", "http://10.0.0.7:9000/"]
        {
            assert!(remote.check("file_url", good).is_ok(), "{good}");
        }
        for bad in [
            "http://localhost/a",
            "http://10.0.0.7/a",
            "http://files.example.org:8080/a",
            "http://files.example.org@localhost/a",
            "http://user:word@files.example.org/a",
            "file:///etc/passwd",
            "ftp://files.example.org/a",
            "http://files.example.org.evil.example/a",
            "http://[::ffff:10.0.0.7]:9000/",
            "nothing",
            "",
        ] {
            assert!(remote.check("file_url", bad).is_err(), "{bad}");
        }
    }
}
