//! `wharf pull --mirror`: has a running mirror bring images, and shows how far they are.
//!
//! Nothing is opened or written on this machine. What a mirror has begun goes on, whether it is watched or not.

use std::sync::Arc;

use anyhow::Context as _;
use futures_util::future::join_all;

use super::bars::Bars;
use super::outcome::{Wording, tell};
use super::{Order, Outcome, Signals};
use crate::agent::mirrors::{MirrorUrl, Mirrors};
use crate::api::{ImageReport, ImageWish};
use crate::oci::image_name::ImageName;

/// Has one of several mirrors of a store bring images, and prints what came of each.
///
/// # Errors
/// Fails if mirrors cannot be asked at all.
pub fn run(mirrors: &[MirrorUrl], order: &Order) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(pull_all(mirrors, order))
}

async fn pull_all(mirrors: &[MirrorUrl], order: &Order) -> anyhow::Result<Outcome> {
    let mut signals = Signals::listen()?;
    let mirrors = Mirrors::new(mirrors)?;
    let bars = Arc::new(Bars::new());
    let pulls = order.images.iter().map(|name| pull(&mirrors, name, order, &bars));
    let results = tokio::select! {
        results = join_all(pulls) => results,
        () = signals.next() => Vec::new(),
    };
    bars.clear();
    if results.is_empty() {
        eprintln!("wharf: interrupted; the mirror goes on");
        return Ok(Outcome::Interrupted);
    }
    let wording = Wording {
        platform: &order.platform,
        is_offline: false,
        why_packed: Some("this mirror extracts no layers; its log says why".to_owned()),
    };
    let outcomes = results
        .iter()
        .zip(&order.images)
        .map(|(result, name)| tell(name, result, &wording));
    Ok(outcomes.max().unwrap_or(Outcome::Complete))
}

async fn pull(
    mirrors: &Mirrors,
    name: &ImageName,
    order: &Order,
    bars: &Bars,
) -> anyhow::Result<ImageReport> {
    let wish = ImageWish {
        image: name.clone(),
        platform: Some(order.platform.clone()),
    };
    let mut reports = mirrors.image(&wish).await?;
    let mut report = reports.next().await?;
    let mut image_bars = bars.of(name, &report);
    while report.end.is_none() {
        report = reports.next().await?;
        image_bars.show(&report);
    }
    Ok(report)
}
