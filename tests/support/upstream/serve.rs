//! Sockets: accepts connections, reads requests, and sends answers as the script says.

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::{ServerConnection, StreamOwned};

use crate::support::wire::{Connection, Duplex, read_head, write_head};

use super::Shared;
use super::answer::Reply;
use super::record::Asked;
use super::script::{Length, Then};

/// How many bytes are sent at a time.
const PIECE: usize = 16 << 10;
/// How long the other side may take to send or to take something.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a listener answers.
pub(super) type Answer = fn(&Shared, &Asked, &Then) -> Reply;

/// A thread that accepts connections; it ends when this is dropped.
pub(super) struct Listener {
    address: SocketAddr,
    stops: Arc<AtomicBool>,
}

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Request,
    Close,
}

pub(super) fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("bind an upstream")
}

impl Listener {
    pub(super) fn start(listener: TcpListener, shared: Arc<Shared>, answer: Answer) -> Self {
        let address = listener.local_addr().expect("an address");
        let stops = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stops);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(&shared, socket, answer));
            }
        });
        Self { address, stops }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::SeqCst);
        // Wakes the thread; if it cannot be reached, it has ended.
        let _ = TcpStream::connect(self.address);
    }
}

/// Serves a connection to its end.
fn serve(shared: &Shared, socket: TcpStream, answer: Answer) {
    let number = {
        let mut state = shared.state();
        if state.settings.is_down {
            return;
        }
        state
            .record
            .connected(socket.try_clone().expect("clone a socket"))
    };
    // The other side may leave at any moment: that is no failure of the upstream's.
    let _ = serve_requests(shared, socket, answer);
    shared.state().record.disconnected(number);
}

fn serve_requests(shared: &Shared, socket: TcpStream, answer: Answer) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let stream: Box<dyn Duplex> = match &shared.tls {
        None => Box::new(socket),
        Some(config) => {
            let session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
            Box::new(StreamOwned::new(session, socket))
        }
    };
    let mut connection: Connection = BufReader::new(stream);
    while let Some(head) = read_head(&mut connection)? {
        let mut words = head.first_line.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let asked = Asked::new(method, target, head.headers);
        let mut exchange = Exchange::start(shared, &asked);
        if exchange.respond(answer, connection.get_mut())? == Next::Close {
            break;
        }
    }
    Ok(())
}

/// One request and its answer.
struct Exchange<'a> {
    shared: &'a Shared,
    asked: &'a Asked,
    request: usize,
    has_ended: bool,
}

impl<'a> Exchange<'a> {
    fn start(shared: &'a Shared, asked: &'a Asked) -> Self {
        Self {
            shared,
            asked,
            request: shared.state().record.arrived(asked.clone()),
            has_ended: false,
        }
    }

    fn respond(&mut self, answer: Answer, out: &mut impl Write) -> io::Result<Next> {
        let then = self.shared.state().script.play(self.asked);
        if let Some(gate) = &then.hold {
            gate.pass();
        }
        if then.hangs_up {
            return Ok(Next::Close);
        }
        let mut reply = match then.status {
            Some(status) => Reply::error(status, "SCRIPTED"),
            None => answer(self.shared, self.asked, &then),
        };
        for (name, value) in &then.headers {
            reply = reply.header(name, value);
        }
        self.shared.state().record.answered(self.request, reply.status);
        let has_body = self.asked.method != "HEAD";
        if !has_body || reply.part.is_empty() {
            self.end();
        }
        send_head(&mut reply, then.length, out)?;
        if !has_body {
            return Ok(Next::Request);
        }
        self.send_body(&reply, &then, out)
    }

    fn send_body(&mut self, reply: &Reply, then: &Then, out: &mut impl Write) -> io::Result<Next> {
        let body = body_of(reply, then);
        let end = then.truncate.unwrap_or(body.len()).min(body.len());
        let pause = then.pause.as_ref();
        let mut sent = 0;
        loop {
            if let Some((_, gate)) = pause.filter(|(after, _)| *after == sent) {
                gate.pass();
            }
            if sent == end {
                break;
            }
            let next_pause = pause.map(|(after, _)| *after).filter(|after| *after > sent);
            let piece = &body[sent..end.min(sent + PIECE).min(next_pause.unwrap_or(end))];
            sent += piece.len();
            if sent == end {
                self.end();
            }
            send_piece(piece, then, out)?;
            if let Some(digest) = &reply.digest {
                self.shared.state().record.sent(digest, piece.len());
            }
        }
        if end < body.len() || matches!(then.length, Length::Off(_)) {
            return Ok(Next::Close);
        }
        if then.length == Length::Absent {
            out.write_all(b"0\r\n\r\n")?;
            out.flush()?;
        }
        Ok(Next::Request)
    }

    /// Counts as over from before the last byte on: who has that byte may ask again at once.
    fn end(&mut self) {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.shared.state().record.ended(self.request);
        }
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

fn send_head(reply: &mut Reply, length: Length, out: &mut impl Write) -> io::Result<()> {
    let (name, value) = match length {
        Length::True => ("content-length", reply.part.len().to_string()),
        Length::Off(by) => {
            let length = reply.part.len().saturating_add_signed(by);
            ("content-length", length.to_string())
        }
        Length::Absent => ("transfer-encoding", "chunked".to_owned()),
    };
    reply.headers.push((name.to_owned(), value));
    let first_line = format!("HTTP/1.1 {} Scripted", reply.status);
    write_head(out, &first_line, &reply.headers)
}

/// The bytes that are to be sent, right or wrong.
fn body_of(reply: &Reply, then: &Then) -> Vec<u8> {
    let mut body = reply.body[reply.part.clone()].to_vec();
    let corrupt = then
        .corrupt
        .and_then(|offset| offset.checked_sub(reply.part.start));
    if let Some(byte) = corrupt.and_then(|offset| body.get_mut(offset)) {
        *byte ^= 0xff;
    }
    body
}

fn send_piece(piece: &[u8], then: &Then, out: &mut impl Write) -> io::Result<()> {
    if let Some(rate) = then.bytes_per_second {
        std::thread::sleep(Duration::from_secs_f64(piece.len() as f64 / rate as f64));
    }
    if then.length == Length::Absent {
        write!(out, "{:x}\r\n", piece.len())?;
    }
    out.write_all(piece)?;
    if then.length == Length::Absent {
        out.write_all(b"\r\n")?;
    }
    out.flush()
}
