//! Messages over a WebSocket, each answered before the next is sent.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, StatusCode};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::Options;
use super::connection::{Answer, Failure, tcp};

pub(super) struct Messages {
    socket: WebSocketStream<TcpStream>,
    left: u32,
}

impl Messages {
    pub(super) async fn open(options: &Options, limit: u32) -> Result<Self, Failure> {
        let url = options.url.to_string().replacen("http", "ws", 1);
        let mut request = url
            .into_client_request()
            .map_err(|error| Failure::new("handshake", &error))?;
        for (name, value) in &options.header {
            request.headers_mut().append(name, value.clone());
        }
        let (socket, _) = tokio_tungstenite::client_async(request, tcp(options).await?)
            .await
            .map_err(|error| Failure::new("handshake", &error))?;
        Ok(Self {
            socket,
            left: limit,
        })
    }

    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    pub(super) async fn exchange(&mut self) -> Result<Answer, Failure> {
        self.left = self.left.saturating_sub(1);
        self.socket
            .send(Message::text("hello"))
            .await
            .map_err(|error| Failure::new("send", &error))?;
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    return Ok(Answer {
                        status: StatusCode::OK,
                        headers: HeaderMap::new(),
                        body: Bytes::copy_from_slice(text.as_bytes()),
                    });
                }
                Some(Ok(Message::Close(_))) | None => {
                    return Err(Failure::said("websocket: closed before its time"));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Failure::new("receive", &error)),
            }
        }
    }

    pub(super) async fn close(mut self) -> Result<(), Failure> {
        let closing = |error| Failure::new("close", &error);
        self.socket.close(None).await.map_err(closing)?;
        while let Some(message) = self.socket.next().await {
            message.map_err(closing)?;
        }
        Ok(())
    }
}
