//! curl, and what it was answered.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::{Ended, Service, bound_command, run};

/// Every type of manifest, as containerd asks for them.
pub const MANIFEST_TYPES: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";

/// A request that curl is to make.
#[derive(Clone, Debug)]
pub struct Curl {
    url: String,
    arguments: Vec<String>,
}

/// What curl got.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of that name, which is written in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{}: {e}: {:?}", self.status, String::from_utf8_lossy(&self.body)))
    }

    /// The first error code of a body in the specification's form.
    pub fn error_code(&self) -> String {
        self.json()["errors"][0]["code"]
            .as_str()
            .expect("a code")
            .to_owned()
    }
}

impl Curl {
    /// Asks for `url` by GET.
    pub fn new(url: &str) -> Self {
        let arguments = ["--silent", "--noproxy", "*", "--max-time", "100"];
        Self {
            url: url.to_owned(),
            arguments: arguments.map(str::to_owned).to_vec(),
        }
    }

    /// Adds an argument of curl's.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Sends a header.
    pub fn header(self, name: &str, value: &str) -> Self {
        self.argument("--header").argument(&format!("{name}: {value}"))
    }

    /// Sends `Accept`.
    pub fn accept(self, types: &str) -> Self {
        self.header("Accept", types)
    }

    /// Uses another method than GET.
    pub fn method(self, method: &str) -> Self {
        match method {
            "HEAD" => self.argument("--head"),
            _ => self.argument("--request").argument(method),
        }
    }

    fn command(&self, body: &Path, headers: Option<&Path>) -> Command {
        let mut command = bound_command("curl");
        command.args(&self.arguments).arg("--output").arg(body);
        if let Some(headers) = headers {
            command.arg("--dump-header").arg(headers);
        }
        command.arg(&self.url);
        command
    }

    /// Asks, and returns the answer once it has arrived to its end.
    pub fn send(self) -> Answer {
        let (ended, answer) = self.run();
        assert!(
            ended.status.success(),
            "{self:?}: curl exits with {}",
            ended.code()
        );
        answer.expect("an answer")
    }

    /// Asks; none if curl fails.
    pub fn try_send(self) -> Option<Answer> {
        let (ended, answer) = self.run();
        if ended.status.success() { answer } else { None }
    }

    fn run(&self) -> (Ended, Option<Answer>) {
        let directory = tempfile::tempdir().expect("a directory");
        let (body, headers) = (directory.path().join("body"), directory.path().join("headers"));
        let ended = run(self.command(&body, Some(&headers)));
        let head = std::fs::read_to_string(headers).unwrap_or_default();
        // `--head` writes the headers to the output too.
        let is_head = self.arguments.iter().any(|argument| argument == "--head");
        let body = if is_head {
            Vec::new()
        } else {
            std::fs::read(body).unwrap_or_default()
        };
        let answer = parse_head(&head).map(|(status, headers)| Answer {
            status,
            headers,
            body,
        });
        (ended, answer)
    }

    /// Asks in the background.
    pub fn start(&self) -> Download {
        let directory = tempfile::tempdir().expect("a directory");
        let body = directory.path().join("body");
        Download {
            service: Service::start("curl", directory.path(), self.command(&body, None)),
            directory,
        }
    }
}

/// Parses the last answer's status and headers.
fn parse_head(head: &str) -> Option<(u16, Vec<(String, String)>)> {
    let last = head.trim_end().split("\r\n\r\n").last()?;
    let mut lines = last.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some((status, headers))
}

/// A curl under way.
pub struct Download {
    service: Service,
    directory: TempDir,
}

impl Download {
    /// How many bytes of the body have arrived.
    pub fn received(&self) -> u64 {
        super::file_length(&self.directory.path().join("body"))
    }

    /// What has arrived.
    pub fn body(&self) -> Vec<u8> {
        std::fs::read(self.directory.path().join("body")).unwrap_or_default()
    }

    /// Leaves: ends curl at once.
    pub fn leave(&mut self) {
        self.service.kill();
    }

    /// Waits for curl to end; returns whether it succeeded.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        self.service.wait(timeout).success()
    }
}
