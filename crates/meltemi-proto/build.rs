//! Compiles our own `.proto` files and prepares the descriptors that proto-JSON needs, without `protoc`.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

/// What a config dump and an ADS stream of ours can carry; imports follow by themselves.
const DESCRIPTOR_ROOTS: &[&str] = &[
    "envoy/admin/v3/",
    "envoy/config/accesslog/v3/",
    "envoy/config/bootstrap/v3/",
    "envoy/config/cluster/v3/",
    "envoy/config/endpoint/v3/",
    "envoy/config/listener/v3/",
    "envoy/config/rbac/v3/",
    "envoy/config/route/v3/",
    "envoy/config/trace/v3/",
    "envoy/extensions/access_loggers/file/",
    "envoy/extensions/access_loggers/grpc/",
    "envoy/extensions/access_loggers/open_telemetry/",
    "envoy/extensions/access_loggers/stream/",
    "envoy/extensions/clusters/",
    "envoy/extensions/compression/",
    "envoy/extensions/filters/common/",
    "envoy/extensions/filters/http/alternate_protocols_cache/",
    "envoy/extensions/filters/http/buffer/",
    "envoy/extensions/filters/http/compressor/",
    "envoy/extensions/filters/http/cors/",
    "envoy/extensions/filters/http/decompressor/",
    "envoy/extensions/filters/http/dynamic_forward_proxy/",
    "envoy/extensions/filters/http/ext_authz/",
    "envoy/extensions/filters/http/ext_proc/",
    "envoy/extensions/filters/http/fault/",
    "envoy/extensions/filters/http/grpc_",
    "envoy/extensions/filters/http/header_mutation/",
    "envoy/extensions/filters/http/health_check/",
    "envoy/extensions/filters/http/jwt_authn/",
    "envoy/extensions/filters/http/local_ratelimit/",
    "envoy/extensions/filters/http/lua/",
    "envoy/extensions/filters/http/ratelimit/",
    "envoy/extensions/filters/http/rbac/",
    "envoy/extensions/filters/http/router/",
    "envoy/extensions/filters/http/set_filter_state/",
    "envoy/extensions/filters/http/stateful_session/",
    "envoy/extensions/filters/http/upstream_codec/",
    "envoy/extensions/filters/http/wasm/",
    "envoy/extensions/filters/listener/",
    "envoy/extensions/filters/network/connection_limit/",
    "envoy/extensions/filters/network/ext_authz/",
    "envoy/extensions/filters/network/http_connection_manager/",
    "envoy/extensions/filters/network/local_ratelimit/",
    "envoy/extensions/filters/network/ratelimit/",
    "envoy/extensions/filters/network/rbac/",
    "envoy/extensions/filters/network/set_filter_state/",
    "envoy/extensions/filters/network/sni_cluster/",
    "envoy/extensions/filters/network/sni_dynamic_forward_proxy/",
    "envoy/extensions/filters/network/tcp_proxy/",
    "envoy/extensions/filters/network/wasm/",
    "envoy/extensions/formatter/",
    "envoy/extensions/health_check/",
    "envoy/extensions/http/",
    "envoy/extensions/internal_redirect/",
    "envoy/extensions/load_balancing_policies/",
    "envoy/extensions/matching/",
    "envoy/extensions/network/dns_resolver/",
    "envoy/extensions/path/",
    "envoy/extensions/rbac/",
    "envoy/extensions/request_id/",
    "envoy/extensions/resource_monitors/",
    "envoy/extensions/retry/",
    "envoy/extensions/router/",
    "envoy/extensions/stat_sinks/",
    "envoy/extensions/transport_sockets/",
    "envoy/extensions/upstreams/",
    "envoy/service/discovery/v3/",
    "envoy/service/runtime/v3/",
    "envoy/service/secret/v3/",
    "envoy/service/status/v3/",
    "google/protobuf/",
    "google/rpc/status.proto",
    "xds/type/",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=proto");
    let ours = compile_ours()?;
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::envoy_types::pb::google::protobuf")
        .compile_fds_with_config(ours.clone(), named_config())?;

    let envoy_types = EnvoyTypes::locate()?;
    println!(
        "cargo::rustc-env=MELTEMI_ENVOY_TYPES_VERSION={}",
        envoy_types.version
    );
    let descriptors = merge(envoy_types.descriptors()?, ours);
    let out = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(out, descriptors.encode_to_vec())?;
    Ok(())
}

