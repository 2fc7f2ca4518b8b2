//! The socket that metrics are served at.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{fs::FileTypeExt as _, net::UnixStream},
    path::{Path, PathBuf},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
};

use crate::model::listen::Listen;

/// A socket that listens.
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Dropped with it.
        _file: OwnFile,
    },
}

/// A client's connection, by whatever it came.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// The file of a Unix socket, which goes with it.
pub(super) struct OwnFile(PathBuf);

impl Drop for OwnFile {
    fn drop(&mut self) {
        // Whatever is wrong with it, the next one that listens here puts it right or says so.
        let _ = fs::remove_file(&self.0);
    }
}

impl Socket {
    /// Listens there.
    pub(super) async fn bind(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp),
            Listen::Unix(path) => {
                remove_left(path)?;
                let listener = UnixListener::bind(path)?;
                Ok(Self::Unix { listener, _file: OwnFile(path.clone()) })
            }
        }
    }

    /// The next client.
    pub(super) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix { listener, .. } => Box::new(listener.accept().await?.0),
        })
    }
}

/// Removes the file of a socket at which nobody listens any more: a process that was killed could not.
fn remove_left(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket());
    let is_left =
        || UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
    if is_socket && is_left() { fs::remove_file(path) } else { Ok(()) }
}
