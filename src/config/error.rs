//! What is wrong with a configuration, as one line: where, which key, what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why there is no valid configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("cannot read configuration file {}", .path.display())]
    Read {
        /// The file named by `--config` or `WHARF_CONFIG`.
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The text is no TOML, or has a key or a type that wharf does not know.
    #[error("{origin}: line {line}: {}{problem}", .key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default())]
    Syntax {
        /// Where the text is from.
        origin: Origin,
        /// The line, counted from 1.
        line: usize,
        /// The dotted path of the key, where there is one.
        key: Option<String>,
        /// What is wrong, and the remedy.
        problem: String,
    },
    /// A key has a value that cannot be used.
    #[error("{origin}: {key}: {problem}")]
    Value {
        /// Where the value is from.
        origin: Origin,
        /// The dotted path of the key.
        key: String,
        /// What is wrong, and the remedy.
        problem: String,
    },
}

/// Where a value of the configuration is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// A flag, or the variable that stands for it.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("defaults"),
            Self::File(path) => path.display().fmt(f),
            Self::Flag(name) => {
                let variable = name.trim_start_matches('-').to_uppercase().replace('-', "_");
                write!(f, "{name} (or WHARF_{variable})")
            }
        }
    }
}

/// A key whose value cannot be used; which file or flag it is from is added on the way out.
#[derive(Debug)]
pub(super) struct Invalid {
    pub(super) key: String,
    pub(super) problem: String,
}

impl Invalid {
    /// Says of `key` that `problem`.
    pub(super) fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            problem: problem.into(),
        }
    }
}
