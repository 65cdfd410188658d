//! A relay in front of the registry that passes its answers on slowly, so that a
//! test can act in the middle of a transfer without a race.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many bytes are passed on at a time.
const PIECE: usize = 64 << 10;

/// A relay; its threads end with their connections, or with the test's process.
pub struct Throttle {
    address: SocketAddr,
    bytes_per_second: Arc<AtomicU64>,
}

impl Throttle {
    /// Relays to `target`, each connection at most at `bytes_per_second`.
    pub fn start(target: SocketAddr, bytes_per_second: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a relay");
        let address = listener.local_addr().expect("an address");
        let rate = Arc::new(AtomicU64::new(bytes_per_second));
        let throttle = Self {
            address,
            bytes_per_second: Arc::clone(&rate),
        };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // The registry may be gone: then the client's connection just closes.
                if let Ok(server) = TcpStream::connect(target) {
                    relay(&client, &server, &rate);
                }
            }
        });
        throttle
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the rate, of connections that are open too.
    pub fn set_rate(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }
}

fn relay(client: &TcpStream, server: &TcpStream, rate: &Arc<AtomicU64>) {
    let clone = |stream: &TcpStream| stream.try_clone().expect("clone a socket");
    let (from_client, to_server) = (clone(client), clone(server));
    let (from_server, to_client, rate) = (clone(server), clone(client), Arc::clone(rate));
    std::thread::spawn(move || copy(from_client, to_server, None));
    std::thread::spawn(move || copy(from_server, to_client, Some(&rate)));
}

fn copy(mut from: TcpStream, mut to: TcpStream, rate: Option<&AtomicU64>) {
    let mut buffer = vec![0; PIECE];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || to.write_all(&buffer[..length]).is_err() {
            break;
        }
        if let Some(rate) = rate {
            let rate = rate.load(Ordering::Relaxed).max(1);
            std::thread::sleep(Duration::from_micros(length as u64 * 1_000_000 / rate));
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
