//! A small `nslookup`, for images whose own would be there: asks the pod's name server, in the pod's search domains.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anstream::eprintln;
use anyhow::{Context as _, Result};
use clap::Args;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::time::timeout;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// How often a question is sent, and how long its answer is waited for (resolv.conf(5), `attempts`).
const ATTEMPTS: usize = 2;
const ATTEMPT_LIMIT: Duration = Duration::from_secs(3);
/// The largest answer that is read.
const ANSWER_LIMIT_BYTES: usize = 4096;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  nslookup reviews\n  nslookup -type=SRV _http._tcp.web.default.svc.cluster.local\n  nslookup 10.96.0.20"
)]
pub(crate) struct Options {
    /// The kind of records, such as A, AAAA, CNAME, SRV or PTR; addresses otherwise. `-type=KIND` is understood, too.
    #[arg(long = "type", visible_alias = "query", value_parser = kind)]
    kind: Option<RecordType>,
    /// A name, or an address to find the name of.
    name: String,
    /// The name server; the pod's own otherwise.
    server: Option<String>,
}

fn kind(text: &str) -> Result<RecordType, String> {
    let kind = text.to_ascii_uppercase().parse();
    kind.map_err(|_unknown| format!("{text:?} is not a kind of records such as A or SRV"))
}

/// clap's spelling of the options that nslookup writes with one dash.
pub(crate) fn long_options(word: String) -> String {
    let is_long = |name: &str| {
        let value = word.strip_prefix(name);
        value.is_some_and(|value| value.starts_with('='))
    };
    if is_long("-type") || is_long("-query") {
        format!("-{word}")
    } else {
        word
    }
}

pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    match look_up(&options).await {
        Ok(Found::Records(text)) => {
            println!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Ok(Found::Nothing(text)) => {
            println!("{text}");
            Ok(ExitCode::FAILURE)
        }
        Err(error) => {
            eprintln!("nslookup: {error:#}");
            Ok(ExitCode::FAILURE)
        }
    }
}

enum Found {
    Records(String),
    Nothing(String),
}

