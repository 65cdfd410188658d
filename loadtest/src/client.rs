//! An HTTP/1.1 client that costs next to nothing: one socket, one buffer, no parsing beyond the headers.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// A read of this size is large enough for the servers to be what is measured.
const BUFFER_BYTES: usize = 1 << 20;

/// A connection that asks again and again.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

/// An answer whose body has not been read.
pub struct Head {
    pub status: u16,
    pub length: u64,
}

/// A download that has ended.
pub struct Download {
    pub bytes: u64,
    /// When the first byte of the body came.
    pub first_byte: Instant,
    pub ended: Instant,
}

/// Writes a request for a path; manifests of any type are accepted.
pub fn request(address: SocketAddr, path: &str) -> Vec<u8> {
    let accept = "application/vnd.oci.image.manifest.v1+json, application/octet-stream";
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n").into_bytes()
}

impl Connection {
    pub fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; BUFFER_BYTES],
            filled: 0,
        })
    }

    pub fn send(&mut self, request: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(request)?)
    }

    /// Reads an answer's headers; what has come of the body stays in the buffer.
    pub fn head(&mut self) -> anyhow::Result<Head> {
        let mut end = None;
        while end.is_none() {
            self.fill()?;
            let come = &self.buffer[..self.filled];
            end = come.windows(4).position(|window| window == b"\r\n\r\n");
        }
        let end = end.context("no headers")? + 4;
        let head = parse(&self.buffer[..end])?;
        self.buffer.copy_within(end..self.filled, 0);
        self.filled -= end;
        Ok(head)
    }

    /// Reads up to `length` bytes of the body, and forgets them; returns when the first one came.
    pub fn skip(&mut self, length: u64) -> anyhow::Result<Instant> {
        let mut first = None;
        let mut rest = length;
        while rest > 0 {
            if self.filled == 0 {
                self.fill()?;
            }
            first.get_or_insert_with(Instant::now);
            let taken = rest.min(self.filled as u64);
            rest -= taken;
            // What follows belongs to the next answer.
            self.buffer.copy_within(taken as usize..self.filled, 0);
            self.filled -= taken as usize;
        }
        Ok(first.unwrap_or_else(Instant::now))
    }

    /// Asks for a path, and reads the whole body.
    pub fn download(&mut self, request: &[u8]) -> anyhow::Result<Download> {
        self.send(request)?;
        let head = self.head()?;
        if head.status != 200 {
            bail!("status {} for {}", head.status, String::from_utf8_lossy(request));
        }
        let first_byte = self.skip(head.length)?;
        Ok(Download {
            bytes: head.length,
            first_byte,
            ended: Instant::now(),
        })
    }

    fn fill(&mut self) -> anyhow::Result<()> {
        match self.stream.read(&mut self.buffer[self.filled..])? {
            0 => bail!("the server has cut the connection"),
            count => self.filled += count,
        }
        Ok(())
    }
}

fn parse(head: &[u8]) -> anyhow::Result<Head> {
    let head = std::str::from_utf8(head)?;
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .context("no status")?
        .parse()?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .context("no Content-Length")?;
    Ok(Head {
        status,
        length: length.1.trim().parse()?,
    })
}
