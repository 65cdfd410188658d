//! A relay in front of a registry that counts what passes, and can slow it down.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What has passed. Its threads end with their connections, or with the process.
#[derive(Default)]
pub struct Counts {
    pub blob_gets: AtomicU64,
    pub bytes: AtomicU64,
    /// When the last bytes were passed on.
    pub last: Mutex<Option<Instant>>,
}

/// Starts to relay to `target`, at most at `bytes_per_second` a connection if that is set.
pub fn start(target: SocketAddr, bytes_per_second: Option<u64>) -> anyhow::Result<(SocketAddr, Arc<Counts>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (address, counts) = (listener.local_addr()?, Arc::<Counts>::default());
    let counting = Arc::clone(&counts);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            if let Ok(server) = TcpStream::connect(target) {
                relay(&client, &server, &counting, bytes_per_second);
            }
        }
    });
    Ok((address, counts))
}

fn relay(client: &TcpStream, server: &TcpStream, counts: &Arc<Counts>, rate: Option<u64>) {
    let clones = (
        client.try_clone(),
        server.try_clone(),
        client.try_clone(),
        server.try_clone(),
    );
    let (Ok(from_client), Ok(to_server), Ok(to_client), Ok(from_server)) = clones else {
        return;
    };
    let (asked, answered) = (Arc::clone(counts), Arc::clone(counts));
    std::thread::spawn(move || {
        copy(from_client, to_server, |bytes| {
            // A request of wharf's fits into one read: the relay is on the same machine.
            if bytes.starts_with(b"GET ") && bytes.windows(7).any(|window| window == b"/blobs/") {
                asked.blob_gets.fetch_add(1, Ordering::SeqCst);
            }
        });
    });
    std::thread::spawn(move || {
        copy(from_server, to_client, |bytes| {
            answered.bytes.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            *answered.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            if let Some(rate) = rate {
                std::thread::sleep(Duration::from_micros(bytes.len() as u64 * 1_000_000 / rate));
            }
        });
    });
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut note: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 256 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        note(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // Whoever has closed already is not there to be told.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
