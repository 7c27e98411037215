"""The ranker by meaning: what it adds to words, and what it says where something is missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import agentbus_minilm.locate
import pytest
from agentbus_minilm import open_ranker
from agentbus_minilm.locate import Files, locate
from agentbus_minilm.ranker import MiniLM

from agentbus.errors import ConfigError, ModelBroken, ModelNotFound
from agentbus.filters import BM25, Extract, Ranker

if TYPE_CHECKING:
    from agentbus_minilm.embed import Embedder

np = pytest.importorskip("numpy", reason="numpy is not installed")

UNITS = ["The lion sleeps. ", "He paid with money. ", "It rained in Rome. ", "Felines are quick."]


class Fake:
    """Finds texts alike that have the same last letter, and sets down what it read."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def embed(self, texts: Sequence[str]) -> Any:
        self.read = list(texts)
        return np.array([[text[-1:] == texts[0][-1:], text[:1] == "-"] for text in texts], float)


def fake(embedder: Fake) -> Ranker:
    return MiniLM(cast("Embedder", embedder))


# Without the model


def test_meaning_counts_beside_words() -> None:
    units = ["a cat sat x ", "it rains q\n", "it snows x", "cat q"]
    words = BM25().score("cat q", units)
    scores = fake(Fake()).score("cat q", units)
    assert scores == pytest.approx([words[0], words[1] + 1, words[2], words[3] + 1])


def test_units_that_point_away_get_nothing() -> None:
    class Away(Fake):
        def embed(self, texts: Sequence[str]) -> Any:
            return np.array([[1.0], *[[-1.0]] * (len(texts) - 1)])

    assert fake(Away()).score("dog", ["it rains", "it snows"]) == [0, 0]


def test_the_model_reads_so_many_units_at_most_the_best_by_words() -> None:
    embedder = Fake()
    units = [f"number {n} is {'odd' if n % 2 else 'even'}. " for n in range(2000)]
    assert len(fake(embedder).score("which is odd", units)) == 2000
    assert len(embedder.read) == 257
    assert all("odd" in unit for unit in embedder.read[1:])


def test_what_is_missing_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agentbus_minilm.locate, "find_spec", lambda _: None)
    with pytest.raises(ModelNotFound, match=r"pip install 'fm-agentbus\[filters\]'"):
        open_ranker()


def test_a_missing_package_is_named_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(agentbus_minilm.locate, "locate", lambda: Files(tmp_path, tmp_path))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "agentbus_minilm.embed", raising=False)
    with pytest.raises(ConfigError, match=r"onnxruntime.*pip install 'fm-agentbus\[filters\]'"):
        open_ranker()


def test_it_is_installed_by_name() -> None:
    names = {point.name: point.value for point in entry_points(group="agentbus.rankers")}
    if not names:
        pytest.skip("agentbus was installed before it had rankers")
    assert names["minilm"] == "agentbus_minilm:open_ranker"


# With it


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    pytest.importorskip("onnxruntime", reason="onnxruntime (the extra 'filters') is not installed")
    try:
        files = locate()
    except ModelNotFound as error:
        pytest.skip(str(error))
    from agentbus_minilm.embed import Embedder

    return Embedder.load(files)


def test_texts_that_mean_alike_are_near(embedder: Embedder) -> None:
    vectors = embedder.embed(["How old is he?", "What is his age?", "The cat sat down."])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    # With the model's weights in floats, transformers gives 1, 0.9018 and 0.0167.
    assert (vectors @ vectors[0]).tolist() == pytest.approx([1, 0.9018, 0.0167], abs=0.01)


def test_vectors_do_not_depend_on_what_is_beside_them(embedder: Embedder) -> None:
    texts = ["word " * n for n in (90, 1, 30, 5, 17, 2, 50)]
    together = embedder.embed(texts)
    alone = [embedder.embed([text])[0] for text in texts]
    assert together == pytest.approx(np.array(alone), abs=1e-5)


@pytest.mark.parametrize("text", ["", "\ud800", "\x00", "x" * 100_000, "字" * 5000])
def test_any_text_has_a_vector(embedder: Embedder, text: str) -> None:
    assert np.isfinite(embedder.embed([text, "A text."])).all()


def test_units_rank_by_meaning(embedder: Embedder) -> None:
    scores = MiniLM(embedder).score("what do cats do", UNITS)
    assert BM25().score("what do cats do", UNITS) == [0, 0, 0, 0]
    assert scores[3] == max(scores) == 1
    assert scores == MiniLM(embedder).score("what do cats do", UNITS)


def test_extraction_by_meaning(embedder: Embedder) -> None:
    text = "".join(f"It rained on day {n} of the year, and nobody went out. " for n in range(60))
    text += "The physician healed her. " + text
    extract = Extract(keep=0.1, ranker=MiniLM(embedder))
    shortened = extract.shorten(
        text, ref="ctx:ab12cd34", query="Which doctor cured him?", count=len
    )
    assert shortened is not None
    assert "The physician healed her." in shortened.text


@pytest.mark.parametrize("broken", ["weights", "vocabulary"])
def test_broken_files_are_named(embedder: Embedder, broken: str, tmp_path: Path) -> None:
    path = tmp_path / "broken"
    path.write_bytes(b"{}")
    files = locate()
    some = Files(path, files.vocabulary) if broken == "weights" else Files(files.weights, path)
    with pytest.raises(ModelBroken, match="broken"):
        type(embedder).load(some)
