//! From a container's spec to the process that the kernel starts (pure but for looking up programs).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};
use meltemi_core::names::PROXY_CONTAINER;
use rustix::thread::CapabilitySet;

use super::env::{self, ReferenceError, References};
use crate::enter::{Entrance, Ids, Root};
use crate::images::{Images, Programs};
use crate::rootfs::{Link, Mount, Source};

/// Where programs are bound in every container; first in its PATH.
const PROGRAMS: &str = "/usr/local/bin";
/// Names under which `meltemi-apps` is a tool.
const TOOLS: [&str; 2] = ["nc", "nslookup"];
const PATH: &str = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The user of an application whose manifest names none ("nonroot" of common base images).
const DEFAULT_UID: u32 = 65532;
/// The environment variable by which injection exempts the proxy by mark.
pub(crate) const MARK_VARIABLE: &str = "MELTEMI_SOCKET_MARK";
/// Directories that a container has for itself, empty at the start.
const PRIVATE: [(&str, u32); 4] = [
    ("/tmp", 0o1777),
    ("/var/tmp", 0o1777),
    ("/run", 0o755),
    ("/dev/shm", 0o1777),
];

/// What building a container needs to know of the machine and of the pod's directories.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) images: &'a Images,
    pub(crate) programs: &'a Programs,
    /// Only one user id is mapped: ids in manifests cannot be honoured.
    pub(crate) single_id: bool,
    pub(crate) namespaces: Vec<PathBuf>,
    /// Holds `etc/`, and `volumes/NAME` for each volume.
    pub(crate) pod_directory: &'a Path,
    /// An empty directory of this container's.
    pub(crate) root: PathBuf,
    /// Directories of the lab that this pod sees besides its volumes: path in the container, path on the host.
    pub(crate) extra: &'a [(PathBuf, PathBuf)],
    /// The lab's own files, which no container sees.
    pub(crate) hidden: &'a Path,
}

/// Why a container cannot be made, with the reason that `kubectl get pods` shows.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainerError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(
        "image {0:?} is not in the lab's image table: give the container a `command`, or name a program with `lab up --images FILE`"
    )]
    Image(String),
    #[error("program {0:?} was not found beside this program or on PATH")]
    Program(String),
    #[error("securityContext.capabilities.add: unknown capability {0:?}")]
    Capability(String),
    #[error("volumeMounts: there is no volume {0:?}")]
    Volume(String),
    #[error("volumeMounts: subPath {0:?} must be a relative path without \"..\"")]
    SubPath(String),
}

impl ContainerError {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Image(_) | Self::Program(_) => "ErrImagePull",
            Self::Reference(_) | Self::Capability(_) | Self::Volume(_) | Self::SubPath(_) => {
                "CreateContainerConfigError"
            }
        }
    }
}

/// Describes the process of one container of a running pod.
pub(crate) fn entrance(
    pod: &Pod,
    container: &Container,
    host: Ipv4Addr,
    references: &References,
    around: &Surroundings<'_>,
) -> Result<Entrance, ContainerError> {
    let image = container.image.as_deref().unwrap_or_default();
    let entry = around.images.find(image);
    let declared = env::environment(pod, container, host, references)?;
    let expand = |list: &[String]| -> Vec<String> {
        list.iter()
            .map(|text| env::expand(text, &declared))
            .collect()
    };
    let command = container
        .command
        .as_deref()
        .filter(|command| !command.is_empty());
    let args = container.args.as_deref().filter(|args| !args.is_empty());
    let mut argv = match (command, entry) {
        (Some(command), _) => expand(command),
        (None, Some(entry)) => entry.command.clone(),
        (None, None) => return Err(ContainerError::Image(image.to_owned())),
    };
    match (args, command, entry) {
        (Some(args), _, _) => argv.extend(expand(args)),
        (None, None, Some(entry)) => argv.extend(entry.args.clone()),
        (None, _, _) => {}
    }
    let mut bound = programs(around.programs);
    if let Some(program) = entry.and_then(|entry| entry.command.first()) {
        let found = around
            .programs
            .find(program)
            .ok_or_else(|| ContainerError::Program(program.clone()))?;
        if let Some(name) = found
            .file_name()
            .map(PathBuf::from)
            .filter(|_| !is_everywhere(&found))
        {
            let inside = Path::new(PROGRAMS).join(&name);
            if command.is_none()
                && let Some(first) = argv.first_mut()
            {
                *first = inside.display().to_string();
            }
            bound.insert(name, found);
        }
    }
    let image_env = entry.map(|entry| entry.env.clone()).unwrap_or_default();
    Ok(Entrance {
        argv,
        capabilities: capabilities(container, around.single_id)?,
        env: full_environment(pod, image_env, declared.clone()),
        cwd: container
            .working_dir
            .clone()
            .filter(|dir| !dir.is_empty())
            .unwrap_or_else(|| "/".to_owned())
            .into(),
        terminal: false,
        ids: (!around.single_id).then(|| ids(pod, container, entry.and_then(|entry| entry.user))),
        namespaces: around.namespaces.clone(),
        root: Root::Build {
            at: around.root.clone(),
            mounts: mounts(pod, container, bound, &declared, around)?,
            links: links(container, around.programs),
        },
    })
}

