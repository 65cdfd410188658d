//! stub
use std::os::unix::net::UnixListener;
use std::path::Path;
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let _ = std::fs::remove_file(path);
    Ok(UnixListener::bind(path)?)
}
