//! Hugging Face repositories and whatever serves the same paths.
//!
//! `HEAD {endpoint}/{repo}/resolve/{revision}/{file}` tells of a large file `X-Linked-Size` and
//! `X-Linked-Etag` (its LFS SHA-256), of a small one `Content-Length` and `ETag` (its Git blob hash), and
//! `X-Repo-Commit`; `GET` of the same redirects to the storage.
//!
//! # Why not the `hf-hub` crate
//!
//! Version 1.0.0 was tried against a hub on this machine that redirects an 8 MiB LFS file to a storage at another
//! port, as the public hub does, with a `reqwest` client of 5 s connect timeout and no retries:
//!
//! | wanted | what it did |
//! |---|---|
//! | size, SHA-256 and commit of a file (`get_file_metadata`) | fails, "missing X-Repo-Commit header": it reads the headers of the storage behind the redirect, where the hub's are not; given a client that follows none it takes the 302 for a failure |
//! | the same by `get_paths_info` | not tried: it takes `POST /api/models/...`, which mirrors that only serve files do not have |
//! | bytes that are not the SHA-256's are refused (`download_file`) | 8 MiB of zeros are stored under that SHA-256's name, and the result is `Ok` |
//! | a transfer cut at 4 MiB goes on there | the next run asks for the file from its start, without a range; the 4 MiB beside it are written over |
//! | a hub that does not answer is passed over within seconds | no end after 60 s: the request goes through a client that the crate makes itself, without any timeout, and which cannot be replaced |
//! | a transfer that stalls ends | no end after 60 s; the only limit to set, on a whole request, would end large downloads as well |
//! | `HF_TOKEN` and no other secret | without it, the token that a login left in `$HF_HOME/token` goes to whatever `HF_ENDPOINT` names |
//!
//! A file with an `X-Xet-Hash` it would fetch by another protocol from other hosts, through `hf-xet`. Without the
//! crate, 102 packages fewer are locked (435, not 537).

use url::Url;

use super::error::Problem;
use super::http::{Credential, Head, Http};
use super::manifest::{MAX_FILE, is_hex};
use super::sink::{Digest, Want};

/// Which hub, and as whom.
#[derive(Clone)]
pub struct Hub {
    pub endpoint: Url,
    /// Sent to the endpoint's origin only.
    pub token: Option<String>,
}

impl Hub {
    /// `HF_ENDPOINT` and `HF_TOKEN`, else the public hub without a token.
    pub fn from_env() -> Result<Hub, Problem> {
        let var = |name| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
        let text = var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let endpoint =
            Url::parse(&text).ok().filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
        let endpoint =
            endpoint.ok_or_else(|| Problem::Other(format!("HF_ENDPOINT {text:?} is no http(s) URL")))?;
        Ok(Hub { endpoint, token: var("HF_TOKEN").map(|t| t.trim().to_owned()) })
    }

    /// The URL of a file.
    pub fn url(&self, repo: &str, revision: &str, file: &str) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            // A revision with a slash is one segment.
            segments
                .pop_if_empty()
                .extend(repo.split('/'))
                .push("resolve")
                .push(revision)
                .extend(file.split('/'));
        }
        url
    }

    /// What goes along with requests to the endpoint.
    pub fn credential(&self) -> Option<Credential> {
        self.token.as_ref().map(|t| Credential { origin: self.endpoint.origin(), bearer: t.clone() })
    }

    /// Size and digest of a file as the hub knows them.
    pub fn metadata(&self, http: &Http, url: &Url) -> Result<Metadata, Problem> {
        let head = http.head(url, self.credential().as_ref())?;
        Metadata::read(&head)
    }
}

/// What the hub says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    pub size: Option<u64>,
    pub digest: Option<Digest>,
    pub commit: Option<String>,
}

impl Metadata {
    fn read(head: &Head) -> Result<Metadata, Problem> {
        let bare = |v: &str| v.trim_start_matches("W/").trim_matches('"').to_owned();
        let linked = head.get("x-linked-etag").map(bare);
        // Behind a redirect within the hub the first answers are not the file's own.
        let last = |name: &str| head.headers.last().and_then(|h| h.get(name)).and_then(|v| v.to_str().ok());
        let etag = linked.or_else(|| last("etag").map(bare));
        let size = head.get("x-linked-size").or_else(|| last("content-length"));
        let size = size.and_then(|s| s.parse::<u64>().ok());
        if size.is_some_and(|s| s > MAX_FILE) {
            return Err(Problem::Other(format!("tells of a file above {MAX_FILE} bytes")));
        }
        let digest = etag.and_then(|e| match e {
            e if is_hex(&e, 64) => Some(Digest::Sha256(e)),
            e if is_hex(&e, 40) => Some(Digest::GitBlob(e)),
            _ => None,
        });
        let commit = head.get("x-repo-commit").filter(|c| is_hex(c, 40)).map(str::to_owned);
        Ok(Metadata { size, digest, commit })
    }

    /// Fails where the hub's file is certainly another than the one wanted, before a byte is loaded.
    pub fn agrees(&self, want: &Want) -> Result<(), Problem> {
        match (&self.digest, &want.digest) {
            (Some(Digest::Sha256(found)), Digest::Sha256(expected)) if found != expected => {
                return Err(Problem::Checksum { found: found.clone(), expected: expected.clone() });
            }
            _ => {}
        }
        match self.size {
            Some(found) if found != want.size => Err(Problem::Size { found, expected: want.size }),
            _ => Ok(()),
        }
    }

    /// What a file of which the manifest says nothing must be.
    pub fn want(self) -> Result<Want, Problem> {
        match (self.size, self.digest) {
            (Some(size), Some(digest)) => Ok(Want { size, digest }),
            _ => Err(Problem::Other("does not tell the file's size and checksum".into())),
        }
    }
}
