//! `stentor serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{out, running};
use crate::app;
use crate::config::{self, Config};

#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Where to listen [env: STENTOR_ADDR] [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT")]
    pub addr: Option<String>,
    /// Answer without API keys, even on a public address [env: STENTOR_NO_AUTH]
    #[arg(long)]
    pub no_auth: bool,
    /// File of hashed API keys [env: STENTOR_API_KEY_FILE]
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// A further host name that requests may use; may be repeated [env: STENTOR_ALLOWED_HOSTS]
    #[arg(long, value_name = "NAME")]
    pub allowed_host: Vec<String>,
    /// An origin whose pages may call the API; may be repeated [env: STENTOR_CORS_ORIGINS]
    #[arg(long, value_name = "ORIGIN")]
    pub cors_origin: Vec<String>,
    /// A model or profile to load before the server is ready; may be repeated [env: STENTOR_MODELS_PRELOAD]
    #[arg(long, value_name = "ID")]
    pub preload: Vec<String>,
}

impl Args {
    /// Lays the flags over the configuration.
    ///
    /// # Errors
    /// Names the flag whose value is not usable.
    pub fn apply(&self, config: &mut Config) -> Result<(), config::Error> {
        if let Some(addr) = &self.addr {
            config.set_flag("addr", "--addr", addr.clone())?;
        }
        if self.no_auth {
            config.set_flag("no_auth", "--no-auth", true)?;
        }
        if let Some(path) = &self.api_key_file {
            config.set_flag("api_key_file", "--api-key-file", path.display().to_string())?;
        }
        if !self.allowed_host.is_empty() {
            config.set_flag("allowed_hosts", "--allowed-host", self.allowed_host.clone())?;
        }
        if !self.cors_origin.is_empty() {
            config.set_flag("cors_origins", "--cors-origin", self.cors_origin.clone())?;
        }
        if !self.preload.is_empty() {
            config.set_flag("models.preload", "--preload", self.preload.clone())?;
        }
        Ok(())
    }
}

/// Runs the command.
pub fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let mut config = config.clone();
    args.apply(&mut config)?;
    // Sockets and tokenising; the models compute on their device's own thread.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let started = Instant::now();
    let listening = |addr| out::note(&format!("Listening on http://{addr}; loading models ..."));
    let addr = config.addr;
    let ready = move |models: &[String]| welcome(addr, models, started.elapsed());
    runtime.block_on(app::serve(&config, listening, ready))?;
    Ok(())
}

/// What to try first, as commands that work as they stand.
fn welcome(addr: SocketAddr, models: &[String], took: Duration) {
    let host = running::reachable(addr);
    out::note(&format!("Ready in {:.1} s with {}. Try:", took.as_secs_f64(), models.join(", ")));
    out::note(&format!(
        r#"
  curl http://{host}/v1/chat/completions -H 'Content-Type: application/json' \
    -d '{{"messages": [{{"role": "user", "content": "Name three colours."}}], "max_tokens": 60}}'

  curl http://{host}/v1/embeddings -H 'Content-Type: application/json' -d '{{"input": "hello world"}}'

  curl http://{host}/v1/audio/transcriptions -F file=@speech.wav

The API is described at http://{host}/docs; Ctrl-C stops the server."#
    ));
}
