"""What the documents and samples name is there: files, log events, chores, the shape of a setting."""

import re
from urllib.parse import urlsplit

from support.paths import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "deploy").rglob("*.md"))]
RUNBOOK = ROOT / "deploy" / "README.md"
SOURCES = [path for area in ("worker", "api", "common") for pattern in ("*.[ch]", "*.def") for path in sorted((ROOT / area).glob(pattern))]
LITERALS = {word for path in SOURCES for word in re.findall(r'"([a-z]+\.[a-z_]+)\\?"', path.read_text())}


def alternatives(pattern: str) -> set[str]:
    """The regular expressions without `|` and `?` that a pattern of the runbook's greps stands for."""
    group = re.search(r"\(([^()]*)\)(\??)", pattern)
    if group is None:
        return {pattern}
    choices = group[1].split("|") + ([""] if group[2] else [])
    return {one for choice in choices for one in alternatives(pattern[:group.start()] + choice + pattern[group.end():])}


def test_every_test_that_a_document_names_is_there():
    """By its path; a unit or a fuzz target may be named as ctest does."""
    named = set()
    for document in DOCUMENTS:
        for word in re.findall(r"(?<![\w./-])(?:tests/[\w./-]*\w|(?<=`)(?:test|fuzz)_[\w.]+(?=`))", document.read_text()):
            folder = {"test_": "unit", "fuzz_": "fuzz"}.get(word[:5])
            path = f"tests/{folder}/{word}.c" if folder else word
            assert (ROOT / path).exists(), f"{document.relative_to(ROOT)} names {word}, and there is no {path}"
            named.add(path)
    assert {"tests/system/test_api_auth.py", "tests/unit/test_jwt.c", "tests/fuzz/fuzz_jwt.c"} <= named


def test_every_log_event_that_the_runbook_names_is_one():
    text = RUNBOOK.read_text()
    named = set(re.findall(r"`([a-z]+\.[a-z_]+)`", text))
    assert "upkeep.failed" in named and not named - LITERALS, named - LITERALS
    patterns = [one for pattern in re.findall(r"""'"event":"(.*?)"?'""", text) for one in alternatives(pattern)]
    unknown = {pattern for pattern in patterns if not any(re.match(pattern, event) for event in LITERALS)}
    assert len(patterns) > 15 and not unknown, unknown


def test_the_runbook_has_every_chore():
    chores = re.findall(r'add_chore\(u, base, CHORE_\w+, "(\w+)"', (ROOT / "worker" / "upkeep.c").read_text())
    section = re.search(r"### alert-NrwUpkeepFails\n(.*?)```", RUNBOOK.read_text(), re.DOTALL)[1]
    assert len(chores) >= 5 and re.findall(r"`([a-z]+)` \(", section) == chores


def test_no_sample_of_the_consoles_url_has_a_path():
    """The mailer puts the path of a webhook's page behind it."""
    path = re.search(r'#define LINK_PATH +"(.*)"', (ROOT / "worker" / "mailer.c").read_text())[1]
    assert f"{path}ID" in re.search(r"SETTING\(console_url.*", (ROOT / "common" / "config.def").read_text())[0]
    files = [ROOT / "docker-compose.yml", *(path for path in (ROOT / "deploy").rglob("*") if path.is_file())]
    samples = {file: re.findall(r"NRW_CONSOLE_URL[\"']?\s*[=:]\s*[\"']?(https?://[^\s\"'}]+)", file.read_text()) for file in files}
    assert sum(map(len, samples.values())) >= 2
    assert not {(file, url) for file, urls in samples.items() for url in urls if urlsplit(url).path}
