"""Published weights: found, downloaded, verified; what happens without a network."""

from __future__ import annotations

import hashlib
import http.server
import threading

import pytest
import torch

import tinyflow
from tinyflow.models import weights
from tinyflow.serialization import save


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder for downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small file under the name of its own hash, published for resnet18."""
    source = tmp_path / "source.pth"
    torch.save({"fc.bias": torch.arange(3.0)}, source)
    content = source.read_bytes()
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setitem(weights.FILES, "resnet18", name)
    return name, content


@pytest.fixture
def server(published, monkeypatch):
    """Serves the published file; ``served["content"]`` may be changed."""
    name, content = published
    served = {"content": content, "requests": []}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            served["requests"].append(self.path)
            self.send_response(200 if self.path == f"/{name}" else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(served["content"])

        def log_message(self, *args):
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        monkeypatch.setattr(weights, "SERVER", f"http://127.0.0.1:{listening.server_port}/")
        yield served
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize("progress", [True, False])
def test_downloads_once_and_then_finds_the_file(cache, server, published, progress, capsys):
    for _ in range(2):
        loaded = weights.state_dict("resnet18", weights.IMAGENET1K_V1, progress)
        assert loaded["fc.bias"].tolist() == [0.0, 1.0, 2.0]
    assert server["requests"] == [f"/{published[0]}"]
    assert [p.name for p in cache.iterdir()] == [published[0]]
    out, err = capsys.readouterr()
    assert out == ""
    assert (published[0] in err) == progress


def test_finds_what_torch_downloaded(cache, published, monkeypatch):
    monkeypatch.setattr(weights, "SERVER", "http://127.0.0.1:9/")  # nobody answers there
    cache.mkdir(parents=True)
    (cache / published[0]).write_bytes(published[1])
    assert list(weights.state_dict("resnet18", "IMAGENET1K_V1")) == ["fc.bias"]


def test_a_damaged_file_is_not_used(cache, published):
    cache.mkdir(parents=True)
    (cache / published[0]).write_bytes(published[1][:-1] + b"?")
    with pytest.raises(ValueError, match=r"is damaged: its SHA-256 does not begin with .*; delete it and try again"):
        weights.published_file("resnet18")


@pytest.mark.parametrize(
    "change", [lambda content: b"?" + content[1:], lambda content: content[:-10]], ids=["other", "short"]
)
def test_a_damaged_download_leaves_nothing(cache, server, change):
    server["content"] = change(server["content"])
    with pytest.raises((ValueError, ConnectionError), match=r"SHA-256 does not begin with|could not download"):
        weights.published_file("resnet18", progress=False)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/", "http://no-such-host.invalid/"])
def test_without_a_network_it_says_what_to_do(cache, published, monkeypatch, address):
    monkeypatch.setattr(weights, "SERVER", address)
    with pytest.raises(ConnectionError) as error:
        weights.published_file("resnet18")
    text = str(error.value)
    assert f"could not download {address}{published[0]}" in text
    assert f"put it at {cache / published[0]}" in text
    assert "give weights= a file" in text


def test_a_missing_page_says_what_to_do(cache, server, monkeypatch):
    monkeypatch.setitem(weights.FILES, "resnet18", "resnet18-00000000.pth")
    with pytest.raises(ConnectionError, match="Not Found"):
        weights.published_file("resnet18", progress=False)


def test_local_files(tmp_path):
    state = {"w": tinyflow.ones(2)}
    save(state, tmp_path / "w.safetensors")
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        assert weights.state_dict("any", tmp_path / name)["w"].tolist() == [1.0, 1.0]
        assert weights.state_dict("any", str(tmp_path / name))["w"].tolist() == [1.0, 1.0]


def test_unknown_names_say_so():
    with pytest.raises(
        ValueError, match="no IMAGENET1K_V1 weights are published for 'alexnet'; there are some for resnet18,"
    ):
        weights.state_dict("alexnet", "IMAGENET1K_V1")
    with pytest.raises(FileNotFoundError, match=r"weights='IMAGENET1K_V2': expected a file .* found none"):
        weights.state_dict("resnet18", "IMAGENET1K_V2")


def test_every_name_carries_a_hash():
    for model, name in weights.FILES.items():
        assert name.startswith(f"{model}-")
        assert name.endswith(".pth")
        assert len(bytes.fromhex(name.removesuffix(".pth").rpartition("-")[2])) == 4
