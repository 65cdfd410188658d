//! HTTP/1.1 as bytes, for a client and an upstream that must be able to do wrong on purpose.

use std::io::{self, BufRead, BufReader, Read, Write};

/// A connection, plain or TLS.
pub trait Duplex: Read + Write + Send {}
impl<T: Read + Write + Send> Duplex for T {}

/// A connection that is read by lines.
pub type Connection = BufReader<Box<dyn Duplex>>;

/// Names in lower case, and values, in the order of their lines.
pub type Headers = Vec<(String, String)>;

/// A message's first line and headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub first_line: String,
    pub headers: Headers,
}

/// Returns the first header of that name, which is in lower case.
pub fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    let found = headers.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.as_str())
}

/// Reads a head; `None` if the connection ends before one begins.
pub fn read_head(connection: &mut impl BufRead) -> io::Result<Option<Head>> {
    let Some(first_line) = read_line(connection)? else {
        return Ok(None);
    };
    let mut headers = Headers::new();
    while let Some(line) = read_line(connection)? {
        if line.is_empty() {
            return Ok(Some(Head { first_line, headers }));
        }
        let (key, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
        headers.push((key.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Reads a line without its end; `None` if the connection ends before one begins.
pub fn read_line(connection: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    connection.read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    let text = line.strip_suffix(b"\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(Some(String::from_utf8_lossy(text).into_owned()))
}

/// Writes a head.
pub fn write_head(connection: &mut impl Write, first_line: &str, headers: &Headers) -> io::Result<()> {
    let mut text = format!("{first_line}\r\n");
    for (key, value) in headers {
        text += &format!("{key}: {value}\r\n");
    }
    text += "\r\n";
    connection.write_all(text.as_bytes())?;
    connection.flush()
}
