//! Any policies and any call: what is generated and evaluated says what the naive reading says. `PROPTEST_CASES` asks for more.

use meltemi_api::Resource;
use meltemi_api::istio::AuthorizationPolicy;
use proptest::prelude::{ProptestConfig, any};
use serde_json::{Map, Value, json};

use super::{Ask, SHOP, SLEEP, ask, naive};
use crate::tests::simulation::Proxy;
use crate::tests::support::{World, objects};

/// Takes what a number leads to, one choice after another.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn roll(&mut self, sides: usize) -> usize {
        // Xorshift64 (Marsaglia 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % sides
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }

    fn some(&mut self, of: &[&str]) -> Vec<Value> {
        let count = 1 + self.roll(2);
        (0..count).map(|_| json!(self.one(of))).collect()
    }
}

const PRINCIPALS: [&str; 5] = [
    SLEEP,
    "cluster.local/ns/*",
    "*/sa/sleep",
    "*",
    "other.domain/ns/shop/sa/web",
];
const NAMESPACES: [&str; 5] = ["default", "shop", "s*", "*t", "*"];
const ACCOUNTS: [&str; 3] = ["web", "default/sleep", "team.a"];
const DOMAINS: [&str; 4] = ["cluster.local", "*domain", "o*", "*"];
const USERS: [&str; 5] = [
    "https://id/alice",
    "*/bob",
    "https://id/*",
    "*",
    "*id/alice",
];
const BLOCKS: [&str; 5] = [
    "10.0.0.0/8",
    "192.0.2.7",
    "127.0.0.0/8",
    "2001:db8::/32",
    "0.0.0.0/0",
];
const HOSTS: [&str; 5] = ["a.com", "*.a.com", "A*", "b.org:81", "*"];
const METHODS: [&str; 4] = ["GET", "P*", "*T", "*"];
const PATHS: [&str; 8] = [
    "/a",
    "/a*",
    "*/b",
    "*",
    "/{*}/b",
    "/a/{**}",
    "/{*}/{*}",
    "/a/{**}/c",
];
const PORTS: [&str; 3] = ["8080", "9000", "1"];
const TEXTS: [&str; 4] = ["x", "x*", "*y", "*"];

/// Fields of a source or an operation with what they may hold, and whether to negate them.
fn fields(dice: &mut Dice, of: &[(&str, &str, &[&str])]) -> Value {
    let mut out = Map::new();
    for _ in 0..=dice.roll(2) {
        let (field, negated, values) = dice.one(of);
        let name = dice.one(&[field, field, negated]);
        out.insert(name.to_owned(), Value::Array(dice.some(values)));
    }
    Value::Object(out)
}

fn source(dice: &mut Dice) -> Value {
    let address: &[_] = &[
        ("ipBlocks", "notIpBlocks", &BLOCKS[..]),
        ("remoteIpBlocks", "notRemoteIpBlocks", &BLOCKS),
        ("requestPrincipals", "notRequestPrincipals", &USERS),
        ("trustDomains", "notTrustDomains", &DOMAINS),
    ];
    let by_name: &[_] = &[
        ("principals", "notPrincipals", &PRINCIPALS[..]),
        ("namespaces", "notNamespaces", &NAMESPACES),
    ];
    let by_account: &[_] = &[("serviceAccounts", "notServiceAccounts", &ACCOUNTS[..])];
    // Accounts stand without names.
    let more = dice.one(&[by_name, by_account]);
    let of = [address, more].concat();
    fields(dice, &of)
}

fn operation(dice: &mut Dice) -> Value {
    let of: &[_] = &[
        ("hosts", "notHosts", &HOSTS[..]),
        ("methods", "notMethods", &METHODS),
        ("paths", "notPaths", &PATHS),
        ("ports", "notPorts", &PORTS),
    ];
    fields(dice, of)
}

fn condition(dice: &mut Dice) -> Value {
    let of: &[(&str, &[&str])] = &[
        ("request.headers[x-a]", &TEXTS),
        ("source.ip", &BLOCKS),
        ("remote.ip", &BLOCKS),
        ("source.namespace", &NAMESPACES),
        ("source.principal", &PRINCIPALS),
        ("source.serviceAccount", &ACCOUNTS),
        ("source.trustDomain", &DOMAINS),
        ("request.auth.principal", &USERS),
        ("request.auth.audiences", &TEXTS),
        ("request.auth.presenter", &TEXTS),
        ("request.auth.claims[a]", &TEXTS),
        ("request.auth.claims[a][b]", &TEXTS),
        ("destination.ip", &BLOCKS),
        ("destination.port", &PORTS),
        ("connection.sni", &TEXTS),
    ];
    let (key, values) = dice.one(of);
    let field = dice.one(&["values", "notValues"]);
    json!({"key": key, field: dice.some(values)})
}

