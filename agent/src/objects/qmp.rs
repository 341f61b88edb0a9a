//! A client of QEMU's monitor protocol: lines of JSON over a Unix socket, commands with ids, events beside them.
//!
//! Source: QEMU's docs/interop/qmp-spec.rst. The peer is a process that a guest may have taken over: lines are limited, and what
//! can't be read ends the connection.

use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

/// Of a line, bytes.
const LINE_LIMIT: u64 = 1 << 20;
/// For an answer.
const WITHIN: Duration = Duration::from_secs(10);
/// Events kept for a reader that is slow; those that matter are few.
const EVENTS: usize = 256;

/// Why a command wasn't answered as hoped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    /// The connection is gone, and so perhaps QEMU.
    #[error("the monitor is gone")]
    Gone,
    /// No answer came.
    #[error("{0}: no answer in time")]
    Timeout(String),
    /// QEMU refused.
    #[error("{command}: {class}: {desc}")]
    Refused {
        /// What was asked.
        command: String,
        /// As in the protocol.
        class: String,
        /// As in the protocol.
        desc: String,
    },
    /// The socket.
    #[error("monitor: {0}")]
    Io(#[from] io::Error),
}

/// What QEMU says by itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    /// `SHUTDOWN`, `RESET`, …
    pub(crate) name: String,
    /// Its data.
    pub(crate) data: Value,
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

/// A connection.
pub(crate) struct Qmp {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Waiting,
    next: AtomicU64,
    /// The process that listens.
    pub(crate) peer: Option<i32>,
}

/// Connects to a socket in a folder whose path may be longer than a socket's address can be: by way of the folder's descriptor.
pub(crate) async fn connect_in(folder: &Path, name: &str) -> io::Result<UnixStream> {
    let folder = File::open(folder)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()));
    UnixStream::connect(path).await
}

impl Qmp {
    /// Connects, and asks for commands to be taken. Events go to the receiver, which ends when the connection does.
    pub(crate) async fn connect(
        folder: &Path,
        name: &str,
    ) -> Result<(Self, mpsc::Receiver<Event>), QmpError> {
        let stream = connect_in(folder, name).await?;
        let peer = stream.peer_cred()?.pid();
        let (reader, writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let greeting = tokio::time::timeout(WITHIN, line(&mut reader))
            .await
            .map_err(|_| QmpError::Timeout("greeting".to_owned()))??;
        if greeting.is_none_or(|g| g.get("QMP").is_none()) {
            return Err(QmpError::Gone);
        }
        let waiting = Waiting::default();
        let (sender, events) = mpsc::channel(EVENTS);
        tokio::spawn(read(reader, Arc::clone(&waiting), sender));
        let qmp = Self {
            writer: tokio::sync::Mutex::new(writer),
            waiting,
            next: AtomicU64::new(1),
            peer,
        };
        qmp.execute("qmp_capabilities", Value::Null).await?;
        Ok((qmp, events))
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            message["arguments"] = arguments;
        }
        let (sender, answer) = oneshot::channel();
        lock(&self.waiting).insert(id, sender);
        let forget = Forget {
            waiting: &self.waiting,
            id,
        };
        let asked = async {
            let mut writer = self.writer.lock().await;
            writer
                .write_all(format!("{message}\n").as_bytes())
                .await
                .map_err(|_| QmpError::Gone)?;
            drop(writer);
            answer.await.map_err(|_| QmpError::Gone)
        };
        let answer = tokio::time::timeout(WITHIN, asked).await;
        drop(forget);
        let answer = answer.map_err(|_| QmpError::Timeout(command.to_owned()))??;
        match answer.get("return") {
            Some(value) => Ok(value.clone()),
            None => Err(QmpError::Refused {
                command: command.to_owned(),
                class: answer["error"]["class"].as_str().unwrap_or_default().to_owned(),
                desc: answer["error"]["desc"].as_str().unwrap_or_default().to_owned(),
            }),
        }
    }

    /// `running`, `prelaunch`, `shutdown`, `paused`, … (`RunState` in QEMU's schema).
    pub(crate) async fn status(&self) -> Result<String, QmpError> {
        let answer = self.execute("query-status", Value::Null).await?;
        Ok(answer["status"].as_str().unwrap_or_default().to_owned())
    }
}

/// Takes a question back when nobody waits for it any more.
struct Forget<'a> {
    waiting: &'a Waiting,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.waiting).remove(&self.id);
    }
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Value>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next line; none at the end.
async fn line(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Value>> {
    let mut bytes = Vec::new();
    let n = reader.take(LINE_LIMIT).read_until(b'\n', &mut bytes).await?;
    if n == 0 {
        return Ok(None);
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

async fn read(mut reader: BufReader<OwnedReadHalf>, waiting: Waiting, events: mpsc::Sender<Event>) {
    loop {
        let message = match line(&mut reader).await {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%error, "a monitor's connection broke");
                break;
            }
        };
        if let Some(name) = message["event"].as_str() {
            let event = Event {
                name: name.to_owned(),
                data: message["data"].clone(),
            };
            // A guest that resets in a loop must not fill memory: what nobody reads in time is dropped.
            if let Err(error) = events.try_send(event) {
                tracing::debug!(%error, "an event of a monitor was dropped");
            }
        } else if let Some(sender) = message["id"].as_u64().and_then(|id| lock(&waiting).remove(&id))
            && sender.send(message).is_err()
        {
            tracing::trace!("an answer came too late");
        }
    }
    lock(&waiting).clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn commands_are_answered_by_id_and_events_come_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("qmp.sock")).unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (reader, mut writer) = stream.into_split();
            writer.write_all(b"{\"QMP\": {}}\n").await.unwrap();
            let mut lines = BufReader::new(reader).lines();
            while let Some(text) = lines.next_line().await.unwrap() {
                let asked: Value = serde_json::from_str(&text).unwrap();
                let answer = match asked["execute"].as_str().unwrap() {
                    "qmp_capabilities" => json!({"return": {}, "id": asked["id"]}),
                    "query-status" => json!({"return": {"status": "running"}, "id": asked["id"]}),
                    "leave" => return,
                    _ => json!({"error": {"class": "CommandNotFound", "desc": "no"}, "id": asked["id"]}),
                };
                writer
                    .write_all(b"{\"event\": \"RESET\", \"data\": {\"guest\": true}}\n")
                    .await
                    .unwrap();
                writer.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
            }
        });
        let (qmp, mut events) = Qmp::connect(dir.path(), "qmp.sock").await.unwrap();
        assert_eq!(qmp.peer, i32::try_from(std::process::id()).ok());
        assert_eq!(qmp.status().await.unwrap(), "running");
        assert!(matches!(
            qmp.execute("nonsense", Value::Null).await,
            Err(QmpError::Refused { .. })
        ));
        assert_eq!(events.recv().await.unwrap().name, "RESET");
        assert!(matches!(
            qmp.execute("leave", Value::Null).await,
            Err(QmpError::Gone)
        ));
        while events.recv().await.is_some() {}
        server.await.unwrap();
    }
}
