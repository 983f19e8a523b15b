//! Judges the JSON Web Tokens of a request (Envoy `filters.http.jwt_authn.v3`).
//!
//! ```text
//! rule or route -> requirement -> providers -> locations -> token -> issuer, time, audience -> key, signature
//!                                                       -> payload: headers for the upstream, metadata for routes and policies
//! ```
//! Every error denies; what a token says counts only after its signature did.

mod claims;
mod json;
mod keys;
mod location;
mod status;
mod token;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Map, Value};

pub use claims::audience;
pub use keys::{JWKS_LIMIT_BYTES, Jwks, JwksError};
pub use status::JwtStatus;

use crate::request::RequestHead;
use crate::runtime::{
    JwtAuthentication, JwtBypass, JwtKeys, JwtLocation, JwtPerRoute, JwtProvider, JwtRequirement,
    RemoteJwks,
};
use token::Token;

/// Tokens of one request where a provider looks.
const TOKEN_COUNT_LIMIT: usize = 16;
/// Signatures that one request may cost: several rules may be of one issuer.
const SIGNATURE_LIMIT: usize = 64;

/// What the filter reads and changes of a request.
#[derive(Debug)]
pub struct JwtRequest<'a> {
    pub headers: &'a mut HeaderMap,
    /// With query.
    pub path: &'a mut String,
}

/// What is known after a request was let through.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verified {
    /// The payloads of good tokens, by the names that their providers give them: Envoy's dynamic metadata of the filter.
    pub metadata: Map<String, Value>,
    /// The route may be another now.
    pub clears_route: bool,
}

/// Where the keys of a provider are that the proxy fetches.
pub type FetchedKeys<'k> = dyn Fn(&RemoteJwks) -> Option<Arc<Jwks>> + 'k;

impl JwtAuthentication {
    /// What the request has to show: the route's word, or else that of the first rule that matches.
    ///
    /// # Errors
    /// The route names a requirement that does not exist, which nobody can meet.
    pub fn requirement(
        &self,
        route: Option<&JwtPerRoute>,
        head: &RequestHead<'_>,
        random: u64,
    ) -> Result<Option<&JwtRequirement>, String> {
        let wanted = match route {
            Some(JwtPerRoute::Disabled) => return Ok(None),
            Some(JwtPerRoute::Requirement(wanted)) => wanted,
            None => {
                let mut rules = self.rules.iter();
                let first = rules.find(|rule| rule.matches.matches(head, random));
                return Ok(first.and_then(|rule| rule.requires.as_ref()));
            }
        };
        let found = self.named.iter().find(|(name, _)| name == wanted);
        found
            .map(|(_, requirement)| Some(requirement))
            .ok_or_else(|| {
                let names: Vec<&str> = self.named.iter().map(|(name, _)| &**name).collect();
                format!(
                    "Wrong requirement_name: {wanted}. It should be one of [{}]",
                    names.join(",")
                )
            })
    }

    /// Takes away what a client may not say in the filter's name.
    pub fn sanitise(&self, headers: &mut HeaderMap) {
        for name in &self.reserved_headers {
            headers.remove(name);
        }
    }

    /// Takes every token out of a path that is only told any more.
    pub fn redact(&self, path: &mut String) {
        let mut request = JwtRequest {
            headers: &mut HeaderMap::new(),
            path,
        };
        let locations = self.providers.iter().flat_map(|own| &own.locations);
        locations.for_each(|location| location.remove(&mut request));
    }

