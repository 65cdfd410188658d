//! From raw keys to validated types: the only place where defaults meet the file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use globset::{Glob, GlobSet, GlobSetBuilder};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use url::Url;

use super::error::Invalid;
use super::raw::{RawAccessRule, RawConfig, RawDockerConfig, RawLog, RawTls, RawUpstream};
use super::{AccessRule, Client, Config, Credentials, Extract, Log, LogFormat, ServerTls, Upstream};
use crate::oci::{RegistryHost, Repository};
use crate::unpack::Limits;

/// The endpoint of Docker Hub, whose name in image names is no registry.
const DOCKER_HUB_ENDPOINT: &str = "https://registry-1.docker.io";

/// Three times as long as between two beats of a mirror.
const MIN_STALL_TIMEOUT: Duration = Duration::from_secs(6);

/// The smallest buffer memory: 64 KiB for each of 16 downloads.
const MIN_BUFFER_MEMORY: u64 = 1 << 20;

/// More threads than this were never faster on any file system.
const MAX_WRITERS: usize = 256;

/// Validates all keys.
pub(super) fn config(raw: RawConfig) -> Result<Config, Invalid> {
    let default = Config::default();
    let extract = extract(&raw)?;
    let store = path("store", raw.store)?.unwrap_or(default.store);
    let index = match path("index", raw.index)? {
        Some(index) => index,
        None => {
            let mut derived = store.clone().into_os_string();
            derived.push(".index");
            derived.into()
        }
    };
    if index == store {
        return Err(Invalid::new(
            "index",
            "is the store itself; name a directory of its own",
        ));
    }
    let (allow, deny) = (
        raw.allow.unwrap_or(default.allow),
        raw.deny.unwrap_or(default.deny),
    );
    globs("allow", &allow)?;
    globs("deny", &deny)?;
    let config = Config {
        listen: address("listen", raw.listen, default.listen)?,
        store,
        index,
        offline: raw.offline.unwrap_or(default.offline),
        tag_ttl: duration("tag_ttl", raw.tag_ttl, default.tag_ttl)?,
        negative_ttl: duration("negative_ttl", raw.negative_ttl, default.negative_ttl)?,
        immutable_tags: globs("immutable_tags", &raw.immutable_tags.unwrap_or_default())?,
        allow,
        deny,
        extract,
        background_fills: count("background_fills", raw.background_fills, default.background_fills)?,
        uncached_streams: count("uncached_streams", raw.uncached_streams, default.uncached_streams)?,
        buffer_memory: size("buffer_memory", raw.buffer_memory, default.buffer_memory)?,
        store_timeout: timeout("store_timeout", raw.store_timeout, default.store_timeout)?,
        share_work: raw.share_work.unwrap_or(default.share_work),
        stall_timeout: stall_timeout(raw.stall_timeout, default.stall_timeout)?,
        drain_timeout: duration("drain_timeout", raw.drain_timeout, default.drain_timeout)?,
        hold_timeout: duration("hold_timeout", raw.hold_timeout, default.hold_timeout)?,
        htpasswd: path("htpasswd", raw.htpasswd)?,
        tls: raw.tls.map(tls).transpose()?,
        log: log(raw.log)?,
        upstreams: upstreams(raw.upstream)?,
        access: raw
            .access
            .into_iter()
            .enumerate()
            .map(access_rule)
            .collect::<Result<_, _>>()?,
    };
    check_users(&config)?;
    Ok(config)
}

/// The keys are checked also when layers are not extracted.
fn extract(raw: &RawConfig) -> Result<Option<Extract>, Invalid> {
    let default = Extract::default();
    let limits = default.limits;
    let max_entries = count(
        "max_layer_entries",
        raw.max_layer_entries,
        usize::try_from(limits.max_entries).unwrap_or(usize::MAX),
    )?;
    let extract = Extract {
        layers: count("extract_layers", raw.extract_layers, default.layers)?,
        writers: raw.extract_writers.map(writers).transpose()?,
        rootless_mounts: raw.rootless_mounts.unwrap_or(default.rootless_mounts),
        limits: Limits {
            max_layer_bytes: size(
                "max_layer_size",
                raw.max_layer_size.clone(),
                limits.max_layer_bytes,
            )?,
            max_entries: max_entries as u64,
            max_zstd_window_bytes: size(
                "max_zstd_window",
                raw.max_zstd_window.clone(),
                limits.max_zstd_window_bytes,
            )?,
        },
    };
    Ok(raw.extract.unwrap_or(true).then_some(extract))
}

/// A mirror beats every two seconds, which others see late on some file systems.
fn stall_timeout(text: Option<String>, default: Duration) -> Result<Duration, Invalid> {
    let time = duration("stall_timeout", text, default)?;
    if time < MIN_STALL_TIMEOUT {
        let least = humantime::format_duration(MIN_STALL_TIMEOUT);
        return Err(Invalid::new(
            "stall_timeout",
            format!("is less than {least}; mirrors would take each other for dead"),
        ));
    }
    Ok(time)
}

