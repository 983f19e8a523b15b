use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::command::VersionArgs;
use crate::control_plane;
use crate::output::structured;
use crate::proxy_status::syncz;
use crate::{Access, CliError, Format, Io};

const CLIENT: &str = env!("CARGO_PKG_VERSION");

pub(crate) async fn run(
    args: &VersionArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let remote = if args.remote {
        remote(access, io).await
    } else {
        Ok(Remote::default())
    };
    // Without a mesh the client still has a version.
    let remote = match remote {
        Ok(remote) => remote,
        Err(error) => {
            io.note(&format!("The control plane cannot be asked: {error}"))?;
            Remote::default()
        }
    };
    if args.output != Format::Short {
        let text = structured(&remote.to_json(), args.output)?.unwrap_or_default();
        return io.print(&text);
    }
    io.print(&remote.lines(args.short && !args.remote))
}

#[derive(Debug, Default)]
struct Remote {
    /// Instances of the control plane.
    control_planes: Vec<(String, String)>,
    proxies: Vec<(String, String)>,
}

async fn remote(access: &dyn Access, io: &mut Io<'_>) -> Result<Remote, CliError> {
    let versions = control_plane::every("/version", access, io).await?;
    let proxies = syncz(access, io).await?;
    let text = |value: &Value, field: &str| {
        value
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or("unknown")
            .to_owned()
    };
    let proxy = |proxy: &Value| (text(proxy, "proxy"), text(proxy, "istio_version"));
    Ok(Remote {
        control_planes: versions
            .iter()
            .map(|(name, version)| (name.clone(), text(version, "version")))
            .collect(),
        proxies: proxies.iter().map(proxy).collect(),
    })
}

impl Remote {
    fn lines(&self, bare: bool) -> String {
        if bare {
            return format!("{CLIENT}\n");
        }
        let mut text = format!("client version: {CLIENT}\n");
        let versions = self.control_planes.iter().map(|(_, version)| &**version);
        let mut versions: Vec<&str> = versions.collect();
        versions.sort_unstable();
        versions.dedup();
        if !versions.is_empty() {
            text += &format!("control plane version: {}\n", versions.join(", "));
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, version) in &self.proxies {
            *counts.entry(version).or_default() += 1;
        }
        let count = |(version, count): (&&str, &usize)| {
            let noun = if *count == 1 { "proxy" } else { "proxies" };
            format!("{version} ({count} {noun})")
        };
        let histogram: Vec<String> = counts.iter().map(count).collect();
        if !histogram.is_empty() {
            text += &format!("data plane version: {}\n", histogram.join(", "));
        }
        text
    }

    /// The names of istioctl's answer.
    fn to_json(&self) -> Value {
        let mut json = json!({"clientVersion": {"version": CLIENT}});
        if !self.control_planes.is_empty() {
            let instances = self.control_planes.iter();
            json["meshVersion"] = instances
                .map(|(_, version)| json!({"Component": "pilot", "Info": {"version": version}}))
                .collect();
        }
        if !self.proxies.is_empty() {
            let proxies = self.proxies.iter();
            json["dataPlaneVersion"] = proxies
                .map(|(id, version)| json!({"ID": id, "IstioVersion": version}))
                .collect();
        }
        json
    }
}
