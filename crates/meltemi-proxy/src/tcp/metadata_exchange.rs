//! Istio's TCP metadata exchange: where ALPN agreed on `istio-peer-exchange`, each side first sends who it is.
//!
//! On the wire: a 4-byte magic, a 4-byte length, both big-endian, then a `google.protobuf.Any` of a `Struct` (Istio proxy,
//! `metadata_exchange_initial_header`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, BytesMut};
use meltemi_core::names::alpn;
use meltemi_proto::google::protobuf::{Any, Struct};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::telemetry::peer::Workload;

const MAGIC: u32 = 0x3D23_0467;
const HEAD_BYTES: usize = 8;
/// Longest message that is read; a longer one ends the connection.
const LIMIT_BYTES: u32 = 64 * 1024;
/// Wait for the other side's introduction.
const WAIT_LIMIT: Duration = Duration::from_secs(10);
const STRUCT_TYPE: &str = "type.googleapis.com/google.protobuf.Struct";

/// Whether the handshake agreed on an exchange.
pub(crate) fn is_agreed(handshake: Option<&meltemi_pki::HandshakeInfo>) -> bool {
    handshake.is_some_and(|handshake| handshake.alpn_str() == alpn::ISTIO_PEER_EXCHANGE)
}

/// Sends our introduction.
pub(crate) async fn send(stream: &mut (impl AsyncWrite + Unpin), own: &Struct) -> io::Result<()> {
    stream.write_all(&encode(own)).await?;
    stream.flush().await
}

fn encode(own: &Struct) -> BytesMut {
    // The peer's keys are the fields `x-envoy-peer-metadata` and `-id` of an outer struct.
    let any = Any {
        type_url: STRUCT_TYPE.to_owned(),
        value: outer(own).encode_to_vec(),
    };
    let body = any.encode_to_vec();
    let mut message = BytesMut::with_capacity(HEAD_BYTES + body.len());
    message.put_u32(MAGIC);
    message.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    message.extend_from_slice(&body);
    message
}

const METADATA_KEY: &str = "x-envoy-peer-metadata";
const ID_KEY: &str = "x-envoy-peer-metadata-id";

fn outer(own: &Struct) -> Struct {
    use meltemi_proto::google::protobuf::{Value, value::Kind};
    let metadata = Value {
        kind: Some(Kind::StructValue(own.clone())),
    };
    let name = own.fields.get("NAME").cloned().unwrap_or_default();
    let fields = [
        (METADATA_KEY.to_owned(), metadata),
        (ID_KEY.to_owned(), name),
    ];
    Struct {
        fields: fields.into_iter().collect(),
    }
}

/// Reads the other side's introduction. What does not begin with the magic is left alone: `Err` carries the bytes read,
/// which belong to the application.
pub(crate) async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Received> {
    tokio::time::timeout(WAIT_LIMIT, receive_unbounded(stream))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// What came first.
pub(crate) enum Received {
    Peer(Option<Arc<Workload>>),
    /// Not an introduction.
    Application(BytesMut),
}

async fn receive_unbounded(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Received> {
    let mut buffer = BytesMut::with_capacity(1024);
    while buffer.len() < HEAD_BYTES {
        let limit = HEAD_BYTES - buffer.len();
        let read = (&mut *stream)
            .take(limit as u64)
            .read_buf(&mut buffer)
            .await?;
        let wrong = buffer.iter().zip(MAGIC.to_be_bytes()).any(|(a, b)| *a != b);
        if wrong || read == 0 {
            return Ok(Received::Application(buffer));
        }
    }
    buffer.advance(4);
    let length = buffer.get_u32();
    if length > LIMIT_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the peer's metadata is too long",
        ));
    }
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await?;
    Ok(Received::Peer(decode(&body).map(Arc::new)))
}

fn decode(body: &[u8]) -> Option<Workload> {
    use meltemi_proto::google::protobuf::value::Kind;
    let any = Any::decode(body).ok()?;
    let outer = Struct::decode(&*any.value).ok()?;
    match outer
        .fields
        .get(METADATA_KEY)
        .and_then(|value| value.kind.as_ref())
    {
        Some(Kind::StructValue(metadata)) => Some(Workload::from_struct(metadata)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::{self, tests::POD};

    #[tokio::test]
    async fn both_ends_understand_each_other() {
        let own = bootstrap::peer_metadata(&bootstrap::tests::from(&POD).unwrap());
        let (mut a, mut b) = tokio::io::duplex(4096);
        send(&mut a, &own).await.unwrap();
        a.write_all(b"rest").await.unwrap();
        let Received::Peer(Some(peer)) = receive(&mut b).await.unwrap() else {
            panic!("no peer")
        };
        assert_eq!(&*peer.namespace, "default");
        let mut rest = [0; 4];
        b.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"rest");
    }

    #[tokio::test]
    async fn application_bytes_are_kept() {
        let (mut a, mut b) = tokio::io::duplex(64);
        a.write_all(b"GET").await.unwrap();
        let Received::Application(bytes) = receive(&mut b).await.unwrap() else {
            panic!("taken for a peer")
        };
        assert_eq!(&bytes[..], b"GET");
    }
}