fn writers(number: usize) -> Result<usize, Invalid> {
    match number {
        1..=MAX_WRITERS => Ok(number),
        _ => Err(Invalid::new(
            "extract_writers",
            format!("is {number}; write 1 to {MAX_WRITERS}, or leave it out"),
        )),
    }
}

/// Returns the endpoints of docker.io when none are configured.
pub(super) fn docker_hub_endpoints() -> Vec<Url> {
    Url::parse(DOCKER_HUB_ENDPOINT).into_iter().collect()
}

/// Tells whether a key of the `upstream` table means Docker Hub.
pub(super) fn is_docker_hub(host: &str) -> bool {
    RegistryHost::from_str(host).is_ok_and(|host| host.is_docker_hub())
}

fn upstreams(raw: BTreeMap<String, RawUpstream>) -> Result<BTreeMap<RegistryHost, Upstream>, Invalid> {
    let mut upstreams = BTreeMap::new();
    for (text, raw) in raw {
        let host: RegistryHost = text.parse().map_err(|error| {
            let remedy = "name the host as image names do, such as \"ghcr.io\" or \"registry.example:5000\"";
            Invalid::new(format!("upstream.\"{text}\""), format!("{error}; {remedy}"))
        })?;
        let upstream = upstream(&host, raw)?;
        if upstreams.insert(host.clone(), upstream).is_some() {
            return Err(Invalid::new(
                format!("upstream.\"{text}\""),
                format!("is {host} once more; keep one of the two tables"),
            ));
        }
    }
    upstreams.entry(RegistryHost::docker_hub()).or_default();
    Ok(upstreams)
}

fn upstream(host: &RegistryHost, raw: RawUpstream) -> Result<Upstream, Invalid> {
    let default = Upstream::default();
    let key = |name: &str| format!("upstream.\"{host}\".{name}");
    let endpoints_key = key("endpoints");
    let endpoints = match &raw.endpoints {
        Some(urls) if urls.is_empty() => {
            return Err(Invalid::new(
                endpoints_key,
                "is empty; list a URL, or leave the key out",
            ));
        }
        Some(urls) => urls
            .iter()
            .map(|url| endpoint(&endpoints_key, url))
            .collect::<Result<_, _>>()?,
        None if host.is_docker_hub() => default.endpoints,
        None => vec![endpoint(&endpoints_key, &format!("https://{host}"))?],
    };
    let credentials = credentials(
        &key,
        raw.username,
        (raw.password, raw.password_file),
        raw.docker_config,
    )?;
    let (client_certificate, client_key) = (raw.client_certificate, raw.client_key);
    match (&client_certificate, &client_key) {
        (Some(_), None) => return Err(Invalid::new(key("client_certificate"), NEEDS_CLIENT_KEY)),
        (None, Some(_)) => return Err(Invalid::new(key("client_key"), NEEDS_CLIENT_CERTIFICATE)),
        (Some(_), Some(_)) | (None, None) => {}
    }
    Ok(Upstream {
        endpoints,
        ca: path(&key("ca"), raw.ca)?,
        client_certificate: path(&key("client_certificate"), client_certificate)?,
        client_key: path(&key("client_key"), client_key)?,
        credentials,
        connect_timeout: timeout(
            &key("connect_timeout"),
            raw.connect_timeout,
            default.connect_timeout,
        )?,
        answer_timeout: timeout(&key("answer_timeout"), raw.answer_timeout, default.answer_timeout)?,
        idle_timeout: timeout(&key("idle_timeout"), raw.idle_timeout, default.idle_timeout)?,
        max_connections: count(
            &key("max_connections"),
            raw.max_connections,
            default.max_connections,
        )?,
        clients: clients(&key("clients"), &raw.clients.unwrap_or_default())?,
    })
}

const NEEDS_CLIENT_KEY: &str = "has no key; set client_key beside it";
const NEEDS_CLIENT_CERTIFICATE: &str = "has no certificate; set client_certificate beside it";

fn endpoint(key: &str, text: &str) -> Result<Url, Invalid> {
    let invalid = |shown: &str, why: &str| Invalid::new(key, format!("{shown:?} {why}"));
    let url = Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| {
            // What stands before an @ may be a password.
            let shown = text.rsplit('@').next().unwrap_or_default();
            invalid(shown, "is no http:// or https:// URL")
        })?;
    if !url.username().is_empty() || url.password().is_some() {
        let host = url.host_str().unwrap_or_default();
        return Err(invalid(
            host,
            "has a user in its URL; set username and password instead",
        ));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(invalid(
            text,
            "has more than a host and port; leave off what follows them, /v2 too",
        ));
    }
    Ok(url)
}