fn rule(dice: &mut Dice) -> Value {
    let mut out = Map::new();
    let mut list = |dice: &mut Dice, field: &str, make: &dyn Fn(&mut Dice) -> Value| {
        let count = dice.roll(3);
        if count > 0 {
            let items: Vec<Value> = (0..count).map(|_| make(dice)).collect();
            out.insert(field.to_owned(), json!(items));
        }
    };
    list(dice, "from", &|dice| json!({"source": source(dice)}));
    list(dice, "to", &|dice| json!({"operation": operation(dice)}));
    list(dice, "when", &condition);
    Value::Object(out)
}

/// Up to three policies, as documents.
pub(super) fn policies(dice: &mut Dice) -> String {
    let count = 1 + dice.roll(3);
    let documents = (0..count).map(|index| {
        let action = dice.one(&["ALLOW", "ALLOW", "DENY", "DENY", "AUDIT"]);
        let least = usize::from(action != "ALLOW");
        let rules: Vec<Value> = (0..least + dice.roll(3)).map(|_| rule(dice)).collect();
        let spec = json!({"action": action, "rules": rules});
        let document = json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": format!("p{index}"), "namespace": "shop"}, "spec": spec,
        });
        format!("---\n{document}\n")
    });
    documents.collect()
}

pub(super) fn specs(documents: &str) -> Vec<AuthorizationPolicy> {
    let specs = objects(documents)
        .into_iter()
        .map(|object| match &object.resource {
            Resource::AuthorizationPolicy(spec) => spec.as_ref().clone(),
            other => panic!("{other:?}"),
        });
    specs.collect()
}

/// Any call over HTTP in which only the request varies.
pub(super) fn request<'a>(dice: &mut Dice) -> Ask<'a> {
    let headers: &[&'a [(&'static str, &'a str)]] =
        &[&[], &[("x-a", "x")], &[("x-a", "zy")], &[("x-b", "x")]];
    Ask {
        principal: None,
        method: dice.one(&["GET", "POST", "PUT", "DELETE"]),
        host: dice.one(&[
            "a.com", "A.com:80", "x.a.com", "b.org:81", "b.org", "a.com.",
        ]),
        path: dice.one(&["/a", "/a?q=/b", "/a/b", "/ab", "/c/b", "/", "/a/b/c", "/a/"]),
        headers: dice.one(headers),
        ..ask()
    }
}

fn call<'a>(dice: &mut Dice) -> Ask<'a> {
    let tokens = [
        None,
        None,
        Some(json!({"iss": "https://id", "sub": "alice", "aud": ["x", "q"], "a": {"b": "xy"}})),
        Some(json!({"iss": "https://id", "sub": "bob", "aud": "zy", "azp": "x", "a": ["x"]})),
        Some(json!({"sub": "carol", "a": "y"})),
    ];
    let token = tokens[dice.roll(tokens.len())].clone();
    let path = dice.one(&["", "", "/a;x=1", "/a;x/b"]);
    let request = request(dice);
    Ask {
        principal: dice.one(&[
            None,
            Some(SLEEP),
            Some("cluster.local/ns/shop/sa/web"),
            Some("other.domain/ns/shop/sa/teamxa"),
            Some("other.domain/ns/shop/sa/team.a"),
        ]),
        source: dice.one(&["10.1.2.3", "192.0.2.7", "2001:db8::1"]),
        remote: dice.one(&["10.1.2.3", "192.0.2.7", "2001:db8::1"]),
        path: if path.is_empty() { request.path } else { path },
        port: dice.one(&[8080, 9000]),
        server_name: dice.one(&[None, Some("x"), Some("xy")]),
        token,
        ..request
    }
}

fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(64)
}

proptest::proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn generated_rules_say_what_the_policies_say(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let documents = policies(&mut dice);
        let proxy = Proxy::of(&World::new(&format!("{SHOP}{documents}")), "web");
        let specs = specs(&documents);
        for _ in 0..60 {
            let call = call(&mut dice);
            let verdict = proxy.authorise(&call);
            let expected = naive::allows(&specs, &call, call.port == 8080);
            proptest::prop_assert_eq!(
                verdict == "allowed", expected,
                "{}\n{:?} {} {} {} {:?} {:?} from {} {} token {:?} port {}", documents, call.principal, call.method, call.host,
                call.path, call.headers, call.server_name, call.source, call.remote, call.token, call.port
            );
        }
    }
}