async fn look_up(options: &Options) -> Result<Found> {
    // Without one there are no search domains, and a server must be named.
    let settings = Settings::parse(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
    let server = server(options, &settings).await?;
    let head = format!(
        "Server:\t\t{}\nAddress:\t{}#{}\n",
        server.ip(),
        server.ip(),
        server.port()
    );
    let (names, kinds) = questions(&options.name, options.kind, &settings);
    let mut code = ResponseCode::NXDomain;
    for name in names {
        let mut records = Vec::new();
        for kind in &kinds {
            let answer = ask(server, &name, *kind).await?;
            code = answer.metadata.response_code;
            records.extend(answer.answers.iter().map(shown));
        }
        // An alias leads both kinds of addresses.
        let mut seen = Vec::new();
        records.retain(|record| {
            !seen.contains(record) && {
                seen.push(record.clone());
                true
            }
        });
        if !records.is_empty() {
            return Ok(Found::Records(format!("{head}\n{}", records.join("\n"))));
        }
    }
    let name = &options.name;
    let failure = match code {
        ResponseCode::NoError => format!("*** Can't find {name}: No answer"),
        code => format!("** server can't find {name}: {}", code_name(code)),
    };
    Ok(Found::Nothing(format!("{head}\n{failure}")))
}

async fn server(options: &Options, settings: &Settings) -> Result<SocketAddr> {
    let named = match &options.server {
        Some(server) => server.clone(),
        None => {
            let first = settings.servers.first();
            first
                .with_context(|| {
                    format!("{RESOLV_CONF} names no server; write nslookup NAME SERVER")
                })?
                .to_string()
        }
    };
    let mut found = tokio::net::lookup_host((named.as_str(), DNS_PORT))
        .await
        .with_context(|| format!("the server {named:?} is not known"))?;
    found
        .next()
        .with_context(|| format!("the server {named:?} has no address"))
}

/// The names that are asked for in turn, and the kinds of records.
fn questions(
    name: &str,
    kind: Option<RecordType>,
    settings: &Settings,
) -> (Vec<String>, Vec<RecordType>) {
    if let (Ok(address), None | Some(RecordType::PTR)) = (name.parse::<IpAddr>(), kind) {
        let reverse = Name::from(address).to_ascii();
        return (vec![reverse], vec![RecordType::PTR]);
    }
    let kinds = kind.map_or_else(|| vec![RecordType::A, RecordType::AAAA], |kind| vec![kind]);
    (settings.candidates(name), kinds)
}

async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Result<Message> {
    let name_asked = Name::from_ascii(name).with_context(|| format!("{name:?} is not a name"))?;
    let mut question = Message::query();
    question.add_query(Query::query(name_asked, kind));
    question.metadata.recursion_desired = true;
    let bytes = question.to_vec()?;
    let own = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(own).await?;
    socket.connect(server).await?;
    for _ in 0..ATTEMPTS {
        socket.send(&bytes).await?;
        let answer = timeout(ATTEMPT_LIMIT, answer(&socket, question.metadata.id)).await;
        if let Ok(answer) = answer {
            return answer.with_context(|| format!("{server} gave no answer"));
        }
    }
    anyhow::bail!("connection timed out; {server} gave no answer")
}

/// The answer to the question with that number; what else comes is passed over, until whoever waits gives up.
async fn answer(socket: &UdpSocket, id: u16) -> Result<Message> {
    let mut buffer = vec![0; ANSWER_LIMIT_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = Message::from_vec(buffer.get(..length).unwrap_or_default());
        if let Ok(answer) = answer
            && answer.metadata.id == id
        {
            return Ok(answer);
        }
    }
}

/// A record in nslookup's words.
fn shown(record: &Record) -> String {
    let name = record.name.to_ascii();
    let name = name.trim_end_matches('.');
    match &record.data {
        RData::A(address) => format!("Name:\t{name}\nAddress: {address}"),
        RData::AAAA(address) => format!("Name:\t{name}\nAddress: {address}"),
        RData::CNAME(target) => format!("{name}\tcanonical name = {target}"),
        RData::PTR(target) => format!("{name}\tname = {target}"),
        RData::SRV(service) => format!("{name}\tservice = {service}"),
        other => format!("{name}\t{} = {other}", record.record_type()),
    }
}

fn code_name(code: ResponseCode) -> String {
    match code {
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        other => other.to_string(),
    }
}

/// What resolv.conf says (resolv.conf(5)).
#[derive(Debug, Default, PartialEq, Eq)]
struct Settings {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    /// A name with so many dots is asked for as it is before the search domains.
    dots: usize,
}

impl Settings {
    fn parse(text: &str) -> Self {
        let mut settings = Self {
            dots: 1,
            ..Self::default()
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => settings
                    .servers
                    .extend(words.filter_map(|word| word.parse::<IpAddr>().ok())),
                Some("search") => settings.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    let mut dots =
                        words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    settings.dots = dots.next_back().unwrap_or(settings.dots);
                }
                _ => {}
            }
        }
        settings
    }

    /// The absolute names that a name may stand for, in the order of asking.
    fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let mut names: Vec<String> = self
            .search
            .iter()
            .map(|domain| format!("{name}.{}.", domain.trim_end_matches('.')))
            .collect();
        let absolute = format!("{name}.");
        if name.matches('.').count() >= self.dots {
            names.insert(0, absolute);
        } else {
            names.push(absolute);
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::A;

    use super::*;

    const POD: &str =
        "search shop.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";

    #[test]
    fn names_are_searched_for_as_in_a_pod() {
        let settings = Settings::parse(POD);
        assert_eq!(settings.servers, [IpAddr::from([10, 96, 0, 10])]);
        let short = [
            "reviews.shop.svc.cluster.local.",
            "reviews.svc.cluster.local.",
            "reviews.",
        ];
        assert_eq!(settings.candidates("reviews"), short);
        assert_eq!(settings.candidates("a.b.c.d.e.f")[0], "a.b.c.d.e.f.");
        assert_eq!(settings.candidates("reviews."), ["reviews."]);
        assert_eq!(Settings::parse("").candidates("a.b"), ["a.b."]);
    }

    #[test]
    fn an_address_is_asked_for_its_name() {
        let (names, kinds) = questions("10.96.0.20", None, &Settings::default());
        assert_eq!(names, ["20.0.96.10.in-addr.arpa."]);
        assert_eq!(kinds, [RecordType::PTR]);
        let (_, kinds) = questions("reviews", None, &Settings::default());
        assert_eq!(kinds, [RecordType::A, RecordType::AAAA]);
    }

    #[test]
    fn records_are_shown_in_nslookups_words() {
        let name = Name::from_ascii("reviews.default.svc.cluster.local.").unwrap();
        let record = Record::from_rdata(name, 5, RData::A(A::new(10, 96, 0, 20)));
        assert_eq!(
            shown(&record),
            "Name:\treviews.default.svc.cluster.local\nAddress: 10.96.0.20"
        );
    }

    #[test]
    fn options_with_one_dash() {
        assert_eq!(long_options("-type=srv".to_owned()), "--type=srv");
        assert_eq!(long_options("reviews".to_owned()), "reviews");
        assert_eq!(kind("srv"), Ok(RecordType::SRV));
        assert!(kind("house").is_err());
    }

    /// Asks a server that first answers someone else's question.
    #[tokio::test]
    async fn the_answer_to_the_question_counts() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let serve = async {
            let mut buffer = [0; 512];
            let (length, peer) = server.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let mut other = question.clone().into_response();
            other.metadata.id = question.metadata.id.wrapping_add(1);
            let mut own = question.into_response();
            let name = Name::from_ascii("a.").unwrap();
            own.add_answer(Record::from_rdata(name, 5, RData::A(A::new(1, 2, 3, 4))));
            for message in [other, own] {
                server
                    .send_to(&message.to_vec().unwrap(), peer)
                    .await
                    .unwrap();
            }
        };
        let (answer, ()) = tokio::join!(ask(address, "a.", RecordType::A), serve);
        assert_eq!(answer.unwrap().answers.len(), 1);
    }
}
