//! `wharf serve`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;

use crate::config::{Config, Overrides};

/// The everyday keys of `config/wharf.toml`; the rest are set in the file alone.
///
/// Values stay text here: [`Config::load`] checks them together with the file's.
#[derive(Debug, Args)]
pub(super) struct ServeArguments {
    /// Configuration file (TOML; config/wharf.toml shows every key)
    #[arg(long, value_name = "FILE", env = "WHARF_CONFIG")]
    config: Option<PathBuf>,
    /// Address to listen on [default: 0.0.0.0:5000]
    #[arg(long, value_name = "ADDR:PORT", env = "WHARF_LISTEN")]
    listen: Option<String>,
    /// Directory of the store, on the file system that is shared [default: wharf-store]
    #[arg(long, value_name = "DIR", env = "WHARF_STORE")]
    store: Option<PathBuf>,
    /// Directory of the index, on a local disk [default: the store's path with .index added]
    #[arg(long, value_name = "DIR", env = "WHARF_INDEX")]
    index: Option<PathBuf>,
    /// Endpoint of docker.io, the default upstream [default: registry-1.docker.io]
    #[arg(long, value_name = "URL", env = "WHARF_UPSTREAM")]
    upstream: Option<String>,
    /// How long a tag is served without asking upstream, such as 60s or 5m [default: 60s]
    #[arg(long, value_name = "DURATION", env = "WHARF_TAG_TTL")]
    tag_ttl: Option<String>,
    /// Never ask upstream: serve only what the store holds
    #[arg(
        long, value_name = "BOOL", env = "WHARF_OFFLINE", value_parser = BoolishValueParser::new(),
        num_args = 0..=1, require_equals = true, default_missing_value = "true"
    )]
    offline: Option<bool>,
}

impl ServeArguments {
    /// Returns what the arguments and variables set, over the file's keys.
    pub(super) fn overrides(self) -> Overrides {
        Overrides {
            listen: self.listen,
            store: self.store,
            index: self.index,
            upstream: self.upstream,
            tag_ttl: self.tag_ttl,
            offline: self.offline,
        }
    }
}

/// Loads the configuration, sets up logs, and serves until told to stop.
pub(super) fn run(mut arguments: ServeArguments) -> anyhow::Result<()> {
    let file = arguments.config.take();
    let config = Config::load(file.as_deref(), arguments.overrides())?;
    crate::telemetry::init(&config.log)?;
    crate::server::run(config)?;
    Ok(())
}
