use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::json;

use super::server::{Answer, Asked, json, text, typed};
use super::{Admin, clusters, config_dump, connect, stats, tls};

const HELP: &str = "admin commands are:
  /believe_removals: take what a control plane that came back empty removes (POST)
  /certs: print certs on machine
  /clusters: upstream cluster status
  /config_dump: dump current configs
  /drain_listeners: drain listeners (POST)
  /listeners: print listener info
  /logging: query or change logging levels (POST)
  /memory: print current allocation
  /quitquitquit: exit the server (POST)
  /ready: print server state, return 200 if LIVE, otherwise return 503
  /runtime: print runtime values
  /server_info: print server version/status information
  /stats: print server stats
  /stats/prometheus: print server stats in prometheus format
  /tls: live mutual TLS evidence
  /tls/probe: handshake with every endpoint of a cluster (POST)
";

/// Answers one admin request.
pub(crate) async fn serve(admin: Arc<Admin>, asked: Asked) -> Answer {
    if asked.request.method() == Method::CONNECT {
        return connect::tunnel(&admin, asked).await;
    }
    let path = asked.path().to_owned();
    let mutates = matches!(
        path.as_str(),
        "/logging"
            | "/believe_removals"
            | "/quitquitquit"
            | "/drain_listeners"
            | "/tls/probe"
            | "/healthcheck/fail"
            | "/reset_counters"
    );
    if mutates {
        if asked.request.method() != Method::POST {
            return text(
                StatusCode::METHOD_NOT_ALLOWED,
                format!(
                    "Method {} not allowed, POST required.\n",
                    asked.request.method()
                ),
            );
        }
        if !asked.is_for_loopback() {
            return text(
                StatusCode::FORBIDDEN,
                "Host or Origin is not this machine's loopback\n",
            );
        }
    }
    match path.as_str() {
        "/" | "/help" => text(StatusCode::OK, HELP),
        "/ready" => ready(&admin),
        "/server_info" => json(&server_info(&admin)),
        "/config_dump" => json(&config_dump::dump(
            &admin,
            asked.query("include_eds").is_some(),
            asked.query("resource").as_deref(),
        )),
        "/clusters" if asked.query("format").as_deref() == Some("json") => {
            json(&clusters::json(&admin.shared))
        }
        "/clusters" => text(StatusCode::OK, clusters::text(&admin.shared)),
        "/listeners" if asked.query("format").as_deref() == Some("json") => {
            json(&listeners_json(&admin))
        }
        "/listeners" => text(StatusCode::OK, listeners(&admin)),
        "/certs" => json(&config_dump::certificates(&admin)),
        "/stats/prometheus" => metrics(&admin),
        "/stats" if asked.query("format").as_deref() == Some("prometheus") => metrics(&admin),
        "/stats" => text(
            StatusCode::OK,
            stats::plain(&admin, asked.query("filter").as_deref()),
        ),
        "/memory" => json(&json!({ "allocated": stats::resident_bytes().to_string() })),
        "/runtime" => json(&json!({ "entries": {}, "layers": [] })),
        "/tls" => json(&tls::rows(&admin.shared)),
        "/tls/probe" => tls::probe(&admin, &asked).await,
        "/logging" => logging(&admin, &asked),
        "/drain_listeners" => {
            admin.shared.drain.enter(crate::drain::Phase::Draining);
            text(StatusCode::OK, "OK\n")
        }
        "/believe_removals" => {
            admin.believe.notify_one();
            text(StatusCode::OK, "OK\n")
        }
        "/quitquitquit" => {
            admin.quit.cancel();
            text(StatusCode::OK, "OK\n")
        }
        _ => text(StatusCode::NOT_FOUND, format!("invalid path. {HELP}")),
    }
}

fn metrics(admin: &Admin) -> Answer {
    typed(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        stats::prometheus(admin),
    )
}

fn ready(admin: &Admin) -> Answer {
    let state = state(admin);
    let status = if state == "LIVE" {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    text(status, format!("{state}\n"))
}

fn state(admin: &Admin) -> &'static str {
    if admin.shared.drain.is_draining() {
        "DRAINING"
    } else if admin.readiness.is_ready() && admin.shared.store.is_open() {
        "LIVE"
    } else {
        "PRE_INITIALIZING"
    }
}

fn server_info(admin: &Admin) -> serde_json::Value {
    let uptime = format!("{}s", admin.started.elapsed().as_secs());
    json!({
        "version": format!("meltemi/{}", meltemi_process::VERSION),
        "state": state(admin),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "command_line_options": { "concurrency": admin.bootstrap.workers },
        "node": {
            "id": admin.bootstrap.node_id(),
            "user_agent_name": "meltemi",
            "metadata": { "ISTIO_VERSION": meltemi_process::VERSION },
        },
    })
}

fn listeners(admin: &Admin) -> String {
    let open = admin.shared.store.open_addresses();
    let mut lines: Vec<String> = admin
        .shared
        .store
        .listeners
        .load()
        .iter()
        .map(|listener| {
            let address = open
                .get(&listener.name)
                .copied()
                .unwrap_or(listener.address);
            format!("{}::{address}\n", listener.name)
        })
        .collect();
    lines.sort();
    lines.concat()
}

fn listeners_json(admin: &Admin) -> serde_json::Value {
    let table = admin.shared.store.listeners.load();
    let statuses: Vec<_> = table
        .iter()
        .map(|listener| {
            let address = config_dump::socket_address(listener.address);
            json!({ "name": &*listener.name, "local_address": address })
        })
        .collect();
    json!({ "listener_statuses": statuses })
}

fn logging(admin: &Admin, asked: &Asked) -> Answer {
    let Some(log) = &admin.log else {
        return text(StatusCode::NOT_FOUND, "logging is not ours\n");
    };
    let levels = match (
        asked.query("level"),
        asked.query("paths"),
        asked.request.uri().query(),
    ) {
        (Some(level), ..) => level,
        (_, Some(paths), _) => paths,
        (None, None, Some(scope)) if scope.contains('=') => scope.replace('=', ":"),
        // Nothing to change: they are listed.
        _ => String::new(),
    };
    match log.set_levels(&levels) {
        Ok(()) => text(StatusCode::OK, format!("active loggers:\n{}", log.levels())),
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}
