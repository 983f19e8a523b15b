//! Gives equal messages equal bytes.
//!
//! The generated types hold protobuf maps in a `HashMap`, whose order differs from run to run, and a resource's version
//! is the hash of its bytes. So the wire form is walked once, along the few paths that lead to maps, and each map's
//! entries are sorted by key. What a shape does not name is copied as it is.

/// What lies behind a length-delimited field.
#[derive(Clone, Copy)]
enum Shape {
    Message(&'static [(u64, Self)]),
    /// A map field: every element is an entry whose value (field 2) has this shape.
    Map(&'static Self),
    Any,
    Leaf,
}

static LEAF: Shape = Shape::Leaf;
static ANY: Shape = Shape::Any;
static VALUE: Shape = Shape::Message(&VALUE_FIELDS);
static VALUE_FIELDS: [(u64, Shape); 2] = [
    (5, Shape::Message(&STRUCT_FIELDS)),
    (6, Shape::Message(&LIST_FIELDS)),
];
static LIST_FIELDS: [(u64, Shape); 1] = [(1, Shape::Message(&VALUE_FIELDS))];
static STRUCT_FIELDS: [(u64, Shape); 1] = [(1, Shape::Map(&VALUE))];
const STRUCT: Shape = Shape::Message(&STRUCT_FIELDS);
static STRUCT_VALUE: Shape = STRUCT;
const METADATA: Shape = Shape::Message(&[(1, Shape::Map(&STRUCT_VALUE)), (2, Shape::Map(&ANY))]);
const LOAD_ASSIGNMENT: Shape = Shape::Message(&[(
    2,
    Shape::Message(&[(2, Shape::Message(&[(3, METADATA)])), (9, METADATA)]),
)]);
const CLUSTER: Shape = Shape::Message(&[
    (25, METADATA),
    (33, LOAD_ASSIGNMENT),
    (36, Shape::Map(&ANY)),
    (43, Shape::Message(&[(2, STRUCT)])),
]);
const ACCESS_LOG: Shape = Shape::Message(&[(4, Shape::Any)]);
const FILTER_CHAIN: Shape =
    Shape::Message(&[(3, Shape::Message(&[(4, Shape::Any)])), (5, METADATA)]);
const LISTENER: Shape = Shape::Message(&[
    (3, FILTER_CHAIN),
    (6, METADATA),
    (22, ACCESS_LOG),
    (25, FILTER_CHAIN),
]);
const WEIGHTED_CLUSTERS: Shape = Shape::Message(&[(1, Shape::Message(&[(10, Shape::Map(&ANY))]))]);
const ROUTE: Shape = Shape::Message(&[
    (2, Shape::Message(&[(3, WEIGHTED_CLUSTERS)])),
    (4, METADATA),
    (13, Shape::Map(&ANY)),
]);
const VIRTUAL_HOST: Shape = Shape::Message(&[(3, ROUTE), (15, Shape::Map(&ANY)), (24, METADATA)]);
const ROUTE_CONFIGURATION: Shape = Shape::Message(&[(2, VIRTUAL_HOST)]);
const CONNECTION_MANAGER: Shape = Shape::Message(&[
    (4, ROUTE_CONFIGURATION),
    (5, Shape::Message(&[(4, Shape::Any)])),
    (13, ACCESS_LOG),
]);
/// `config.rbac.v3.RBAC`: its policies by name.
const RBAC_RULES: Shape = Shape::Message(&[(2, Shape::Map(&LEAF))]);
const RBAC: Shape = Shape::Message(&[(1, RBAC_RULES), (2, RBAC_RULES)]);
const TCP_PROXY: Shape = Shape::Message(&[(5, ACCESS_LOG)]);
const JWT_AUTHENTICATION: Shape = Shape::Message(&[(1, Shape::Map(&LEAF)), (5, Shape::Map(&LEAF))]);
const FILE_ACCESS_LOG: Shape = Shape::Message(&[(5, Shape::Message(&[(2, STRUCT)]))]);
const TYPED_STRUCT: Shape = Shape::Message(&[(2, STRUCT)]);

/// Sorts the maps of an encoded message of the type that `type_url` names.
pub(crate) fn canonical(type_url: &str, body: &[u8]) -> Vec<u8> {
    rewrite(body, shape_of(type_url))
}

fn shape_of(type_url: &str) -> Shape {
    match type_url.rsplit('/').next().unwrap_or_default() {
        "envoy.config.cluster.v3.Cluster" => CLUSTER,
        "envoy.config.listener.v3.Listener" => LISTENER,
        "envoy.config.route.v3.RouteConfiguration" => ROUTE_CONFIGURATION,
        "envoy.config.route.v3.VirtualHost" => VIRTUAL_HOST,
        "envoy.config.endpoint.v3.ClusterLoadAssignment" => LOAD_ASSIGNMENT,
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => {
            CONNECTION_MANAGER
        }
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" => TCP_PROXY,
        "envoy.extensions.filters.http.rbac.v3.RBAC"
        | "envoy.extensions.filters.network.rbac.v3.RBAC" => RBAC,
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication" => JWT_AUTHENTICATION,
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => FILE_ACCESS_LOG,
        "xds.type.v3.TypedStruct" | "udpa.type.v1.TypedStruct" => TYPED_STRUCT,
        _ => Shape::Leaf,
    }
}

fn rewrite(body: &[u8], shape: Shape) -> Vec<u8> {
    match shape {
        Shape::Leaf | Shape::Map(_) => body.to_vec(),
        Shape::Any => rewrite_any(body),
        Shape::Message(fields) => rewrite_message(body, fields),
    }
}

/// `google.protobuf.Any`: the type in field 1, the message in field 2.
fn rewrite_any(body: &[u8]) -> Vec<u8> {
    let shape = fields(body)
        .find(|field| field.number == 1)
        .and_then(|field| std::str::from_utf8(field.payload?).ok())
        .map_or(Shape::Leaf, shape_of);
    rewrite_fields(body, &|number| {
        if number == 2 { shape } else { Shape::Leaf }
    })
}

fn rewrite_message(body: &[u8], shapes: &'static [(u64, Shape)]) -> Vec<u8> {
    rewrite_fields(body, &|number| {
        shapes
            .iter()
            .find(|(field, _)| *field == number)
            .map_or(Shape::Leaf, |(_, shape)| *shape)
    })
}

fn rewrite_fields(body: &[u8], shape_of_field: &dyn Fn(u64) -> Shape) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut entries: Vec<Vec<u8>> = Vec::new();
    let mut map_tag: Option<(u64, u64)> = None;
    for field in fields(body) {
        if map_tag.is_some_and(|(number, _)| number != field.number) {
            flush(&mut out, &mut entries, map_tag.take());
        }
        match (shape_of_field(field.number), field.payload) {
            (Shape::Map(value), Some(payload)) => {
                map_tag = Some((field.number, field.tag));
                entries.push(rewrite_fields(payload, &|number| {
                    if number == 2 { *value } else { LEAF }
                }));
            }
            (Shape::Leaf, _) | (_, None) => out.extend_from_slice(field.raw),
            (shape, Some(payload)) => {
                write_delimited(&mut out, field.tag, &rewrite(payload, shape))
            }
        }
    }
    flush(&mut out, &mut entries, map_tag);
    out
}

/// Writes the collected entries of one map. An entry starts with its key, so sorting entries sorts keys.
fn flush(out: &mut Vec<u8>, entries: &mut Vec<Vec<u8>>, tag: Option<(u64, u64)>) {
    let Some((_, tag)) = tag else { return };
    entries.sort();
    for entry in entries.drain(..) {
        write_delimited(out, tag, &entry);
    }
}

fn write_delimited(out: &mut Vec<u8>, tag: u64, payload: &[u8]) {
    prost::encoding::encode_varint(tag, out);
    prost::encoding::encode_varint(payload.len() as u64, out);
    out.extend_from_slice(payload);
}

struct Field<'a> {
    number: u64,
    tag: u64,
    raw: &'a [u8],
    payload: Option<&'a [u8]>,
}

