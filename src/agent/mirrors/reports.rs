//! Reads what a mirror tells of an image on its way: a line of JSON each, the last one with its `end`.

use std::time::Duration;

use bytes::BytesMut;
use reqwest::Response;
use tokio::time::timeout;

use super::{Answer, MirrorsError};
use crate::api::ImageReport;

/// How long a mirror may say nothing: it has a line every 5 s, and its store may be slow at the last one.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

/// The longest line: an image has 128 layers, of each of which some hundred bytes are told.
const MAX_LINE_BYTES: usize = 1 << 20;

/// What a mirror tells of an image, as it comes.
pub struct ImageReports {
    mirror: String,
    response: Response,
    unread: BytesMut,
}

impl ImageReports {
    /// Takes the answer whose head is there.
    pub(super) fn new(mut answer: Answer) -> Result<Self, MirrorsError> {
        let Some(response) = answer.stream.take() else {
            return Err(answer.refused());
        };
        Ok(Self {
            mirror: answer.mirror,
            response,
            unread: BytesMut::new(),
        })
    }

    /// Waits for the next report.
    ///
    /// # Errors
    /// Fails if the answer ends, the mirror falls silent, or a line makes no sense.
    pub async fn next(&mut self) -> Result<ImageReport, MirrorsError> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = self.unread.split_to(end + 1);
                return serde_json::from_slice(&line).map_err(|error| MirrorsError::Nonsense {
                    mirror: self.mirror.clone(),
                    reason: error.to_string(),
                });
            }
            match timeout(LONGEST_SILENCE, self.response.chunk()).await {
                Ok(Ok(Some(piece))) if self.unread.len() < MAX_LINE_BYTES => {
                    self.unread.extend_from_slice(&piece);
                }
                Ok(Ok(_) | Err(_)) | Err(_) => {
                    return Err(MirrorsError::Cut {
                        mirror: self.mirror.clone(),
                    });
                }
            }
        }
    }
}