    /// Whether the request is a CORS preflight that needs no token: browsers send none with it.
    pub fn bypasses(&self, method: &Method, headers: &HeaderMap) -> bool {
        let has = |name| headers.get(name).is_some_and(|value| !value.is_empty());
        self.bypass_cors_preflight
            && method == Method::OPTIONS
            && has(header::ORIGIN)
            && has(header::ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// The key sets that have to be fetched before the request can be judged: of providers that find a token in it.
    pub fn wanted_keys<'c>(
        &'c self,
        requirement: &'c JwtRequirement,
        headers: &HeaderMap,
        path: &str,
    ) -> Vec<&'c Arc<RemoteJwks>> {
        let mut wanted = Vec::new();
        for provider in self.providers_of(requirement) {
            let JwtKeys::Remote(remote) = &provider.keys else {
                continue;
            };
            let mut locations = provider.locations.iter();
            if locations.any(|location| !location.tokens(headers, path).is_empty())
                && !wanted.contains(&remote)
            {
                wanted.push(remote);
            }
        }
        wanted
    }

    fn providers_of<'c>(&'c self, requirement: &'c JwtRequirement) -> Vec<&'c JwtProvider> {
        match requirement {
            JwtRequirement::Provider { provider, .. } => {
                self.providers.get(*provider).into_iter().collect()
            }
            JwtRequirement::AnyOf {
                alternatives: list, ..
            }
            | JwtRequirement::AllOf(list) => list
                .iter()
                .flat_map(|inner| self.providers_of(inner))
                .collect(),
            JwtRequirement::Bypass(_) => self.providers.iter().collect(),
        }
    }

    /// Judges a request at `now`, the time since 1970, and changes it as good tokens want it changed.
    ///
    /// # Errors
    /// Why the request is refused.
    pub fn verify(
        &self,
        requirement: &JwtRequirement,
        request: JwtRequest<'_>,
        fetched: &FetchedKeys<'_>,
        now: Duration,
    ) -> Result<Verified, JwtStatus> {
        let mut judge = Judge {
            config: self,
            request,
            fetched,
            now,
            signatures_left: SIGNATURE_LIMIT,
            read: Vec::new(),
            verified: Verified::default(),
        };
        judge.meets(requirement)?;
        Ok(judge.verified)
    }
}

/// What a token would prove if it were genuine: an answer to who asks about policies. No request is let pass by it, since it
/// looks at no signature.
///
/// # Errors
/// Why it would be refused all the same.
pub fn foresee(
    config: &JwtAuthentication,
    token: &str,
    now: Duration,
) -> Result<Map<String, Value>, JwtStatus> {
    let token = Token::parse(token)?;
    let provider = config.providers.iter().find(|own| own.is_of(&token.issuer));
    let provider = provider.ok_or(JwtStatus::UnknownIssuer)?;
    provider.check_claims(&provider.audiences, &token, now)?;
    Ok(provider.told(&token).into_iter().collect())
}

struct Judge<'a, 'k> {
    config: &'a JwtAuthentication,
    request: JwtRequest<'a>,
    fetched: &'a FetchedKeys<'k>,
    now: Duration,
    signatures_left: usize,
    /// Every provider looks at the tokens of its locations: each is read once.
    read: Vec<(String, Result<Arc<Token>, JwtStatus>)>,
    verified: Verified,
}

impl Judge<'_, '_> {
    fn meets(&mut self, requirement: &JwtRequirement) -> Result<(), JwtStatus> {
        match requirement {
            JwtRequirement::Provider {
                provider,
                audiences,
            } => {
                let provider = self.config.providers.get(*provider);
                let provider = provider.ok_or(JwtStatus::UnknownIssuer)?;
                let audiences = audiences.as_ref().unwrap_or(&provider.audiences);
                self.provider(provider, audiences)
            }
            JwtRequirement::AllOf(all) => all.iter().try_for_each(|inner| self.meets(inner)),
            JwtRequirement::AnyOf {
                alternatives,
                or_else,
            } => self.any(alternatives, *or_else),
            JwtRequirement::Bypass(bypass) => {
                let status = self.whoever();
                match (status, bypass) {
                    (Err(JwtStatus::Missing), _) | (Err(_), JwtBypass::MissingOrFailed) => Ok(()),
                    (status, _) => status,
                }
            }
        }
    }

