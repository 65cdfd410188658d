//! The calls by which mirrors of one store agree: names that appear, and nothing that is locked or overwritten.
//!
//! An interface, so that the same code runs over a file system that a test makes hang, lag and reorder.

use std::path::Path;

use super::{Disk, FsError, FsErrorKind, StagedFile};

/// The calls. Each ends: a file system that hangs is an error ([`FsErrorKind::Timeout`]), and the call may still happen later.
pub trait Calls: Clone + Send + Sync + 'static {
    /// Makes a directory in one that is there; `false` if its name is taken.
    ///
    /// Of all who try at the same time one makes it (mkdir(2); facts/dfs.md 2).
    ///
    /// # Errors
    /// Any errno but EEXIST.
    fn make_dir(&self, path: &Path) -> impl Future<Output = Result<bool, FsError>> + Send;

    /// Makes an empty file, whose name says all; one that is there stays.
    ///
    /// # Errors
    /// Any errno but EEXIST.
    fn make_name(&self, path: &Path) -> impl Future<Output = Result<(), FsError>> + Send;

    /// Makes a file that appears with all its content; one that is there is replaced. It is written at `staged` first, a
    /// name that is free.
    ///
    /// # Errors
    /// Any errno.
    fn put(
        &self,
        path: &Path,
        staged: &Path,
        content: Vec<u8>,
    ) -> impl Future<Output = Result<(), FsError>> + Send;

    /// Returns the names in a directory; none if it is not there.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    fn list(&self, path: &Path) -> impl Future<Output = Result<Vec<String>, FsError>> + Send;

    /// Reads a small file; `None` if it is not there.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    fn read(&self, path: &Path) -> impl Future<Output = Result<Option<Vec<u8>>, FsError>> + Send;

    /// Gives a directory another name, which is free.
    ///
    /// # Errors
    /// Any errno, ENOENT too.
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = Result<(), FsError>> + Send;

    /// Removes a file; that it is gone already is fine.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    fn remove(&self, path: &Path) -> impl Future<Output = Result<(), FsError>> + Send;

    /// Removes a directory with all that is in it; that it is gone already is fine.
    ///
    /// # Errors
    /// Any errno but ENOENT.
    fn remove_tree(&self, path: &Path) -> impl Future<Output = Result<(), FsError>> + Send;
}

impl Calls for Disk {
    async fn make_dir(&self, path: &Path) -> Result<bool, FsError> {
        let wanted = path.to_owned();
        let made = self.run("make directory", path, move || super::make_new_dir(&wanted));
        unless_taken(made.await)
    }

    async fn make_name(&self, path: &Path) -> Result<(), FsError> {
        let wanted = path.to_owned();
        let made = self.run("create", path, move || super::create_new(&wanted, b""));
        unless_taken(made.await).map(drop)
    }

    async fn put(&self, path: &Path, staged: &Path, content: Vec<u8>) -> Result<(), FsError> {
        let (target, staged) = (path.to_owned(), staged.to_owned());
        let put = self.run("write", path, move || {
            let mut file = StagedFile::create(staged)?;
            file.write(&[content])?;
            file.replace(&target).map(drop)
        });
        put.await
    }

    async fn list(&self, path: &Path) -> Result<Vec<String>, FsError> {
        let wanted = path.to_owned();
        self.run("list", path, move || super::list(&wanted)).await
    }

    async fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, FsError> {
        let wanted = path.to_owned();
        self.run("read", path, move || super::read(&wanted)).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> Result<(), FsError> {
        let (old, new) = (from.to_owned(), to.to_owned());
        let renamed = self.run("rename", from, move || {
            std::fs::rename(&old, &new).map_err(|source| FsError::new("rename", &old, source))
        });
        renamed.await
    }

    async fn remove(&self, path: &Path) -> Result<(), FsError> {
        let wanted = path.to_owned();
        self.run("remove", path, move || super::remove(&wanted)).await
    }

    async fn remove_tree(&self, path: &Path) -> Result<(), FsError> {
        let wanted = path.to_owned();
        self.run("remove", path, move || super::remove_tree(&wanted))
            .await
    }
}

fn unless_taken(made: Result<(), FsError>) -> Result<bool, FsError> {
    match made {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == FsErrorKind::Exists => Ok(false),
        Err(error) => Err(error),
    }
}
