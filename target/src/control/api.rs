//! The control API: JSON over HTTP on a Unix socket, so that `curl
//! --unix-socket` is a client too.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/stats` | [`FullReport`] |

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use axum::routing::get;
use axum::{Json, Router};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;

use super::inquiry::Inquiry;
use crate::report::Reporter;
use crate::stats::FullReport;

/// The listening socket.
#[derive(Debug)]
pub struct ApiSocket {
    listener: UnixListener,
    socket_file: SocketFile,
}

/// The socket's place in the file system; removed when dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl ApiSocket {
    /// Binds the socket, readable and writable by its owner only. A socket that
    /// an ended target left behind is replaced; one that is alive is not.
    ///
    /// # Errors
    /// When the path cannot be used, with the reason.
    pub async fn bind(path: &Path) -> anyhow::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {} for the control socket; set target.control to a path that this user may write", folder.display()))?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => bail!(
                "{} is there and is no socket; set target.control to another path",
                path.display()
            ),
            Ok(_) if UnixStream::connect(path).await.is_ok() => bail!(
                "another target answers at {}; stop it, or set target.control to another path",
                path.display()
            ),
            Ok(_) => std::fs::remove_file(path)
                .with_context(|| format!("cannot replace the old socket {}", path.display()))?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot make the control socket {}", path.display()))?;
        let socket_file = SocketFile(path.to_owned());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .with_context(|| format!("cannot protect the control socket {}", path.display()))?;
        Ok(Self {
            listener,
            socket_file,
        })
    }

    /// Serves until the future is dropped.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn serve(self, reporter: Arc<Reporter>, inquiry: Inquiry) -> std::io::Result<()> {
        // One client after the other: each waits for a bounded time.
        let inquiry = Arc::new(Mutex::new(inquiry));
        let stats = move || {
            let (reporter, inquiry) = (Arc::clone(&reporter), Arc::clone(&inquiry));
            async move {
                let network = inquiry.lock().await.ask().await;
                let target = reporter.report();
                Json(FullReport { target, network })
            }
        };
        let app = Router::new().route("/v1/stats", get(stats));
        let Self {
            listener,
            socket_file: _keep,
        } = self;
        axum::serve(listener, app).await
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "the control socket is gone already");
        }
    }
}

/// Asks a running target for its statistics.
///
/// # Errors
/// When no target answers at this path, with what to do about it.
pub async fn fetch_stats(path: &Path) -> anyhow::Result<FullReport> {
    let stream = UnixStream::connect(path).await.with_context(|| {
        format!(
            "no target answers at {}; start one with `sidelane serve`, or name its socket with --control",
            path.display()
        )
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/v1/stats")
        .header(hyper::header::HOST, "sidelane")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!(
            "the target answered {status}: {}",
            String::from_utf8_lossy(&body)
        );
    }
    serde_json::from_slice(&body)
        .context("the target's answer is not understood; are both of one version?")
}