    /// Of failures the last one that says something about a token is told; a token that is there and bad is never missing.
    fn any(
        &mut self,
        alternatives: &[JwtRequirement],
        or_else: Option<JwtBypass>,
    ) -> Result<(), JwtStatus> {
        let mut said = JwtStatus::Missing;
        for alternative in alternatives {
            let Err(status) = self.meets(alternative) else {
                return Ok(());
            };
            let says_more = match status {
                JwtStatus::Missing => false,
                JwtStatus::UnknownIssuer => said == JwtStatus::Missing,
                _ => true,
            };
            if says_more {
                said = status;
            }
        }
        match or_else {
            Some(JwtBypass::MissingOrFailed) => Ok(()),
            Some(JwtBypass::Missing) if said == JwtStatus::Missing => Ok(()),
            _ => Err(said),
        }
    }

    /// Every token that stands where the provider looks must be good: the application may read any of them. Nothing is told
    /// or taken away before all are.
    ///
    /// Differs from Envoy: there the good ones have had their effect when a bad one is found.
    fn provider(
        &mut self,
        provider: &JwtProvider,
        audiences: &[Arc<str>],
    ) -> Result<(), JwtStatus> {
        let found = self.found(&provider.locations)?;
        let mut good = Vec::with_capacity(found.len());
        for (location, text) in &found {
            let token = self.token(text)?;
            self.check(provider, audiences, &token)?;
            good.push((provider, *location, token));
        }
        self.take(good)
    }

    /// Every token of every provider's locations, judged by the provider that it says it is of.
    fn whoever(&mut self) -> Result<(), JwtStatus> {
        let config = self.config;
        let mut locations: Vec<&JwtLocation> = Vec::new();
        for location in config.providers.iter().flat_map(|own| &own.locations) {
            if !locations.contains(&location) {
                locations.push(location);
            }
        }
        let found = self.found(locations)?;
        let mut good = Vec::with_capacity(found.len());
        for (location, text) in &found {
            let token = self.token(text)?;
            let mut own = config.providers.iter();
            let own = own
                .find(|own| own.is_of(&token.issuer) && own.locations.contains(location))
                .ok_or(JwtStatus::UnknownIssuer)?;
            self.check(own, &own.audiences, &token)?;
            good.push((own, *location, token));
        }
        self.take(good)
    }

    fn token(&mut self, text: &str) -> Result<Arc<Token>, JwtStatus> {
        if let Some((_, known)) = self.read.iter().find(|(known, _)| known == text) {
            return known.clone();
        }
        let token = Token::parse(text).map(Arc::new);
        self.read.push((text.to_owned(), token.clone()));
        token
    }

