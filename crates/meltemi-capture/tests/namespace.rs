//! The rules in a real network namespace: who is captured, who is exempt, and where each connection ends.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's result")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::process::Command;

use meltemi_capture::{Settings, apply, remove};
use socket2::{Domain, SockRef, Socket, Type};

const INSIDE: &str = "MELTEMI_CAPTURE_TEST_INSIDE";
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 5);
const WORLD: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), 80);
const MARK: u32 = 1337;

/// Runs itself again in fresh user and network namespaces, so that it needs no root and touches nothing.
#[test]
fn captures_and_exempts_in_a_network_namespace() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let possible = Command::new("unshare")
        .args(["-Urn", "nft", "list", "ruleset"])
        .status()
        .is_ok_and(|s| s.success());
    if !possible {
        println!("NOT RUN: this machine allows no user namespaces, or lacks nft");
        return;
    }
    let status = Command::new("unshare")
        .arg("-Urn")
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "captures_and_exempts_in_a_network_namespace",
            "--nocapture",
        ])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

fn inside() {
    for line in [
        "link set lo up",
        "link add pod0 type veth peer name peer0",
        "addr add 10.244.0.5/32 dev pod0",
        "link set pod0 up",
        "route add default dev pod0",
    ] {
        assert!(
            Command::new("ip")
                .args(line.split(' '))
                .status()
                .unwrap()
                .success(),
            "{line}"
        );
    }
    // Whatever would leave for the world is refused at once, so that "not captured" is an answer and not a wait.
    let refuse = "table inet test {\nchain out {\ntype filter hook output priority 0;\nip daddr 203.0.113.1 meta l4proto tcp reject with tcp reset\n}\n}";
    assert!(Command::new("nft").arg(refuse).status().unwrap().success());

    let listen = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    let (outbound, inbound, app) = (listen(15001), listen(15006), listen(8080));
    let settings = Settings::exempt_by_mark();
    apply(&settings).unwrap();
    apply(&settings).unwrap();

    // The application's call to the world meets the proxy, which can tell where it was going.
    let _client = connect(WORLD, None).unwrap();
    assert_eq!(arrival(&outbound), WORLD);
    // The proxy's own call leaves as it is.
    assert_eq!(
        connect(WORLD, Some(MARK)).unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
    // The proxy calls its own pod by address: inbound, as from outside.
    let _client = connect(SocketAddrV4::new(POD, 8080), Some(MARK)).unwrap();
    assert_eq!(arrival(&inbound), SocketAddrV4::new(POD, 8080));
    // The proxy hands over to the application on loopback, and containers talk among themselves.
    for (address, mark) in [
        (Ipv4Addr::LOCALHOST, Some(MARK)),
        (Ipv4Addr::LOCALHOST, None),
        (POD, None),
    ] {
        let client = connect(SocketAddrV4::new(address, 8080), mark).unwrap();
        let (_, peer) = app.accept().unwrap();
        assert_eq!(Some(peer), client.local_addr().unwrap().as_socket());
    }

    remove().unwrap();
    remove().unwrap();
    assert_eq!(
        connect(WORLD, None).unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
}

fn connect(to: SocketAddrV4, mark: Option<u32>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.connect(&SocketAddr::V4(to).into())?;
    Ok(socket)
}

fn arrival(listener: &TcpListener) -> SocketAddrV4 {
    let (stream, _) = listener.accept().unwrap();
    SockRef::from(&stream)
        .original_dst_v4()
        .unwrap()
        .as_socket_ipv4()
        .unwrap()
}
