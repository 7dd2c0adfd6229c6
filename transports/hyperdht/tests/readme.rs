//! README.md's commands do what it says they do. The examples are those that `cargo test` builds.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{path::PathBuf, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

const README: &str = include_str!("../README.md");

const PATIENCE: Duration = Duration::from_secs(30);

/// What a reader is to type, and what is printed then.
struct Step {
    example: String,
    args: Vec<String>,
    output: Vec<String>,
}

fn steps() -> Vec<Step> {
    let (_, console) = README.split_once("```console\n").unwrap();
    let (console, _) = console.split_once("```").unwrap();
    let mut steps: Vec<Step> = Vec::new();
    for line in console.lines() {
        if let Some(command) = line.strip_prefix("$ cargo run --example ") {
            let (example, args) = command.split_once(" -- ").unwrap_or((command, ""));
            let args = args.split_whitespace().map(str::to_owned).collect();
            steps.push(Step { example: example.to_owned(), args, output: Vec::new() });
        } else {
            steps.last_mut().unwrap().output.push(line.to_owned());
        }
    }
    steps
}

/// A program that ends with the test.
struct Running {
    lines: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Running {
    fn start(example: &str, args: &[String]) -> Self {
        let program = folder().join(example);
        let mut command = Command::new(&program);
        command.args(args).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { lines, child }
    }

    async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        line.expect("a line in time").unwrap().expect("a line, and no end")
    }
}

/// Where cargo puts examples: beside the folder of the tests.
fn folder() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().with_file_name("examples")
}

#[tokio::test]
async fn the_readme_shows_what_the_examples_do() {
    // Addresses and keys are other ones in each run: what the README says, and what stands for it.
    let mut names: Vec<(String, String)> = Vec::new();
    let mut running = Vec::new();
    for Step { example, args, output } in steps() {
        let actual = |text: &str, names: &[(String, String)]| {
            names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
        };
        let args: Vec<_> = args.iter().map(|arg| actual(arg, &names)).collect();
        let mut program = Running::start(&example, &args);
        for expected in &output {
            let printed = program.line().await;
            let words = expected.split(' ').zip(printed.split(' '));
            let fresh = words.filter(|(said, _)| said.len() == 64 || said.contains("127.0.0.1:"));
            for (said, was) in fresh {
                if !names.iter().any(|(name, _)| name == said) {
                    names.push((said.to_owned(), was.to_owned()));
                }
            }
            assert_eq!(printed, actual(expected, &names), "{example} {args:?}");
        }
        let stays = matches!(
            (&example[..], args.first().map(String::as_str)),
            ("testnet" | "echo_server", _) | ("topic", Some("announce"))
        );
        if stays {
            running.push(program);
        } else {
            let status = timeout(PATIENCE, program.child.wait()).await.unwrap().unwrap();
            assert!(status.success(), "{example}: {status}");
        }
    }
    assert_eq!(names.len(), 3, "a network, a server and a topic's peer: {names:?}");
    assert_eq!(running.len(), 3);
}

#[test]
fn the_readme_lists_every_example() {
    let listed = |name: &str| README.contains(&format!("(examples/{name})"));
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(listed(&name), "README.md does not list {name}");
    }
}
