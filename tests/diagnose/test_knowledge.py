"""The knowledge base: complete, in both languages, and right in what it refers to."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from string import Formatter

import pytest
import tomli

import surefoot as sf
from surefoot.cli import main
from surefoot.diagnose import checks, knowledge
from surefoot.diagnose.checks.losses import KINDS
from surefoot.diagnose.trials import WORDS
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


CHECKS = Path(checks.__file__).parent
DIAGNOSE = CHECKS.parent
SENTENCES, SIGNALS = (
    tomli.loads((DIAGNOSE / "knowledge" / name).read_text(encoding="utf-8")) for name in ("checks.toml", "signals.toml")
)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    """The calls of a function by its plain name."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return [call for call in found if call.func.id == name]


def uses() -> dict[str, set[str]]:
    """The sentences that the source of the checks and of blind.py asks for, each with the fields that it gives."""
    found: dict[str, set[str]] = {}
    for call in (
        call for path in (*CHECKS.glob("*.py"), DIAGNOSE / "blind.py") for call in calls(parsed(path), "sentence")
    ):
        (key,) = call.args
        if isinstance(key, ast.Name):
            assert key.id == "kind"  # of a loss
            found |= {kind: set() for kind in KINDS.values()}
            continue
        for each in [key.body, key.orelse] if isinstance(key, ast.IfExp) else [key]:
            fields = {field.arg for field in call.keywords}
            assert found.setdefault(ast.literal_eval(each), fields) == fields
    return found


def fields_of(template: str) -> dict[str, str]:
    """Its fields, each with its format."""
    return {name: form for _, name, form, _ in Formatter().parse(template) if name is not None}


def keys(node: ast.expr, scope: ast.FunctionDef) -> set[str]:
    """The keys of a dict display, also of those that it takes in by a name given in the same function."""
    if isinstance(node, ast.Name):
        pairs: list[tuple[ast.expr, ast.expr]] = []
        for each in (each for each in ast.walk(scope) if isinstance(each, ast.Assign)):
            for target in each.targets:
                both = isinstance(target, ast.Tuple) and isinstance(each.value, ast.Tuple)
                pairs += zip(target.elts, each.value.elts, strict=True) if both else [(target, each.value)]
        given = [value for target, value in pairs if isinstance(target, ast.Name) and target.id == node.id]
        assert given, f"{node.id} in {scope.name}"
        return set().union(*(keys(value, scope) for value in given))
    assert isinstance(node, ast.Dict), f"the evidence in {scope.name} is no plain dict"
    every = zip(node.keys, node.values, strict=True)
    return set().union(*(keys(value, scope) if key is None else {ast.literal_eval(key)} for key, value in every))


def names_of_checks() -> set[str]:
    """The names in the evidence of all that the checks' source finds."""
    functions = [
        node for path in CHECKS.glob("*.py") for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef)
    ]
    found = [(call.args[3], function) for function in functions for call in calls(function, "Found")]
    return set().union(*(keys(evidence, function) for evidence, function in found))


def names_of_claims() -> set[str]:
    """The names in the evidence that detectors, facts and probes give."""
    names = [call.args[0] for path in DIAGNOSE.rglob("*.py") for call in calls(parsed(path), "Evidence") if call.args]
    assert (
        len([name for name in names if not isinstance(name, ast.Constant)]) == 2
    )  # of a check in facts.py, of a trial
    return {name.value for name in names if isinstance(name, ast.Constant)}


def test_all_evidence_has_a_name_in_both_languages_and_nothing_else_has():
    trials = {f"gain_{name.replace('-', '_')}" for name in set(WORDS) - {"as-it-is", "clipped"}}  # of no cause
    assert set(SIGNALS) == names_of_checks() | names_of_claims() | trials


@pytest.mark.parametrize("name", SIGNALS)
def test_a_name_in_evidence(name):
    en, zh = (SIGNALS[name][language] for language in knowledge.LANGUAGES)
    assert set(SIGNALS[name]) == set(knowledge.LANGUAGES)
    assert re.fullmatch("[a-z]+(_[a-z]+)*", name)
    assert not re.search(r"[\u3000-\u9fff\uff00-\uffef]", en)
    assert re.search(r"[\u4e00-\u9fff]", zh)
    assert [name for name, text in SIGNALS.items() if en == text["en"] or zh == text["zh"]] == [name]


def test_checks_and_their_sentences_belong_together():
    assert {key: set(fields_of(text["en"])) for key, text in SENTENCES.items()} == uses()


@pytest.mark.parametrize("key", SENTENCES)
def test_a_sentence(key):
    en, zh = (SENTENCES[key][language] for language in knowledge.LANGUAGES)
    assert set(SENTENCES[key]) == set(knowledge.LANGUAGES)
    assert fields_of(en) == fields_of(zh)
    assert not re.search(r"[\u3000-\u9fff\uff00-\uffef]", en)
    assert re.search(r"[\u4e00-\u9fff]", zh) or key == "BCE"
    assert not re.search(r"[\u4e00-\u9fff][,:;]|[,:;][\u4e00-\u9fff]", zh)  # full-width ones part Chinese words
    if key in KINDS.values():
        assert en == key


def test_fields_are_filled_in_by_language():
    words = knowledge.sentence("outside-0-to-1", low=-1.0, high=1.0, loss=knowledge.sentence("squared error"))
    assert words("en").startswith("targets from -1 to 1 are not for squared error, which ")
    assert words("zh").startswith("目标从 -1 到 1，而该损失（平方误差）")
