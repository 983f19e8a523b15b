//! What the instances of the control plane know. Each has proxies of its own, and the configuration is the same in all.

use serde_json::Value;

use crate::{Access, AccessError, CliError, Io, Method, Response};

/// The answers of all instances, by their names. One that does not answer is told of, as long as another one does.
pub(crate) async fn every(
    path: &str,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<Vec<(String, Value)>, CliError> {
    let mut answers = Vec::new();
    let mut failures = Vec::new();
    for (name, answer) in access.istiods_http(Method::Get, path).await? {
        match json(path, answer) {
            Ok(answer) => answers.push((name, answer)),
            Err(error) => failures.push((name, error)),
        }
    }
    if answers.is_empty() {
        return Err(last(path, failures));
    }
    for (name, error) in failures {
        io.note(&format!(
            "{name}: {error}; what it alone knows is not shown"
        ))?;
    }
    Ok(answers)
}

/// The answer of the first instance that has one: of a proxy, that which the proxy is connected to.
pub(crate) async fn any(path: &str, access: &dyn Access) -> Result<Value, CliError> {
    let mut failures = Vec::new();
    for (name, answer) in access.istiods_http(Method::Get, path).await? {
        match json(path, answer) {
            Ok(answer) => return Ok(answer),
            Err(error) => failures.push((name, error)),
        }
    }
    Err(last(path, failures))
}

/// That nobody knows a proxy is of interest if everybody says so.
fn last(path: &str, mut failures: Vec<(String, CliError)>) -> CliError {
    let is_unknown = |error: &CliError| matches!(error, CliError::Data { .. });
    let other = failures.iter().position(|(_, error)| !is_unknown(error));
    let at = other.unwrap_or(0);
    if failures.is_empty() {
        return CliError::answer(format!("no control plane answered {path}"));
    }
    failures.swap_remove(at).1
}

fn json(path: &str, answer: Result<Response, AccessError>) -> Result<Value, CliError> {
    let response = answer?;
    if let (404, Some((_, proxy))) = (response.status, path.split_once("proxyID=")) {
        let message = format!("the control plane knows no proxy {proxy}");
        return Err(CliError::data(
            message,
            "Is it connected? See proxy-status, and the log of its istio-proxy container.",
        ));
    }
    if response.status != 200 {
        let text = String::from_utf8_lossy(&response.body);
        let message = format!(
            "the control plane answered {} to {path}: {}",
            response.status,
            text.trim()
        );
        return Err(CliError::answer(message));
    }
    serde_json::from_slice(&response.body).map_err(|error| {
        CliError::answer(format!(
            "the control plane answered {path} with no JSON: {error}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::fake::Fake;

    #[test]
    fn all_instances_are_asked_and_one_that_is_silent_is_told_of() {
        let row = |name: &str| json!([{"proxy": name, "istiod": "istiod"}]);
        let mut fake = Fake::default()
            .answer("a GET /debug/syncz", &row("one.shop"))
            .answer("b GET /debug/syncz", &row("two.shop"));
        fake.istiods = ["a", "b", "c"].map(str::to_owned).to_vec();
        let output = fake.run(&["proxy-status"]);
        assert_eq!(output.status, 0, "{}", output.stderr);
        let row = |name: &str| {
            let line = output.stdout.lines().find(|line| line.starts_with(name));
            let line = line.unwrap_or_else(|| panic!("{}", output.stdout));
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        assert_eq!((row("one.shop"), row("two.shop")), ("a".into(), "b".into()));
        assert!(
            output
                .stderr
                .starts_with("c: the control plane answered 404")
        );
    }
}
