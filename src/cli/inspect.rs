//! `wharf inspect`.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::inventory::{inspect_chain, inspect_image};
use crate::oci::image_name::{ImageName, ParseImageNameError};
use crate::oci::{ChainId, Platform};
use crate::store::Store;

/// What to tell, and of which store.
#[derive(Debug, Args)]
pub(super) struct InspectArguments {
    /// An image, such as alpine:3, or a stack of layers by its ChainID, sha256:…
    #[arg(value_name = "IMAGE|CHAIN")]
    what: What,
    /// Directory of the store; it is only read
    #[arg(long, value_name = "DIR", env = "WHARF_STORE", default_value = "wharf-store")]
    store: PathBuf,
    /// Which image of an index: OS/ARCHITECTURE[/VARIANT] [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
}

#[derive(Clone, Debug)]
enum What {
    Image(ImageName),
    Chain(ChainId),
}

impl std::str::FromStr for What {
    type Err = ParseImageNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(chain_id) => Ok(Self::Chain(chain_id)),
            Err(_) => text.parse().map(Self::Image),
        }
    }
}

/// Prints what the store knows.
pub(super) fn run(arguments: &InspectArguments) -> anyhow::Result<()> {
    let store = Store::open_read_only(&arguments.store)?;
    let mut text = match &arguments.what {
        What::Chain(chain_id) => serde_json::to_string_pretty(&inspect_chain(&store, chain_id)?)?,
        What::Image(name) => {
            let platform = arguments.platform.clone().unwrap_or_else(Platform::current);
            serde_json::to_string_pretty(&inspect_image(&store, name, &platform)?)?
        }
    };
    text.push('\n');
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot print it")
}
