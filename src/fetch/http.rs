//! Bounded HTTP downloads: connect and stall limits, redirects that keep credentials at home, ranges, retries.

use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Client, Method, Response, StatusCode, redirect};
use tokio::runtime::Runtime;
use url::Url;

use super::error::{Error, Problem, Result};
use super::progress::Progress;
use super::sink::Sink;

const MAX_REDIRECTS: usize = 10;
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// How long to wait for others.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For a connection, and then for the first byte of an answer.
    pub connect: Duration,
    /// For the next bytes of a body.
    pub stall: Duration,
    /// Attempts after the first, when a transfer breaks off or the server is busy.
    pub retries: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connect: Duration::from_secs(5), stall: Duration::from_secs(30), retries: 4 }
    }
}

/// A secret and the only origin that may see it.
#[derive(Clone)]
pub struct Credential {
    pub origin: url::Origin,
    pub bearer: String,
}

/// A blocking client. Not for use on a thread that runs asynchronous tasks.
pub struct Http {
    runtime: Option<Runtime>,
    client: Client,
    limits: Limits,
}

impl Drop for Http {
    fn drop(&mut self) {
        // A name lookup that hangs must not hold up the end of the program.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An answer without its body, and the headers of every redirect on the way.
pub struct Head {
    pub headers: Vec<HeaderMap>,
}

impl Head {
    /// The first value of a header on the way.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|h| h.get(name)).and_then(|v| v.to_str().ok())
    }
}

impl Http {
    /// A client; opens nothing yet.
    pub fn new(limits: Limits) -> Result<Http, Problem> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(limits.connect)
            .user_agent(concat!("stentor/", env!("CARGO_PKG_VERSION")))
            .build();
        let runtime = runtime.map_err(|e| Problem::Other(e.to_string()))?;
        let client = client.map_err(|e| Problem::Other(cause(&e)))?;
        Ok(Http { runtime: Some(runtime), client, limits })
    }

    fn block_on<T>(&self, task: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(task),
            None => Err(Problem::Other("the client is closed".into())),
        }
    }

    /// Asks for the headers of `url`. Redirects are followed on its own origin only: what lies behind the
    /// first foreign one is the storage's business, and the hub has said what it knows before.
    pub fn head(&self, url: &Url, credential: Option<&Credential>) -> Result<Head, Problem> {
        let mut attempt = 1;
        loop {
            match self.block_on(self.head_once(url, credential)) {
                Err(problem @ Problem::Busy { .. }) if attempt <= self.limits.retries.min(2) => {
                    std::thread::sleep(pause(&problem, attempt).unwrap_or_default());
                }
                other => return other,
            }
            attempt += 1;
        }
    }

    async fn head_once(&self, url: &Url, credential: Option<&Credential>) -> Result<Head, Problem> {
        let mut headers = Vec::new();
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(Method::HEAD, &at, HeaderMap::new(), credential).await?;
            let next = redirect_of(&response, &at)?;
            headers.push(response.headers().clone());
            match next {
                Some(next) if next.origin() == url.origin() => at = next,
                Some(_) => return Ok(Head { headers }),
                None if response.status().is_success() => return Ok(Head { headers }),
                None => return Err(refusal(&response)),
            }
        }
        Err(Problem::Other("redirects in a circle".into()))
    }

    /// Continues or begins the download of `url` into `sink`. `validator` is the ETag under which the bytes
    /// already there were sent, if one is known; `on_validator` is told the new one before bytes come.
    ///
    /// On return the sink holds as many bytes as it wants; whether they are right is for
    /// [`Sink::land`] to say.
    pub fn download(
        &self,
        url: &Url,
        credential: Option<&Credential>,
        sink: &mut Sink,
        validator: Option<String>,
        on_validator: &mut dyn FnMut(Option<&str>),
        progress: &dyn Progress,
    ) -> Result<Result<(), Problem>> {
        let mut transfer = Transfer { http: self, url, credential, validator, on_validator, progress };
        let mut attempt = 0;
        while sink.written() < sink.want().size {
            let before = sink.written();
            let problem = match self.block_on(transfer.once(sink)) {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => return Err(error),
                Err(problem) => problem,
            };
            // Progress is worth as much as a fresh start: only attempts in vain count.
            attempt = if sink.written() > before { 1 } else { attempt + 1 };
            let Some(wait) = pause(&problem, attempt) else { return Ok(Err(problem)) };
            if attempt > self.limits.retries {
                return Ok(Err(problem));
            }
            progress.note(&format!("{}: {problem}; trying again", host(url)));
            std::thread::sleep(wait);
        }
        Ok(Ok(()))
    }

    async fn send(
        &self,
        method: Method,
        url: &Url,
        mut headers: HeaderMap,
        credential: Option<&Credential>,
    ) -> Result<Response, Problem> {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(credential) = credential.filter(|c| c.origin == url.origin()) {
            let value = HeaderValue::from_str(&format!("Bearer {}", credential.bearer));
            let mut value =
                value.map_err(|_| Problem::Other("HF_TOKEN holds characters no token has".into()))?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let request = self.client.request(method, url.clone()).headers(headers).send();
        // Twice: once to connect, once to answer.
        match tokio::time::timeout(self.limits.connect * 2, request).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Problem::Unreachable(cause(&error.without_url()))),
            Err(_) => Err(Problem::Unreachable(format!(
                "no answer in {} s",
                self.limits.connect.as_secs_f32() * 2.0
            ))),
        }
    }
}

/// One download over its attempts.
struct Transfer<'a> {
    http: &'a Http,
    url: &'a Url,
    credential: Option<&'a Credential>,
    validator: Option<String>,
    on_validator: &'a mut dyn FnMut(Option<&str>),
    progress: &'a dyn Progress,
}

