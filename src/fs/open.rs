//! An open file that async code may drop.

use std::fs::File;
use std::ops::Deref;

use tokio::runtime::Handle;

/// An open file that is closed off the async threads.
///
/// close(2) waits for the file server on NFS and on most of FUSE, and so hangs when that is gone; the
/// last close of a file without a name waits until its room is freed.
#[derive(Debug)]
pub struct OpenFile(Option<File>);

impl From<File> for OpenFile {
    fn from(file: File) -> Self {
        Self(Some(file))
    }
}

impl Deref for OpenFile {
    type Target = File;

    fn deref(&self) -> &File {
        match &self.0 {
            Some(file) => file,
            None => unreachable!("it is taken out by drop alone"),
        }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let Some(file) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn_blocking(move || drop(file));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_file_is_closed_by_a_blocking_thread() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        let file = OpenFile::from(tempfile::tempfile().unwrap());
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let target = std::fs::read_link(&link).unwrap();
        let (release, wait) = mpsc::channel::<()>();
        runtime.block_on(async {
            let busy = tokio::task::spawn_blocking(move || wait.recv().is_err());
            drop(file);
            let still = std::fs::read_link(&link).unwrap();
            assert_eq!(still, target, "it is open as long as that thread is busy");
            drop(release);
            assert!(busy.await.unwrap());
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        });
        assert!(std::fs::read_link(&link).map_or(true, |other| other != target));
    }
}
