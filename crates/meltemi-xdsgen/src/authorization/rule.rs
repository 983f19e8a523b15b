//! A rule as permissions and principals.

use meltemi_api::istio::{Attribute, AuthorizationAction, AuthorizationRule, Condition};
use meltemi_model::MeshAuthorizationPolicy;
use meltemi_proto::envoy::config::rbac::v3::{
    Permission, Policy, Principal, permission, principal,
};

use super::source::Domains;
use super::{operation, source};

/// What is looked into.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    Requests,
    /// There is no request to look into: what asks for one cannot be written.
    Connections,
}

/// Permissions and principals are combined alike.
pub(super) trait Term: Sized {
    fn any() -> Self;
    fn all_of(terms: Vec<Self>) -> Self;
    fn any_of(terms: Vec<Self>) -> Self;
    fn not(term: Self) -> Self;
}

impl Term for Permission {
    fn any() -> Self {
        permission::Rule::Any(true).into_term()
    }

    fn all_of(rules: Vec<Self>) -> Self {
        permission::Rule::AndRules(permission::Set { rules }).into_term()
    }

    fn any_of(rules: Vec<Self>) -> Self {
        permission::Rule::OrRules(permission::Set { rules }).into_term()
    }

    fn not(term: Self) -> Self {
        permission::Rule::NotRule(Box::new(term)).into_term()
    }
}

impl Term for Principal {
    fn any() -> Self {
        principal::Identifier::Any(true).into_term()
    }

    fn all_of(ids: Vec<Self>) -> Self {
        principal::Identifier::AndIds(principal::Set { ids }).into_term()
    }

    fn any_of(ids: Vec<Self>) -> Self {
        principal::Identifier::OrIds(principal::Set { ids }).into_term()
    }

    fn not(term: Self) -> Self {
        principal::Identifier::NotId(Box::new(term)).into_term()
    }
}

/// The one field of a term.
pub(super) trait IntoTerm<T> {
    fn into_term(self) -> T;
}

impl IntoTerm<Permission> for permission::Rule {
    fn into_term(self) -> Permission {
        Permission { rule: Some(self) }
    }
}

impl IntoTerm<Principal> for principal::Identifier {
    fn into_term(self) -> Principal {
        Principal {
            identifier: Some(self),
        }
    }
}

/// Demands that are all met. One that cannot be written voids a rule of ALLOW, which then allows less, and is left out of any
/// other, which then denies more.
pub(super) struct Demands<T> {
    layer: Layer,
    action: AuthorizationAction,
    all: Vec<T>,
    is_void: bool,
}

impl<T: Term> Demands<T> {
    fn new(layer: Layer, action: AuthorizationAction) -> Self {
        Self {
            layer,
            action,
            all: Vec::new(),
            is_void: false,
        }
    }

    /// Any of `values`, and none of `not_values`.
    pub(super) fn add(
        &mut self,
        values: &[String],
        not_values: &[String],
        write: impl Fn(&str) -> Option<T>,
    ) {
        self.add_whole(values, not_values, |values| {
            let terms: Option<Vec<T>> = values.iter().map(|value| write(value)).collect();
            terms.map(T::any_of)
        });
    }

    /// The same of what only requests have.
    pub(super) fn add_of_request(
        &mut self,
        values: &[String],
        not_values: &[String],
        write: impl Fn(&str) -> Option<T>,
    ) {
        let is_request = self.layer == Layer::Requests;
        self.add(values, not_values, |value| {
            is_request.then(|| write(value)).flatten()
        });
    }

    /// The same where one term stands for all values.
    pub(super) fn add_whole_of_request(
        &mut self,
        values: &[String],
        not_values: &[String],
        write: impl Fn(&[String]) -> Option<T>,
    ) {
        let is_request = self.layer == Layer::Requests;
        self.add_whole(values, not_values, |values| {
            is_request.then(|| write(values)).flatten()
        });
    }

    fn add_whole(
        &mut self,
        values: &[String],
        not_values: &[String],
        write: impl Fn(&[String]) -> Option<T>,
    ) {
        if !values.is_empty() {
            self.take(write(values));
        }
        if !not_values.is_empty() {
            self.take(write(not_values).map(T::not));
        }
    }

    fn take(&mut self, term: Option<T>) {
        match term {
            Some(term) => self.all.push(term),
            None => self.is_void |= self.action == AuthorizationAction::Allow,
        }
    }

    /// `None` for a rule that is void.
    fn into_term(mut self) -> Option<T> {
        if self.is_void {
            return None;
        }
        if self.all.is_empty() {
            self.all.push(T::any());
        }
        Some(T::all_of(self.all))
    }
}

/// Writes a rule; `None` for one of ALLOW that asks for requests where there are none.
pub(super) fn write(
    rule: &AuthorizationRule,
    policy: &MeshAuthorizationPolicy,
    layer: Layer,
    domains: &Domains,
) -> Option<Policy> {
    let action = policy.spec.action;
    let nothing = Default::default();
    let operations: Vec<_> = match rule.to.is_empty() {
        true => vec![&nothing],
        false => rule
            .to
            .iter()
            .map(|to| to.operation.as_ref().unwrap_or(&nothing))
            .collect(),
    };
    let permissions: Option<Vec<Permission>> = operations
        .into_iter()
        .map(|operation| {
            let mut demands = Demands::new(layer, action);
            operation::demand(operation, &mut demands);
            let conditions = rule.when.iter();
            conditions.for_each(|condition| of_call(condition, &mut demands));
            demands.into_term()
        })
        .collect();
    let anybody = Default::default();
    let sources: Vec<_> = match rule.from.is_empty() {
        true => vec![&anybody],
        false => rule
            .from
            .iter()
            .map(|from| from.source.as_ref().unwrap_or(&anybody))
            .collect(),
    };
    let writer = source::Writer {
        namespace: policy.namespace(),
        domains,
    };
    let principals: Option<Vec<Principal>> = sources
        .into_iter()
        .map(|source| {
            let mut demands = Demands::new(layer, action);
            writer.demand(source, &mut demands);
            let conditions = rule.when.iter();
            conditions.for_each(|condition| of_caller(&writer, condition, &mut demands));
            demands.into_term()
        })
        .collect();
    Some(Policy {
        permissions: permissions?,
        principals: principals?,
        ..Policy::default()
    })
}

/// The conditions that are about what is called. A key that is no attribute is refused before it comes here, and were it not,
/// it would be as any demand that cannot be written.
fn of_call(condition: &Condition, demands: &mut Demands<Permission>) {
    let (values, not_values) = (&condition.values[..], &condition.not_values[..]);
    match Attribute::parse(&condition.key) {
        Some(Attribute::DestinationIp) => demands.add(values, not_values, operation::address),
        Some(Attribute::DestinationPort) => demands.add(values, not_values, operation::port),
        Some(Attribute::ConnectionSni) => demands.add(values, not_values, operation::server_name),
        Some(_) => {}
        None => demands.add(values, not_values, |_| None),
    }
}

/// The conditions that are about who calls.
fn of_caller(writer: &source::Writer<'_>, condition: &Condition, demands: &mut Demands<Principal>) {
    let (values, not_values) = (&condition.values[..], &condition.not_values[..]);
    match Attribute::parse(&condition.key) {
        Some(attribute) => writer.condition(&attribute, values, not_values, demands),
        None => demands.add(values, not_values, |_| None),
    }
}
