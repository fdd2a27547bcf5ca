"""Deployment files: valid by published schemas, hardened, in agreement with each other and with the server."""

import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import check_jsonschema
import jsonschema
import kubernetes_validate
import promql_parser
import pytest
import yaml
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from serving.settings import Settings
from tests.conftest import ROOT
from tests.serving.server import running
from xtrain.data.datasets import read_npz
from xtrain.options import described

DEPLOY = ROOT / "serving" / "deploy"
Labels = dict[str, set[str]]  # of each series of /metrics
KUBERNETES = DEPLOY / "kubernetes"
VERSIONS = ["1.33", "1.37"]  # the first whose image volumes are beta, and the newest that the package knows
OVERLAYS = sorted(KUBERNETES.glob("overlays/*"))
SERVED = ("v1", "apps/v1", "autoscaling/v2", "policy/v1", "networking.k8s.io/v1")

files = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
manifests = [path for path in files if path.suffix == ".yaml"]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def base() -> dict[str, Any]:
    names = read(KUBERNETES / "base" / "kustomization.yaml")["resources"]
    return {document["kind"]: document for document in (read(KUBERNETES / "base" / name) for name in names)}


def build(overlay: Path) -> dict[str, Any]:
    """Return what kustomize makes of an overlay, by kind."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl, which has kustomize inside")
    done = subprocess.run([kubectl, "kustomize", str(overlay)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {document["kind"]: document for document in yaml.safe_load_all(done.stdout)}


def validate(document: dict[str, Any]) -> None:
    if document["apiVersion"] in SERVED:
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


def check_restricted(pod: dict[str, Any]) -> None:
    """The Pod Security Standard `restricted`, and a root filesystem that nothing writes to."""
    whole = pod.get("securityContext", {})
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert {next(iter(volume.keys() - {"name"})) for volume in pod.get("volumes", [])} <= {"emptyDir", "image"}
    for container in pod["containers"]:
        own = {**whole, **container["securityContext"]}
        assert own["runAsNonRoot"] is True
        assert own.get("runAsUser", 1) != 0
        assert own["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own["readOnlyRootFilesystem"] is True
        assert "privileged" not in own
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()


def environment(container: dict[str, Any]) -> dict[str, str]:
    names = [one["name"] for one in container.get("env", [])]
    assert len(names) == len(set(names))
    return {one["name"]: one["value"] for one in container.get("env", [])}


def ends_in_time(container: dict[str, Any], grace: float) -> bool:
    return grace >= float(environment(container)["XTRAIN_DRAIN"]) + 2 * Settings().timeout


# --- every file ---


@pytest.mark.parametrize("path", files, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_lines_fit_and_name_nothing_of_one_machine(path: Path) -> None:
    text = path.read_text()
    if path.suffix != ".json":  # a query is one string, and JSON has no way to break it
        assert max(map(len, text.splitlines())) <= 120
    assert not re.search(r"/(work|home|root|Users)/", text)


@pytest.mark.parametrize("path", files, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_variables_are_the_servers(path: Path) -> None:
    known = {f"XTRAIN_{name.upper()}" for name in described(Settings)} | {"XTRAIN_HOST"}
    assert set(re.findall(r"\bXTRAIN_[A-Z_]+", path.read_text())) <= known


# --- compose ---


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = read(DEPLOY / "compose.yaml")
    return found


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_is_valid(name: str) -> None:
    folder = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor"
    jsonschema.validate(read(DEPLOY / name), json.loads((folder / "compose-spec.json").read_text()))


def test_compose_is_hardened(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["user"].split(":")[0]) > 0, name
        assert service["mem_limit"], name
        assert not {"privileged", "cap_add", "network_mode", "pid", "ipc"} & service.keys(), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert all(
            mount["read_only"]
            if isinstance(mount, dict)
            else mount.endswith(":ro") or mount.partition(":")[0] in compose["volumes"]
            for mount in service["volumes"]
        ), name
    assert compose["services"]["xtrain"]["tmpfs"][0].startswith("/tmp:size=")


def test_compose_stops_no_request(compose: dict[str, Any]) -> None:
    assert int(compose["services"]["xtrain"]["stop_grace_period"].removesuffix("s")) >= 2 * Settings().timeout


def test_compose_mounts_what_is_there_and_pins_images(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for mount in service["volumes"]:
            if isinstance(mount, str) and mount.startswith("./"):
                assert (DEPLOY / mount.split(":")[0]).is_file(), mount
        assert re.fullmatch(r"xtrain:cpu|[a-z/]+:v?\d+\.\d+\.\d+", service["image"])
    home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert any(mount.split(":")[1] == home for mount in compose["services"]["grafana"]["volumes"])
    (provider,) = read(DEPLOY / "grafana" / "dashboards.yaml")["providers"]
    assert provider["options"]["path"] == str(Path(home).parent)


def test_addresses_inside_compose_are_services(compose: dict[str, Any]) -> None:
    (job,) = read(DEPLOY / "prometheus" / "prometheus.yaml")["scrape_configs"]
    assert job["static_configs"][0]["targets"] == ["xtrain:3000"]
    (source,) = read(DEPLOY / "grafana" / "datasources.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert {"xtrain", "prometheus"} <= compose["services"].keys()


def test_the_card_is_compose_and_no_more() -> None:
    gpu = read(DEPLOY / "compose.gpu.yaml")["services"]
    assert gpu.keys() == {"xtrain"}
    assert gpu["xtrain"]["image"] == "xtrain:gpu" and gpu["xtrain"]["build"]["args"] == {"VARIANT": "gpu"}


# --- Kubernetes ---


@pytest.mark.parametrize(
    "kind", ["Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"]
)
def test_base_is_valid(kind: str) -> None:
    assert base()[kind]["apiVersion"] in SERVED
    validate(base()[kind])


def test_every_manifest_is_used_and_is_there() -> None:
    used = {KUBERNETES / "components" / "queue-time" / "adapter-values.yaml"}  # Helm's
    for path in KUBERNETES.rglob("kustomization.yaml"):
        used.add(path)
        content = read(path)
        patches = [patch["path"] for patch in content.get("patches", []) if "path" in patch]
        for name in [*content.get("resources", []), *content.get("components", []), *patches]:
            target = (path.parent / name).resolve()
            assert target.exists(), f"{path}: {name}"
            used.add(target)
    assert {path for path in manifests if KUBERNETES in path.parents} <= used


def test_base_fits_together() -> None:
    found = base()
    pod = found["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    labels, ports = pod["metadata"]["labels"], {port["name"] for port in container["ports"]}
    monitor = read(KUBERNETES / "components" / "queue-time" / "monitor.yaml")["spec"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert found["Service"]["spec"]["selector"].items() <= labels.items()
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert monitor["selector"]["matchLabels"].items() <= found["Service"]["metadata"]["labels"].items()
    (service_port,) = found["Service"]["spec"]["ports"]
    assert service_port["targetPort"] in ports
    assert monitor["endpoints"][0]["port"] == service_port["name"]
    assert found["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"] in ports
    assert "egress" not in found["NetworkPolicy"]["spec"]
    assert found["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress", "Egress"]
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", found["Deployment"]["metadata"]["name"])
    assert "replicas" not in found["Deployment"]["spec"], "each apply would undo the autoscaler"
    assert container["resources"]["requests"]["cpu"], "the autoscaler counts by it"
    for probe, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        assert container[probe]["httpGet"] == {"path": path, "port": next(iter(ports))}


def test_base_is_restricted_and_ends_in_time() -> None:
    pod = base()["Deployment"]["spec"]["template"]["spec"]
    check_restricted(pod)
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False, "a Service xtrain would set variables with our prefix"
    assert ends_in_time(pod["containers"][0], pod["terminationGracePeriodSeconds"])


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_overlay_is_valid(overlay: Path) -> None:
    found = build(overlay)
    assert base().keys() <= found.keys()
    for document in found.values():
        validate(document)
    pod = found["Deployment"]["spec"]["template"]["spec"]
    check_restricted(pod)
    (container,) = pod["containers"]
    assert container["image"] == f"registry.example.com/xtrain:{overlay.name}"
    assert ends_in_time(container, pod["terminationGracePeriodSeconds"])
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    dockerfile = (DEPLOY / "model.Dockerfile").read_text()
    (inside,) = re.findall(r"^COPY .* (/\S+)$", dockerfile, re.MULTILINE)
    assert environment(container)["XTRAIN_MODEL"] == mounts["model"] + inside + "model.onnx"
    cards = 1 if overlay.name == "gpu" else 0
    assert int(container["resources"]["limits"].get("nvidia.com/gpu", 0)) == cards
    assert (environment(container).get("XTRAIN_DEVICE") == "cuda") == bool(cards)


def test_gpu_overlay_scales_by_the_metric_of_the_adapter(labels: Labels) -> None:
    (rule,) = read(KUBERNETES / "components" / "queue-time" / "adapter-values.yaml")["rules"]["custom"]
    metrics = build(KUBERNETES / "overlays" / "gpu")["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert [metric["type"] for metric in metrics] == ["Resource", "Pods"]
    assert metrics[1]["pods"]["metric"]["name"] == rule["name"]["as"]
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'namespace="n",pod="p"')
    check_query(query, labels)
    check_query(rule["seriesQuery"], labels)
    assert rule["seriesQuery"].startswith(rule["name"]["matches"])


# --- KServe ---


def test_kserve_runtime() -> None:
    runtime = read(DEPLOY / "kserve" / "runtime.yaml")
    spec = runtime["spec"]
    pod = {name: spec[name] for name in ("containers", "volumes")}
    validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": pod})
    check_restricted(pod)
    (container,) = pod["containers"]
    assert container["name"] == "kserve-container"
    variables = environment(container)
    assert variables["XTRAIN_MODEL"] == "/mnt/models"
    assert "PORT" not in variables, "Knative reserves it"
    ports = {container[probe]["httpGet"]["port"] for probe in ("readinessProbe", "livenessProbe")}
    assert {str(port) for port in ports} == {container["args"][1], spec["annotations"]["prometheus.kserve.io/port"]}
    assert spec["protocolVersions"] == ["v2"]


def test_kserve_service_finds_the_runtime() -> None:
    runtime = read(DEPLOY / "kserve" / "runtime.yaml")["spec"]
    predictor = read(DEPLOY / "kserve" / "inference-service.yaml")["spec"]["predictor"]
    formats = [one["name"] for one in runtime["supportedModelFormats"] if one["autoSelect"]]
    assert predictor["model"]["modelFormat"]["name"] in formats
    assert predictor["model"]["protocolVersion"] in runtime["protocolVersions"]
    assert "terminationGracePeriodSeconds" not in predictor, "Knative takes none"


# --- the dashboard ---

SCRAPED = {"instance", "job", "namespace", "pod"}  # labels that Prometheus adds


@pytest.fixture(scope="module")
def labels(sample_model: Path, sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Labels:
    """What a server that has answered tells: its series, with their labels."""
    image = Image.fromarray(read_npz(sample).splits["test"].images[0])
    content = io.BytesIO()
    image.save(content, "PNG")
    with running(sample_model, tmp_path_factory.mktemp("metrics")) as client:
        for body in (content.getvalue(), b"no image"):
            client.post("/v1/predict", content=body, headers={"Content-Type": "image/png"})
        text = client.get("/metrics").text
    found: Labels = {}
    for family in text_string_to_metric_families(text):
        for sample_ in family.samples:
            found.setdefault(sample_.name, set()).update(sample_.labels)
    return found


def check_query(query: str, labels: Labels) -> set[str]:
    """Return the series that a query names; each is the server's, and so are the labels that it is grouped by."""
    for variable, value in (("$__rate_interval", "1m"), ("$instance", ".*")):
        query = query.replace(variable, value)
    assert "$" not in query
    names: set[str] = set()
    wanted: set[str] = set()

    def visit(expression: Any) -> None:
        selector = getattr(expression, "vector_selector", expression)
        if isinstance(selector, promql_parser.VectorSelector):
            assert selector.name in labels, f"no {selector.name} in /metrics"
            names.add(selector.name)
            matched = {matcher.name for matcher in selector.matchers.matchers}
            assert matched <= labels[selector.name] | SCRAPED, f"{selector.name}: {matched}"
        if isinstance(expression, promql_parser.AggregateExpr) and expression.modifier:
            wanted.update(expression.modifier.labels)

    promql_parser.walk(promql_parser.parse(query), visit)
    assert names
    assert wanted <= SCRAPED.union(*(labels[name] for name in names)), f"no such label: {wanted}"
    return names


