//! The script: what an upstream does otherwise than a sound one, and when.

use crate::support::gate::Gate;

use super::record::{Asked, Route};

/// Which requests are meant.
#[derive(Clone, Debug, Default)]
pub struct When {
    method: Option<&'static str>,
    route: Option<Route>,
    repository: Option<String>,
    reference: Option<String>,
}

/// Means every request.
pub fn anything() -> When {
    When::default()
}

/// Means requests for a blob, of the registry.
pub fn blob(digest: &str) -> When {
    When::about(Route::Blob, digest)
}

/// Means requests for a blob, of the CDN.
pub fn cdn(digest: &str) -> When {
    When::about(Route::Cdn, digest)
}

/// Means requests for a manifest by this tag or digest.
pub fn manifest(reference: &str) -> When {
    When::about(Route::Manifest, reference)
}

/// Means requests for a list of tags.
pub fn tags() -> When {
    When::about(Route::Tags, "list")
}

/// Means requests for any blob, of the registry.
pub fn blobs() -> When {
    When::route(Route::Blob)
}

/// Means requests for any blob, of the CDN.
pub fn any_cdn() -> When {
    When::route(Route::Cdn)
}

/// Means requests for any manifest.
pub fn manifests() -> When {
    When::route(Route::Manifest)
}

/// Means requests for a token.
pub fn token() -> When {
    When::route(Route::Token)
}

impl When {
    fn route(route: Route) -> Self {
        Self {
            route: Some(route),
            ..Self::default()
        }
    }

    fn about(route: Route, reference: &str) -> Self {
        Self {
            reference: Some(reference.to_owned()),
            ..Self::route(route)
        }
    }

    /// Means only GETs.
    pub fn get(mut self) -> Self {
        self.method = Some("GET");
        self
    }

    /// Means only HEADs.
    pub fn head(mut self) -> Self {
        self.method = Some("HEAD");
        self
    }

    /// Means only what is asked of one repository.
    pub fn of(mut self, repository: &str) -> Self {
        self.repository = Some(repository.to_owned());
        self
    }

    /// Tells whether a request is meant.
    pub fn means(&self, asked: &Asked) -> bool {
        self.method.is_none_or(|method| method == asked.method)
            && self.route.is_none_or(|route| route == asked.route)
            && self
                .repository
                .as_ref()
                .is_none_or(|name| *name == asked.repository)
            && self
                .reference
                .as_ref()
                .is_none_or(|reference| *reference == asked.reference)
    }
}

/// What is done instead; several entries of the script add up, the later ones winning.
#[derive(Clone, Debug, Default)]
pub struct Then {
    pub(super) status: Option<u16>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) hold: Option<Gate>,
    pub(super) pause: Option<(usize, Gate)>,
    pub(super) hangs_up: bool,
    pub(super) truncate: Option<usize>,
    pub(super) corrupt: Option<usize>,
    pub(super) length: Length,
    pub(super) ranges: Ranges,
    pub(super) bytes_per_second: Option<usize>,
    times: Option<usize>,
}

/// What `Content-Length` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Length {
    #[default]
    True,
    Off(isize),
    /// The body is sent in chunks.
    Absent,
}

/// What becomes of `Range`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ranges {
    #[default]
    Honoured,
    Ignored,
    /// A part that begins so many bytes further on, and says so.
    Shifted(usize),
}

/// Starts to say what happens.
pub fn then() -> Then {
    Then::default()
}

impl Then {
    /// Answers with a status and an error of the specification's form.
    pub fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// Sends a header, in place of its own of that name, which is in lower case.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Waits at a gate before it answers.
    pub fn hold(mut self, gate: &Gate) -> Self {
        self.hold = Some(gate.clone());
        self
    }

    /// Waits at a gate once so many bytes of the body are sent.
    pub fn pause(mut self, after: usize, gate: &Gate) -> Self {
        self.pause = Some((after, gate.clone()));
        self
    }

    /// Closes the connection without an answer.
    pub fn hang_up(mut self) -> Self {
        self.hangs_up = true;
        self
    }

    /// Closes the connection once so many bytes of the body are sent.
    pub fn truncate(mut self, after: usize) -> Self {
        self.truncate = Some(after);
        self
    }

    /// Changes the byte at this offset of the whole.
    pub fn corrupt(mut self, offset: usize) -> Self {
        self.corrupt = Some(offset);
        self
    }

    /// Lies about the length by so many bytes, and closes the connection after the body.
    pub fn length_off(mut self, by: isize) -> Self {
        self.length = Length::Off(by);
        self
    }

    /// Says no length, and sends the body in chunks.
    pub fn without_length(mut self) -> Self {
        self.length = Length::Absent;
        self
    }

    /// Answers any range with the whole.
    pub fn ignore_ranges(mut self) -> Self {
        self.ranges = Ranges::Ignored;
        self
    }

    /// Answers any range with one that begins later.
    pub fn shift_ranges(mut self, by: usize) -> Self {
        self.ranges = Ranges::Shifted(by);
        self
    }

    /// Sends the body so slowly.
    pub fn bytes_per_second(mut self, rate: usize) -> Self {
        self.bytes_per_second = Some(rate);
        self
    }

    /// Does it once.
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// Does it so many times.
    pub fn times(mut self, times: usize) -> Self {
        self.times = Some(times);
        self
    }

    fn overlay(&mut self, later: &Self) {
        self.status = later.status.or(self.status);
        self.headers.extend(later.headers.iter().cloned());
        self.hold = later.hold.clone().or(self.hold.take());
        self.pause = later.pause.clone().or(self.pause.take());
        self.hangs_up |= later.hangs_up;
        self.truncate = later.truncate.or(self.truncate);
        self.corrupt = later.corrupt.or(self.corrupt);
        if later.length != Length::True {
            self.length = later.length;
        }
        if later.ranges != Ranges::Honoured {
            self.ranges = later.ranges;
        }
        self.bytes_per_second = later.bytes_per_second.or(self.bytes_per_second);
    }
}

/// All entries, in the order of their addition.
#[derive(Default)]
pub(super) struct Script(Vec<(When, Then)>);

impl Script {
    pub(super) fn add(&mut self, when: When, then: Then) {
        self.0.push((when, then));
    }

    /// Returns what happens to a request, and counts those entries that happen only so often.
    pub(super) fn play(&mut self, asked: &Asked) -> Then {
        let mut all = Then::default();
        for (when, then) in &mut self.0 {
            if !when.means(asked) || then.times == Some(0) {
                continue;
            }
            then.times = then.times.map(|times| times - 1);
            all.overlay(then);
        }
        all
    }
}