/// Gives our messages `prost::Name`, as those of `envoy-types` have it.
fn named_config() -> tonic_prost_build::Config {
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    config.type_name_domain(["."], "type.googleapis.com");
    config
}

fn compile_ours() -> Result<FileDescriptorSet, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir("proto")? {
        files.push(entry?.path());
    }
    files.sort();
    Ok(protox::compile(files, ["proto"])?)
}

/// The `envoy-types` package that this build resolved. It declares no `links` key, so its folder has to be found:
/// in Cargo's registry, or (vendored, replaced) where `cargo metadata` says.
struct EnvoyTypes {
    version: String,
    folder: PathBuf,
}

impl EnvoyTypes {
    fn locate() -> Result<Self, Box<dyn Error>> {
        let version = locked_version(&fs::read_to_string("../../Cargo.lock")?)
            .ok_or("Cargo.lock has no package envoy-types")?;
        let folder = match registry_folder(&version)? {
            Some(folder) => folder,
            None => metadata_folder()?,
        };
        Ok(Self { version, folder })
    }

    /// The descriptors that `envoy-types` was generated from.
    fn descriptors(&self) -> Result<FileDescriptorSet, Box<dyn Error>> {
        let path = self.folder.join("src/generated/types.bin");
        let bytes = fs::read(&path).map_err(|e| format!("reading {}: {e}", path.display()))?;
        Ok(FileDescriptorSet::decode(bytes.as_slice())?)
    }
}

fn locked_version(lock: &str) -> Option<String> {
    let (_, entry) = lock.split_once("name = \"envoy-types\"\nversion = \"")?;
    let (version, _) = entry.split_once('"')?;
    Some(version.to_owned())
}

/// `$CARGO_HOME/registry/src/<registry>/envoy-types-<version>`
fn registry_folder(version: &str) -> Result<Option<PathBuf>, Box<dyn Error>> {
    let home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => Path::new(&env::var("HOME")?).join(".cargo"),
    };
    let Ok(registries) = fs::read_dir(home.join("registry/src")) else {
        return Ok(None);
    };
    for registry in registries {
        let folder = registry?.path().join(format!("envoy-types-{version}"));
        if folder.is_dir() {
            return Ok(Some(folder));
        }
    }
    Ok(None)
}

fn metadata_folder() -> Result<PathBuf, Box<dyn Error>> {
    let output = Command::new(env::var("CARGO")?)
        .args(["metadata", "--offline", "--format-version", "1"])
        .args(["--filter-platform", &env::var("TARGET")?])
        .output()?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("cargo metadata failed: {reason}").into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let manifest = metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|p| p["name"] == "envoy-types"))
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("cargo metadata lists no package envoy-types")?;
    let folder = Path::new(manifest).parent();
    Ok(folder.ok_or("manifest without a folder")?.to_owned())
}

/// Our files plus the wanted ones of Envoy with their imports, imports first, without comments. Custom options
/// (validation rules) are dropped by decoding: JSON needs names and numbers only.
fn merge(theirs: FileDescriptorSet, ours: FileDescriptorSet) -> FileDescriptorSet {
    let mut roots = Vec::new();
    let mut files = HashMap::new();
    for mut file in theirs.file.into_iter().chain(ours.file.iter().cloned()) {
        file.source_code_info = None;
        let name = file.name().to_owned();
        if DESCRIPTOR_ROOTS.iter().any(|root| name.starts_with(root)) {
            roots.push(name.clone());
        }
        files.entry(name).or_insert(file);
    }
    roots.extend(ours.file.iter().map(|file| file.name().to_owned()));

    let mut merged = FileDescriptorSet::default();
    let mut seen = HashSet::new();
    for root in roots {
        append_with_imports(&root, &files, &mut seen, &mut merged.file);
    }
    merged
}

fn append_with_imports(
    name: &str,
    files: &HashMap<String, FileDescriptorProto>,
    seen: &mut HashSet<String>,
    out: &mut Vec<FileDescriptorProto>,
) {
    if !seen.insert(name.to_owned()) {
        return;
    }
    let Some(file) = files.get(name) else {
        return;
    };
    for import in &file.dependency {
        append_with_imports(import, files, seen, out);
    }
    out.push(file.clone());
}