/// Our own programs that are there, by file name.
fn programs(programs: &Programs) -> BTreeMap<PathBuf, PathBuf> {
    Programs::OURS
        .iter()
        .filter_map(|name| Some((PathBuf::from(name), programs.find(name)?)))
        .collect()
}

/// Host directories that every container sees under the same path, and every user can read.
fn is_everywhere(program: &Path) -> bool {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .any(|dir| program.parent() == Some(Path::new(dir)))
}

fn full_environment(
    pod: &Pod,
    image: BTreeMap<String, String>,
    declared: Vec<(String, String)>,
) -> Vec<(String, String)> {
    let hostname = env::hostname(pod);
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOSTNAME".to_owned(), hostname),
        ("HOME".to_owned(), "/".to_owned()),
    ]);
    env.extend(image);
    env.extend(declared);
    env.into_iter().collect()
}

/// Kubernetes: the container's security context before the pod's, before the image's user.
fn ids(pod: &Pod, container: &Container, image_user: Option<u32>) -> Ids {
    let own = container.security_context.as_ref();
    let all = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref());
    let id = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
    let uid = id(own.and_then(|c| c.run_as_user))
        .or_else(|| id(all.and_then(|c| c.run_as_user)))
        .or(image_user)
        .unwrap_or(DEFAULT_UID);
    let gid = id(own.and_then(|c| c.run_as_group))
        .or_else(|| id(all.and_then(|c| c.run_as_group)))
        .unwrap_or(uid);
    Ids {
        uid,
        gid,
        extra_gid: id(all.and_then(|c| c.fs_group)),
    }
}

/// Only what was asked for. The proxy that marks its sockets needs the right to (socket(7), SO_MARK).
fn capabilities(container: &Container, single_id: bool) -> Result<u64, ContainerError> {
    let capabilities = container
        .security_context
        .as_ref()
        .and_then(|context| context.capabilities.as_ref());
    let added = capabilities.and_then(|capabilities| capabilities.add.as_ref());
    let mut set = CapabilitySet::empty();
    for name in added.into_iter().flatten() {
        let bare = name.strip_prefix("CAP_").unwrap_or(name);
        set |= if bare == "ALL" {
            CapabilitySet::all()
        } else {
            CapabilitySet::from_name(bare)
                .ok_or_else(|| ContainerError::Capability(name.clone()))?
        };
    }
    let marks = container
        .env
        .iter()
        .flatten()
        .any(|variable| variable.name == MARK_VARIABLE);
    if single_id && marks {
        set |= CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
    }
    Ok(set.bits())
}

/// Links in a container's PATH. `pilot-agent` is there by its own path, as Istio's image has it, and in the proxy's container a
/// `curl` that goes through the mesh. Tools that guides call inside of pods are ours where the machine has none.
fn links(container: &Container, programs: &Programs) -> Vec<Link> {
    let link = |name: &str, to: &str| Link {
        path: Path::new(PROGRAMS).join(name),
        to: to.into(),
    };
    let mut links = Vec::new();
    if programs.find("meltemi-proxy").is_some() {
        links.push(link("pilot-agent", "meltemi-proxy"));
        links.extend((container.name == PROXY_CONTAINER).then(|| link("curl", "meltemi-proxy")));
    }
    if programs.find("meltemi-apps").is_some() {
        let missing = TOOLS.iter().filter(|tool| programs.find(tool).is_none());
        links.extend(missing.map(|tool| link(tool, "meltemi-apps")));
    }
    links
}

