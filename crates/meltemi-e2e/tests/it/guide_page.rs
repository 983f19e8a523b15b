//! docs/guide.md, pasted block by block.

use std::process::Stdio;

use meltemi_e2e::{Lab, programs, project_root};

/// A block of commands and what the page says that it prints.
#[derive(Default)]
struct Step {
    commands: String,
    output: String,
}

#[test]
fn the_page_works_by_copy_and_paste() {
    let page = std::fs::read_to_string(project_root().join("docs/guide.md"));
    let lab = Lab::unborn("guide");
    let path = std::env::var("PATH").expect("there is a PATH");
    let path = format!("{}:{path}", programs().display());
    for step in steps(&page.expect("the page exists")) {
        // The page puts the user's build first; here that of the test is meant.
        let commands = step.commands.replace("$PWD/target/debug", "");
        let run = lab
            .command_outside("timeout")
            .args(["120", "bash", "-c", &format!("exec 2>&1\n{commands}")])
            .current_dir(project_root())
            .env("PATH", &path)
            .stdin(Stdio::null())
            .output()
            .expect("bash is part of every Debian");
        let printed = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{commands}\n{printed}");
        let mut rest = printed.as_ref();
        for line in step.output.lines() {
            for part in line
                .split('…')
                .map(str::trim)
                .filter(|part| !part.is_empty())
            {
                let Some(at) = rest.find(part) else {
                    panic!(
                        "\"{part}\" of \"{line}\" is not printed by\n{commands}\nbut:\n{printed}"
                    )
                };
                rest = rest.get(at + part.len()..).unwrap_or_default();
            }
        }
    }
}

/// The blocks marked `sh`, each with the block marked `text` that follows it.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut fence: Option<String> = None;
    for line in page.lines() {
        match (&fence, line.strip_prefix("```")) {
            (Some(_), Some(_)) => fence = None,
            (None, Some(kind)) => {
                if kind == "sh" {
                    steps.push(Step::default());
                }
                fence = Some(kind.to_owned());
            }
            (Some(kind), None) => {
                let step = steps.last_mut().expect("output follows commands");
                let block = match kind.as_str() {
                    "sh" => &mut step.commands,
                    "text" => &mut step.output,
                    other => panic!("a block of \"{other}\""),
                };
                *block += line;
                *block += "\n";
            }
            (None, None) => {}
        }
    }
    assert!(steps.len() > 10, "the page has its blocks");
    steps
}