    /// The tokens that stand there; more than the bound are none.
    fn found<'l>(
        &self,
        locations: impl IntoIterator<Item = &'l JwtLocation>,
    ) -> Result<Vec<(&'l JwtLocation, String)>, JwtStatus> {
        let (headers, path) = (&*self.request.headers, &*self.request.path);
        let locations = locations.into_iter();
        let found: Vec<_> = locations
            .flat_map(|location| {
                let tokens = location.tokens(headers, path).into_iter();
                tokens.map(move |token| (location, token))
            })
            .take(TOKEN_COUNT_LIMIT + 1)
            .collect();
        match found.len() > TOKEN_COUNT_LIMIT {
            true => Err(JwtStatus::BadFormat),
            false => Ok(found),
        }
    }

    /// Does what good tokens are good for.
    fn take(
        &mut self,
        good: Vec<(&JwtProvider, &JwtLocation, Arc<Token>)>,
    ) -> Result<(), JwtStatus> {
        if good.is_empty() {
            return Err(JwtStatus::Missing);
        }
        for (provider, location, token) in good {
            self.tell(provider, &token);
            if !provider.forward {
                location.remove(&mut self.request);
            }
        }
        Ok(())
    }

    fn check(
        &mut self,
        provider: &JwtProvider,
        audiences: &[Arc<str>],
        token: &Token,
    ) -> Result<(), JwtStatus> {
        if !provider.is_of(&token.issuer) {
            return Err(JwtStatus::UnknownIssuer);
        }
        provider.check_claims(audiences, token, self.now)?;
        let keys = match &provider.keys {
            JwtKeys::Local(keys) => Some(keys.clone()),
            JwtKeys::Remote(remote) => (self.fetched)(remote),
        };
        let keys = keys.ok_or(JwtStatus::FetchFailed)?;
        let left = self.signatures_left.checked_sub(1);
        self.signatures_left = left.ok_or(JwtStatus::VerificationFails)?;
        keys.verify(token)
    }

    /// Tells upstream, routes and policies what a good token says.
    fn tell(&mut self, provider: &JwtProvider, token: &Token) {
        if let Some(name) = &provider.payload_header {
            let mut value = Cow::Borrowed(token.encoded_payload.as_str());
            if provider.pads_payload_header {
                let missing = (4 - value.len() % 4) % 4;
                value.to_mut().push_str(&"=".repeat(missing));
            }
            if let Ok(value) = HeaderValue::from_str(&value) {
                self.request.headers.insert(name, value);
            }
        }
        let mut is_told = provider.payload_in_metadata.is_some();
        for wanted in &provider.claim_headers {
            let headers = &mut self.request.headers;
            match claims::header(&token.payload, &wanted.claim) {
                Some(value) => {
                    headers.insert(&wanted.header, value);
                    is_told = true;
                }
                // What a token before this one said is not to be read as said by this one.
                None => drop(headers.remove(&wanted.header)),
            }
        }
        self.verified.metadata.extend(provider.told(token));
        self.verified.clears_route |= provider.clear_route_cache && is_told;
    }
}

impl JwtProvider {
    fn is_of(&self, issuer: &str) -> bool {
        self.issuer.is_empty() || *self.issuer == *issuer
    }

    /// All that a token must be besides genuine.
    fn check_claims(
        &self,
        audiences: &[Arc<str>],
        token: &Token,
        now: Duration,
    ) -> Result<(), JwtStatus> {
        self.check_subject_and_life(token, now)?;
        let wants = |known: &Arc<str>| token.audiences.iter().any(|own| audience(own) == &**known);
        match audiences.is_empty() || audiences.iter().any(wants) {
            true => Ok(()),
            false => Err(JwtStatus::AudienceNotAllowed),
        }
    }

    /// The payload as policies see it.
    fn told(&self, token: &Token) -> Option<(String, Value)> {
        let key = self.payload_in_metadata.as_deref()?;
        let mut payload = token.payload.clone();
        claims::normalise(&mut payload, &self.space_delimited_claims);
        Some((key.to_owned(), Value::Object(payload)))
    }

    /// Differs from Envoy: `exp: 0` is 1970, not "never".
    fn check_subject_and_life(&self, token: &Token, now: Duration) -> Result<(), JwtStatus> {
        let subject_fits = self
            .subjects
            .as_ref()
            .is_none_or(|subjects| subjects.matches(token.subject.as_bytes()));
        let left = token.expires.map(|expires| expires.saturating_sub(now));
        let life_fits = match (self.max_lifetime, left) {
            (Some(longest), Some(left)) => left <= longest,
            (Some(_), None) => false,
            (None, left) => left.is_some() || !self.require_expiration,
        };
        if !subject_fits || !life_fits {
            return Err(JwtStatus::VerificationFails);
        }
        let is_early = |from: Duration| from > now.saturating_add(self.clock_skew);
        if token.not_before.is_some_and(is_early) {
            return Err(JwtStatus::NotYetValid);
        }
        let is_over = |until: Duration| now > until.saturating_add(self.clock_skew);
        match token.expires.is_some_and(is_over) {
            true => Err(JwtStatus::Expired),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