fn mounts(
    pod: &Pod,
    container: &Container,
    programs: BTreeMap<PathBuf, PathBuf>,
    env: &[(String, String)],
    around: &Surroundings<'_>,
) -> Result<Vec<Mount>, ContainerError> {
    let file = |name: &str| Mount {
        target: Path::new("/etc").join(name),
        source: Source::File(around.pod_directory.join("etc").join(name)),
        read_only: true,
    };
    let mut mounts: BTreeMap<PathBuf, Mount> = BTreeMap::new();
    let mut put = |mount: Mount| drop(mounts.insert(mount.target.clone(), mount));
    for (path, mode) in PRIVATE {
        put(Mount {
            target: path.into(),
            source: Source::Tmpfs { mode },
            read_only: false,
        });
    }
    if !PRIVATE
        .iter()
        .any(|(path, _)| around.hidden.starts_with(path))
    {
        put(Mount {
            target: around.hidden.to_owned(),
            source: Source::Tmpfs { mode: 0o700 },
            read_only: true,
        });
    }
    ["resolv.conf", "hosts", "hostname"]
        .map(file)
        .into_iter()
        .for_each(&mut put);
    for (name, source) in programs {
        put(Mount {
            target: Path::new(PROGRAMS).join(name),
            source: Source::File(source),
            read_only: true,
        });
    }
    for (target, source) in around.extra {
        put(Mount {
            target: target.clone(),
            source: Source::Directory(source.clone()),
            read_only: false,
        });
    }
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    for mount in container.volume_mounts.iter().flatten() {
        let volume = volumes
            .into_iter()
            .flatten()
            .find(|volume| volume.name == mount.name);
        let volume = volume.ok_or_else(|| ContainerError::Volume(mount.name.clone()))?;
        let mut source = around.pod_directory.join("volumes").join(&mount.name);
        source.extend(sub_path(mount, env)?);
        let source = if source.is_file() {
            Source::File(source)
        } else {
            Source::Directory(source)
        };
        let read_only = mount.read_only == Some(true) || !is_writable(volume);
        put(Mount {
            target: mount.mount_path.clone().into(),
            source,
            read_only,
        });
    }
    Ok(mounts.into_values().collect())
}

/// The part of the volume that a mount shows; `subPathExpr` names variables of the container's.
fn sub_path(
    mount: &VolumeMount,
    env: &[(String, String)],
) -> Result<Option<PathBuf>, ContainerError> {
    let given = |path: &Option<String>| path.clone().filter(|path| !path.is_empty());
    let expanded = || Some(env::expand(&given(&mount.sub_path_expr)?, env));
    let Some(path) = given(&mount.sub_path).or_else(expanded) else {
        return Ok(None);
    };
    let path = PathBuf::from(path);
    let stays = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if path.components().all(stays) {
        Ok(Some(path))
    } else {
        Err(ContainerError::SubPath(path.display().to_string()))
    }
}

/// The lab has no storage: what would be a claim is an empty directory of the pod's.
fn is_writable(volume: &Volume) -> bool {
    volume.empty_dir.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.ephemeral.is_some()
}