fn credentials(
    key: &impl Fn(&str) -> String,
    username: Option<String>,
    (password, password_file): (Option<super::Secret>, Option<PathBuf>),
    docker_config: Option<RawDockerConfig>,
) -> Result<Credentials, Invalid> {
    let docker_config = match docker_config {
        None | Some(RawDockerConfig::Default(false)) => None,
        Some(RawDockerConfig::Default(true)) => Some(None),
        Some(RawDockerConfig::File(file)) => Some(path(&key("docker_config"), Some(file))?),
    };
    let invalid = |name: &str, problem: &str| Err(Invalid::new(key(name), problem));
    match (username, password, password_file, docker_config) {
        (None, None, None, None) => Ok(Credentials::None),
        (None, None, None, Some(file)) => Ok(Credentials::DockerConfig(file)),
        (_, _, _, Some(_)) => invalid(
            "docker_config",
            "is set beside a username or password; keep one of them",
        ),
        (_, Some(_), Some(_), _) => invalid("password_file", "is set beside password; keep one of them"),
        (None, Some(_), ..) => invalid("password", "has no user; set username beside it"),
        (None, _, Some(_), _) => invalid("password_file", "has no user; set username beside it"),
        (Some(username), _, _, _) if username.is_empty() || username.contains(':') => {
            invalid("username", "is empty or has a colon, which no user name has")
        }
        (Some(username), Some(password), ..) => Ok(Credentials::Basic { username, password }),
        (Some(username), None, Some(path), None) => Ok(Credentials::PasswordFile { username, path }),
        (Some(_), None, None, None) => invalid(
            "username",
            "has no password; set password or password_file beside it",
        ),
    }
}

fn tls(raw: RawTls) -> Result<ServerTls, Invalid> {
    let certificate = path("tls.certificate", raw.certificate)?;
    let key = path("tls.key", raw.key)?;
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(ServerTls { certificate, key }),
        (Some(_), None) => Err(Invalid::new(
            "tls.certificate",
            "has no key; set tls.key beside it",
        )),
        (None, Some(_)) => Err(Invalid::new(
            "tls.key",
            "has no certificate; set tls.certificate beside it",
        )),
        (None, None) => Err(Invalid::new(
            "tls",
            "is empty; set certificate and key, or leave the table out",
        )),
    }
}

fn log(raw: RawLog) -> Result<Log, Invalid> {
    let default = Log::default();
    let format = match raw.format.as_deref() {
        None => default.format,
        Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(other) => {
            let problem = format!("{other:?} is no log format; write \"text\" or \"json\"");
            return Err(Invalid::new("log.format", problem));
        }
    };
    let level = raw.level.unwrap_or(default.level);
    Ok(Log {
        format,
        level: log_level(&level).map_err(|problem| Invalid::new("log.level", problem))?,
        access: raw.access.unwrap_or(default.access),
    })
}

/// Reads a log level or filter.
///
/// # Errors
/// Says what is wrong and what to write.
pub fn log_level(level: &str) -> Result<String, String> {
    // Such a word would be a filter: for a module of that name alone, so that nothing is logged.
    let is_lone_module =
        !level.contains(|c: char| ",=:[".contains(c)) && LevelFilter::from_str(level).is_err();
    if level.is_empty() || is_lone_module || EnvFilter::try_new(level).is_err() {
        let remedy =
            "write error, warn, info, debug or trace, or a filter such as \"info,wharf::upstream=debug\"";
        return Err(format!("{level:?} is no log level; {remedy}"));
    }
    Ok(level.to_owned())
}

fn access_rule((index, raw): (usize, RawAccessRule)) -> Result<AccessRule, Invalid> {
    let key = |name: &str| format!("access[{index}].{name}");
    if raw.repositories.is_empty() {
        return Err(Invalid::new(
            key("repositories"),
            "is empty; list a glob such as \"docker.io/acme/*\"",
        ));
    }
    if raw.clients.is_empty() {
        return Err(Invalid::new(
            key("clients"),
            "is empty; list who may ask, such as \"10.0.0.0/8\" or \"user:alice\"",
        ));
    }
    for text in &raw.repositories {
        check_names_repositories(&key("repositories"), text)?;
    }
    Ok(AccessRule {
        repositories: globs(&key("repositories"), &raw.repositories)?,
        clients: clients(&key("clients"), &raw.clients)?,
    })
}

