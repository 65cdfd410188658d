//! The progress of layers: a bar each on a terminal, nothing elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use bytesize::ByteSize;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, interval};

use crate::mirror::{Image, Layer, LayerStage, LayerStatus};
use crate::oci::image_name::ImageName;

/// How often bars are drawn.
const REDRAW_EVERY: Duration = Duration::from_millis(100);

/// How many hex digits of a digest tell layers apart.
const SHORT: usize = 12;

/// All bars.
pub(super) struct Bars(MultiProgress);

/// The bar of one layer, and when its extraction was first seen.
struct Bar {
    bar: ProgressBar,
    extracting_since: Option<Instant>,
}

impl Bars {
    pub(super) fn new() -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self(MultiProgress::with_draw_target(target))
    }

    /// Shows an image's layers until all have ended.
    pub(super) async fn follow(&self, name: &ImageName, image: &Image) {
        let mut bars: Vec<Bar> = image.layers().iter().map(|layer| self.bar(name, layer)).collect();
        let ended = image.ended();
        tokio::pin!(ended);
        let mut redraw = interval(REDRAW_EVERY);
        loop {
            let is_over = tokio::select! {
                () = &mut ended => true,
                _ = redraw.tick() => false,
            };
            for (bar, layer) in bars.iter_mut().zip(image.layers()) {
                bar.show(layer);
            }
            if is_over {
                return;
            }
        }
    }

    /// Takes the bars off the terminal: what came of each layer is printed.
    pub(super) fn clear(&self) {
        // A terminal that is gone needs no clearing.
        let _ = self.0.clear();
    }

    fn bar(&self, name: &ImageName, layer: &Layer) -> Bar {
        let bar = self.0.add(ProgressBar::new(layer.blob.size_bytes));
        if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:20}] {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(format!("{} {}", name.repository.name, short(layer)));
        Bar {
            bar,
            extracting_since: None,
        }
    }
}

impl Bar {
    fn show(&mut self, layer: &Layer) {
        let status = layer.status();
        if status.entries > 0 {
            self.extracting_since.get_or_insert_with(Instant::now);
        }
        let size = layer.blob.size_bytes;
        self.bar.set_position(match status.stage {
            LayerStage::Waiting | LayerStage::Fetching | LayerStage::Failed(_) => {
                status.fetched_bytes.min(size)
            }
            LayerStage::Extracting | LayerStage::Published | LayerStage::Stored => size,
        });
        self.bar.set_message(self.message(layer, &status));
    }

    fn message(&self, layer: &Layer, status: &LayerStatus) -> String {
        let size = ByteSize(layer.blob.size_bytes);
        match &status.stage {
            LayerStage::Waiting => "waiting".to_owned(),
            LayerStage::Fetching => {
                format!(
                    "{} of {size}, {}",
                    ByteSize(status.fetched_bytes),
                    self.entries(status)
                )
            }
            LayerStage::Extracting => format!("extracting, {}", self.entries(status)),
            LayerStage::Published => "published".to_owned(),
            LayerStage::Stored => "stored".to_owned(),
            LayerStage::Failed(error) => format!("failed: {}", error.full_text()),
        }
    }

    fn entries(&self, status: &LayerStatus) -> String {
        let seconds = self
            .extracting_since
            .map_or(0.0, |since| since.elapsed().as_secs_f64());
        if seconds < 0.5 {
            return format!("{} entries", status.entries);
        }
        format!(
            "{} entries, {:.0}/s",
            status.entries,
            status.entries as f64 / seconds
        )
    }
}

/// Says what came of a layer.
pub(super) fn last_line(layer: &Layer, status: &LayerStatus) -> String {
    let (digest, size) = (&layer.blob.digest, ByteSize(layer.blob.size_bytes));
    match &status.stage {
        LayerStage::Published if status.entries > 0 => {
            format!("{digest} {size} published, {} entries extracted", status.entries)
        }
        LayerStage::Published => format!("{digest} {size} published"),
        LayerStage::Stored => format!("{digest} {size} stored"),
        LayerStage::Failed(error) => format!("{digest} {size} failed: {}", error.full_text()),
        LayerStage::Waiting | LayerStage::Fetching | LayerStage::Extracting => {
            format!("{digest} {size} interrupted")
        }
    }
}

fn short(layer: &Layer) -> &str {
    let hex = layer.blob.digest.hex();
    hex.get(..SHORT).unwrap_or(hex)
}
