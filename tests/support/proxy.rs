//! A forward proxy that tunnels (`CONNECT`) and remembers where to.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::wire::read_head;

/// A running proxy; its threads end with their connections, or with the test's process.
pub struct Proxy {
    address: SocketAddr,
    targets: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts a proxy that connects to where it is asked to.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts a proxy that connects to `server`, wherever it is asked to.
    pub fn start_to(server: SocketAddr) -> Self {
        Self::start_with(Some(server))
    }

    fn start_with(server: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a proxy");
        let proxy = Self {
            address: listener.local_addr().expect("an address"),
            targets: Arc::default(),
        };
        let targets = Arc::clone(&proxy.targets);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let targets = Arc::clone(&targets);
                // Whoever closes first ends the tunnel: no failure of the proxy's.
                std::thread::spawn(move || tunnel(client, server, &targets));
            }
        });
        proxy
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it was asked to connect to, in order.
    pub fn targets(&self) -> Vec<String> {
        self.targets.lock().expect("no panic").clone()
    }
}

fn tunnel(client: TcpStream, server: Option<SocketAddr>, targets: &Mutex<Vec<String>>) -> io::Result<()> {
    // One byte at a time: what follows the head belongs to the tunnel.
    let head = read_head(&mut BufReader::with_capacity(1, client.try_clone()?))?;
    let head = head.ok_or(io::ErrorKind::UnexpectedEof)?;
    let target = head.first_line.split(' ').nth(1).unwrap_or_default().to_owned();
    targets.lock().expect("no panic").push(target.clone());
    let server = match server {
        Some(server) => TcpStream::connect(server)?,
        None => TcpStream::connect(&target)?,
    };
    (&client).write_all(b"HTTP/1.1 200 Tunnel\r\n\r\n")?;
    let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || copy(from_client, to_server));
    copy(server, client)
}

fn copy(mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
    io::copy(&mut from, &mut to)?;
    to.shutdown(Shutdown::Write)
}
