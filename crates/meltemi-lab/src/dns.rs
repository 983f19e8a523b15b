//! The cluster's DNS: what CoreDNS answers for Services and pods (Kubernetes DNS specification 1.1.0), in process.

mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use meltemi_core::names::CLUSTER_DOMAIN;

pub(crate) use server::serve;

/// Seconds a client may keep an answer; CoreDNS' default for the cluster's own names.
const TTL: u32 = 5;

/// Aliases that lead in a circle end here.
const ALIAS_LIMIT: usize = 8;

/// Every name the server knows; lower case, absolute, without the final dot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Zone {
    pub(crate) addresses: BTreeMap<String, BTreeSet<Ipv4Addr>>,
    pub(crate) services: BTreeMap<String, BTreeSet<Target>>,
    pub(crate) names: BTreeMap<Ipv4Addr, String>,
    /// Names that stand for another (Services of type ExternalName).
    pub(crate) aliases: BTreeMap<String, String>,
}

/// Where an SRV record points.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Zone {
    /// Answers one query. Names of other domains do not exist: the lab has no way out, and saying so at once is better
    /// than a timeout.
    pub(crate) fn answer(&self, query: &Message) -> Message {
        let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
        reply.metadata.recursion_desired = query.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.metadata.authoritative = true;
        reply.add_queries(query.queries.iter().cloned());
        let [question] = query.queries.as_slice() else {
            reply.metadata.response_code = ResponseCode::FormErr;
            return reply;
        };
        if query.metadata.message_type != MessageType::Query
            || query.metadata.op_code != OpCode::Query
        {
            reply.metadata.response_code = ResponseCode::NotImp;
            return reply;
        }
        let name = question
            .name()
            .to_ascii()
            .trim_end_matches('.')
            .to_ascii_lowercase();
        let (aliases, name) = self.resolve(&name);
        let records = self.records(&name, question.query_type());
        let mut owner = question.name().clone();
        for alias in aliases {
            let data = RData::CNAME(CNAME(alias.clone()));
            reply.add_answer(Record::from_rdata(owner, TTL, data));
            owner = alias;
        }
        if records.is_empty() {
            if !self.exists(&name) {
                reply.metadata.response_code = ResponseCode::NXDomain;
            }
            // RFC 2308: the SOA tells how long "no" may be kept.
            reply.add_authorities(authority());
        }
        reply.add_answers(
            records
                .into_iter()
                .map(|data| Record::from_rdata(owner.clone(), TTL, data)),
        );
        reply
    }

    /// Follows aliases: each step's target, and the name at their end (RFC 1034, 3.6.2).
    fn resolve(&self, name: &str) -> (Vec<Name>, String) {
        let mut steps = Vec::new();
        let mut name = name.to_owned();
        while steps.len() < ALIAS_LIMIT
            && let Some(target) = self.aliases.get(&name)
            && let Ok(step) = Name::from_ascii(format!("{target}."))
        {
            steps.push(step);
            name.clone_from(target);
        }
        (steps, name)
    }

    fn records(&self, name: &str, kind: RecordType) -> Vec<RData> {
        match kind {
            RecordType::A => self
                .addresses
                .get(name)
                .into_iter()
                .flatten()
                .map(|a| RData::A(A(*a)))
                .collect(),
            RecordType::SRV => self
                .services
                .get(name)
                .into_iter()
                .flatten()
                .filter_map(srv)
                .collect(),
            RecordType::PTR => reverse(name)
                .and_then(|address| self.names.get(&address))
                .and_then(|name| Name::from_ascii(format!("{name}.")).ok())
                .map(|name| RData::PTR(PTR(name)))
                .into_iter()
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Whether a name or anything below it is known (RFC 8020).
    fn exists(&self, name: &str) -> bool {
        if name == CLUSTER_DOMAIN
            || reverse(name).is_some_and(|address| self.names.contains_key(&address))
        {
            return true;
        }
        let below = format!(".{name}");
        let names = self.addresses.keys().chain(self.services.keys());
        let names = names.chain(self.aliases.keys());
        names
            .into_iter()
            .any(|known| known == name || known.ends_with(&below))
    }
}

fn srv(target: &Target) -> Option<RData> {
    let host = Name::from_ascii(format!("{}.", target.host)).ok()?;
    Some(RData::SRV(SRV::new(0, 100, target.port, host)))
}

fn reverse(name: &str) -> Option<Ipv4Addr> {
    let mut octets = name
        .strip_suffix(".in-addr.arpa")?
        .split('.')
        .map(str::parse::<u8>);
    let mut next = || octets.next()?.ok();
    let (d, c, b, a) = (next()?, next()?, next()?, next()?);
    next().is_none().then_some(Ipv4Addr::new(a, b, c, d))
}

fn authority() -> Option<Record> {
    let zone = Name::from_ascii(format!("{CLUSTER_DOMAIN}.")).ok()?;
    let server = Name::from_ascii(format!("ns.dns.{CLUSTER_DOMAIN}.")).ok()?;
    let mailbox = Name::from_ascii(format!("hostmaster.{CLUSTER_DOMAIN}.")).ok()?;
    Some(Record::from_rdata(
        zone,
        TTL,
        RData::SOA(SOA::new(server, mailbox, 1, 7200, 1800, 86400, TTL)),
    ))
}

#[cfg(test)]
mod tests;
