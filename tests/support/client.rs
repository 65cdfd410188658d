//! A client that does exactly what a test says: sends any lines, reads byte by
//! byte, leaves midway, and tells a body that ends from one that is cut.

use std::fmt;
use std::io::{self, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::curl::Answer;
use super::wire::{Connection, Duplex, Head, Headers, header, read_head, read_line, write_head};

/// How long a client waits for the next byte.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request that is to be made.
#[derive(Clone)]
pub struct Request {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    method: String,
    target: String,
    headers: Headers,
    body: Vec<u8>,
}

/// A request that is sent and not answered yet.
pub struct Asked {
    method: String,
    connection: Connection,
}

/// An answer whose head has arrived.
pub struct Response {
    pub status: u16,
    pub headers: Headers,
    body: Framing,
    connection: Connection,
}

/// What arrived of an answer that did not end as it should.
#[derive(Debug)]
pub struct Cut {
    /// What was answered, with the part of the body that arrived; none if no head came.
    pub answer: Option<Answer>,
    pub error: io::Error,
}

/// How a body tells its end.
enum Framing {
    Length(u64),
    /// Bytes left of the chunk.
    Chunked(u64),
    Ended,
}

impl Request {
    /// Asks for a path by GET.
    pub fn get(address: SocketAddr, target: &str) -> Self {
        Self {
            address,
            tls: None,
            method: "GET".to_owned(),
            target: target.to_owned(),
            headers: vec![("host".to_owned(), address.to_string())],
            body: Vec::new(),
        }
    }

    /// Uses another method.
    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    /// Sends a header line, after those of the same name.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends a body.
    pub fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self.header("content-length", &body.len().to_string())
    }

    /// Asks for a range.
    pub fn range(self, range: &str) -> Self {
        self.header("range", &format!("bytes={range}"))
    }

    /// Sends `Authorization: Basic`.
    pub fn basic(self, user: &str, password: &str) -> Self {
        self.header("authorization", &basic(user, password))
    }

    /// Speaks TLS.
    pub fn tls(mut self, config: &Arc<ClientConfig>) -> Self {
        self.tls = Some(Arc::clone(config));
        self
    }

    /// Asks, and returns the whole answer; panics if it is cut.
    pub fn send(self) -> Answer {
        let shown = format!("{} {}", self.method, self.target);
        self.try_send().unwrap_or_else(|cut| panic!("{shown}: {cut}"))
    }

    /// Asks, and returns the whole answer.
    pub fn try_send(self) -> Result<Answer, Cut> {
        self.try_open()?.end()
    }

    /// Asks, and returns once the head has arrived; panics if none comes.
    pub fn open(self) -> Response {
        let shown = format!("{} {}", self.method, self.target);
        self.try_open().unwrap_or_else(|cut| panic!("{shown}: {cut}"))
    }

    /// Asks, and returns once the head has arrived.
    pub fn try_open(self) -> Result<Response, Cut> {
        self.ask()
            .and_then(Asked::answer)
            .map_err(|error| Cut { answer: None, error })
    }

    /// Asks, and returns once that is sent; panics if it cannot be.
    pub fn start(self) -> Asked {
        self.ask().expect("send a request")
    }

    fn ask(self) -> io::Result<Asked> {
        let mut connection = connect(self.address, self.tls)?;
        let first_line = format!("{} {} HTTP/1.1", self.method, self.target);
        write_head(connection.get_mut(), &first_line, &self.headers)?;
        connection.get_mut().write_all(&self.body)?;
        Ok(Asked {
            method: self.method,
            connection,
        })
    }
}

impl Asked {
    /// Returns the whole answer; panics if it is cut.
    pub fn end(self) -> Answer {
        let response = self.answer().expect("an answer");
        response.end().unwrap_or_else(|cut| panic!("{cut}"))
    }

    fn answer(mut self) -> io::Result<Response> {
        let head = read_head(&mut self.connection)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Response::new(&self.method, head, self.connection)
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.answer {
            None => write!(f, "no answer: {}", self.error),
            Some(answer) => write!(
                f,
                "{} cut after {} bytes: {}",
                answer.status,
                answer.body.len(),
                self.error
            ),
        }
    }
}