impl Transfer<'_> {
    /// One attempt: a request, its redirects, and as much of the body as comes.
    async fn once(&mut self, sink: &mut Sink) -> Result<Result<()>, Problem> {
        let response = self.request(sink.written()).await?;
        let offset = match accept(&response, sink.written(), sink.want().size)? {
            Some(offset) => offset,
            None => {
                self.validator = None;
                return Ok(sink.restart());
            }
        };
        if offset != sink.written() {
            self.progress.note(&format!("{} sends the file from its start", host(self.url)));
            if let Err(error) = sink.restart() {
                return Ok(Err(error));
            }
        }
        let etag = response.headers().get(header::ETAG).and_then(|v| v.to_str().ok());
        self.validator = etag.filter(|e| !e.starts_with("W/")).map(str::to_owned);
        (self.on_validator)(self.validator.as_deref());
        self.body(response, sink).await
    }

    async fn request(&self, offset: u64) -> Result<Response, Problem> {
        let mut headers = HeaderMap::new();
        if offset > 0 {
            headers.insert(header::RANGE, text(&format!("bytes={offset}-"))?);
            if let Some(etag) = &self.validator {
                headers.insert(header::IF_RANGE, text(etag)?);
            }
        }
        let mut at = self.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.http.send(Method::GET, &at, headers.clone(), self.credential).await?;
            match redirect_of(&response, &at)? {
                Some(next) => at = next,
                None => return Ok(response),
            }
        }
        Err(Problem::Other("redirects in a circle".into()))
    }

    async fn body(&self, mut response: Response, sink: &mut Sink) -> Result<Result<()>, Problem> {
        loop {
            let chunk = tokio::time::timeout(self.http.limits.stall, response.chunk()).await;
            let chunk = match chunk {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) if sink.written() == sink.want().size => return Ok(Ok(())),
                Ok(Ok(None)) => return Err(Problem::Broken("the body ended early".into())),
                Ok(Err(error)) => return Err(Problem::Broken(cause(&error.without_url()))),
                Err(_) => return Err(Problem::Broken("no more bytes came".into())),
            };
            match sink.write(&chunk) {
                Ok(written) => written?,
                Err(error) => return Ok(Err(error)),
            }
            self.progress.advance(chunk.len() as u64);
        }
    }
}

/// Where the body of `response` begins: at `have`, or at 0 when the server does not know ranges or has
/// another file by now. `None`: it takes no such range, so the whole must be asked for.
fn accept(response: &Response, have: u64, size: u64) -> Result<Option<u64>, Problem> {
    let status = response.status();
    match status {
        StatusCode::OK => match response.content_length() {
            Some(found) if found != size => Err(Problem::Size { found, expected: size }),
            _ => Ok(Some(0)),
        },
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
            match range.and_then(content_range) {
                Some((start, total)) if start == have && total.is_none_or(|t| t == size) => Ok(Some(have)),
                Some((_, Some(total))) if total != size => {
                    Err(Problem::Size { found: total, expected: size })
                }
                _ if have > 0 => Ok(None),
                _ => Err(Problem::Other("answers with a range that was not asked for".into())),
            }
        }
        StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => Ok(None),
        _ => Err(refusal(response)),
    }
}

/// How long to wait before attempt number `attempt` after the first; `None`: no attempt will mend this.
fn pause(problem: &Problem, attempt: u32) -> Option<Duration> {
    let doubling = Duration::from_millis(250 << attempt.min(6));
    match problem {
        Problem::Broken(_) => Some(doubling),
        Problem::Busy { after, .. } => Some(after.unwrap_or(doubling).min(MAX_RETRY_AFTER)),
        _ => None,
    }
}

/// Why there is no body to read: a busy server is worth another attempt, a refusal is not.
fn refusal(response: &Response) -> Problem {
    let status = response.status().as_u16();
    if matches!(status, 408 | 429) || status >= 500 {
        let after = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok());
        let after = after.and_then(|v| v.trim().parse().ok()).map(Duration::from_secs);
        return Problem::Busy { status, after };
    }
    let hint = match status {
        401 | 403 => ": the file needs a token (HF_TOKEN) of someone who accepted its conditions",
        404 | 410 => ": the file is not there",
        _ => "",
    };
    Problem::Status { status, hint }
}

/// `bytes START-END/TOTAL`; the total may be `*`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (start.parse::<u64>().ok()?, end.parse::<u64>().ok()?);
    let total = if total == "*" { None } else { Some(total.parse::<u64>().ok()?) };
    (start <= end && total.is_none_or(|t| end < t)).then_some((start, total))
}

fn redirect_of(response: &Response, at: &Url) -> Result<Option<Url>, Problem> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
    let next = location.and_then(|l| at.join(l).ok());
    let next = next.ok_or_else(|| Problem::Other("redirects to nowhere".into()))?;
    match (at.scheme(), next.scheme()) {
        (_, "https") | ("http", "http") => Ok(Some(next)),
        _ => Err(Problem::Other(format!("redirects from https to {}", next.scheme()))),
    }
}

fn text(value: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::from_str(value).map_err(|e| Problem::Other(e.to_string()))
}

/// The host of a URL, for people.
pub fn host(url: &Url) -> &str {
    url.host_str().unwrap_or("the server")
}

/// The last cause of an error: it says what happened, the ones before it only on whose behalf.
fn cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// An error as HTTP problems show it inside [`Error::Source`].
pub fn named(url: &Url, problem: Problem) -> Error {
    Error::source(host(url), problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["bytes 5-10/10", "bytes 9-5/10", "5-9/10", "bytes */10", "bytes -1-2/3", ""] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
