//! The htpasswd file: users and bcrypt hashes, one `name:hash` a line (`htpasswd -B`).

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use quick_cache::sync::Cache;
use tokio::sync::Semaphore;

use crate::oci::{Algorithm, Digest};

/// How many right passwords are remembered: bcrypt takes a tenth of a second each, on purpose.
const MAX_REMEMBERED: usize = 1024;

/// How many passwords are checked at a time; guessing must not take all cores.
const CHECKS_AT_A_TIME: usize = 2;

/// Why the file cannot be used. Each text says the remedy.
#[derive(Debug, thiserror::Error)]
pub enum OpenAccessError {
    #[error("cannot read htpasswd file {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("htpasswd file {} line {line}: {problem}; make it with: htpasswd -B", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        problem: &'static str,
    },
}

/// The users, as the file had them when it was last read.
pub(super) struct Htpasswd {
    path: PathBuf,
    users: RwLock<Arc<HashMap<String, String>>>,
    /// Digests over user, password and hash that have proved right.
    proved: Cache<Digest, ()>,
    checks: Semaphore,
}

impl Htpasswd {
    pub(super) fn open(path: &Path) -> Result<Self, OpenAccessError> {
        Ok(Self {
            users: RwLock::new(Arc::new(read(path)?)),
            path: path.to_owned(),
            proved: Cache::new(MAX_REMEMBERED),
            checks: Semaphore::new(CHECKS_AT_A_TIME),
        })
    }

    pub(super) fn reload(&self) -> Result<(), OpenAccessError> {
        let users = Arc::new(read(&self.path)?);
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = users;
        Ok(())
    }

    /// Tells whether that is the user's password.
    pub(super) async fn accepts(&self, user: &str, password: &str) -> bool {
        let users = Arc::clone(&self.users.read().unwrap_or_else(PoisonError::into_inner));
        let Some(hash) = users.get(user) else {
            return false;
        };
        let proof = Digest::of(
            Algorithm::Sha256,
            format!("{user}\0{password}\0{hash}").as_bytes(),
        );
        if self.proved.get(&proof).is_some() {
            return true;
        }
        let Ok(_turn) = self.checks.acquire().await else {
            return false;
        };
        let (password, hash) = (password.to_owned(), hash.clone());
        let checked = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash));
        let is_right = matches!(checked.await, Ok(Ok(true)));
        if is_right {
            self.proved.insert(proof, ());
        }
        is_right
    }
}

fn read(path: &Path) -> Result<HashMap<String, String>, OpenAccessError> {
    let text = std::fs::read_to_string(path).map_err(|source| OpenAccessError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut users = HashMap::new();
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |problem| OpenAccessError::Line {
            path: path.to_owned(),
            line: index + 1,
            problem,
        };
        let (user, hash) = line.split_once(':').ok_or_else(|| wrong("has no colon"))?;
        if user.is_empty() {
            return Err(wrong("has no user"));
        }
        if !["$2a$", "$2b$", "$2x$", "$2y$"]
            .iter()
            .any(|prefix| hash.starts_with(prefix))
        {
            return Err(wrong("has no bcrypt hash"));
        }
        users.insert(user.to_owned(), hash.to_owned());
    }
    Ok(users)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_user_is_known_by_his_password_until_the_file_changes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |password: &str| {
            let hash = bcrypt::hash(password, 4).unwrap();
            std::fs::write(file.path(), format!("# users\n\nalice:{hash}\n")).unwrap();
        };
        write("secret");
        let htpasswd = Htpasswd::open(file.path()).unwrap();
        for _ in 0..2 {
            assert!(htpasswd.accepts("alice", "secret").await);
            assert!(!htpasswd.accepts("alice", "wrong").await);
            assert!(!htpasswd.accepts("bob", "secret").await);
        }
        write("changed");
        htpasswd.reload().unwrap();
        assert!(htpasswd.accepts("alice", "changed").await);
        assert!(!htpasswd.accepts("alice", "secret").await);
        std::fs::write(file.path(), "alice:plain").unwrap();
        let error = htpasswd.reload().unwrap_err().to_string();
        assert!(error.contains("line 1: has no bcrypt hash"), "{error}");
        assert!(htpasswd.accepts("alice", "changed").await);
    }
}
