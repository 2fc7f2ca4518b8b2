//! The least of an HTTP client, to ask servers inside a namespace.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::netns::Namespace;

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a server has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, as they were sent.
    pub head: String,
    /// The page.
    pub body: String,
}

/// Asks for a page, with these headers.
pub fn get(namespace: &Namespace, server: SocketAddr, path: &str, headers: &str) -> Result<Answer> {
    request(namespace, server, "GET", path, headers)
}

/// Asks with any method.
pub fn request(
    namespace: &Namespace,
    server: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
) -> Result<Answer> {
    let stream = namespace.run(|| Ok(TcpStream::connect_timeout(&server, PATIENCE)?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(stream, method, path, headers).with_context(|| format!("{method} {server}{path}"))
}

/// Asks by a Unix socket.
pub fn get_unix(socket: &Path, path: &str) -> Result<Answer> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(stream, "GET", path, "").with_context(|| format!("{}: {path}", socket.display()))
}

/// HTTP 1.0: the page ends with the connection.
fn exchange(mut stream: impl Read + Write, method: &str, path: &str, headers: &str) -> Result<Answer> {
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1."), "no HTTP: {head}");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
