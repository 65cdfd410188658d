//! Reads what a mirror tells of an image on its way: a line of JSON each, the last one with its `end`.

use bytes::BytesMut;
use reqwest::Response;
use url::Url;

use super::MirrorsError;
use crate::api::ImageReport;

/// The longest line: an image has 128 layers, of each of which some hundred bytes are told.
const MAX_LINE_BYTES: usize = 1 << 20;

/// What a mirror tells of an image, as it comes.
pub struct ImageReports {
    mirror: Url,
    response: Response,
    unread: BytesMut,
}

impl ImageReports {
    pub(super) fn new(mirror: Url, response: Response) -> Self {
        Self {
            mirror,
            response,
            unread: BytesMut::new(),
        }
    }

    /// Waits for the next report.
    ///
    /// # Errors
    /// Fails if the answer ends, the mirror falls silent, or a line makes no sense.
    pub async fn next(&mut self) -> Result<ImageReport, MirrorsError> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = self.unread.split_to(end + 1);
                return serde_json::from_slice(&line).map_err(|source| MirrorsError::Report {
                    mirror: self.mirror.clone(),
                    source,
                });
            }
            let piece = match self.response.chunk().await {
                Ok(Some(piece)) if self.unread.len() < MAX_LINE_BYTES => piece,
                Ok(_) | Err(_) => {
                    return Err(MirrorsError::Cut {
                        mirror: self.mirror.clone(),
                    });
                }
            };
            self.unread.extend_from_slice(&piece);
        }
    }
}
