//! Models on disk: manifests, downloads, checksums, the home folder.
//!
//! | path in the home folder | what |
//! |---|---|
//! | `manifest.json` | what is installed ([`state`]) |
//! | `models/<id>/` | whole files only, checked before they came here; nothing else ever writes |
//! | `downloads/<id>/` | partial files, whole ones that wait for the rest, ETags; may be deleted when no pull runs |
//! | `downloads/.wheels/` | Python wheels, until the pull that needs them is done |
//! | `manifests/*.toml`, `manifests/profiles/*.toml` | the user's own ([`manifest`]), over the built-in ones |
//! | `.lock` | locked by whoever changes the folder |
//!
//! Bytes take one way: a source is asked for a file, its answer runs through [`sink::Sink`], which bounds
//! and hashes it, into a partial file; right, it is renamed to the staged ones; once all are there, they are
//! renamed into `models/<id>` and the row is written. Killed at any point, the next pull goes on from there.

pub mod catalog;
pub mod error;
mod gguf;
mod home;
pub mod http;
pub mod hub;
mod keys;
pub mod library;
pub mod manifest;
pub mod paths;
pub mod probe;
pub mod progress;
pub mod pull;
pub mod sink;
pub mod state;
mod wheel;
mod whisper;

pub use catalog::Catalog;
pub use error::{Error, Result};
pub use home::Disk;
pub use library::{Entry, Library, Pulled, Status, Verified};
pub use progress::{Progress, Silent, bytes_text};
pub use pull::Options;
pub use wheel::package_client;