/// The directories of a pod's volumes that a container's mounts want and nobody has made: a kubelet makes the `subPath` of a
/// writable volume.
pub(crate) fn wanted_directories<'a>(
    mounts: &'a [Mount],
    pod_directory: &Path,
) -> impl Iterator<Item = &'a Path> {
    let volumes = pod_directory.join("volumes");
    mounts.iter().filter_map(move |mount| match &mount.source {
        Source::Directory(path) if !mount.read_only && path.starts_with(&volumes) => {
            Some(path.as_path())
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn build(pod: Value, single_id: bool) -> Result<Entrance, ContainerError> {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        let around = Surroundings {
            images: &Images::default(),
            programs: &Programs {
                beside: "/nowhere".into(),
            },
            single_id,
            namespaces: Vec::new(),
            pod_directory: Path::new("/lab/pod"),
            root: "/lab/root".into(),
            extra: &[],
            hidden: Path::new("/lab"),
        };
        entrance(
            &pod,
            &container,
            Ipv4Addr::LOCALHOST,
            &References::default(),
            &around,
        )
    }

    fn pod(container: Value) -> Value {
        let mut container = container;
        container["name"] = json!("c");
        json!({"metadata": {"name": "p"}, "spec": {
            "securityContext": {"runAsUser": 7, "fsGroup": 9},
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "m", "configMap": {"name": "m"}}],
            "containers": [container]
        }})
    }

    #[test]
    fn command_and_args_follow_kubernetes() {
        let argv = |container| build(pod(container), false).map(|entrance| entrance.argv);
        assert_eq!(argv(json!({"image": "busybox"})).unwrap(), ["sh"]);
        assert_eq!(
            argv(json!({"image": "busybox", "args": ["-c", "true"]})).unwrap(),
            ["sh", "-c", "true"]
        );
        let env = json!([{"name": "N", "value": "5"}]);
        let own = json!({"image": "nginx", "command": ["sleep"], "args": ["$(N)"], "env": env});
        assert_eq!(argv(own).unwrap(), ["sleep", "5"]);
        let missing = argv(json!({"image": "nginx"})).unwrap_err();
        assert_eq!(missing.reason(), "ErrImagePull");
        assert!(
            missing
                .to_string()
                .contains("\"nginx\" is not in the lab's image table")
        );
    }

    #[test]
    fn tools_that_the_machine_lacks_are_ours() {
        let found = |programs: &[&str]| {
            let folder = tempfile::tempdir().unwrap();
            for program in programs {
                use std::os::unix::fs::PermissionsExt as _;
                let path = folder.path().join(program);
                std::fs::write(&path, "").unwrap();
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            let programs = Programs {
                beside: folder.path().to_owned(),
            };
            let links = links(&Container::default(), &programs);
            let linked = |link: Link| (link.path.ends_with("nc")).then_some(link.to);
            links.into_iter().find_map(linked)
        };
        // A machine that has an nc of its own on PATH needs no link in any case.
        let has_own = Programs {
            beside: "/nowhere".into(),
        }
        .find("nc")
        .is_some();
        assert_eq!(found(&["meltemi-apps"]).is_some(), !has_own);
        assert_eq!(found(&["meltemi-apps", "nc"]), None);
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn identity_and_rights() {
        let context =
            json!({"runAsGroup": 8, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}});
        let found = build(
            pod(json!({"image": "busybox", "securityContext": context})),
            false,
        )
        .unwrap();
        let ids = found.ids.unwrap();
        assert_eq!((ids.uid, ids.gid, ids.extra_gid), (7, 8, Some(9)));
        assert_eq!(found.capabilities, CapabilitySet::NET_ADMIN.bits());
        let marked = json!({"image": "busybox", "env": [{"name": MARK_VARIABLE, "value": "1337"}]});
        let found = build(pod(marked.clone()), true).unwrap();
        assert!(found.ids.is_none());
        assert_eq!(
            found.capabilities,
            (CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW).bits()
        );
        assert_eq!(build(pod(marked), false).unwrap().capabilities, 0);
        let wrong =
            json!({"image": "busybox", "securityContext": {"capabilities": {"add": ["FLY"]}}});
        assert!(matches!(
            build(pod(wrong), false),
            Err(ContainerError::Capability(_))
        ));
    }

    #[test]
    fn a_part_of_a_volume_is_mounted_and_made() {
        let mut pod = pod(json!({"image": "busybox", "volumeMounts": [
            {"name": "v", "mountPath": "/a", "subPath": "one/two"},
            {"name": "v", "mountPath": "/b", "subPathExpr": "$(NAME)"},
            {"name": "claim", "mountPath": "/c", "subPath": "data"},
            {"name": "m", "mountPath": "/d", "subPath": "key"},
        ], "env": [{"name": "NAME", "value": "three"}]}));
        let claim = json!({"name": "claim", "persistentVolumeClaim": {"claimName": "c"}});
        pod["spec"]["volumes"].as_array_mut().unwrap().push(claim);
        let Root::Build { mounts, .. } = build(pod, false).unwrap().root else {
            panic!("a new root")
        };
        let wanted: Vec<&Path> = wanted_directories(&mounts, Path::new("/lab/pod")).collect();
        let expected = ["v/one/two", "v/three", "claim/data"]
            .map(|path| Path::new("/lab/pod/volumes").join(path));
        assert_eq!(wanted, expected);

        let outside = json!({"name": "v", "mountPath": "/a", "subPath": "../etc"});
        let outside = json!({"image": "busybox", "volumeMounts": [outside]});
        let refused = build(self::pod(outside), false);
        assert!(matches!(refused, Err(ContainerError::SubPath(_))));
    }

    #[test]
    fn volumes_are_mounted_and_only_empty_ones_are_writable() {
        let container = json!({"image": "busybox", "volumeMounts": [
            {"name": "v", "mountPath": "/tmp"},
            {"name": "m", "mountPath": "/etc/app"}
        ]});
        let found = build(pod(container), false).unwrap();
        let Root::Build { mounts, .. } = found.root else {
            panic!("a new root")
        };
        let at = |path: &str| {
            mounts
                .iter()
                .find(|mount| mount.target == Path::new(path))
                .unwrap()
        };
        assert_eq!(
            at("/tmp").source,
            Source::Directory("/lab/pod/volumes/v".into())
        );
        assert!(!at("/tmp").read_only);
        assert!(at("/etc/app").read_only);
        let lost = build(
            pod(json!({"image": "busybox", "volumeMounts": [{"name": "x", "mountPath": "/x"}]})),
            false,
        );
        assert!(matches!(lost, Err(ContainerError::Volume(_))));
    }
}
