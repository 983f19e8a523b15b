//! `get endpoints`: the older form of EndpointSlices, one object for a Service (Kubernetes API, `Endpoints`).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

pub(super) const KIND: &str = "Endpoints";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// How many addresses a line of the table has.
const SHOWN: usize = 3;

/// The Endpoints of each Service that has slices.
pub(super) fn of_slices(slices: &[Value]) -> Vec<Value> {
    let mut services: BTreeMap<(&str, &str), Vec<&Value>> = BTreeMap::new();
    for slice in slices {
        let metadata = &slice["metadata"];
        let service = metadata["labels"][SERVICE_NAME].as_str();
        if let (Some(service), Some(namespace)) = (service, metadata["namespace"].as_str()) {
            services
                .entry((namespace, service))
                .or_default()
                .push(slice);
        }
    }
    services
        .into_iter()
        .map(|((namespace, service), slices)| of_service(namespace, service, &slices))
        .collect()
}

fn of_service(namespace: &str, service: &str, slices: &[&Value]) -> Value {
    let version = |slice: &&Value| {
        let text = slice["metadata"]["resourceVersion"].as_str();
        text.and_then(|text| text.parse::<u64>().ok())
    };
    let newest = slices.iter().filter_map(version).max().unwrap_or_default();
    let created = slices
        .iter()
        .filter_map(|slice| slice["metadata"]["creationTimestamp"].as_str())
        .min();
    let mut labels = Map::new();
    for (name, value) in slices
        .iter()
        .filter_map(|slice| slice["metadata"]["labels"].as_object())
        .flatten()
    {
        let is_of_slices = name.starts_with("endpointslice.") || name == SERVICE_NAME;
        if !is_of_slices {
            labels.insert(name.clone(), value.clone());
        }
    }
    let subsets: Vec<Value> = slices.iter().filter_map(|slice| subset(slice)).collect();
    json!({
        "apiVersion": "v1", "kind": KIND,
        "metadata": {
            "name": service, "namespace": namespace, "labels": labels,
            "creationTimestamp": created, "resourceVersion": newest.to_string(),
        },
        "subsets": subsets,
    })
}

fn subset(slice: &Value) -> Option<Value> {
    let of_readiness = |ready: bool| -> Vec<Value> {
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        endpoints
            .filter(|endpoint| {
                let conditions = &endpoint["conditions"];
                let is_ready = conditions["ready"] != false;
                is_ready == ready && (ready || conditions["terminating"] != true)
            })
            .flat_map(addresses)
            .collect()
    };
    let (ready, others) = (of_readiness(true), of_readiness(false));
    if ready.is_empty() && others.is_empty() {
        return None;
    }
    let mut subset = json!({"ports": slice["ports"]});
    for (field, addresses) in [("addresses", ready), ("notReadyAddresses", others)] {
        if !addresses.is_empty() {
            subset[field] = Value::from(addresses);
        }
    }
    Some(subset)
}

fn addresses(endpoint: &Value) -> Vec<Value> {
    let addresses = endpoint["addresses"].as_array().into_iter().flatten();
    addresses
        .map(|ip| {
            let mut address = json!({"ip": ip});
            for field in ["hostname", "nodeName", "targetRef"] {
                if !endpoint[field].is_null() {
                    address[field] = endpoint[field].clone();
                }
            }
            address
        })
        .collect()
}

/// The addresses that are ready, as kubectl's table shows them: `10.0.0.1:80,10.0.0.2:80 + 1 more...`
pub(super) fn shown(endpoints: &Value) -> String {
    let mut all = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let list = |field: &str| subset[field].as_array().into_iter().flatten();
        for port in list("ports") {
            for ip in list("addresses").filter_map(|address| address["ip"].as_str()) {
                all.push(format!("{ip}:{}", port["port"]));
            }
        }
    }
    let more = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    let text = all.join(",");
    if more == 0 {
        text
    } else {
        format!("{text} + {more} more...")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_of_a_service_are_one_object() {
        let slice = |port: u16, addresses: &[&str], ready: bool| {
            let endpoint = |ip: &&str| json!({"addresses": [ip], "conditions": {"ready": ready}});
            let endpoints: Vec<Value> = addresses.iter().map(endpoint).collect();
            json!({
                "metadata": {"namespace": "default", "labels": {SERVICE_NAME: "web", "app": "web"}, "resourceVersion": port.to_string()},
                "ports": [{"port": port}], "endpoints": endpoints,
            })
        };
        let slices = [
            slice(80, &["10.0.0.1", "10.0.0.2"], true),
            slice(90, &["10.0.0.3", "10.0.0.4"], true),
            slice(91, &["10.0.0.9"], false),
        ];
        let [web] = &of_slices(&slices)[..] else {
            panic!("one Service, one object")
        };
        assert_eq!(web["metadata"]["name"], "web");
        assert_eq!(web["metadata"]["labels"], json!({"app": "web"}));
        assert_eq!(web["metadata"]["resourceVersion"], "91");
        assert_eq!(web["subsets"][1]["addresses"][0]["ip"], "10.0.0.3");
        assert_eq!(web["subsets"][2]["notReadyAddresses"][0]["ip"], "10.0.0.9");
        assert_eq!(
            shown(web),
            "10.0.0.1:80,10.0.0.2:80,10.0.0.3:90 + 1 more..."
        );
        assert_eq!(shown(&of_slices(&[slice(80, &[], true)])[0]), "");
    }
}
