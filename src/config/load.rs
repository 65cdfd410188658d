//! Reads the file, lays flags and variables over it, and has the result validated.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Invalid, Origin};
use super::raw::RawConfig;
use super::{Config, Credentials, validate};
use crate::oci::name::DOCKER_HUB;

/// What flags and variables set; wins over the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen`
    pub listen: Option<String>,
    /// `--store`
    pub store: Option<PathBuf>,
    /// `--index`
    pub index: Option<PathBuf>,
    /// `--upstream`: the one endpoint of docker.io.
    pub upstream: Option<String>,
    /// `--tag-ttl`
    pub tag_ttl: Option<String>,
    /// `--offline`
    pub offline: Option<bool>,
}

impl Config {
    /// Reads `file`, if there is one, lays `overrides` over it, and checks every key and
    /// that every file that a key names can be read.
    ///
    /// # Errors
    /// Fails with one line that names the file or flag, the key, and the remedy.
    pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let (origin, text) = match file {
            None => (Origin::Default, String::new()),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
                    path: path.to_owned(),
                    source,
                })?;
                (Origin::File(path.to_owned()), text)
            }
        };
        let config = Self::parse(&text, &origin, overrides)?;
        config
            .check_files()
            .map_err(|Invalid { key, problem }| ConfigError::Value { origin, key, problem })?;
        Ok(config)
    }

    /// Checks every key of `text` with `overrides` laid over it, without looking at any file.
    ///
    /// # Errors
    /// As [`Config::load`]; `origin` is named as the place where `text` is from.
    pub fn parse(text: &str, origin: &Origin, overrides: Overrides) -> Result<Self, ConfigError> {
        let mut raw: RawConfig = toml::from_str(text).map_err(|error| syntax(text, origin, error))?;
        let flags = overrides.lay_over(&mut raw);
        validate::config(raw).map_err(|Invalid { key, problem }| {
            let flag = flags.iter().find(|(overridden, _)| key == *overridden);
            let origin = flag.map_or_else(|| origin.clone(), |(_, name)| Origin::Flag(name));
            ConfigError::Value { origin, key, problem }
        })
    }

    fn check_files(&self) -> Result<(), Invalid> {
        let mut named: Vec<(String, &PathBuf)> = Vec::new();
        named.extend(self.htpasswd.iter().map(|path| ("htpasswd".to_owned(), path)));
        if let Some(tls) = &self.tls {
            named.push(("tls.certificate".to_owned(), &tls.certificate));
            named.push(("tls.key".to_owned(), &tls.key));
        }
        for (host, upstream) in &self.upstreams {
            let mut add = |key: &str, path| named.push((format!("upstream.\"{host}\".{key}"), path));
            upstream.ca.iter().for_each(|path| add("ca", path));
            let certificate = upstream.client_certificate.iter();
            certificate.for_each(|path| add("client_certificate", path));
            upstream
                .client_key
                .iter()
                .for_each(|path| add("client_key", path));
            match &upstream.credentials {
                Credentials::PasswordFile { path, .. } => add("password_file", path),
                Credentials::DockerConfig(Some(path)) => add("docker_config", path),
                Credentials::DockerConfig(None) | Credentials::Basic { .. } | Credentials::None => {}
            }
        }
        for (key, path) in named {
            // Reading a byte finds directories too, which can be opened.
            let read = File::open(path).and_then(|mut file| file.read(&mut [0]));
            read.map_err(|error| Invalid::new(key, unreadable(path, &error)))?;
        }
        Ok(())
    }
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!(
        "cannot read {} ({error}); name a file that wharf's user may read",
        path.display()
    )
}

impl Overrides {
    /// Writes what is set into `raw`, and returns the keys written with their flags.
    fn lay_over(self, raw: &mut RawConfig) -> Vec<(String, &'static str)> {
        let mut flags = Vec::new();
        let mut set = |key: &str, flag| flags.push((key.to_owned(), flag));
        if self.listen.is_some() {
            raw.listen = self.listen;
            set("listen", "--listen");
        }
        if self.store.is_some() {
            raw.store = self.store;
            set("store", "--store");
        }
        if self.index.is_some() {
            raw.index = self.index;
            set("index", "--index");
        }
        if self.tag_ttl.is_some() {
            raw.tag_ttl = self.tag_ttl;
            set("tag_ttl", "--tag-ttl");
        }
        if self.offline.is_some() {
            raw.offline = self.offline;
        }
        if let Some(url) = self.upstream {
            let written = raw.upstream.keys().find(|host| validate::is_docker_hub(host));
            let host = written.cloned().unwrap_or_else(|| DOCKER_HUB.to_owned());
            raw.upstream.entry(host).or_default().endpoints = Some(vec![url]);
            set(&format!("upstream.\"{DOCKER_HUB}\".endpoints"), "--upstream");
        }
        flags
    }
}

/// Makes one line of toml's error, which draws a picture of several.
fn syntax(text: &str, origin: &Origin, mut error: toml::de::Error) -> ConfigError {
    let start = error.span().map_or(0, |span| span.start).min(text.len());
    let line = 1 + text.as_bytes()[..start].iter().filter(|b| **b == b'\n').count();
    // Without its input, toml ends its message with "in `dotted.key`".
    error.set_input(None);
    let shown = error.to_string();
    let key = shown
        .lines()
        .last()
        .and_then(|last| last.strip_prefix("in `")?.strip_suffix('`'))
        .map(|key| quote_host(key, error.message().starts_with("unknown field")));
    let problem = match &key {
        // The message would show what was written.
        Some(key) if key.ends_with(".password") => "must be a string in quotes".to_owned(),
        _ => error.message().replace('\n', " "),
    };
    ConfigError::Syntax {
        origin: origin.clone(),
        line,
        key,
        problem,
    }
}

/// Puts the host of `upstream.HOST.key` in quotes, as the file has it: it may have dots.
///
/// Of an unknown key toml names the table alone, `upstream.HOST`.
fn quote_host(key: &str, is_table: bool) -> String {
    let Some(rest) = key.strip_prefix("upstream.") else {
        return key.to_owned();
    };
    match rest.rsplit_once('.') {
        Some((host, last)) if !is_table => format!("upstream.\"{host}\".{last}"),
        _ => format!("upstream.\"{rest}\""),
    }
}