impl Response {
    fn new(method: &str, head: Head, connection: Connection) -> io::Result<Self> {
        let status = head.first_line.split(' ').nth(1);
        let status = status
            .and_then(|text| text.parse().ok())
            .ok_or(io::ErrorKind::InvalidData)?;
        let has_no_body = method == "HEAD" || matches!(status, 204 | 304);
        let length = header(&head.headers, "content-length").map(str::parse);
        let body = match (has_no_body, length) {
            (true, _) => Framing::Ended,
            (false, Some(length)) => Framing::Length(length.map_err(io::Error::other)?),
            (false, None) if header(&head.headers, "transfer-encoding") == Some("chunked") => {
                Framing::Chunked(0)
            }
            // A body that ends with its connection cannot be told from one that is cut.
            (false, None) => return Err(io::Error::other(format!("no length: {head:?}"))),
        };
        Ok(Self {
            status,
            headers: head.headers,
            body,
            connection,
        })
    }

    /// Returns the first header of that name, which is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// Reads exactly `count` bytes of the body; panics if it ends before.
    pub fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let more = self.read_some(count - bytes.len()).expect("more of the body");
            assert!(
                !more.is_empty(),
                "the body ends after {} of {count} bytes",
                bytes.len()
            );
            bytes.extend(more);
        }
        bytes
    }

    /// Reads the rest of the body.
    pub fn end(mut self) -> Result<Answer, Cut> {
        let mut body = Vec::new();
        let error = loop {
            match self.read_some(1 << 16) {
                Ok(more) if more.is_empty() => break None,
                Ok(more) => body.extend(more),
                Err(error) => break Some(error),
            }
        };
        let answer = Answer {
            status: self.status,
            headers: self.headers,
            body,
        };
        match error {
            None => Ok(answer),
            Some(error) => Err(Cut {
                answer: Some(answer),
                error,
            }),
        }
    }

    /// Reads up to `limit` bytes; none at the body's end.
    pub fn read_some(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        let left = match &mut self.body {
            Framing::Ended | Framing::Length(0) => return Ok(Vec::new()),
            Framing::Length(left) => left,
            Framing::Chunked(left) => {
                if *left == 0 {
                    *left = read_chunk_head(&mut self.connection)?;
                }
                if *left == 0 {
                    read_line(&mut self.connection)?.ok_or(io::ErrorKind::UnexpectedEof)?;
                    self.body = Framing::Ended;
                    return Ok(Vec::new());
                }
                left
            }
        };
        let mut buffer = vec![0; limit.min(usize::try_from(*left).unwrap_or(limit))];
        let length = self.connection.read(&mut buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.truncate(length);
        *left -= length as u64;
        if let Framing::Chunked(0) = self.body {
            read_line(&mut self.connection)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        }
        Ok(buffer)
    }
}

/// Returns the value of `Authorization` for a user.
pub fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {encoded}")
}

/// Sends bytes as they are, and returns whatever comes until the other side ends.
pub fn send_raw(address: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut connection = connect(address, None)?;
    connection.get_mut().write_all(bytes)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    Ok(answer)
}

fn connect(address: SocketAddr, tls: Option<Arc<ClientConfig>>) -> io::Result<Connection> {
    let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let stream: Box<dyn Duplex> = match tls {
        None => Box::new(socket),
        Some(config) => {
            let name = ServerName::from(address.ip());
            let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
            Box::new(StreamOwned::new(session, socket))
        }
    };
    // Nothing is read ahead, so that a client which reads one byte takes one byte.
    Ok(BufReader::with_capacity(1, stream))
}

fn read_chunk_head(connection: &mut Connection) -> io::Result<u64> {
    let line = read_line(connection)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let size = line.split(';').next().unwrap_or_default();
    u64::from_str_radix(size, 16).map_err(io::Error::other)
}
