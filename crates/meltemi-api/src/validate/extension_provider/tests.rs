use crate::istio::{AuthorizerProvider, MeshConfig};
use crate::parse_message;

fn read(providers: &str) -> (MeshConfig, Vec<String>) {
    let text = format!("extensionProviders: [{providers}]");
    let (config, diagnostics) = parse_message::<MeshConfig>("mesh", &text);
    let config = config.unwrap_or_else(|| panic!("{diagnostics:#?}"));
    let told = diagnostics.iter();
    let told = told.map(|told| {
        let field = told.field.as_str().strip_prefix("extensionProviders");
        format!("{}: {}", field.unwrap_or_default(), told.message)
    });
    (config, told.collect())
}

const GOOD: &str = "{name: a, envoyExtAuthzHttp: {service: foo/ext-authz.foo.svc.cluster.local, port: 8000, timeout: 2s, \
    pathPrefix: /check, statusOnError: '503', failOpen: true, clearRouteCache: true, includeRequestHeadersInCheck: [x-ext-authz, x-a-*, '*-b'], \
    includeAdditionalHeadersInCheck: {x-mesh: '%PROTOCOL%'}, includeRequestBodyInCheck: {maxRequestBytes: 10, allowPartialMessage: true, packAsBytes: true}, \
    headersToUpstreamOnAllow: [x-a], headersToDownstreamOnAllow: [x-b], headersToDownstreamOnDeny: [x-c]}}";

#[test]
fn what_istios_guide_writes_is_sound() {
    let (config, told) = read(GOOD);
    assert_eq!(told, [""; 0]);
    let Ok(AuthorizerProvider::Http(http)) = config.authorizer("a") else {
        panic!("{:?}", config.authorizer("a"));
    };
    assert_eq!(http.told_headers().len(), 3);
    let authorizer = config.authorizer("a").unwrap();
    assert_eq!(
        authorizer.service(),
        (Some("foo"), "ext-authz.foo.svc.cluster.local")
    );
    assert_eq!(
        (authorizer.port(), authorizer.status_on_error()),
        (8000, Some(503))
    );
    let older =
        "{name: a, envoyExtAuthzHttp: {service: h.local, port: 1, includeHeadersInCheck: [old]}}";
    let (config, told) = read(older);
    assert_eq!(told, [""; 0]);
    let Ok(AuthorizerProvider::Http(http)) = config.authorizer("a") else {
        panic!();
    };
    assert_eq!(http.told_headers(), ["old"]);
}

#[test]
fn what_is_wrong_is_told_with_its_field() {
    for (fields, expected) in [
        (
            "service: '', port: 1",
            ".service: an authorizer needs a service",
        ),
        (
            "service: a/b/c, port: 1",
            ".service: \"a/b/c\" is not <namespace>/<host> or <host>",
        ),
        (
            "service: '*.a', port: 1",
            ".service: \"*.a\" is not <namespace>/<host> or <host>",
        ),
        ("service: a.b, port: 0", ".port: 0 is no port"),
        ("service: a.b, port: 70000", ".port: 70000 is no port"),
        (
            "service: a.b, port: 1, timeout: 0s",
            ".timeout: in less than 1ms nobody answers",
        ),
        (
            "service: a.b, port: 1, pathPrefix: check",
            ".pathPrefix: \"check\" is no beginning of a path",
        ),
        (
            "service: a.b, port: 1, pathPrefix: '/a?b'",
            ".pathPrefix: \"/a?b\" is no beginning of a path",
        ),
        (
            "service: a.b, port: 1, statusOnError: none",
            ".statusOnError: \"none\" is no HTTP status that ends a request",
        ),
        (
            "service: a.b, port: 1, statusOnError: '100'",
            ".statusOnError: \"100\" is no HTTP status that ends a request",
        ),
        (
            "service: a.b, port: 1, includeRequestBodyInCheck: {}",
            ".includeRequestBodyInCheck.maxRequestBytes: of a body of 0 bytes nothing is shown",
        ),
        (
            "service: a.b, port: 1, headersToUpstreamOnAllow: ['*']",
            ".headersToUpstreamOnAllow[0]: a `*` alone matches nothing here",
        ),
        (
            "service: a.b, port: 1, headersToDownstreamOnDeny: ['a*b']",
            ".headersToDownstreamOnDeny[0]: \"a*b\" is no name of a header",
        ),
        (
            "service: a.b, port: 1, includeAdditionalHeadersInCheck: {'a b': x}",
            ".includeAdditionalHeadersInCheck[\"a b\"]: \"a b\" is no name of a header",
        ),
        (
            "service: a.b, port: 1, includeAdditionalHeadersInCheck: {a: '%X%'}",
            ".includeAdditionalHeadersInCheck[\"a\"]: %X% is no operator that proxies know",
        ),
    ] {
        let (config, told) = read(&format!("{{name: a, envoyExtAuthzHttp: {{{fields}}}}}"));
        assert_eq!(told, [format!("[0].envoyExtAuthzHttp{expected}")]);
        assert!(config.authorizer("a").is_err(), "{fields}");
    }
    let (config, told) = read("{name: a, zipkin: {service: z, port: 1}}");
    assert!(told[0].starts_with("[0].zipkin: "), "{told:?}");
    let (message, _) = config.authorizer("a").unwrap_err();
    assert_eq!(message, "the provider \"a\" of meshConfig is no authorizer");
    let both = "{name: a, envoyExtAuthzHttp: {service: a.b, port: 1}, envoyExtAuthzGrpc: {service: a.b, port: 1}}";
    assert_eq!(read(both).1, ["[0]: a provider is of one kind"]);
}

/// Nobody may be asked in place of whom the policy means.
#[test]
fn a_name_that_is_not_there_or_there_twice_is_nobodys() {
    let (config, told) = read(&format!("{GOOD}, {GOOD}"));
    assert_eq!(
        told,
        ["[1].name: \"a\" names a provider above: a policy that names it denies what it selects"]
    );
    let (message, _) = config.authorizer("a").unwrap_err();
    assert_eq!(
        message,
        "meshConfig.extensionProviders has several providers \"a\""
    );
    let (config, _) = read(&GOOD.replace("name: a,", "name: sample,"));
    let (message, hint) = config.authorizer("sampel").unwrap_err();
    assert_eq!(
        message,
        "meshConfig.extensionProviders has no provider \"sampel\""
    );
    assert_eq!(hint, "did you mean \"sample\"?");
    assert_eq!(
        MeshConfig::default().authorizer("a").unwrap_err().1,
        "define it in meshConfig.extensionProviders, which is empty"
    );
}

#[test]
fn a_typing_error_leaves_the_last_good_provider_in_force() {
    let (last, _) = read(GOOD);
    let (mut now, _) = read(
        "{name: a, envoyExtAuthzGrpc: {service: a.b, port: 0}}, {name: b, envoyExtAuthzGrpc: {service: a.b, port: 0}}",
    );
    now.keep_sound(&last);
    assert_eq!(now.extension_providers[0], last.extension_providers[0]);
    assert!(now.authorizer("a").is_ok());
    assert!(now.authorizer("b").is_err());
}