@pytest.fixture(scope="module")
def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DEPLOY / "grafana" / "xtrain.json").read_text())["panels"]
    return found


def targets(panels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in panels:
        yield from panel.get("targets", [])


def test_dashboard_asks_for_what_the_server_tells(panels: list[dict[str, Any]], labels: Labels) -> None:
    shown = set().union(*(check_query(target["expr"], labels) for target in targets(panels)))
    suffixes = ("_bucket", "_sum", "_count", "_created", "_total")
    told = {re.sub("|".join(f"{end}$" for end in suffixes), "", name) for name in labels if name.startswith("xtrain_")}
    assert {name for name in told if not any(series.startswith(name) for series in shown)} == set()
    for target in targets(panels):  # the choice of instances holds for every series
        assert target["expr"].count('{instance=~"$instance"}') == target["expr"].count("xtrain_") + target[
            "expr"
        ].count("process_")


def test_dashboard_names_only_labels_that_its_queries_keep(panels: list[dict[str, Any]]) -> None:
    for target in targets(panels):
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), target


def test_dashboard_is_well_formed(panels: list[dict[str, Any]], labels: Labels) -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "xtrain.json").read_text())
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert variables == {"datasource", "instance"}
    numbers = [panel["id"] for panel in panels]
    assert len(numbers) == len(set(numbers))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
    for variable in dashboard["templating"]["list"][1:]:
        query = variable["query"]
        assert variable["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert re.fullmatch(r"label_values\((\w+), instance\)", query["query"])[1] in labels
