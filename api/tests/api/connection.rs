//! What a refusal does to the connection: the body behind it wasn't read yet.

use crate::common::{Api, nowhere};
use rhyzome_runtime::http::{Limits, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

async fn connect() -> TcpStream {
    let api = Api::new(nowhere(), Vec::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(
        listener,
        api.router,
        Limits::default(),
        CancellationToken::new(),
    ));
    TcpStream::connect(address).await.unwrap()
}

/// An answer in lower case: its head and as much of a body as that says.
async fn answer(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).to_lowercase();
        let whole = text.split_once("\r\n\r\n").and_then(|(head, body)| {
            let (_, rest) = head.split_once("content-length: ")?;
            let length: usize = rest.lines().next()?.parse().ok()?;
            (body.len() >= length).then_some(())
        });
        if whole.is_some() {
            return text;
        }
        let n = stream.read_buf(&mut read).await.unwrap();
        assert_ne!(n, 0, "the connection ended after {text:?}");
    }
}

#[tokio::test]
async fn a_refusal_before_a_small_body_keeps_the_connection() {
    let mut stream = connect().await;
    let head = "POST /v1/networks HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n";
    for _ in 0..20 {
        stream.write_all(head.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
        stream.write_all(b"{}").await.unwrap();
        let refused = answer(&mut stream).await;
        assert!(
            refused.starts_with("http/1.1 401") && !refused.contains("\r\nconnection: close"),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn a_refusal_before_a_large_body_says_that_the_connection_ends() {
    for (path, status) in [("/v1/networks", "401"), ("/v1/nothing", "404"), ("/docs", "405")] {
        let mut stream = connect().await;
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let refused = answer(&mut stream).await;
        assert!(
            refused.starts_with(&format!("http/1.1 {status}")) && refused.contains("\r\nconnection: close"),
            "{refused}"
        );
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
