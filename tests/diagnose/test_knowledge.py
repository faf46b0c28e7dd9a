"""The knowledge base: complete, in both languages, and right in what it refers to."""

from __future__ import annotations

import re

import pytest

import surefoot as sf
from surefoot.cli import main
from surefoot.diagnose import knowledge
from surefoot.diagnose.words import explained

CAUSES = (
    "lr-too-high lr-too-low lr-zero schedule-too-fast no-warmup optimizer-unsuited grad-not-cleared no-gradient "
    "not-in-optimizer frozen-in-optimizer step-without-effect scaled-clip eval-mode train-mode output-activation "
    "output-range loss-mismatch shape-broadcast input-unscaled target-unscaled non-finite-input labels-constant "
    "train-val-mismatch data-order data-unlearnable bad-batch init-too-large init-too-small init-symmetric dead-units "
    "saturated-units deep-vanishing deep-exploding loss-sum sign-flipped batch-too-small batch-too-large undertrained "
    "over-regularised too-little-capacity loss-scale overtrained clip-too-tight not-stepped class-imbalance input-bound"
).split()
SYMPTOMS = (
    "loss-not-decreasing loss-oscillating exploding-gradient vanishing-gradient slow-convergence diverging loss-spike "
    "non-finite overfitting plateau no-op-step wasteful silent"
).split()


def test_every_cause_and_symptom_has_its_page():
    assert set(knowledge.causes()) == set(CAUSES)
    assert set(knowledge.symptoms()) == set(SYMPTOMS)


@pytest.mark.parametrize("code", CAUSES)
def test_a_cause(code):
    page = knowledge.cause(code)
    for text in (page.title, page.looks, page.why, page.apart, *(remedy.words for remedy in page.remedies)):
        assert text("en").strip()
        assert re.search(r"[\u4e00-\u9fff]", text("zh")), text
        assert not re.search(r"[\u4e00-\u9fff]", text("en")), text
    assert page.remedies
    for other in (*page.consequences, *page.alternatives):
        assert other in (*CAUSES, *SYMPTOMS)
        assert other != code
    recipe = sf.Recipe(optimizer="sgd", lr=0.01, weight_decay=0.01, clip_norm=0.5, schedule="step(5)")
    for remedy in page.remedies:
        assert not remedy.change or remedy.apply(recipe) != recipe


@pytest.mark.parametrize("code", SYMPTOMS)
def test_a_symptom(code):
    page = knowledge.symptom(code)
    assert page.title("en")
    assert re.search(r"[\u4e00-\u9fff]", page.title("zh") + page.looks("zh"))
    assert page.causes
    assert set(page.causes) <= set(CAUSES)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_explain_prints_every_page(language, capsys):
    for code in (*CAUSES, *SYMPTOMS):
        assert main(["explain", code, "--lang", language]) == 0
        assert knowledge.page(code).title(language) in capsys.readouterr().out.replace("\n  ", " ")
        assert max(map(len, explained(code, language).splitlines())) <= 90


def test_what_is_unknown_is_refused_with_what_is_like_it(capsys):
    assert main(["explain", "lr-to-high"]) == 1
    assert "did you mean lr-too-high" in capsys.readouterr().err
    with pytest.raises(sf.UserError, match="unknown cause"):
        knowledge.cause("tiredness")


def test_a_remedy_multiplies_or_sets():
    recipe = sf.Recipe(lr=0.3, batch_size=64)
    assert knowledge.cause("lr-too-low").remedies[0].apply(recipe).lr == pytest.approx(3.0)
    assert knowledge.cause("batch-too-small").remedies[0].apply(recipe).batch_size == 512
    assert knowledge.cause("optimizer-unsuited").remedies[0].apply(recipe).optimizer == "adamw"
