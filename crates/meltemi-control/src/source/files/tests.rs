use super::*;

fn rule(name: &str, host: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\nspec: {{host: {host}}}\n---\n"
    )
}

struct Folder {
    directory: tempfile::TempDir,
    files: Files,
}

impl Folder {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("mesh.conf"), "").unwrap();
        let options = SourceOptions {
            directories: vec![directory.path().to_owned()],
            mesh_config: Some(directory.path().join("mesh.conf")),
        };
        Self {
            files: Files::new(options),
            directory,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let temporary = self.path(".new");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.path(name)).unwrap();
    }

    /// `+name` and `-name` of every object that changed.
    fn scan(&mut self) -> Vec<String> {
        summary(
            &self
                .files
                .scan(Reason::Finished, &BTreeSet::new(), SystemTime::now()),
        )
    }

    fn codes(&self) -> Vec<String> {
        let diagnostics = self.files.diagnostics();
        diagnostics.into_iter().map(|d| d.code).collect()
    }
}

fn summary(outcome: &Outcome) -> Vec<String> {
    outcome
        .changes
        .iter()
        .map(|change| match change {
            Change::Upsert(object) => format!("+{}", object.meta.name),
            Change::Delete(key) => format!("-{}", key.name),
        })
        .collect()
}

#[test]
fn only_changed_files_are_read_and_vanished_ones_delete() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &(rule("a1", "x") + &rule("a2", "x")));
    folder.write("b.yaml", &rule("b", "x"));
    folder.write("notes.txt", "not: [configuration");
    fs::create_dir(folder.path("sub")).unwrap();
    folder.write(
        "sub/c.json",
        "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"c\"}}",
    );
    assert_eq!(folder.scan(), ["+c", "+a1", "+a2", "+b"]);
    assert_eq!(folder.scan(), Vec::<String>::new());
    folder.write("b.yaml", &rule("b", "other"));
    folder.write("a.yaml", &rule("a2", "x"));
    assert_eq!(folder.scan(), ["-a1", "+a2", "+b"]);
    fs::remove_file(folder.path("a.yaml")).unwrap();
    assert_eq!(folder.scan(), ["-a2"]);
}

#[test]
fn a_broken_object_keeps_its_last_good_version() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &(rule("a", "x") + &rule("b", "x")));
    folder.scan();
    // `b` is broken: only `a` changes.
    folder.write("a.yaml", &(rule("a", "other") + &rule("b", "'not a host'")));
    assert_eq!(folder.scan(), ["+a"]);
    assert_eq!(folder.codes(), ["IST0106"]);
    // The file does not parse: nothing changes.
    folder.write("a.yaml", "kind: [");
    assert_eq!(folder.scan(), Vec::<String>::new());
    assert_eq!(folder.codes(), ["MEL0001"]);
    // It does again, without `b`.
    folder.write("a.yaml", &rule("a", "z"));
    assert_eq!(folder.scan(), ["+a", "-b"]);
    assert_eq!(folder.codes(), Vec::<String>::new());
}

#[test]
fn what_cannot_be_read_is_not_gone() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &rule("a", "x"));
    folder.scan();
    fs::remove_file(folder.path("a.yaml")).unwrap();
    // Neither a dangling name nor readable: a link to itself.
    std::os::unix::fs::symlink("a.yaml", folder.path("a.yaml")).unwrap();
    assert_eq!(folder.scan(), Vec::<String>::new());
    assert_eq!(folder.codes(), ["MEL0007"]);
    fs::write(folder.path("b.yaml"), [0xff, 0xfe]).unwrap();
    assert_eq!(folder.scan(), Vec::<String>::new());
    assert_eq!(folder.codes(), ["MEL0007", "MEL0007"]);
}

#[test]
fn swapped_links_are_followed() {
    // As kubelet mounts a ConfigMap: a.yaml -> ..data/a.yaml, ..data -> ..v1.
    let mut folder = Folder::new();
    let link = std::os::unix::fs::symlink::<&str, PathBuf>;
    for (version, host) in [("..v1", "x"), ("..v2", "other")] {
        fs::create_dir(folder.path(version)).unwrap();
        fs::write(folder.path(version).join("a.yaml"), rule("a", host)).unwrap();
    }
    link("..v1", folder.path("..data")).unwrap();
    link("..data/a.yaml", folder.path("a.yaml")).unwrap();
    assert_eq!(folder.scan(), ["+a"]);
    link("..v2", folder.path("..tmp")).unwrap();
    fs::rename(folder.path("..tmp"), folder.path("..data")).unwrap();
    assert_eq!(folder.scan(), ["+a"]);
}

#[test]
fn of_two_definitions_the_first_file_counts() {
    let mut folder = Folder::new();
    folder.write("b.yaml", &rule("r", "of-b"));
    folder.scan();
    folder.write("a.yaml", &rule("r", "of-a"));
    let outcome = folder
        .files
        .scan(Reason::Finished, &BTreeSet::new(), SystemTime::now());
    let [Change::Upsert(object)] = outcome.changes.as_slice() else {
        panic!("one change");
    };
    assert!(object.source.as_ref().unwrap().file().ends_with("a.yaml"));
    assert_eq!(folder.codes(), ["MEL0010"]);
    fs::remove_file(folder.path("a.yaml")).unwrap();
    assert_eq!(folder.scan(), ["+r"]);
    assert_eq!(folder.codes(), Vec::<String>::new());
}

#[test]
fn a_routine_look_waits_for_files_to_settle() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &rule("a", "x"));
    let now = SystemTime::now();
    assert_eq!(
        summary(&folder.files.scan(Reason::Routine, &BTreeSet::new(), now)),
        Vec::<String>::new()
    );
    let later = now + SETTLING * 2;
    assert_eq!(
        summary(&folder.files.scan(Reason::Routine, &BTreeSet::new(), later)),
        ["+a"]
    );
}

#[test]
fn the_mesh_configuration_is_live_and_keeps_its_last_good_content() {
    let mut folder = Folder::new();
    folder.write("mesh.conf", "enableAutoMtls: false");
    let outcome = folder
        .files
        .scan(Reason::Finished, &BTreeSet::new(), SystemTime::now());
    assert!(!outcome.mesh_config.unwrap().enable_auto_mtls);
    folder.write("mesh.conf", "enableAutoMtls: maybe");
    let outcome = folder
        .files
        .look_at(&[folder.path("mesh.conf")].into(), SystemTime::now());
    assert!(outcome.mesh_config.is_none() && outcome.diagnostics_changed);
    assert_eq!(folder.codes(), ["IST0106"]);
}
