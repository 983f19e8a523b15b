use std::fmt;

/// What a service port speaks, which decides listeners, filters and upstream protocol (Istio "Protocol Selection").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Http,
    Http2,
    Grpc,
    GrpcWeb,
    /// TLS that the application speaks itself; routed by SNI at most.
    Https,
    Tls,
    Tcp,
    Mongo,
    Redis,
    Mysql,
    /// Never proxied.
    Udp,
    /// Not declared: sniffed on the first bytes.
    Auto,
}

/// Ports whose protocols let the server speak first, so that sniffing would wait forever: SMTP, DNS, MySQL, MongoDB.
const SERVER_FIRST_PORTS: [u16; 4] = [25, 53, 3306, 27017];

impl Protocol {
    /// Decides by `appProtocol`, then the port's name (`proto` or `proto-suffix`), then the well-known port; what
    /// remains is sniffed (Istio "Protocol Selection": explicit before implicit).
    pub fn of_port(app_protocol: Option<&str>, name: &str, transport: &str, port: u16) -> Self {
        if transport == "UDP" {
            return Self::Udp;
        }
        let implied = if SERVER_FIRST_PORTS.contains(&port) {
            Self::Tcp
        } else {
            Self::Auto
        };
        app_protocol
            .and_then(Self::from_app_protocol)
            .or_else(|| Self::from_port_name(name))
            .unwrap_or(implied)
    }

    fn from_app_protocol(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "kubernetes.io/h2c" => Some(Self::Http2),
            "kubernetes.io/ws" => Some(Self::Http),
            "kubernetes.io/wss" => Some(Self::Https),
            other => Self::from_word(other),
        }
    }

    fn from_port_name(name: &str) -> Option<Self> {
        let lower = name.to_ascii_lowercase();
        // "grpc-web" is a word with a dash of its own.
        if lower == "grpc-web" || lower.starts_with("grpc-web-") {
            return Some(Self::GrpcWeb);
        }
        Self::from_word(lower.split('-').next().unwrap_or_default())
    }

    /// Reads a ServiceEntry's or Gateway's `port.protocol`, or one of the words of a port name.
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "http" | "http1" => Self::Http,
            "http2" => Self::Http2,
            "grpc" => Self::Grpc,
            "grpc-web" => Self::GrpcWeb,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "tcp" => Self::Tcp,
            "mongo" => Self::Mongo,
            "redis" => Self::Redis,
            "mysql" => Self::Mysql,
            "udp" => Self::Udp,
            _ => return None,
        })
    }

    /// Whether requests are routed one by one.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether bytes are relayed unread. Mongo, Redis and MySQL are TCP, as in Istio without its filter flags.
    pub fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp | Self::Mongo | Self::Redis | Self::Mysql) || self.is_tls()
    }

    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    pub fn is_auto(self) -> bool {
        self == Self::Auto
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP",
            Self::Http2 => "HTTP2",
            Self::Grpc => "GRPC",
            Self::GrpcWeb => "GRPC-Web",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Mongo => "Mongo",
            Self::Redis => "Redis",
            Self::Mysql => "MySQL",
            Self::Udp => "UDP",
            Self::Auto => "Unsupported",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explicit_wins_over_the_name_and_the_name_over_the_port() {
        let of = |app, name, port| Protocol::of_port(app, name, "TCP", port);
        assert_eq!(of(Some("http2"), "tcp-x", 80), Protocol::Http2);
        assert_eq!(of(Some("kubernetes.io/wss"), "", 80), Protocol::Https);
        assert_eq!(of(Some("example.com/custom"), "http-x", 80), Protocol::Http);
        assert_eq!(of(None, "http-web", 3306), Protocol::Http);
        assert_eq!(of(None, "grpc-web-x", 1), Protocol::GrpcWeb);
        assert_eq!(of(None, "grpc-webx", 1), Protocol::Grpc);
        assert_eq!(of(None, "httpbin", 80), Protocol::Auto);
        assert_eq!(of(None, "", 27017), Protocol::Tcp);
        assert_eq!(of(None, "", 8080), Protocol::Auto);
        assert_eq!(
            Protocol::of_port(Some("http"), "http", "UDP", 80),
            Protocol::Udp
        );
    }
}
