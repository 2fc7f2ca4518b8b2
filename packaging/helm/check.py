"""Lints the chart by Helm's own code, renders it with several sets of values, and validates the result by Kubernetes' schemas.

Takes the archive of the chart. Prints nothing if all is well.
"""

import sys
import tomllib

import helm_python as helm
import kubernetes_validate
import yaml

KUBERNETES = ["1.30.0", "1.37.0"]

# Values, and a word that the result must have or must not have.
CASES = [
    ({}, "--keep", "livenessProbe"),
    ({"detachOnExit": True}, "--config=", "--keep"),
    ({"interfaces": ["eth0", "eth1"]}, "--iface=eth1", "livenessProbe"),
    ({"metrics": {"listen": "127.0.0.1:9815"}}, 'host: "127.0.0.1"', "privileged: true"),
    ({"metrics": {"listen": "[::1]:9815"}}, 'host: "::1"', "privileged: true"),
    ({"metrics": {"listen": "0.0.0.0:9815"}}, "path: /readyz", "host:"),
    ({"seLinuxOptions": {"type": "spc_t"}, "imagePullSecrets": [{"name": "key"}]}, "spc_t", "privileged: true"),
]

# Values that the schema of values must refuse.
WRONG = [{"metrics": {"listen": "everywhere"}}, {"interfaces": "eth0"}, {"unknown": 1}, {"log": "loud"}]

CAPABILITIES = {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON"]}


def documents(rendered):
    """What is rendered, without the notes."""
    texts = [text for name, text in rendered.items() if not name.endswith("NOTES.txt")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def check_privilege(document):
    """No more than the defence needs."""
    pod = document["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    context = container["securityContext"]
    assert pod["hostNetwork"] and not pod.get("hostPID") and not pod.get("hostIPC"), pod
    assert context["capabilities"] == CAPABILITIES and not context["privileged"], context
    assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"], context


def check(chart, values, present, absent):
    """Renders and validates one set of values."""
    rendered = chart.render(values, name="defence", namespace="kube-system")
    text = "\n".join(text for name, text in rendered.items() if not name.endswith("NOTES.txt"))
    assert present in text and absent not in text, f"{values}: expected {present}, not {absent}:\n{text}"
    found = documents(rendered)
    for document in found:
        for version in KUBERNETES:
            kubernetes_validate.validate(document, version, strict=True)
        if document["kind"] == "DaemonSet":
            check_privilege(document)
        if document["kind"] == "ConfigMap":
            tomllib.loads(document["data"]["config.toml"])
    assert sorted(document["kind"] for document in found) == ["ConfigMap", "DaemonSet"], found


def check_refusal(chart, values):
    """The schema of values refuses these."""
    try:
        chart.render(values, name="defence", namespace="kube-system")
    except helm.HelmError:
        return
    raise AssertionError(f"{values} should have been refused")


def main(archive):
    report = helm.lint(archive, strict=True)
    # 1 is information: that the chart has no icon.
    findings = [message for message in report["messages"] if message["severity"] > 1]
    assert not report["errors"] and not findings, report
    with helm.Chart.load(archive) as chart:
        for case in CASES:
            check(chart, *case)
        for values in WRONG:
            check_refusal(chart, values)


if __name__ == "__main__":
    main(sys.argv[1])
