//! The progress of layers: a bar each on a terminal, nothing elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use bytesize::ByteSize;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, interval};

use crate::api::{ImageReport, LayerReport, ReportedStage};
use crate::mirror::Image;
use crate::oci::image_name::ImageName;

/// How often bars are drawn.
const REDRAW_EVERY: Duration = Duration::from_millis(100);

/// How many hex digits of a digest tell layers apart.
const SHORT: usize = 12;

/// All bars.
pub(super) struct Bars(MultiProgress);

/// The bars of one image.
pub(super) struct ImageBars(Vec<Bar>);

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

    /// Adds a bar for each layer of an image.
    pub(super) fn of(&self, name: &ImageName, report: &ImageReport) -> ImageBars {
        ImageBars(report.layers.iter().map(|layer| self.bar(name, layer)).collect())
    }

    /// Shows an image's layers until all have ended.
    pub(super) async fn follow(&self, name: &ImageName, image: &Image) {
        let mut bars = self.of(name, &image.report());
        let ended = image.ended();
        tokio::pin!(ended);
        let mut redraw = interval(REDRAW_EVERY);
        loop {
            let is_over = tokio::select! {
                () = &mut ended => true,
                _ = redraw.tick() => false,
            };
            bars.show(&image.report());
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

    fn bar(&self, name: &ImageName, layer: &LayerReport) -> Bar {
        let bar = self.0.add(ProgressBar::new(layer.size_bytes));
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

impl ImageBars {
    /// Shows how far the image's layers are.
    pub(super) fn show(&mut self, report: &ImageReport) {
        for (bar, layer) in self.0.iter_mut().zip(&report.layers) {
            bar.show(layer);
        }
    }
}

impl Bar {
    fn show(&mut self, layer: &LayerReport) {
        if layer.entries > 0 {
            self.extracting_since.get_or_insert_with(Instant::now);
        }
        let size = layer.size_bytes;
        self.bar.set_position(match layer.stage {
            ReportedStage::Waiting | ReportedStage::Fetching | ReportedStage::Failed => {
                layer.fetched_bytes.min(size)
            }
            ReportedStage::Extracting | ReportedStage::Published | ReportedStage::Stored => size,
        });
        self.bar.set_message(self.message(layer));
    }

    fn message(&self, layer: &LayerReport) -> String {
        match layer.stage {
            ReportedStage::Waiting => "waiting".to_owned(),
            ReportedStage::Fetching => {
                format!(
                    "{} of {}, {}",
                    ByteSize(layer.fetched_bytes),
                    ByteSize(layer.size_bytes),
                    self.entries(layer)
                )
            }
            ReportedStage::Extracting => format!("extracting, {}", self.entries(layer)),
            ReportedStage::Published => "published".to_owned(),
            ReportedStage::Stored => "stored".to_owned(),
            ReportedStage::Failed => failed(layer),
        }
    }

    fn entries(&self, layer: &LayerReport) -> String {
        let seconds = self
            .extracting_since
            .map_or(0.0, |since| since.elapsed().as_secs_f64());
        if seconds < 0.5 {
            return format!("{} entries", layer.entries);
        }
        format!(
            "{} entries, {:.0}/s",
            layer.entries,
            layer.entries as f64 / seconds
        )
    }
}

/// Says what came of a layer.
pub(super) fn last_line(layer: &LayerReport) -> String {
    let (digest, size) = (&layer.blob, ByteSize(layer.size_bytes));
    match layer.stage {
        ReportedStage::Published if layer.entries > 0 => {
            format!("{digest} {size} published, {} entries extracted", layer.entries)
        }
        ReportedStage::Published => format!("{digest} {size} published"),
        ReportedStage::Stored => format!("{digest} {size} stored"),
        ReportedStage::Failed => format!("{digest} {size} {}", failed(layer)),
        ReportedStage::Waiting | ReportedStage::Fetching | ReportedStage::Extracting => {
            format!("{digest} {size} interrupted")
        }
    }
}

fn failed(layer: &LayerReport) -> String {
    let why = layer.message.as_deref().unwrap_or("the mirror does not say why");
    format!("failed: {why}")
}

fn short(layer: &LayerReport) -> &str {
    let hex = layer.blob.hex();
    hex.get(..SHORT).unwrap_or(hex)
}
