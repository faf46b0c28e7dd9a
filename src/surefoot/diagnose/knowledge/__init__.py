"""What is known of causes and symptoms: pages in English and Chinese, and the words for what is measured."""

from surefoot.diagnose.knowledge.pages import (
    GROUPS,
    LANGUAGES,
    Cause,
    Remedy,
    Symptom,
    Words,
    cause,
    causes,
    false_alarms,
    page,
    said,
    sentence,
    signal,
    symptom,
    symptoms,
)

__all__ = [
    "GROUPS",
    "LANGUAGES",
    "Cause",
    "Remedy",
    "Symptom",
    "Words",
    "cause",
    "causes",
    "false_alarms",
    "page",
    "said",
    "sentence",
    "signal",
    "symptom",
    "symptoms",
]
