use std::fs;
use std::path::Path;
use std::time::Duration;

use super::*;

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\n")
}

fn names(update: &SourceUpdate) -> Vec<String> {
    update
        .changes
        .iter()
        .map(|change| match change {
            Change::Upsert(object) => format!("+{}", object.meta.name),
            Change::Delete(key) => format!("-{}", key.name),
        })
        .collect()
}

struct Watched {
    folder: tempfile::TempDir,
    updates: mpsc::Receiver<SourceUpdate>,
}

impl Watched {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (sender, updates) = channel();
        let options = SourceOptions {
            directories: vec![folder.path().to_owned()],
            mesh_config: None,
        };
        drop(spawn(options, sender).unwrap());
        let mut watched = Self { folder, updates };
        assert_eq!(
            watched.next().await,
            Vec::<String>::new(),
            "the first update"
        );
        watched
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    async fn next(&mut self) -> Vec<String> {
        let update = tokio::time::timeout(Duration::from_secs(20), self.updates.recv());
        names(&update.await.unwrap().unwrap())
    }
}

#[tokio::test]
async fn renames_writes_links_and_removals_are_noticed() {
    let mut watched = Watched::start().await;
    fs::write(watched.path().join(".a"), namespace("a")).unwrap();
    fs::rename(watched.path().join(".a"), watched.path().join("a.yaml")).unwrap();
    assert_eq!(watched.next().await, ["+a"]);
    fs::write(watched.path().join("a.yaml"), namespace("b")).unwrap();
    assert_eq!(watched.next().await, ["-a", "+b"]);
    fs::create_dir(watched.path().join(".hidden")).unwrap();
    fs::write(watched.path().join(".hidden/c.yaml"), namespace("c")).unwrap();
    std::os::unix::fs::symlink(".hidden/c.yaml", watched.path().join("c.yaml")).unwrap();
    assert_eq!(watched.next().await, ["+c"]);
    fs::remove_file(watched.path().join("a.yaml")).unwrap();
    assert_eq!(watched.next().await, ["-b"]);
}

#[tokio::test]
async fn files_of_new_folders_are_found() {
    let mut watched = Watched::start().await;
    let folder = watched.path().join("team");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.yaml"), namespace("a")).unwrap();
    assert_eq!(watched.next().await, ["+a"]);
    fs::write(folder.join("a.yaml"), namespace("b")).unwrap();
    assert_eq!(watched.next().await, ["-a", "+b"]);
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(watched.next().await, ["-b"]);
}

#[tokio::test]
async fn what_is_prepared_in_a_hidden_folder_counts_when_it_arrives() {
    let mut watched = Watched::start().await;
    let staged = watched.path().join(".staged");
    fs::create_dir(&staged).unwrap();
    fs::write(staged.join("a.yaml"), namespace("a")).unwrap();
    fs::write(watched.path().join("b.yaml"), namespace("b")).unwrap();
    assert_eq!(watched.next().await, ["+b"]);
    fs::rename(staged.join("a.yaml"), watched.path().join("a.yaml")).unwrap();
    assert_eq!(watched.next().await, ["+a"]);
}

/// Notices name absolute paths: a relative folder must not be read under two names.
#[tokio::test]
async fn a_relative_folder_is_watched() {
    let here = std::env::current_dir().unwrap();
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    let folder = tempfile::tempdir().unwrap();
    let relative = up.join(folder.path().strip_prefix("/").unwrap());
    let (sender, updates) = channel();
    let options = SourceOptions {
        directories: vec![relative],
        mesh_config: None,
    };
    drop(spawn(options, sender).unwrap());
    let mut watched = Watched { folder, updates };
    watched.next().await;
    fs::write(watched.path().join("a.yaml"), namespace("a")).unwrap();
    assert_eq!(watched.next().await, ["+a"]);
    fs::write(watched.path().join("a.yaml"), namespace("b")).unwrap();
    assert_eq!(watched.next().await, ["-a", "+b"]);
}

#[tokio::test]
async fn many_writes_at_once_are_one_update() {
    let mut watched = Watched::start().await;
    let staged = watched.path().join(".staged");
    fs::create_dir(&staged).unwrap();
    for n in 0..50 {
        fs::write(
            staged.join(format!("{n}.yaml")),
            namespace(&format!("n{n}")),
        )
        .unwrap();
    }
    for n in 0..50 {
        let name = format!("{n}.yaml");
        fs::rename(staged.join(&name), watched.path().join(&name)).unwrap();
    }
    let mut seen = 0;
    let mut updates = 0;
    while seen < 50 {
        seen += watched.next().await.len();
        updates += 1;
    }
    assert_eq!(seen, 50);
    assert!(updates <= 10, "{updates} updates");
}

#[tokio::test]
async fn a_folder_that_does_not_exist_fails_the_start() {
    let (sender, _updates) = channel();
    let options = SourceOptions {
        directories: vec!["/nonexistent/config".into()],
        mesh_config: None,
    };
    let error = spawn(options, sender).unwrap_err();
    assert_eq!(error.to_string(), "watching /nonexistent/config");
}