/// The fields of an encoded message. The bytes come from our own encoder; were they malformed, the walk would end early
/// with the rest as one opaque piece, so that nothing is lost.
fn fields(body: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = next_field(rest).unwrap_or(Field {
            number: 0,
            tag: 0,
            raw: rest,
            payload: None,
        });
        rest = rest.get(field.raw.len()..).unwrap_or_default();
        Some(field)
    })
}

fn next_field(body: &[u8]) -> Option<Field<'_>> {
    let mut cursor = body;
    let tag = prost::encoding::decode_varint(&mut cursor).ok()?;
    let payload = match tag & 7 {
        0 => {
            prost::encoding::decode_varint(&mut cursor).ok()?;
            None
        }
        1 => {
            cursor = cursor.get(8..)?;
            None
        }
        2 => {
            let length = usize::try_from(prost::encoding::decode_varint(&mut cursor).ok()?).ok()?;
            let payload = cursor.get(..length)?;
            cursor = cursor.get(length..)?;
            Some(payload)
        }
        5 => {
            cursor = cursor.get(4..)?;
            None
        }
        _ => return None,
    };
    let raw = body.get(..body.len() - cursor.len())?;
    Some(Field {
        number: tag >> 3,
        tag,
        raw,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use meltemi_proto::envoy::config::cluster::v3::Cluster;
    use meltemi_proto::envoy::config::route::v3::{Route, VirtualHost};
    use meltemi_proto::google::protobuf::Any;
    use prost::{Message, Name};

    use super::*;
    use crate::wire;

    fn cluster() -> Cluster {
        let fields = |prefix: &str| {
            wire::strukt((0..20).map(|i| (format!("{prefix}{i}"), wire::text(&i.to_string()))))
        };
        Cluster {
            name: "outbound|80||a".to_owned(),
            metadata: Some(wire::metadata([
                (
                    "istio",
                    wire::strukt([("a", wire::value(fields("x"))), ("b", wire::text("1"))]),
                ),
                ("other", fields("y")),
            ])),
            alt_stat_name: "after".to_owned(),
            ..Cluster::default()
        }
    }

    #[test]
    fn equal_messages_have_equal_bytes() {
        let one = canonical(&Cluster::type_url(), &cluster().encode_to_vec());
        for _ in 0..20 {
            assert_eq!(
                canonical(&Cluster::type_url(), &cluster().encode_to_vec()),
                one
            );
        }
        assert_eq!(Cluster::decode(one.as_slice()).unwrap(), cluster());
    }

    /// It comes by itself to a proxy that asks for it.
    #[test]
    fn the_filters_of_a_virtual_hosts_routes_are_in_order() {
        let host = || VirtualHost {
            routes: vec![Route {
                typed_per_filter_config: (0..20).map(|i| (i.to_string(), Any::default())).collect(),
                ..Route::default()
            }],
            ..VirtualHost::default()
        };
        let one = canonical(&VirtualHost::type_url(), &host().encode_to_vec());
        for _ in 0..20 {
            let other = canonical(&VirtualHost::type_url(), &host().encode_to_vec());
            assert_eq!(other, one);
        }
        assert_eq!(VirtualHost::decode(one.as_slice()).unwrap(), host());
    }

    #[test]
    fn malformed_bytes_are_kept() {
        let bytes = [0x0a, 0xff, 1, 2];
        assert_eq!(canonical(&Cluster::type_url(), &bytes), bytes);
    }
}
