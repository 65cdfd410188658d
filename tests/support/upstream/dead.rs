//! Hosts that are no help: one that does not answer a connection, one that
//! takes it and says nothing, one that refuses it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

/// A dead host.
pub struct Dead {
    address: SocketAddr,
    _listener: TcpListener,
    /// What fills the backlog.
    _waiting: Vec<TcpStream>,
}

impl Dead {
    /// A host that takes connections and never says anything.
    pub fn silent() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        Self {
            address: listener.local_addr().expect("an address"),
            _listener: listener,
            _waiting: Vec::new(),
        }
    }

    /// A host that connecting to never ends, as if packets were dropped on the way: its backlog is full.
    pub fn unreachable() -> Self {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("bind");
        listen(&socket, 0).expect("listen");
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().expect("an address");
        // A backlog of 0 has room for one on Linux.
        let waiting = TcpStream::connect(address).expect("fill the backlog");
        Self {
            address,
            _listener: listener,
            _waiting: vec![waiting],
        }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Returns an address that refuses connections.
pub fn refusing_address() -> SocketAddr {
    crate::support::process::free_address()
}