/// A rule that can name nothing protects nothing, and nobody would notice.
fn check_names_repositories(key: &str, text: &str) -> Result<(), Invalid> {
    let named = |remedy: String| Invalid::new(key, format!("{text:?} names no repository; {remedy}"));
    if text.contains(char::is_uppercase) {
        return Err(named("write it in lower case".to_owned()));
    }
    let is_literal = |part: &str| !part.contains(['*', '?', '[', '{', '\\']);
    let Some((host, name)) = text.split_once('/') else {
        let remedy = "write HOST/NAME, such as \"docker.io/acme/*\"".to_owned();
        return if is_literal(text) {
            Err(named(remedy))
        } else {
            Ok(())
        };
    };
    let Ok(host) = host.parse::<RegistryHost>() else {
        let remedy = "write HOST/NAME, such as \"docker.io/acme/*\"".to_owned();
        return if is_literal(host) {
            Err(named(remedy))
        } else {
            Ok(())
        };
    };
    let full_name = match name.parse() {
        Ok(name) => Repository::new(host, name).to_string(),
        Err(_) if is_literal(name) => {
            return Err(named("its name is not one that repositories have".to_owned()));
        }
        Err(_) => format!("{host}/{name}"),
    };
    if full_name == text {
        return Ok(());
    }
    Err(named(format!("write {full_name:?}")))
}

/// A user can be known only through the htpasswd file: without it, naming one shuts everyone out.
fn check_users(config: &Config) -> Result<(), Invalid> {
    if config.htpasswd.is_some() {
        return Ok(());
    }
    let upstreams = config
        .upstreams
        .iter()
        .map(|(host, upstream)| (format!("upstream.\"{host}\".clients"), &upstream.clients));
    let rules = config.access.iter().enumerate();
    let rules = rules.map(|(index, rule)| (format!("access[{index}].clients"), &rule.clients));
    for (key, clients) in upstreams.chain(rules) {
        for client in clients {
            if let Client::User(name) = client {
                let problem = format!("names the user {name:?}; set htpasswd, or nobody can be that user");
                return Err(Invalid::new(key, problem));
            }
        }
    }
    Ok(())
}

fn clients(key: &str, texts: &[String]) -> Result<Vec<Client>, Invalid> {
    let parse = |text: &String| text.parse::<Client>();
    let clients: Result<Vec<_>, _> = texts.iter().map(parse).collect();
    clients.map_err(|error| Invalid::new(key, error.to_string()))
}

fn globs(key: &str, texts: &[String]) -> Result<GlobSet, Invalid> {
    let mut set = GlobSetBuilder::new();
    for text in texts {
        let glob = Glob::new(text).map_err(|error| {
            let problem = format!("{text:?} is no glob: {}; write * ? [a-z] {{a,b}}", error.kind());
            Invalid::new(key, problem)
        })?;
        set.add(glob);
    }
    set.build()
        .map_err(|error| Invalid::new(key, format!("the globs are too large together: {error}")))
}

fn address(key: &str, text: Option<String>, default: SocketAddr) -> Result<SocketAddr, Invalid> {
    let Some(text) = text else { return Ok(default) };
    text.parse().map_err(|_| {
        let remedy = "write an IP address and a port, such as \"0.0.0.0:5000\" or \"[::]:5000\"";
        Invalid::new(key, format!("{text:?} is no address to listen on; {remedy}"))
    })
}

fn duration(key: &str, text: Option<String>, default: Duration) -> Result<Duration, Invalid> {
    let Some(text) = text else { return Ok(default) };
    humantime::parse_duration(&text).map_err(|_| {
        let remedy = "write a number and a unit, such as \"500ms\", \"60s\" or \"5m\"";
        Invalid::new(key, format!("{text:?} is no duration; {remedy}"))
    })
}

fn timeout(key: &str, text: Option<String>, default: Duration) -> Result<Duration, Invalid> {
    let timeout = duration(key, text, default)?;
    if timeout.is_zero() {
        return Err(Invalid::new(
            key,
            "is zero, so everything would time out; write at least \"1ms\"",
        ));
    }
    Ok(timeout)
}

fn size(key: &str, text: Option<String>, default: u64) -> Result<u64, Invalid> {
    let Some(text) = text else { return Ok(default) };
    let size: ByteSize = text.parse().map_err(|_| {
        let remedy = "write a number and a unit, such as \"48MiB\"";
        Invalid::new(key, format!("{text:?} is no size; {remedy}"))
    })?;
    if size.as_u64() < MIN_BUFFER_MEMORY {
        let problem = format!("{text:?} is too small; write at least \"1MiB\"");
        return Err(Invalid::new(key, problem));
    }
    Ok(size.as_u64())
}

fn count(key: &str, number: Option<usize>, default: usize) -> Result<usize, Invalid> {
    match number {
        None => Ok(default),
        Some(0) => Err(Invalid::new(key, "is 0; write at least 1")),
        Some(number) => Ok(number),
    }
}

fn path(key: &str, path: Option<PathBuf>) -> Result<Option<PathBuf>, Invalid> {
    if path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        return Err(Invalid::new(key, "is empty; name a path, or leave it out"));
    }
    Ok(path)
}
