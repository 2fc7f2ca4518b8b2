//! The image is one that other tools read, and its program defends an interface from inside.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    dist::{
        architecture::Architecture,
        release::{Release, trial_directory, work_directory},
    },
    privilege, process,
};

/// Reads its configuration by skopeo, unpacks it by umoci.
pub(super) fn check(release: &Release, architecture: Architecture) -> Result<()> {
    let archive = format!("oci-archive:{}", release.image(architecture).display());
    let mut inspect = Command::new("skopeo");
    let config = process::quietly(inspect.args(["inspect", "--config", &archive]))?;
    let config: Value = serde_json::from_str(&config).context("skopeo printed no JSON")?;
    ensure!(config["architecture"] == architecture.debian(), "the image is for {}", config["architecture"]);
    ensure!(config["config"]["Entrypoint"] == serde_json::json!(["/usr/sbin/defender"]), "{config}");
    if architecture.is_native() { run(release, architecture) } else { Ok(()) }
}

/// Runs the program as a container runtime does: first process, nothing but the image, three capabilities, everything
/// read-only except what outlives the container. The arguments are those of the chart.
const CONTAINED: &str = r#"
    root=$1 work=$2
    mkdir -p "$work/bpf" "$work/run" "$work/state"
    mount -t sysfs sysfs /sys
    mount -t bpf bpf "$work/bpf"
    ip link add eth0 type veth peer name peer0
    ip address add 192.0.2.1/24 dev eth0
    ip link set eth0 up
    ip link set peer0 up
    contained() {
        exec bwrap --unshare-pid --unshare-ipc --unshare-uts --as-pid-1 --die-with-parent \
            --ro-bind "$root/usr" /usr --proc /proc --dev /dev --ro-bind /sys /sys \
            --bind "$work/bpf" /sys/fs/bpf --bind "$work/run" /run/defender --bind "$work/state" /var/lib/defender \
            --remount-ro / --cap-drop ALL --cap-add CAP_BPF --cap-add CAP_NET_ADMIN --cap-add CAP_PERFMON \
            -- /usr/sbin/defender "$@"
    }
    attached() { ip link show eth0 | grep -q xdp; }
    contained run --iface eth0 --replace --keep & container=$!
    until attached && (contained status); do
        kill -0 "$container"
        sleep 0.1
    done
    kill -TERM "$(cat "/proc/$container/task/$container/children")"
    wait "$container"
    attached
    (contained detach)
    ! attached
"#;

const PATIENCE: &str = "120";

fn run(release: &Release, architecture: Architecture) -> Result<()> {
    let layout = work_directory().join("image").join(architecture.debian());
    let bundle = trial_directory().join("bundle");
    let mut unpack = privilege::as_root("umoci")?;
    unpack.args(["--log", "error", "unpack", "--image"]);
    unpack.arg(format!("{}:{}", layout.display(), release.version())).arg(&bundle);
    process::quietly(&mut unpack)?;

    let mut contained = privilege::as_root("timeout")?;
    contained.args([
        PATIENCE,
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    contained
        .args(["sh", "-e", "-u", "-c", CONTAINED, "sh"])
        .arg(bundle.join("rootfs"))
        .arg(trial_directory().join("container"));
    process::quietly(&mut contained)?;
    Ok(())
}
