//! Who says nothing is disconnected, and nobody else is.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use axum::Router;
use axum::routing::{get, post};
use rhyzome_runtime::http::{Limits, serve};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_hours(1);
const SOON: Duration = Duration::from_millis(300);

struct Server {
    address: SocketAddr,
    token: CancellationToken,
    served: JoinHandle<()>,
}

async fn server(head: Duration, idle: Duration) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let token = CancellationToken::new();
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/echo", post(|body: String| async move { body }))
        .route("/never", get(std::future::pending::<&'static str>));
    let served = tokio::spawn(serve(listener, router, Limits { head, idle }, token.clone()));
    Server {
        address,
        token,
        served,
    }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// All until the server closes the connection; one that it resets is closed as well.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while matches!(stream.read_buf(&mut text).await, Ok(n) if n > 0) {}
    String::from_utf8_lossy(&text).to_lowercase()
}

/// An answer that ends so.
async fn answer(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let n = stream.read_buf(&mut text).await.unwrap();
        assert_ne!(
            n,
            0,
            "the connection ended after {:?}",
            String::from_utf8_lossy(&text)
        );
    }
    String::from_utf8_lossy(&text).to_lowercase()
}

#[tokio::test]
async fn who_never_sends_the_head_of_a_request_is_disconnected() {
    let server = server(SOON, HOUR).await;
    for sent in [
        "",
        "GET / HT",
        "GET / HTTP/1.1\r\nhost: a\r\n",
        "PRI * HTTP/2.0\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = server.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let rest = rest(&mut stream).await;
        assert!(!rest.contains("200 ok"), "{sent:?}: {rest:?}");
    }
}

#[tokio::test]
async fn who_sends_it_byte_by_byte_is_disconnected() {
    let server = server(SOON, HOUR).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
    while stream.write_all(b"x").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn half_of_a_further_request_is_not_waited_for() {
    let server = server(Duration::from_secs(3), HOUR).await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    answer(&mut stream, "hello").await;
    stream.write_all(b"GET / HT").await.unwrap();
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn a_body_may_come_slowly_and_an_answer_may_take_its_time() {
    let head = Duration::from_secs(3);
    let server = server(head, SOON).await;
    let mut slow = server.connect().await;
    let mut waits = server.connect().await;
    slow.write_all(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\n")
        .await
        .unwrap();
    waits
        .write_all(b"GET /never HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    for byte in b"slowly, " {
        tokio::time::sleep(head / 6).await;
        slow.write_all(&[*byte]).await.unwrap();
    }
    assert!(answer(&mut slow, "slowly, ").await.starts_with("http/1.1 200"));
    // Neither limit ended the other, which waits still.
    let early = tokio::time::timeout(SOON, rest(&mut waits)).await;
    assert!(early.is_err(), "{early:?}");
    // And what is idle now ends.
    assert_eq!(rest(&mut slow).await, "");
}

#[tokio::test]
async fn a_connection_is_kept_between_requests_for_longer_than_a_head_may_take() {
    let head = Duration::from_secs(2);
    let server = server(head, HOUR).await;
    let mut stream = server.connect().await;
    for _ in 0..2 {
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        answer(&mut stream, "hello").await;
        tokio::time::sleep(head * 3 / 2).await;
    }
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    answer(&mut stream, "hello").await;
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let server = server(HOUR, HOUR).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
    let (mut read, mut write) = stream.split();
    let sending = async {
        while write.write_all(&[b'x'; 4096]).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    let mut refused = Vec::new();
    tokio::select! {
        () = sending => {}
        read = read.read_buf(&mut refused) => { read.unwrap(); }
    }
    let refused = String::from_utf8_lossy(&refused);
    assert!(refused.starts_with("HTTP/1.1 431"), "{refused}");
}

#[tokio::test]
async fn told_to_end_it_finishes_what_it_is_at_and_lets_go_of_the_rest() {
    let server = server(HOUR, HOUR).await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    answer(&mut idle, "hello").await;
    let mut busy = server.connect().await;
    busy.write_all(b"POST /echo HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        .await
        .unwrap();
    answer(&mut busy, "\r\n\r\n").await;
    server.token.cancel();
    assert_eq!(rest(&mut idle).await, "");
    busy.write_all(b"ok").await.unwrap();
    let rest = rest(&mut busy).await;
    assert!(rest.starts_with("http/1.1 200") && rest.ends_with("ok"), "{rest}");
    server.served.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
